"""The page on numbers that need no truth, from invented records whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_kit import EVIL
from synthetic_records import record, store

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.render import render
from circuitbench_leaderboard.truth_free.forecast import Report, report
from circuitbench_leaderboard.truth_free.page import page, render_report
from circuitbench_leaderboard.truth_free.tables import tables
from circuitbench_leaderboard.truth_free.words import sentences, verdict

METHODS = {"a": 0.2, "b": 0.4, "c": 0.6, "d": 0.9}


def runs(seeds: int = 3, **methods: float) -> list[RunRow]:
    """On tier easy: CMD follows average precision, CPR goes against it, completeness is silent."""
    made = []
    for name, skill in (methods or METHODS).items():
        for task in ("reverse", "sort"):
            for seed in range(seeds):
                quality = skill + 0.01 * seed
                values = {
                    "average_precision": quality,
                    "f1": quality,
                    "cmd_zero": 1 - quality,
                    "cpr_zero": 1 - quality,
                    "faithfulness_zero": 1 + (1 - quality),  # overshooting is no better
                    "completeness": 0.5,
                }
                run = RunRow(None, name, task, f"compiled-{task}", seed, f"{name}{task}{seed}")
                made.append(
                    replace(run, values=values, settings='{"ablation": "zero"}', n_relevant=2)
                )
    return made


@pytest.fixture(scope="module")
def found() -> Report:
    return report(runs())


def test_what_follows_the_truth_is_trusted_and_what_goes_against_it_is_called_misleading(
    found: Report,
) -> None:
    assert [tier.answers.tier for tier in found.tiers] == ["easy"]
    assert verdict(found.tiers, "cmd_zero", "average_precision") == "trust"
    assert verdict(found.tiers, "faithfulness_zero", "average_precision") == "trust"
    assert verdict(found.tiers, "cpr_zero", "average_precision") == "misleading"
    assert verdict(found.tiers, "completeness", "average_precision") == "no"
    words = " ".join(sentences(found))
    assert "trust Faithfulness, zero and CMD, zero" in words
    assert "Misleading, below 0 on some tier: CPR, zero." in words
    assert "the best answer has 0.91" in words
    assert "CPR, zero is most often surely wrong" in words


def test_tables_hold_correlations_power_and_noise(found: Report) -> None:
    by_key = {table.key: table for table in tables(found)}
    assert set(by_key) == {
        "verdicts-average_precision",
        "verdicts-f1",
        "correlations-easy",
        "use-easy",
    }
    use = by_key["use-easy"]
    names = [column.key for column in use.columns]
    rows = {row.fields[0].text: dict(zip(names, row.fields, strict=True)) for row in use.rows}
    assert rows["CMD, zero"]["same"].raw == 1
    assert rows["CPR, zero"]["opposite"].raw == 1
    assert rows["CMD, zero"]["reliability"].raw == pytest.approx(1)
    assert rows["Completeness"]["apart"].raw == 0
    assert rows["CPR, zero"]["chosen_average_precision"].raw == pytest.approx(0.21)


def with_edges(run: RunRow) -> RunRow:
    """The same run by a method of edges: of these CPR follows the truth, CMD goes against it."""
    quality = run.values["average_precision"]
    assert quality is not None
    of_edges = {
        "edge_average_precision": quality,
        "edge_f1": quality,
        "edge_ndcg": quality,
        "edge_cpr_resample": quality,
        "edge_cmd_resample": quality,
    }
    return replace(run, method=f"{run.method}-edges", run_id=f"{run.run_id}e", values=of_edges)


def test_edges_are_judged_by_themselves(found: Report) -> None:
    of_edges = [with_edges(run) for run in runs()]
    both = report([*runs(), *of_edges])
    assert [tier.answers.name for tier in both.tiers] == ["easy", "easy, edges"]
    _, edges = both.by_unit.values()
    assert tables(both)[0] == tables(found)[0]
    assert [entry.method for entry in edges[0].answers.entries] == [f"{m}-edges" for m in METHODS]
    assert verdict(edges, "edge_cpr_resample", "edge_average_precision") == "trust"
    assert verdict(edges, "edge_cmd_resample", "edge_f1") == "misleading"
    assert sentences(both)[: len(sentences(found))] == sentences(found)
    words = " ".join(sentences(both)[len(sentences(found)) :])
    assert "rankings of edges (Edge AP) without the truth, trust Edge CPR, resample" in words
    assert "Over edges on easy Edge CMD, resample is most often surely wrong" in words
    assert {"verdicts-edge_f1", "correlations-easy-edges", "use-easy-edges"} <= {
        table.key for table in tables(both)
    }
    assert page(both).count("<figure") == 2
    alone = report(of_edges)
    assert tables(alone)[0] == tables(both)[2]


def test_only_what_finished_the_same_runs_under_one_ablation_counts(found: Report) -> None:
    other = [replace(run, settings='{"ablation": "mean"}') for run in runs(2, a=0.9, b=0.1, c=0.5)]
    late = [run for run in runs(3, e=0.99) if run.seed]
    mixed = report([*runs(), *other, *late])
    assert mixed.ablation == "zero"
    assert [e.method for e in mixed.tiers[0].answers.entries] == list(METHODS)
    assert sentences(mixed) == sentences(found)


def test_three_methods_are_too_few() -> None:
    with pytest.raises(InvalidSpec, match="4 methods that finished the same runs of known"):
        report(runs(2, a=0.1, b=0.9, c=0.5))


def test_one_run_each_has_no_interval_and_says_so_by_leaving_it_out() -> None:
    single = [run for run in runs(1) if run.task == "sort"]
    tier = report(single).tiers[0]
    assert tier.forecasts[0].places["average_precision"] is not None
    assert tier.forecasts[0].places["average_precision"].interval is None
    assert tier.forecasts[0].reliability is None


def test_formats_and_files(tmp_path: Path) -> None:
    measured: dict[str, Any] = {"completeness": {"relative_mean": 0.1}}
    records = [
        record(m, t, s, measurements=measured, versions={"circuitbench": EVIL})
        for m in ("acdc", "random", "rl-ppo", "head-ablation")
        for t in ("ioi", "induction")
        for s in range(2)
    ]
    folder = store(records, tmp_path / "results")
    text = render_report(folder)
    assert text.startswith("# Do numbers that need no truth predict the truth?")
    assert "| Completeness |" in text
    content = json.loads(render_report(folder, "json"))
    assert content["tables"]["verdicts-average_precision"]["rows"]
    written = Path(render_report(folder, "html", tmp_path / "site"))
    html = written.read_text()
    assert "<script" not in html
    assert EVIL not in html
    assert "default-src 'none'" in html
    assert 'src="data:image/svg+xml;base64,' in html
    board = Path(render(folder, "html", written.parent)).read_text()
    assert f'href="{written.name}"' in board
    assert written.name not in Path(render(folder, "html", tmp_path / "alone")).read_text()
    with pytest.raises(UnknownName, match="html"):
        render_report(folder, "htlm")
    with pytest.raises(InvalidSpec, match="no such results folder"):
        render_report(tmp_path / "nothing")


def test_the_page_is_the_same_to_the_last_byte(found: Report) -> None:
    assert page(found) == page(report(runs()))
