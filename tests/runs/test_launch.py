"""Sweeps in worker processes: planned, contained, interrupted, gone on with, losing nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rogues
from records_kit import content

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.results import read_folder, remove_leftovers, write_atomically
from circuitbench.results.content import faults
from circuitbench.runs.drive import drive
from circuitbench.runs.isolation.limits import Limits
from circuitbench.runs.launch.local import Local
from circuitbench.runs.plan import duration, plan
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.state import State, read_states, remove_dead
from circuitbench.runs.sweep import grid, run_all
from circuitbench.runs.sweep_file import read_sweep

BASE = RunSpec(batch_size=4, device="cpu", functional="none")
SPECS = grid(BASE, ["random", "head-ablation"], ["reverse", "histogram"], [0, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("rogues")
    with rogues.installed(folder):
        yield folder


@pytest.fixture(scope="module")
def launcher(folder: Path) -> Iterator[Local]:
    launcher = Local(2, threads=1)
    yield launcher
    launcher.close()


def swept(specs: Any, out: Path, launcher: Local, rerun: Any = "missing", **kw: Any) -> list[Any]:
    return [found.record for found in drive(plan(specs, out, launcher, rerun), launcher, **kw)]


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".json"}


def test_workers_give_the_records_that_one_process_gives(tmp_path: Path, launcher: Local) -> None:
    made = plan(SPECS, tmp_path / "a", launcher)
    assert "8 runs: 0 done before, 8 to do" in made.lines(2)[0]
    assert "no records" in made.lines(2)[1]
    found = [finished.record for finished in drive(made, launcher)]
    there = sorted(map(content, found), key=lambda c: c["run_id"])
    here = [content(record) for record, _ in run_all(SPECS, tmp_path / "b")]
    assert there == sorted(here, key=lambda c: c["run_id"])
    assert visible(tmp_path / "a") == set()
    # Again: nothing is to do, unless all of it is asked for; the estimate knows the costs now.
    again = plan([*SPECS, SPECS[0]], tmp_path / "a", launcher)
    assert (len(again.runs), again.todo) == (8, [])
    whole = plan(SPECS, tmp_path / "a", launcher, "all")
    assert len(whole.todo) == whole.estimate().known == 8
    assert whole.estimate().seconds > 0
    assert whole.estimate().queries == sum(r.costs["discovery"]["queries"] for r in found)


def test_workers_share_out_the_models(tmp_path: Path, launcher: Local) -> None:
    pairs: list[set[str]] = []

    def look(running: Any) -> None:
        if len(running) == 2 and len({run.planned.spec.seed for run in running.values()}) == 1:
            pairs.append({str(run.planned.identity["model"]) for run in running.values()})

    specs = grid(BASE, ["random", "head-ablation", "acdc"], ["reverse", "histogram"], [0])
    swept(specs, tmp_path, launcher, watch=look)
    # At the end one worker may have finished with its own.
    assert pairs[0] == {"compiled-reverse", "compiled-histogram"}


def test_every_misbehaving_plug_in_is_one_record_and_the_others_are_as_ever(
    tmp_path: Path, launcher: Local
) -> None:
    def rogue(method: str, **changes: Any) -> RunSpec:
        return replace(BASE, method=method, task="reverse", hyperparameters=changes)

    strange = [
        rogue("rogue-ends", how="exit"),
        rogue("rogue-ends", how="hang"),
        rogue("rogue-exits-at-import"),
        rogue("rogue-misnamed"),
        rogue("rogue-kills"),
        rogue("rogue-changes"),
        replace(BASE, method="random", task="rogue-task"),
    ]
    specs = [spec for pair in zip(strange, SPECS, strict=False) for spec in pair]
    found = swept(specs, tmp_path, launcher, limits=Limits(seconds=3.0))
    records, problems = read_folder(tmp_path)
    assert (len(found), len(records), problems) == (len(specs), len(specs), [])
    assert all(faults(record) == [] for record in records)
    ends = {(r.method, r.spec["hyperparameters"].get("how", "")): r for r in records if r.reason}
    assert ends.keys() == {
        ("rogue-ends", "exit"),
        ("rogue-ends", "hang"),
        ("rogue-exits-at-import", ""),
        ("rogue-misnamed", ""),
        ("rogue-kills", ""),
        ("random", ""),
    }
    assert ends["rogue-ends", "hang"].status == "timeout"
    assert "SystemExit" in ends["rogue-exits-at-import", ""].reason
    assert "exited with status 0" in ends["random", ""].reason
    fine = {record.run_id: content(record) for record in records if record.status == "done"}
    for record, _ in run_all(SPECS[: len(strange)], tmp_path / "alone"):
        assert fine[record.run_id] == content(record)
    # Failed runs are kept, until they are asked for again.
    assert plan(specs, tmp_path, launcher).todo == []
    assert len(plan(specs, tmp_path, launcher, "failed").todo) == 6


def test_a_worker_that_is_killed_is_replaced_and_its_run_repeated(
    tmp_path: Path, launcher: Local
) -> None:
    made = plan(SPECS, tmp_path, launcher)
    killed: set[int] = set()

    def kill(running: Any) -> None:
        for pid in launcher.processes():
            if len(killed) < 3 and pid not in killed and running:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)

    found = [finished.record for finished in drive(made, launcher, watch=kill)]
    assert len(killed) == 3
    assert {record.status for record in found} == {"done"}
    assert len(found) == len(read_folder(tmp_path)[0]) == 8


def test_a_wrong_name_is_refused_before_anything_runs(tmp_path: Path, launcher: Local) -> None:
    specs = grid(BASE, ["random", "head-ablaton"], ["reverse"], [0])
    with pytest.raises(UnknownName, match="did you mean 'head-ablation'"):
        plan(specs, tmp_path / "none", launcher)
    assert not (tmp_path / "none").exists()


def test_a_sweep_that_is_ended_goes_on(folder: Path, tmp_path: Path) -> None:
    """SIGTERM, Ctrl-C and SIGKILL of the driver: it and all that it started end."""
    out = tmp_path / "out"
    (tmp_path / "night.yaml").write_text(
        "methods: [random, rogue-ends]\ntasks: reverse\nseeds: 0-1\nbatch_size: 4\n"
        "functional: none\nhyperparameters: {rogue-ends: {how: hang}}\n"
    )
    command = [sys.executable, "-m", "circuitbench", "sweep", "night.yaml", "--workers", "2"]
    command += ["--out", str(out)]
    mark = f"SWEEP_OF_THIS_TEST={tmp_path}"
    environment = {
        **os.environ,
        "SWEEP_OF_THIS_TEST": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
        began = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c
        )
        while True:  # until both hang and the state says so
            states = read_states(out) if out.is_dir() else []
            if states and len([r for r in states[0][1].running if r["stage"] != "loading"]) == 2:
                break
            assert began.poll() is None, began.stderr and began.stderr.read()
            time.sleep(0.1)
        assert states[0][1].alive
        assert len(processes_with(mark)) >= 6  # driver, maker, two workers, two methods
        assert (states[0][1].total, states[0][1].pid) == (4, began.pid)
        began.send_signal(number)
        assert began.wait(60) == status
        assert began.stderr is not None
        began.stderr.close()
        assert {record.method for record in read_folder(out)[0]} == {"random"}
        deadline = time.monotonic() + 30
        while processes_with(mark):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        if number != signal.SIGKILL:
            assert visible(out) == set()
            assert read_states(out) == []
    ((path, state),) = read_states(out)
    assert not state.alive
    remove_dead(out)
    assert not path.exists()


def heed_ctrl_c() -> None:
    """What is started in the background of a shell ignores Ctrl-C, and hands that on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def processes_with(mark: str) -> set[int]:
    """Processes that were started with a mark in their environment, or by one that was."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
    return found


def test_a_sweep_file_is_a_product(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        """
tasks: [ioi, induction]
seeds: 0-1
budget: 500
out: here
blocks:
  - methods: [random, acdc]
    models: [planted, planted@1]
    ablations: [zero, mean]
    hyperparameters:
      acdc: {threshold: {each: [0.1, 0.2, 0.3]}}
  - methods: rl-ppo
    hyperparameters:
      rl-ppo: {training: {total_steps: 100}, ppo.gamma: 0.9}
"""
    )
    specs, out = read_sweep(file, {"batch_size": 8})
    assert out == Path("here")
    assert len(specs) == 2 * 2 * (2 * 2 * (1 + 3) + 1)
    assert {spec.seed for spec in specs[:32]} == {0}
    assert {(spec.budget, spec.batch_size) for spec in specs} == {(500, 8)}
    assert specs[-1].hyperparameters == {"training.total_steps": 100, "ppo.gamma": 0.9}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("methods: random", "needs tasks"),
        ("methods: [random", "not valid YAML"),
        ("- a", "key: value"),
        ("methods: random\ntasks: ioi\nmodells: planted", "did you mean 'models'"),
        ("methods: random\ntasks: ioi\nseeds: [0, true]", "seeds cannot hold True"),
        ("methods: random\ntasks: ioi\nseeds: 0-99999", "10000 seeds"),
        ("methods: random\ntasks: []", "at least one"),
        ("methods: random\ntasks: ioi\nhyperparameters: {acdc: {}}", "method of this sweep"),
        ("methods: acdc\ntasks: ioi\nhyperparameters: {acdc: {t: {each: 1}}}", "list of values"),
        ("methods: random\ntasks: ioi\nbudget: -1", "budget"),
        ("methods: !!python/object/apply:os.system [ls]\ntasks: ioi", "not valid YAML"),
        ("methods: random\ntasks: 2020-01-01", "a date"),
        ("methods: random\ntasks: " + "[" * 2_000 + "]" * 2_000, "not valid YAML|levels"),
        ("methods: random\ntasks: ioi\nbudget: " + "9" * 5_000, "not valid YAML"),
        ("x: &a [y]\nmethods: [" + "*a, " * 200 + "]", "aliases"),
        ("a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
            f"{chr(97 + i)}: &{chr(97 + i)} [{', '.join(['*' + chr(96 + i)] * 10)}]\n"
            for i in range(1, 9)
        ), "more than 100,000 values"),
        ("methods: random\ntasks: ioi\nseeds: 0-9999\nmodels: [" + "a, " * 1 + "b, c, d, e, f]\n"
         "ablations: [zero, mean, resample]\nhyperparameters: {random: {share: {each: ["
         + ", ".join(map(str, range(1, 9))) + "]}}}", "at most 1,000,000"),
    ],
)  # fmt: skip
def test_a_sweep_file_that_is_wrong_is_refused_in_one_line(
    text: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSpec, match=reason) as caught:
        read_sweep(file, {})
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_leftovers_are_removed_and_files_being_written_are_not(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / ".dead.tmp").write_text("half a rec")
    with (tmp_path / ".live.tmp").open("w") as live:
        fcntl.flock(live, fcntl.LOCK_EX)
        write_atomically(tmp_path / "whole.json", "{}")
        assert remove_leftovers(tmp_path) == 1
    assert {p.name for p in tmp_path.iterdir()} == {".live.tmp", "whole.json"}


def test_states_of_others_are_read_with_care(tmp_path: Path) -> None:
    state = State(2**40, "elsewhere", 0.0, time.time(), 5, 1, 2, 0)
    (tmp_path / ".sweep-00.json").write_text(json.dumps(vars(state)))
    (tmp_path / ".sweep-01.json").write_text("[" * 100_000)
    (tmp_path / ".sweep-02.json").write_text('{"pid": 1}')
    ((_, read),) = read_states(tmp_path)
    assert read == state
    assert read.alive
    assert not replace(state, updated=0.0).alive
    remove_dead(tmp_path)
    assert (tmp_path / ".sweep-00.json").exists()


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.4, "5 s"), (95, "1 min 35 s"), (7300, "2 h 1 min")]
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words
