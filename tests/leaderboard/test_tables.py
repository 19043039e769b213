"""Tables: right numbers, right ranks, whatever the order of files and whoever is incomplete."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_records import TRUTHS, light, record, rows, store, sweep

from circuitbench.core.circuit import Circuit, Edge
from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.evaluation.metrics import metric
from circuitbench.plugins.registry import method_class
from circuitbench.plugins.tiers import model_for, places, planting
from circuitbench.results import write_record
from circuitbench.results.record import truth_of
from circuitbench.results.validate import validate
from circuitbench_leaderboard import FORMATS, render
from circuitbench_leaderboard.board import board
from circuitbench_leaderboard.entries import TaskOnModel
from circuitbench_leaderboard.formats import escape_csv, escape_latex, escape_markdown, latex
from circuitbench_leaderboard.tables import tables
from circuitbench_leaderboard.tables.cells import Table

TASKS = ("a", "b", "c")
SEEDS = (0, 1, 2)
CELLS = [(task, seed) for task in TASKS for seed in SEEDS]


def ranks(records: Any) -> dict[str, int | None]:
    return {s.entry.label: s.rank for s in board(records).overall.standings}


def full(method: str, value: float) -> list[Any]:
    return [light(method, task, seed, value) for task, seed in CELLS]


def by_key(records: Any) -> dict[str, Table]:
    return {table.key: table for table in tables(board(records))}


def column(table: Any, key: str) -> list[Any]:
    i = [c.key for c in table.columns].index(key)
    return [row.fields[i].raw for row in table.rows]


def marks(records: Any) -> list[str]:
    estimates = (s.estimates["average_precision"] for s in board(records).overall.standings)
    return [estimate.mark for estimate in estimates if estimate is not None]


def test_one_row_per_method_and_task_with_the_mean_over_seeds() -> None:
    records = rows(sweep(seeds=range(3)))
    table = by_key(records)["tasks"]
    assert len(table.rows) == 4 * 2
    for row, method, task, mean in zip(
        table.rows,
        column(table, "method"),
        column(table, "task"),
        column(table, "average_precision"),
        strict=True,
    ):
        own = [r for r in records if (r.method, r.task) == (method, task)]
        values = [r.values["average_precision"] for r in own]
        assert mean == pytest.approx(np.mean(values))
        assert list(row.runs) == own
    assert set(column(table, "coverage")) == {"3/3"}


def test_the_best_is_first_and_marked_and_others_are_tied_only_if_a_test_says_so() -> None:
    tasks = "abcdefgh"  # each task on its model is drawn once, whatever the prompts
    overall = by_key(rows(sweep()))["overall"]
    assert column(overall, "method") == ["acdc", "head-ablation", "random"]
    close = [
        light(method, task, seed, 0.5 + 0.1 * ((i + shift) % 2))
        for method, shift in (("x", 0), ("y", 1))
        for i, task in enumerate(tasks)
        for seed in range(4)
    ]
    worse = [light("z", task, seed, 0.1) for task in tasks for seed in range(4)]
    assert marks(close + worse) == ["best", "best", ""]
    better = [r for r in close if r.method == "x"] + [
        light("y", task, seed, 0.55 + 0.01 * (task == "c")) for task in tasks for seed in range(4)
    ]
    assert marks(better + worse) == ["best", "tied", ""]


def test_many_prompts_of_few_tasks_tell_nothing_apart() -> None:
    runs = [(task, seed) for task in TASKS for seed in range(9)]
    sides = [light(m, task, seed, v) for m, v in (("x", 0.9), ("y", 0.1)) for task, seed in runs]
    assert not board(sides).overall.tested


def test_plantings_of_one_preset_are_one_task_and_are_what_is_resampled() -> None:
    def runs(method: str, of: Any) -> list[Any]:
        return [
            light(method, task, s, of(s), model_name=f"planted-hard@{planting('hard', s)}")
            for task in ("ioi", "two-hop")
            for s in range(8)
        ]

    better, worse = runs("x", lambda s: 0.5 + 0.1 * (s % 2)), runs("y", lambda s: 0.1 * (s % 2))
    shown = board(better + worse)
    assert shown.overall.grid.tasks == (
        TaskOnModel("ioi", "planted-hard@drawn"),
        TaskOnModel("two-hop", "planted-hard@drawn"),
    )
    assert shown.overall.tested
    assert marks(better + worse) == ["best", ""]
    assert list(shown.by_tier) == ["hard"]
    (first, _) = shown.overall.standings
    low, high = first.estimates["average_precision"].interval  # type: ignore[union-attr, misc]
    # Eight plantings of 0.5 or 0.6, the same for both tasks: the two add nothing to each other.
    assert high - low == pytest.approx(2 * 1.96 * 0.05 / 8**0.5, rel=0.25)
    assert "2 groups told apart" in by_key(better + worse)["tier-hard"].note


def test_tracks_are_never_mixed_in_one_ranking() -> None:
    taught = {"average_precision": 0.9, "training_queries": 10.0}
    records = full("plain", 0.5) + [replace(r, values=taught) for r in full("taught", 0.9)]
    frozen = json.dumps({"training": {"track": "other-models"}})
    records += [replace(r, info_text=frozen, values=taught) for r in full("frozen", 0.9)]
    assert ranks(records) == {"plain": 1, "taught": 1, "frozen": 1}
    found = by_key(records)
    methods = {key: column(found[key], "method") for key in found if key.startswith("overall")}
    assert methods == {
        "overall": ["plain"],
        "overall-same-model": ["taught"],
        "overall-other-models": ["frozen"],
    }


def test_tables_that_compare_methods_are_split_by_track() -> None:
    records = [record(m, t, s) for m in ("acdc", "random") for t in TRUTHS for s in range(2)]
    records += [record("rl-ppo", t, s) for t in TRUTHS for s in range(2)]
    found = by_key(rows(records))
    for key in ("costs", "roles-ioi-planted"):
        assert column(found[key], "method") == ["acdc", "random"]
        assert column(found[f"{key}-same-model"], "method") == ["rl-ppo"]
        assert found[f"{key}-same-model"].title.endswith("trained on the model it is scored on")
    assert set(column(found["tasks"], "track")) == {
        "no training",
        "trained on the model it is scored on",
    }


def test_a_place_won_inside_near_ties_is_shown_as_a_tie() -> None:
    def runs(method: str, plain: float, rounded: float) -> list[Any]:
        values = {"average_precision": plain, "rounded_average_precision": rounded}
        return [replace(run, values=values) for run in full(method, plain)]

    records = runs("sharp", 0.9, 0.9) + runs("frail", 0.99, 0.7) + runs("other", 0.7, 0.7)
    assert ranks(records) == {"sharp": 1, "frail": 2, "other": 2}
    overall = by_key(records)["overall"]
    assert [row.fields[0].text for row in overall.rows] == ["1", "2=", "2="]
    old = records + full("old", 0.95)  # has no such number: then nobody is placed by it
    assert ranks(old) == {"frail": 1, "old": 2, "sharp": 3, "other": 4}


def under(ablation: str, values: dict[str, float]) -> list[Any]:
    return [
        light(m, task, seed, value, settings=f'{{"ablation": "{ablation}"}}', model_name=model)
        for m, value in values.items()
        for task, model in (("reverse", "compiled-reverse"), ("sort", "compiled-sort"))
        for seed in range(2)
    ]


def test_other_ablations_are_compared_and_not_ranked_among_the_boards() -> None:
    plain = under("zero", {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6})
    moved = under("mean", {"a": 0.5, "b": 0.8, "c": 0.7})
    shown = board(plain + moved)
    assert shown.ablation == "zero"
    assert [e.label for e in shown.entries] == ["a", "b", "c", "d"]
    assert [e.label for e in shown.beside] == ["a", "b", "c"]
    assert ranks(plain + moved) == ranks(plain)
    table = by_key(plain + moved)["ablation-mean-easy"]
    assert column(table, "method") == ["a", "b", "c"]
    assert column(table, "place_before") == [1, 2, 3]
    assert column(table, "place_after") == [3, 1, 2]
    assert column(table, "moved") == [-2, 1, 1]
    assert "Spearman's correlation of the two rankings: -0.50" in table.note
    assert "Moved most: a from 1 to 3" in table.note
    (row,) = by_key(plain + moved)["ablations"].rows
    (easy, _track, kind, methods, rho, before, after, moves) = (field.text for field in row.fields)
    assert (easy, kind, methods, before, after) == ("easy", "mean", "3", "a", "b")
    assert rho.startswith("-0.50 (")
    assert moves == "a from 1 to 3; b from 2 to 1; c from 3 to 2"
    few = by_key(plain + under("mean", {"a": 0.5, "b": 0.8}))
    assert not {"ablations", "ablation-mean-easy"} & few.keys()


def test_what_is_wanted_of_a_board_is_reported_either_way() -> None:
    def runs(tier: str, task: str, values: dict[str, float]) -> list[Any]:
        place = next(place for place in places(tier) if place.task == task)
        return [
            light(m, task, seed, value, model_name=model_for(tier, place, seed))
            for m, value in values.items()
            for seed in range(2)
        ]

    means = {"a": 0.999, "b": 0.995, "c": 0.8, "d": 0.5, "e": 0.2}
    hard = runs("hard", "ioi", means)
    found = by_key(hard)["wanted"]
    assert column(found, "found") == ["2 of 5", "5", "too few methods on both"]
    assert column(found, "met") == ["yes", "yes", "–"]
    trained = runs("trained", "trained-ioi", {**means, "a": 0.1, "b": 0.15})
    both = by_key(hard + trained)["wanted"]
    assert column(both, "found")[2].startswith("-0.60 (")  # places 1 2 3 4 5 and 5 4 1 2 3
    assert column(both, "met") == ["yes", "yes", "no"]
    assert "wanted" not in by_key(trained)


def test_the_hard_tier_says_how_well_it_predicts_the_trained_one() -> None:
    records = [
        light(f"m{i}", task, s, 0.1 * i + 0.01 * s, model_name=model)
        for i in range(5)
        for s in range(3)
        for task, model in (
            ("ioi", f"planted-hard@{planting('hard', s)}"),
            ("trained-induction", "trained-induction"),
        )
    ]
    assert "Spearman 1.00 (1.00 to 1.00), 5 methods" in by_key(records)["tier-hard"].note


def test_a_difference_in_too_few_runs_is_not_called_a_tie() -> None:
    runs = [(task, seed) for task in "abcdefgh" for seed in range(4)]
    best = [light("best", task, seed, 1.0) for task, seed in runs]
    less = [light("less", task, seed, 0.5 if task == "a" else 1.0) for task, seed in runs]
    assert marks(best + less) == ["best", "untested"]


def test_interval_holds_the_mean_and_one_seed_has_none() -> None:
    (first, *_) = board(rows(sweep())).overall.standings
    estimate = first.estimates["average_precision"]
    assert estimate is not None
    assert estimate.interval is not None
    low, high = estimate.interval
    assert low <= estimate.mean <= high
    (only, *_) = board(rows(sweep(seeds=[0]))).overall.standings
    estimate = only.estimates["average_precision"]
    assert estimate is not None
    assert estimate.interval is None


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_records_changes_nothing(rng: np.random.Generator) -> None:
    records = [*full("a", 0.5), *full("b", 0.4), *full("c", 0.5), *full("d", 0.9)[1:]]
    records += rows([record("acdc", seed=0), record("random", seed=0)])
    expected = tables(board(records))
    rng.shuffle(records)
    assert tables(board(records)) == expected


def test_the_order_and_names_of_files_change_nothing(tmp_path: Path) -> None:
    records = sweep(("acdc", "random"), seeds=range(2))
    one, other = store(records, tmp_path / "one"), store(records, tmp_path / "other")
    for i, path in enumerate(sorted(other.iterdir(), reverse=True)):
        path.rename(other / f"{i}.json")

    def numbers(folder: Path) -> Any:
        content = json.loads(render(folder, "json"))
        for table in content["tables"].values():
            for row in table["rows"]:
                for run in row["records"]:
                    del run["path"]
        return content

    assert numbers(one) == numbers(other)


UNIT = st.floats(0, 1).map(lambda value: round(value, 3))
# Incomplete methods may have tasks and seeds that nobody else has.
WIDER = [(task, seed) for task in (*TASKS, "d") for seed in (*SEEDS, 3)]
INCOMPLETE = st.tuples(
    st.sets(st.sampled_from(WIDER), max_size=len(CELLS) - 1), st.floats(0, 1), st.booleans()
)


@settings(max_examples=30, deadline=None)
@given(st.lists(UNIT, min_size=1, max_size=4), st.lists(INCOMPLETE, max_size=4))
def test_incomplete_methods_never_change_other_ranks(values: Any, incomplete: Any) -> None:
    complete = [r for i, value in enumerate(values) for r in full(f"m{i}", value)]
    before = ranks(complete)
    others = []
    for i, (cells, value, failed) in enumerate(incomplete):
        others += [light(f"x{i}", task, seed, value) for task, seed in cells]
        if failed:
            task, seed = next(cell for cell in CELLS if cell not in cells)
            others.append(light(f"x{i}", task, seed, 0, status="failed", values={}))
    after = ranks(complete + others)
    assert {name: after[name] for name in before} == before
    assert all(after[name] is None for name in after if name.startswith("x"))


def test_one_seed_of_one_more_task_displaces_nobody() -> None:
    more = [light("more", task, 0, 0.9) for task in (*TASKS, "d")]
    assert ranks(full("a", 0.5) + full("b", 0.4) + more) == {"a": 1, "b": 2, "more": None}


def test_the_table_says_who_has_all_runs() -> None:
    note = by_key(full("whole", 0.5) + full("part", 0.9)[:-1])["overall"].note
    assert "1 of 2 methods have all of these runs; --tasks and --seeds narrow" in note
    assert "narrow" not in by_key(full("whole", 0.5))["overall"].note


def test_an_incomplete_method_is_shown_with_its_coverage_and_no_numbers() -> None:
    records = [*full("whole", 0.5), *full("part", 0.9)[:-1]]
    overall = by_key(records)["overall"]
    assert column(overall, "method") == ["whole", "part"]
    assert column(overall, "rank") == [1, None]
    assert column(overall, "coverage") == ["9/9", "8/9"]
    assert column(overall, "average_precision") == [0.5, None]


def test_an_undefined_metric_is_a_missing_run() -> None:
    records = full("whole", 0.5) + full("gap", 0.9)
    records[-1] = replace(records[-1], values={})
    assert ranks(records) == {"whole": 1, "gap": None}


def test_ties_share_a_rank() -> None:
    assert ranks(full("a", 0.5) + full("b", 0.5) + full("c", 0.1)) == {"a": 1, "b": 1, "c": 3}


def test_another_metric_ranks_by_itself() -> None:
    runs = [
        light("x", "a", 0, 0.9, values={"average_precision": 0.9, "auroc": 0.1, "queries": 5.0}),
        light("y", "a", 0, 0.2, values={"average_precision": 0.2, "auroc": 0.8, "queries": 9.0}),
    ]
    # of queries fewer are better
    for by, first in (("average_precision", "x"), ("auroc", "y"), ("queries", "x")):
        (best, other) = board(runs, by=metric(by)).overall.standings
        assert best.entry.label == first
        estimates = best.estimates[by], other.estimates[by]
        assert [e.mark for e in estimates if e is not None] == ["best", ""]


def test_settings_and_versions_are_never_averaged() -> None:
    base = light("m", "a", 0, 0.2)
    budget = replace(base, settings='{"budget": 10}')
    newer = replace(base, versions_text='{"torch": "9"}')
    labels = [entry.label for entry in board([base, budget, newer]).entries]
    assert labels == [
        "m (budget=10, torch=unset)",
        "m (budget=unset, torch=9)",
        "m (budget=unset, torch=unset)",
    ]
    # A hyperparameter may be called like an entry of the spec.
    named = '{"ablation": "zero", "hyperparameters": {"ablation": null}}'
    both = [replace(base, settings=text) for text in (named, named.replace("null", "1"))]
    named_by = "m (spec.hyperparameters.ablation={})".format
    assert [e.label for e in board(both).entries] == [named_by(1), named_by(None)]
    commit = replace(base, versions_text='{"commit": "abc"}', seed=1)
    assert [entry.label for entry in board([base, commit]).entries] == ["m"]


def test_cost_levels_read_the_trace_and_leave_out_what_is_not_there_yet() -> None:
    (one,) = rows([record("acdc", seed=0)])
    table = by_key([one])["costs"]
    assert [c.key for c in table.columns] == [
        *("method", "q10", "q30", "q100", "training"),
        *("coverage", "version", "commit"),
    ]
    values = [column(table, key)[0] for key in ("q10", "q30", "q100")]
    assert values[2] == one.values["average_precision"]
    late = record("acdc", seed=0)
    late = late.replace(discovery={**late.discovery, "trace": []})
    table = by_key(rows([record("random", seed=0), late]))["costs"]
    row = dict(zip(column(table, "method"), column(table, "q10"), strict=True))
    assert row["acdc"] is None
    assert row["random"] is not None


def test_role_tables_hold_the_recall_of_each_role() -> None:
    (one,) = rows([record("acdc", "ioi")])
    table = by_key([one])["roles-ioi-planted"]
    assert set(one.roles) == set(TRUTHS["ioi"].roles)
    for name, recall in one.roles.items():
        assert column(table, name) == [recall]


def with_edges(one: Any) -> Any:
    """The same run, with edges in truth and answer: one of the two best is true."""
    true = frozenset({Edge("0.1", "2.2.q"), Edge("4.0", "logits")})
    circuit = Circuit(TRUTHS["ioi"].roles, "invented", "constructed", edges=true)
    found = {"4.0->logits": 2.0, "4.7->logits": 1.0, "0.1->2.2.q": 0.5}
    return one.replace(discovery={**one.discovery, "edges": found}, truth=truth_of(circuit))


def test_edges_of_one_tier_are_ranked_there_by_who_has_not_run_on_the_others() -> None:
    def on(tier: str, method: str) -> Any:
        return with_edges(record(method, "ioi", model=f"planted-{tier}@{planting(tier, 0)}"))

    found = by_key(rows([on("hard", "acdc"), on("hard", "random"), on("easy", "random")]))
    assert column(found["edges"], "method") == ["random"]
    assert column(found["edges-hard"], "method") == ["acdc", "random"]
    assert column(found["edges-hard"], "rank") == [1, 1]
    assert column(found["edges-easy"], "method") == ["random"]


def test_edges_have_a_table_where_truth_and_answer_have_them(tmp_path: Path) -> None:
    one = with_edges(record("acdc", "ioi"))
    found = by_key(rows([one, record("random", "ioi")]))
    assert column(found["edges"], "method") == ["acdc"]
    assert column(found["edges"], "edge_average_precision") == [pytest.approx((1 + 2 / 3) / 2)]
    assert "edges" not in by_key(rows([record("random", "ioi")]))
    path = write_record(one, tmp_path)
    assert validate(tmp_path).ok
    path.unlink()
    backwards = {**one.discovery, "edges": {"4.0->0.0.q": 1.0}}
    write_record(one.replace(discovery=backwards), tmp_path)
    assert "edges cannot exist" in validate(tmp_path).text()


@pytest.mark.parametrize("format", FORMATS)
def test_one_method_one_seed_in_every_format(tmp_path: Path, format: Any, no_figures: Any) -> None:
    text = render(store([record("acdc")], tmp_path), format)
    assert "acdc" in text


@pytest.mark.parametrize("format", FORMATS)
def test_records_of_a_method_that_is_gone_are_still_shown(
    tmp_path: Path, format: Any, no_figures: Any
) -> None:
    """Published records keep the names they were made under, ``rl-dqn`` for one."""
    with pytest.raises(UnknownName):
        method_class("rl-dqn")
    folder = store(sweep(("acdc", "rl-dqn"), seeds=range(2)), tmp_path)
    assert validate(folder).ok
    assert "rl-dqn" in render(folder, format)
    assert ranks(rows(sweep(("acdc", "rl-dqn"), seeds=range(2)))).keys() == {"acdc", "rl-dqn"}


def test_every_format_parses(tmp_path: Path) -> None:
    folder = store(sweep(("acdc", "random"), seeds=range(2)), tmp_path / "results")
    lines = list(csv.DictReader(io.StringIO(render(folder, "csv"))))
    assert len(lines) == 4
    assert float(lines[0]["average_precision_low"]) <= float(lines[0]["average_precision"])
    content = json.loads(render(folder, "json"))
    assert content["grid"]["seeds"] == [0, 1]
    block = render(folder, "markdown").split("\n\n")[1].splitlines()
    assert len({line.count(" | ") for line in block}) == 1
    for table in render(folder, "latex").split("\\toprule")[1:]:
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert len({row.count(" & ") for row in rows}) == 1


def test_long_tables_may_break_across_pages_in_latex(tmp_path: Path) -> None:
    records = [light(f"m{i}", task, 0, 0.5) for i in range(15) for task in TASKS]
    shown = board(records)
    text = latex(shown, tables(shown), tmp_path)
    assert text.count("\\begin{longtable}") == text.count("\\end{longtable}") == 1
    (long,) = text.split("\\begin{longtable}")[1:]
    assert "Per task." in long.split("\\toprule")[0]


def test_the_name_in_a_markdown_row_links_to_its_records(tmp_path: Path) -> None:
    folder = store(sweep(("acdc", "random"), seeds=range(2)), tmp_path)
    body, sources = render(folder, "markdown").split("## Records")
    lines = [line for line in body.splitlines() if line.startswith("| ") and "](#" in line]
    assert len(lines) == sum(
        len(t.rows) for t in tables(board(rows(sweep(("acdc", "random"), seeds=range(2)))))
    )
    for row in lines:
        ((name, anchor), *_) = re.findall(r"\[([\w-]+)\]\(#(runs-\d+)\)", row)
        (line,) = [x for x in sources.splitlines() if f'<a id="{anchor}"></a>{name},' in x]
        assert line.count(".json)") == 2


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuitbench_leaderboard.figures.draw", lambda board: [])


def test_every_row_links_to_records_that_exist(tmp_path: Path, no_figures: Any) -> None:
    folder = store(sweep(("acdc", "random"), seeds=range(2)), tmp_path / "my results")
    out = tmp_path / "deep" / "site"
    content = json.loads(render(folder, "json", out))
    found = [row for table in content["tables"].values() for row in table["rows"]]
    assert found
    assert json.loads((out / "leaderboard.json").read_text()) == content
    for row in found:
        assert row["records"]
        assert all((out / unquote(run["path"])).resolve().is_file() for run in row["records"])
    assert {row["version"] for row in found} == {"0.1.0"}
    assert {row["commit"] for row in found} == {"012345678"}


NASTY = [
    "<script>alert(1)</script>",
    "a|b",
    "=cmd|' /C calc'!A0",
    "../../x",
    "{\\evil}",
    "a\nb",
    "&",
    "*_`[",
]


@pytest.mark.parametrize("text", NASTY)
def test_escaping(text: str) -> None:
    shown = escape_markdown(text)
    assert "<" not in shown
    assert "|" not in shown.replace("\\|", "")
    assert "\n" not in shown
    assert escape_csv(text)[0] not in "=+-@"
    assert "\n" not in escape_csv(text)
    latex = escape_latex(text)
    assert "<" not in latex
    assert "\\evil" not in latex


def test_text_from_records_is_harmless_in_every_output(tmp_path: Path, no_figures: Any) -> None:
    evil = "=x<script>alert(1)</script>|../"
    good = record("acdc", "ioi")
    truth = {**good.truth, "roles": {evil: good.truth["roles"]["name_mover"]}, "source": evil}
    marked = good.replace(
        truth=truth, command=evil,
        versions={"circuitbench": evil, "commit": evil}, hardware={"cpu": evil},
    )  # fmt: skip
    failed = record("random", "ioi", status="failed", reason=evil, discovery={})
    folder = store([marked, failed], tmp_path / "results")
    for format in FORMATS:
        text = render(folder, format, tmp_path / format)
        if format == "html":
            text = Path(text).read_text()
        if format in ("markdown", "html"):
            assert "<script>alert" not in text
    for path in (tmp_path / "csv").glob("*.csv"):
        for line in csv.reader(path.read_text().splitlines()):
            assert all(field.replace("-", "0", 1)[:1] not in {"=", "+", "@"} for field in line)
    assert "\\|../" in render(folder, "markdown")


def test_bad_files_are_reported_and_left_out(tmp_path: Path) -> None:
    folder = store([record("acdc", seed=0), record("random", seed=0)], tmp_path)
    _, second = sorted(folder.iterdir())
    copy = write_record(
        record("acdc", seed=0, created="2027-01-01T00:00:00+00:00"), tmp_path / "later"
    )
    second.write_text(second.read_text().replace('"queries":', '"queries":1', 1))
    warnings: list[str] = []
    for _ in range(2):  # read, then looked up in the index
        content = json.loads(render(folder, "json", warn=warnings.append))
        assert [row["method"] for row in content["tables"]["overall"]["rows"]] == ["acdc"]
        assert {p["path"] for p in content["problems"]} == {str(second), str(copy)}
    assert len(warnings) == 4
    assert all(any(str(p) in w for w in warnings[2:]) for p in (second, copy))


GOOD = record("acdc", seed=0)
BROKEN: dict[str, dict[str, Any]] = {
    "shape": {"discovery": {**GOOD.discovery, "scores": [[1.0, 2.0], [3.0]]}},
    "costs": {"costs": {"discovery": 5}},
    "role without heads": {"truth": {**GOOD.truth, "roles": {"x": {"needed": 1, "sign": 1}}}},
    "trace": {"discovery": {**GOOD.discovery, "trace": [{"scores": []}]}},
    "truth": {
        "truth": {**GOOD.truth, "roles": {"x": {"heads": ["99.0"], "needed": 1, "sign": 1}}}
    },
    "no answer": {"discovery": {}},
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("format", FORMATS)
def test_content_that_does_not_hold_together_is_left_out(
    tmp_path: Path, no_figures: Any, format: Any, fault: Any
) -> None:
    store([record("random", seed=0), record("rl-ppo", seed=0)], tmp_path)
    path = write_record(GOOD.replace(**BROKEN[fault]), tmp_path)
    warnings: list[str] = []
    text = render(tmp_path, format, warn=warnings.append)
    assert str(path) in warnings[0]
    assert "rl-ppo" in text
    if format == "json":
        found = json.loads(text)["tables"]
        rows = found["overall"]["rows"] + found["overall-same-model"]["rows"]
        assert [row["method"] for row in rows] == ["random", "rl-ppo"]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000])
def test_numbers_out_of_range_are_reported_with_their_path(tmp_path: Path, number: Any) -> None:
    folder = store([record("acdc", seed=0), record("random", seed=0)], tmp_path)
    path = next(folder.glob("acdc*"))
    path.write_text(path.read_text().replace('"queries":88', f'"queries":{number}', 1))
    assert number in path.read_text()
    warnings: list[str] = []
    rows = json.loads(render(folder, "json", warn=warnings.append))["tables"]["overall"]["rows"]
    assert [row["method"] for row in rows] == ["random"]
    assert len(warnings) == 1
    assert str(path) in warnings[0]


def test_tasks_and_seeds_narrow_the_comparison(tmp_path: Path) -> None:
    folder = store([*sweep(("acdc",), seeds=range(2)), record("random", "ioi", 0)], tmp_path)

    def coverages(**only: Any) -> Any:
        rows = json.loads(render(folder, "json", **only))["tables"]["overall"]["rows"]
        return {row["method"]: row["coverage"] for row in rows}

    assert coverages() == {"acdc": "4/4", "random": "1/4"}
    assert coverages(tasks=["ioi"], seeds=[0]) == {"acdc": "1/1", "random": "1/1"}
    with pytest.raises(UnknownName, match="did you mean 'ioi'"):
        render(folder, tasks=["iio"])
    with pytest.raises(InvalidSpec, match="tasks, seeds and tier asked for"):
        render(folder, seeds=[7])


def test_a_tier_narrows_the_comparison(tmp_path: Path) -> None:
    records = [
        record("acdc", "ioi", s, model=f"planted-hard@{planting('hard', s)}") for s in (0, 1)
    ]
    folder = store([*records, record("acdc", "induction", 0)], tmp_path)
    content = json.loads(render(folder, "json", tier="hard"))
    assert content["grid"]["tasks"] == [{"task": "ioi", "model": "planted-hard@drawn"}]
    with pytest.raises(UnknownName, match="did you mean 'hard'"):
        render(folder, tier="hart")
    with pytest.raises(InvalidSpec, match="its tiers: hard, embedded"):
        render(folder, tier="trained")


def test_nothing_to_show_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"no records in .*: it is empty; make one with"):
        render(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InvalidSpec, match="all 1 files in it are unusable"):
        render(tmp_path)
    with pytest.raises(InvalidSpec, match="no such results folder"):
        render(tmp_path / "absent")
    store([record()], tmp_path)
    with pytest.raises(UnknownName, match="did you mean 'markdown'"):
        render(tmp_path, "markdwn")
    with pytest.raises(UnknownName, match="did you mean 'auroc'"):
        render(tmp_path, by="aurok")


def test_only_failed_runs_still_give_a_table(tmp_path: Path, no_figures: Any) -> None:
    folder = store([record(status="failed", reason="boom", discovery={})], tmp_path)
    for format in FORMATS:
        assert "boom" in render(folder, format) or format == "csv"


def test_circuits_found_elsewhere_stand_apart_and_are_ranked_nowhere(tmp_path: Path) -> None:
    records = sweep(("acdc", "random"), seeds=range(2))
    ours = rows(records)
    spec = {"task": "ioi", "model": "planted", "method": "eap-ig", "seed": 0}
    file = {"file": "a.json", "sha256": "0"}
    other = record(skill=9.0, spec={**spec, "external": file}, costs={})
    worse = record(spec={**spec, "external": {**file, "file": "b.json"}}, costs={})
    without, shown = board(ours), board([*ours, *rows([other, worse])])
    assert shown.overall == without.overall
    assert shown.by_task == without.by_task
    found = {table.key: table for table in tables(shown)}
    assert [t for t in tables(shown) if t.key != "external"] == tables(without)
    assert found["external"].title == "Circuits found elsewhere"
    assert sorted(column(found["external"], "file")) == ["a.json", "b.json"]
    assert column(found["external"], "average_precision")[0] is not None
    assert "queries" not in [c.key for c in found["external"].columns]
    folder = store([*records, other, worse], tmp_path / "all")
    for format_ in FORMATS:
        assert "eap-ig" in render(folder, format_) or format_ == "csv"
    render(folder, "csv", tmp_path / "csv")
    assert "b.json" in (tmp_path / "csv" / "external.csv").read_text()
    alone = store([other], tmp_path / "alone")
    for format_ in FORMATS:
        assert "eap-ig" in render(alone, format_)
