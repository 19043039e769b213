"""A run and its stages: whatever fails leaves a record that says where, and loses nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuitbench.core.circuit import Edge, Head
from circuitbench.core.discovery import Discovery, TracePoint
from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.evaluation.without_truth.measurements import measure
from circuitbench.results import Record, read_folder, read_record
from circuitbench.runs import prepare as preparation
from circuitbench.runs.failure import one_line, traceback_of, without_folders
from circuitbench.runs.once import run as run_by_name
from circuitbench.runs.once import run_and_write
from circuitbench.runs.prepare import Prepared, prepare
from circuitbench.runs.run import run
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.unmeasured import INTERRUPTED, is_unmeasured
from circuitbench.tasks.compiled import Reverse
from circuitbench_baselines.random import RandomRanking

MEASURE = "circuitbench.evaluation.without_truth.measurements.measure"
SPEC = RunSpec(method="random", task="reverse", batch_size=4, device="cpu")


@pytest.fixture
def prepared() -> Prepared:
    return prepare(SPEC)


def explode(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("by zero in /home/somebody/secret/file.py")


def break_stage(stage: str, patch: pytest.MonkeyPatch, error: Any = explode) -> None:
    if stage == "loading":
        patch.setattr(Reverse, "truth", error)
    elif stage == "training":
        trained = type("Trained", (RandomRanking,), {"train": error})
        patch.setattr(preparation, "method_class", lambda name: trained)
    elif stage == "discovering":
        patch.setattr(RandomRanking, "discover", error)
    else:
        patch.setattr(MEASURE, error)


STAGES = ["loading", "training", "discovering", "measuring"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_failed_run_says_in_which_stage_and_keeps_the_traceback(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_stage(stage, monkeypatch)
    prepared = prepare(SPEC)
    record = run(prepared)
    assert (record.status, record.stage) == ("failed", stage)
    assert record.reason == "ZeroDivisionError: by zero in file.py"
    assert "Traceback (most recent call last)" in record.traceback
    assert 'File "circuitbench/runs/' in record.traceback
    assert "in explode" in record.traceback
    assert bool(record.discovery) == (stage == "measuring")
    assert bool(record.truth) == (stage != "loading")
    assert record.measurements == {}
    assert record.run_id == prepared.run_id
    assert set(record.costs) == {"discovery", "training", "evaluation"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_record_tells_nothing_of_the_machines_folders(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_stage(stage, monkeypatch)
    record = run(prepare(SPEC))
    for text in (record.traceback, record.reason):
        assert not re.search(r"(?<![\w.])/\w+/", text)
        assert "somebody" not in text
        assert str(Path.home()) not in text


@pytest.mark.parametrize("stage", STAGES)
def test_reraising_raises_what_was_raised_and_keeps_the_record(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_stage(stage, monkeypatch)
    with pytest.raises(ZeroDivisionError, match="by zero"):
        run_and_write(prepare(SPEC), tmp_path, reraise=True)
    (record,), problems = read_folder(tmp_path)
    assert (record.stage, problems) == (stage, [])


def test_the_discovery_is_on_disk_before_it_is_measured(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: list[Record] = []
    measured = measure

    def look(*arguments: Any) -> Any:
        on_disk.extend(read_folder(tmp_path)[0])
        return measured(*arguments)

    monkeypatch.setattr(MEASURE, look)
    final = run_and_write(prepared, tmp_path)
    (interim,) = on_disk
    assert (interim.status, interim.stage, interim.reason) == ("failed", "measuring", INTERRUPTED)
    assert is_unmeasured(interim)
    assert interim.discovery == final.discovery
    assert final.status == "done"
    assert read_folder(tmp_path) == ([final], [])


def test_a_run_that_failed_in_measuring_goes_on_from_its_discovery(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(prepared)
    with monkeypatch.context() as patch:
        break_stage("measuring", patch)
        failed = run_and_write(prepared, tmp_path)
    assert is_unmeasured(failed)
    monkeypatch.setattr(RandomRanking, "discover", explode)  # must not be asked again
    done = run_and_write(prepare(SPEC), tmp_path)
    assert done.status == "done"
    assert (done.stage, done.reason, done.traceback) == ("", "", "")
    assert done.measurements == whole.measurements
    assert done.discovery == whole.discovery
    assert done.truth == whole.truth
    assert done.model == whole.model
    assert done.costs["discovery"]["method_seconds"] == failed.costs["discovery"]["method_seconds"]
    assert done.costs["evaluation"]["queries"] == whole.costs["evaluation"]["queries"]
    assert read_folder(tmp_path) == ([done], [])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("stage", STAGES)
def test_an_interruption_leaves_whole_files_or_none(
    stop: type[BaseException], stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise stop

    break_stage(stage, monkeypatch, interrupt)
    with pytest.raises(stop):
        run_and_write(prepare(SPEC), tmp_path)
    records, problems = read_folder(tmp_path)
    assert problems == []
    assert [r.stage for r in records] == (["measuring"] if stage == "measuring" else [])
    assert len(list(tmp_path.iterdir())) == len(records)


SHAPE = (prepare(SPEC).model.n_layers, prepare(SPEC).model.n_heads)
FLAT = np.zeros(SHAPE)
BAD_ANSWERS = {
    "must return a Discovery, not int": 3,
    "have shape": Discovery(np.zeros((1, 1)), frozenset()),
    "score of head 0.0 is nan": Discovery(FLAT + np.nan, frozenset()),
    "head that does not exist": Discovery(FLAT, frozenset({Head(99, 0)})),
    "rising numbers of queries": Discovery(
        FLAT, frozenset(), trace=[TracePoint(2, FLAT), TracePoint(2, FLAT)]
    ),
    "scored edges cannot exist": Discovery(FLAT, frozenset(), {Edge("9.9", "0.0.q"): 1.0}),
    "discovery.info.loss is inf": Discovery(FLAT, frozenset(), info={"loss": float("inf")}),
    "discovery.info.thing is a object": Discovery(FLAT, frozenset(), info={"thing": object()}),
}


@pytest.mark.parametrize("reason", BAD_ANSWERS)
def test_an_answer_that_cannot_be_kept_fails_the_discovery(
    reason: str, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RandomRanking, "discover", lambda *_: BAD_ANSWERS[reason])
    record = run(prepared)
    assert record.stage == "discovering"
    assert reason in record.reason
    assert record.discovery == {}


def test_what_a_record_cannot_hold_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dataclasses import replace

    from circuitbench.plugins.registry import load_model

    model = load_model("compiled-reverse")
    for name in ("org/name/more", "../up", "<b>"):
        with pytest.raises(InvalidSpec, match="not a model name"):
            prepare(SPEC, lambda _, name=name: replace(model, name=name))  # type: ignore[misc]
    with pytest.raises(InvalidSpec, match=r"model\.provenance\.thing is a object"):
        prepare(SPEC, lambda _: replace(model, provenance={"thing": object()}))


def test_a_model_with_an_owner_runs_and_is_kept(tmp_path: Path) -> None:
    from dataclasses import replace

    from circuitbench.plugins.registry import load_model

    model = replace(load_model("compiled-reverse"), name="org/name@folded")
    record = run_and_write(prepare(SPEC, lambda _: model), tmp_path)
    assert (record.status, record.model_name) == ("done", "org/name@folded")
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path]


def test_run_by_name_returns_a_record_and_writes_only_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = run_by_name("random", task="reverse", seed=3, batch_size=4, functional="none")
    assert (record.method, record.task, record.seed, record.status) == (
        "random",
        "reverse",
        3,
        "done",
    )
    assert (record.path, list(tmp_path.iterdir())) == (None, [])
    kept = run_by_name("random", task="reverse", seed=3, batch_size=4, functional="none", out="x")
    assert kept.path is not None
    assert read_record(kept.path) == kept
    assert kept.discovery == record.discovery
    with pytest.raises(UnknownName, match="did you mean 'budget'"):
        run_by_name("random", budgett=3)


def test_functional_none_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr(MEASURE, explode)
    record = run(prepare(replace(SPEC, functional="none")))
    assert (record.status, record.measurements) == ("done", {})


def test_a_full_disk_before_measuring_is_met_again_after_it(prepared: Prepared) -> None:
    def full(record: Record) -> None:
        raise InvalidSpec("cannot write: No space left on device")

    assert run(prepared, keep=full).status == "done"


def test_errors_are_told_in_one_line() -> None:
    assert one_line(InvalidSpec("a\nb")) == "a b"
    assert one_line(InvalidSpec("")) == "InvalidSpec: "
    assert one_line(KeyError("x")) == "KeyError: 'x'"


def test_paths_are_cut_and_other_slashes_stay() -> None:
    for text, cut in [
        ("no /home/me/x.txt here", "no x.txt here"),
        ("open '/a/b/c'", "open 'c'"),
        ("https://host/a/b", "https://host/a/b"),
        ("n/a and a/b", "n/a and a/b"),
        (str(Path.home() / "x y" / "z"), "~/x y/z"),
    ]:
        assert without_folders(text) == cut


def test_a_long_recursion_has_a_short_traceback() -> None:
    def deeper(n: int) -> int:
        return deeper(n + 1) + deeper(n + 2)

    with pytest.raises(RecursionError) as caught:
        deeper(0)
    assert len(traceback_of(caught.value)) < 20_000


def test_running_imports_no_heavy_room_that_it_does_not_need(tmp_path: Path) -> None:
    program = (
        "import sys; from circuitbench.cli import main; "
        "main(['run', '--method', 'random', '--task', 'reverse', '--batch-size', '4']); "
        "print(sorted({'scipy', 'pandas', 'sklearn', 'transformer_lens', 'gymnasium', "
        "'matplotlib', 'stable_baselines3'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_a_truth_with_degrees_keeps_what_its_heads_contribute(monkeypatch: Any) -> None:
    import dataclasses

    from circuitbench.evaluation.metrics import values_of
    from circuitbench.results.content import faults, outcome_of
    from circuitbench.runs import degrees

    spec = RunSpec(method="random", task="two-hop", model="planted-easy", functional="none")
    prepared = prepare(spec)
    assert "contributions" not in run(prepared).truth

    @dataclasses.dataclass(frozen=True)
    class Fading:
        task: Any = prepared.task
        default_model: str = "planted-easy"

        def __getattr__(self, name: str) -> Any:
            return getattr(self.task, name)

        def truth(self, model: Any) -> Any:
            return dataclasses.replace(self.task.truth(model), degrees=True)

    degrees._known.clear()
    record = run(dataclasses.replace(prepared, task=Fading()))
    found = record.truth["contributions"]["heads"]
    assert sum(found["values"].values()) == pytest.approx(1)
    assert faults(record) == []
    assert {"ndcg", "weighted_recall"} <= set(values_of(outcome_of(record))[0])
    monkeypatch.setattr(degrees, "head_contributions", None)  # asked once, then known
    assert run(dataclasses.replace(prepared, task=Fading())).truth == record.truth
    full = dataclasses.replace(spec, functional="full")
    truth = Fading().truth(prepared.model)
    measured = degrees.degrees_of(dataclasses.replace(prepared, task=Fading(), spec=full), truth)
    edges = measured["contributions"]["edges"]["values"]
    assert edges.keys() == set(map(str, truth.edges))
    assert sum(edges.values()) == pytest.approx(1)
    heads = {**found, "values": {**found["values"], "99.0": 0.1}}
    wrong = record.replace(truth={**record.truth, "contributions": {"heads": heads}})
    assert "outside the model" in faults(wrong)[0]
