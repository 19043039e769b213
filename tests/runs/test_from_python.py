"""The Python face: runs by name and with objects, gone on with, compared, shown, drawn."""

from __future__ import annotations

import dataclasses
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import circuitbench as cb
from circuitbench.checks.contracts import ToyTask, toy_model
from circuitbench.results import read_folder
from circuitbench.runs import face
from circuitbench.runs.progress import silent
from circuitbench.runs.progress_bar import shown_progress
from circuitbench_baselines.random import RandomRanking

QUICK: dict[str, Any] = {"task": "reverse", "batch_size": 4, "functional": "none", "device": "cpu"}
LEARNER = {
    "training.total_steps": 40, "training.n_envs": 2, "ppo.n_steps": 10, "ppo.minibatch": 10,
    "network.width": 8, "search.steps": 5,
}  # fmt: skip


@cb.Info("Mine", "Test")
@dataclass(frozen=True)
class Mine:
    """Ranks heads at random, and is registered nowhere."""

    share: float = 0.5

    def discover(self, oracle: cb.Oracle, rng: np.random.Generator) -> cb.Discovery:
        scores = rng.random(oracle.shape)
        return cb.Discovery(scores, cb.heads_of(scores > self.share))


@dataclass(frozen=True)
class Fails(Mine):
    def discover(self, oracle: cb.Oracle, rng: np.random.Generator) -> cb.Discovery:
        raise ZeroDivisionError("by zero")


def test_a_result_and_its_record_have_a_short_repr() -> None:
    found = cb.run("random", task="ioi", batch_size=2, functional="none")
    assert repr(found) == "<Result: random on ioi (planted, seed 0), done>"
    assert (
        repr(found.record) == str(found.record) == "<Record: random on ioi (planted, seed 0), done>"
    )


def test_a_result_has_the_answer_its_scores_and_its_metrics() -> None:
    found = cb.run("random", seed=3, **QUICK)
    assert (found.method, found.task, found.seed, found.status) == ("random", "reverse", 3, "done")
    assert found.scores.shape == (found.record.model["n_layers"], found.record.model["n_heads"])
    assert found.selected == found.discovery.selected
    assert 0 <= found.metrics["average_precision"] <= 1
    assert found.truth is not None
    known: Any = cb.load_task("reverse").truth(cb.load_model(found.model))
    assert found.truth.heads == known.heads
    assert found.path is None


def test_a_run_that_failed_says_why_instead_of_an_answer() -> None:
    found = cb.run(Fails(), **QUICK)
    assert (found.status, found.reason) == ("failed", "ZeroDivisionError: by zero")
    with pytest.raises(cb.RunFailed, match="failed while discovering: ZeroDivisionError: by zero"):
        _ = found.scores
    assert "average_precision" not in found.metrics
    assert "by zero" in found._repr_html_()
    with pytest.raises(ZeroDivisionError):
        cb.run(Fails(), reraise=True, **QUICK)


def test_objects_that_are_registered_are_the_same_run_as_their_names() -> None:
    task = cb.load_task("reverse")
    model = cb.load_model(task.default_model)
    named = cb.run("random", hyperparameters={"share": 0.3}, **QUICK)
    settings = {**QUICK, "task": task}
    for method in (cb.load_method("random", share=0.3), RandomRanking(share=0.3)):
        given = cb.run(method, model=model, **settings)
        assert given.record.run_id == named.record.run_id
        assert given.record.command == named.record.command
        assert "share=0.3" in given.record.command
        assert np.array_equal(given.scores, named.scores)
    assert cb.run(RandomRanking, **QUICK).method == "random"


def test_objects_of_your_own_are_named_and_told_apart_honestly() -> None:
    found = cb.run(Mine(0.7), **QUICK)
    assert found.method == "test_from_python:Mine"
    assert found.record.command == ""
    assert found.record.info["method"]["title"] == "Mine"
    assert found.record.spec["hyperparameters"] == {"share": 0.7}
    assert set(found.record.spec["unregistered"]) == {"method"}
    assert len(found.record.spec["unregistered"]["method"]) == 16
    settings = {**QUICK, "task": ToyTask()}
    own = cb.run(Mine, model=toy_model(), hyperparameters={"share": 0.7}, **settings)
    assert (own.task, own.model) == ("toys:ToyTask", "toy")
    assert set(own.record.spec["unregistered"]) == {"method", "task", "model"}
    other = cb.run(Mine(0.7), model=toy_model(seed=1), **settings)
    assert other.record.run_id != own.record.run_id
    relabelled = dataclasses.replace(cb.load_model("compiled-reverse"), limits=cb.Limits())
    marked = cb.run("random", model=relabelled, **QUICK).record.spec["unregistered"]
    assert set(marked) == {"model"}


def test_what_cannot_be_run_is_refused_in_one_line() -> None:
    with pytest.raises(cb.InvalidSpec, match="handed over with its hyperparameters"):
        cb.run(Mine(), hyperparameters={"share": 0.1}, **QUICK)
    with pytest.raises(cb.UnknownName, match="did you mean 'share'"):
        cb.run(Mine, hyperparameters={"shar": 0.1}, **QUICK)
    with pytest.raises(cb.InvalidPlugin, match="must be a dataclass"):
        cb.run(object(), **QUICK)  # type: ignore[arg-type]
    with pytest.raises(cb.UnknownName, match="did you mean 'budget'"):
        cb.run("random", budgett=3)


def test_a_finished_run_is_read_and_other_code_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cb.run(Mine(), results=tmp_path, **QUICK)
    again = cb.run(Mine(), results=tmp_path, **QUICK)
    assert first.path == again.path
    assert again.record.created == first.record.created
    assert first.record == again.record
    monkeypatch.setattr(face, "fingerprint", lambda thing: "0123456789abcdef")
    assert cb.run(Mine(), results=tmp_path, **QUICK).path != first.path
    monkeypatch.setattr(face, "fingerprint", lambda thing: None)
    calls = len(read_folder(tmp_path)[0])
    seen: list[str] = []
    for _ in range(2):  # code that nobody can read is run again
        cb.run(Mine(), results=tmp_path, progress=lambda stage, _: seen.append(stage), **QUICK)
    assert seen.count("discovering") == 2
    assert len(read_folder(tmp_path)[0]) == calls + 1


def test_an_interrupted_run_goes_on_from_its_discovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**QUICK, "functional": "quick", "results": tmp_path}

    def interrupt(stage: str, _: float | None) -> None:
        if stage == "measuring":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cb.run("random", progress=interrupt, **settings)
    monkeypatch.setattr(RandomRanking, "discover", None)  # it is not asked again
    found = cb.run("random", **settings)
    assert found.status == "done"
    assert found.record.measurements


def test_an_interrupted_training_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gymnasium")
    settings = {**QUICK, "hyperparameters": LEARNER}
    whole = cb.run("rl-ppo", **settings)
    learn = sys.modules["circuitbench_agents.learning.policy_training"].PolicyTraining.learn
    monkeypatch.setattr(learn, "__defaults__", (cb.TrainingTools(), 1))
    fractions: list[float] = []

    def interrupt(stage: str, fraction: float | None) -> None:
        if stage.startswith("training") and (fraction or 0) >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cb.run("rl-ppo", results=tmp_path, progress=interrupt, **settings)
    assert list(tmp_path.glob(".checkpoints/*/checkpoint.json"))
    assert not read_folder(tmp_path)[0]

    def watch(stage: str, fraction: float | None) -> None:
        if stage.startswith("training ") and fraction is not None:
            fractions.append(fraction)

    found = cb.run("rl-ppo", results=tmp_path, progress=watch, **settings)
    assert min(fractions) > 0.5
    assert np.array_equal(found.scores, whole.scores)
    assert not (tmp_path / ".checkpoints").exists()


def test_methods_are_compared_on_the_runs_that_all_have() -> None:
    table = cb.compare("random", "head-ablation", RandomRanking(share=0.3), seeds=range(2), **QUICK)
    assert next(iter(table.means)) == "head-ablation"
    usual = cb.load_method("random").share  # type: ignore[attr-defined]
    names = {"head-ablation", "random (share=0.3)", f"random (share={usual})"}
    assert set(table.means) == names
    assert (table.runs, table.left_out) == (2, {})
    assert "AP" in str(table)
    assert str(table).count("*") >= 2
    records = [cb.run("random", seed=0, **QUICK).record, cb.run("random", seed=1, **QUICK).record]
    some = cb.compare(records, cb.run("head-ablation", seed=1, **QUICK), by="auroc")
    assert (some.runs, some.left_out) == (1, {"random": 1})
    assert some.means["random"]["auroc"] == cb.Result(records[1]).metrics["auroc"]
    with pytest.raises(cb.InvalidSpec, match="nothing to compare"):
        cb.compare()
    with pytest.raises(cb.InvalidSpec, match="by zero"):
        cb.compare(Fails, "random", **QUICK)
    with pytest.raises(cb.UnknownName, match="did you mean 'auroc'"):
        cb.compare("random", by="aurok")


def shown(value: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(value)
    return out.getvalue()


def test_values_show_themselves_on_a_terminal_and_in_a_notebook() -> None:
    found = cb.run("head-ablation", **QUICK)
    task, model = cb.load_task("reverse"), cb.load_model("compiled-reverse")
    oracle = cb.Oracle(model, task, task_name="reverse", seed=0, batch_size=4)
    hostile = cb.Info("<b>bold</b>", "a & b")
    values: list[tuple[Any, tuple[str, ...]]] = [
        (found, ("head-ablation on reverse", "AUROC", "Queries")),
        (found.discovery, ("committed to", "Discovery over")),
        (found.truth, ("constructed", "role")),
        (found.record, ("run id", "repeat with")),
        (oracle.query(oracle.head_masks(), control=True), ("task (logits)", "reward")),
        (hostile, ("a & b",)),
        (cb.compare(found), ("method", "AP")),
    ]
    for value, parts in values:
        text, html = shown(value), value._repr_html_()
        for part in parts:
            assert part in text
            assert part.replace("&", "&amp;") in html
        assert "<b>" not in html
        assert html.count("<table>") == html.count("</table>")


def test_discoveries_are_drawn() -> None:
    edge, wrong, missed = (cb.Edge.parse(x) for x in ("embed->0.0.q", "0.1->1.0.k", "1.1->logits"))
    scores = np.array([[0.0, 1.0], [0.5, 0.2]])
    truth = cb.Circuit(
        {"r": cb.Role((cb.Head(0, 1),))}, "made up", "constructed", edges=frozenset({edge, missed})
    )
    found = cb.Discovery(
        scores, frozenset({cb.Head(0, 1)}), {edge: 1.0, wrong: 0.5},
        selected_edges=frozenset({edge, wrong}),
    )  # fmt: skip
    heads = found.plot(truth=truth)
    assert heads.axes[0].get_ylabel() == "layer"
    assert np.array_equal(np.asarray(heads.axes[0].images[0].get_array()), scores)
    assert "<svg" in heads._repr_svg_()  # type: ignore[attr-defined]
    edges = found.plot("edges", truth)
    labels = [text.get_text() for text in edges.axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["found (1)", "missed (1)", "wrongly found (1)"]
    names = {text.get_text() for text in edges.axes[0].texts}
    assert {"embed", "logits", "0.0", "1.0", "0.1", "1.1"} <= names
    (label,) = [t.get_text() for t in found.plot("edges", top=1).axes[0].get_legend().get_texts()]  # type: ignore[union-attr]
    assert label == "edges (1)"
    with pytest.raises(cb.InvalidSpec, match="scores no edges"):
        cb.Discovery(scores, frozenset()).plot("edges")
    with pytest.raises(cb.UnknownName, match="did you mean 'heads'"):
        found.plot("head")  # type: ignore[arg-type]
    with pytest.raises(cb.InvalidSpec, match="1 or more"):
        found.plot("edges", top=0)


def test_a_plot_without_matplotlib_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = cb.Discovery(np.zeros((1, 1)), frozenset())
    with pytest.raises(cb.MissingExtra, match=r"a plot needs matplotlib: .*\[figures\]"):
        found.plot()


def test_progress_is_shown_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cb.run("random", **QUICK)
    assert capsys.readouterr().err == ""
    cb.run("random", progress=True, **QUICK)
    assert "random on reverse: discovering" in capsys.readouterr().err
    with shown_progress("here", None) as progress:
        assert progress is silent
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with shown_progress("here", None) as progress:
        assert progress is not silent
        progress("discovering", 0.5)
    with shown_progress("here", False) as progress:
        assert progress is silent
