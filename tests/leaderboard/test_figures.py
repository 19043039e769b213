"""Figures: drawn where there is data, labelled, the same every time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_records import light, record, rows, sweep

from circuitbench.evaluation.metrics import metric
from circuitbench_leaderboard.board import board
from circuitbench_leaderboard.figures import NAMES, draw, write_figures
from circuitbench_leaderboard.figures.methods import mean_curve
from circuitbench_leaderboard.figures.style import INK, looks_of
from circuitbench_leaderboard.head_grids import ranks


@pytest.fixture(scope="module")
def drawings() -> Any:
    return {d.name: d for d in draw(board(rows(sweep(seeds=range(2)))))}


def test_every_figure_of_a_full_sweep_is_there(drawings: Any) -> None:
    assert set(drawings) == {
        "quality-by-queries",
        "quality-by-queries-same-model",
        "quality-by-difficulty",
        "performance-profiles",
        "critical-difference",
        "role-recall",
        "heads-induction-planted",
        "heads-ioi-planted",
        "ablation-effect",
    }
    assert {n for n in drawings if not n.startswith(("heads-", "quality-by-queries-"))} == set(
        NAMES
    )
    assert all(d.title and d.alt for d in drawings.values())
    for name in ("quality-by-queries", "quality-by-difficulty", "performance-profiles"):
        (axes, *_) = drawings[name].figure.axes
        assert axes.get_xlabel()
        assert axes.get_ylabel()


def test_methods_are_told_apart_without_colour(drawings: Any) -> None:
    axes = drawings["performance-profiles"].figure.axes[0]
    looks = {(line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == len(axes.lines) == 4
    many = looks_of(board([light(f"m{i}", "t", 0, 0.5) for i in range(40)]))
    assert len({(look.marker, look.line) for look in many.values()}) == 40


def test_a_legend_of_many_methods_stays_on_the_paper() -> None:
    records = [light(f"method-{i}", "t", seed, i / 30) for i in range(30) for seed in range(2)]
    (figure,) = (d.figure for d in draw(board(records)) if d.name == "performance-profiles")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.y1


def test_files_are_written_and_valid(drawings: Any, tmp_path: Path) -> None:
    paths = write_figures([drawings["critical-difference"]], tmp_path / "figures")
    assert [p.name for p in paths] == ["critical-difference.png", "critical-difference.svg"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(paths[1]).getroot().tag.endswith("svg")
    assert drawings["critical-difference"].svg() == paths[1].read_text()
    (tmp_path / "figures" / "my-own.png").touch()
    write_figures([drawings["performance-profiles"]], tmp_path / "figures")
    assert {p.stem for p in paths[0].parent.iterdir()} == {"performance-profiles", "my-own"}


def test_a_figure_is_white_and_turns_dark_where_the_reader_does(drawings: Any) -> None:
    svg = drawings["critical-difference"].svg()
    assert '<rect class="paper" width="100%" height="100%" fill="white"/>' in svg
    (dark,) = re.findall(r"<style>(@media \(prefers-color-scheme: dark\).*?)</style>", svg)
    for part in ("fill", "stroke"):  # as the drawing writes them
        assert f'[style*="{part}: {INK}"]' in dark
        assert re.search(f'style="[^"]*{part}: {INK}', svg)


def test_little_data_gives_fewer_figures_and_no_error() -> None:
    assert [d.name for d in draw(board([light("m", "t", 0, 0.5)]))] == []
    failed = record(status="failed", reason="x", discovery={})
    assert draw(board(rows([failed]))) == []
    alone = {d.name for d in draw(board(rows([record("acdc", seed=0)])))}
    assert alone == {"quality-by-queries", "role-recall", "heads-ioi-planted"}


def test_markup_in_names_of_roles_stays_text() -> None:
    one = record("acdc", seed=0)
    name = "</text><script>x</script>$\\frac"
    truth = {**one.truth, "roles": {name: one.truth["roles"]["name_mover"]}}
    for drawing in draw(board(rows([one.replace(truth=truth)]))):
        assert "<script>" not in drawing.svg()


@pytest.mark.parametrize("by", ["cmd_zero", "queries"])
def test_a_metric_where_less_is_better_turns_the_figures_round(by: str) -> None:
    runs = [
        light(method, task, seed, 0.5, values={by: value + seed / 100})
        for method, value in (("good", 3.0), ("bad", 9.0))
        for task in ("a", "b")
        for seed in range(2)
    ]
    figures = {d.name: d for d in draw(board(runs, by=metric(by)))}
    assert "good 1.00, bad 2.00" in figures["critical-difference"].alt
    profiles = figures["performance-profiles"]
    assert "below each threshold" in profiles.title
    (axes,) = profiles.figure.axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    assert (lines["good"] >= lines["bad"]).all()
    assert lines["good"].max() == 1


def test_mean_curve_starts_where_every_run_has_a_ranking() -> None:
    queries, mean, low, high = mean_curve([[(1, 0.0), (10, 1.0)], [(5, 0.5), (20, 0.5)]])
    assert queries.tolist() == [5, 10, 20]
    assert mean.tolist() == [0.25, 0.75, 0.75]
    assert (low <= mean).all()
    assert (mean <= high).all()


def test_ranks() -> None:
    assert ranks(np.array([[1.0, 3.0], [2.0, 3.0]])).tolist() == [[4, 1.5], [3, 1.5]]
