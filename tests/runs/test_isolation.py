"""Methods in processes of their own: nothing to reach, nothing to break, the same numbers."""

from __future__ import annotations

import gc
import inspect
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rogues
import torch

import circuitbench
from circuitbench.core.errors import InvalidPlugin, InvalidSpec, UnknownName
from circuitbench.oracle import Batch, EdgeOracle, Meter, Oracle
from circuitbench.results import Record
from circuitbench.results.content import faults
from circuitbench.results.text import from_bytes, to_bytes
from circuitbench.runs.isolation import remote
from circuitbench.runs.isolation.host import in_own_processes
from circuitbench.runs.isolation.limits import Limits, parse_bytes
from circuitbench.runs.prepare import prepare
from circuitbench.runs.run import run
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.stability import measure_stability

SPEC = RunSpec(task="reverse", batch_size=4, device="cpu", functional="none")


@pytest.fixture(autouse=True, scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("rogues")
    with rogues.installed(folder):
        yield


def isolated(method: str, limits: Limits = Limits(), output: Any = print, **changes: Any) -> Record:
    """Run in a process of its own; the record can be written, read and trusted."""
    settings = {key: changes.pop(key) for key in list(changes) if hasattr(SPEC, key)}
    spec = replace(SPEC, method=method, hyperparameters=changes, **settings)
    with in_own_processes(limits, output) as load:
        record = run(prepare(spec, method_of=load))
    assert from_bytes(to_bytes(record), Path("x.json")) == record
    assert faults(record) == []
    assert len(record.reason) < 1_500
    assert len(record.traceback) < 21_000
    return record


def counted(record: Record) -> dict[str, Any]:
    """What a run says that does not depend on the clock or the machine's memory."""
    timed = ("seconds", "method_seconds", "peak_memory_bytes")
    discovery = {key: value for key, value in record.discovery.items() if key != "info"}
    costs = {
        stage: {key: value for key, value in cost.items() if key not in timed}
        for stage, cost in record.costs.items()
    }
    return {"id": record.run_id, "discovery": discovery, "costs": costs, "model": record.model}


# One for every kind of question, and one that learns on other models with their truths.
METHODS = (
    *("random", "head-ablation", "activation-patching", "edge-attribution-patching"),
    *("atp-star", "eap-gp", "information-flow-routes", "path-patching", "layer-prior", "rl-edges"),
)
SHORT: dict[str, Any] = {
    "training.total_steps": 200,
    "training.n_envs": 2,
    "training.pool": 8,
    "ppo.n_steps": 16,
}


FEW: dict[str, dict[str, Any]] = {"layer-prior": {"models": ["planted@150", "planted@151"]}}


@pytest.mark.parametrize("method", [*METHODS, "bandit-ucb", "cut-search"])
def test_numbers_are_the_same_to_the_last_digit(method: str) -> None:
    settings = FEW.get(method, {})
    record = isolated(method, **settings)
    assert record.status == "done", record.reason
    here = run(prepare(replace(SPEC, method=method, hyperparameters=settings)))
    assert counted(record) == counted(here)
    assert record.hardware["isolation"] == "process"
    assert "clean_metric" in record.hardware["shown"]
    assert here.hardware["isolation"] == "in-process"


def test_a_learner_learns_the_same() -> None:
    record = isolated("rl-ppo", **SHORT)
    here = run(prepare(replace(SPEC, method="rl-ppo", hyperparameters=SHORT)))
    assert record.status == "done", record.reason
    assert counted(record) == counted(here)


def test_every_public_question_is_carried_and_nothing_else() -> None:
    """Whoever adds one to an oracle says here whether methods in their own process have it."""
    ours = {"head_masks", "resample"}  # need nothing from the other side
    for kind, questions, local in (
        (Oracle, remote.HEAD_QUESTIONS, ours),
        (EdgeOracle, remote.EDGE_QUESTIONS, {"without"}),
    ):
        public = {n for n, f in vars(kind).items() if n[0] != "_" and inspect.isfunction(f)}
        assert public - local == questions
    told = set(remote.TOLD) | {"budget", "remaining", "shape", "meter", "edges", "batch", "engine"}
    oracle = prepare_oracle()
    public = {name for name in dir(oracle) if name[0] != "_"} - remote.HEAD_QUESTIONS - ours
    assert public - told == {"clean_metric", "clean_control", "seed"}
    values = {name for name, value in vars(Batch).items() if hasattr(value, "attrname")}
    assert values == remote.BATCH_QUESTIONS


def prepare_oracle() -> Oracle:
    prepared = prepare(replace(SPEC, method="random"))
    return Oracle(prepared.model, prepared.task, task_name="reverse", seed=0, batch_size=4)


def test_no_route_leads_to_the_truth_or_past_the_meter() -> None:
    record = isolated("rogue-spies", budget=7)
    assert record.status == "done", record.reason
    assert record.discovery["info"]["reached"] == []
    assert record.costs["discovery"]["queries"] == 5
    assert "reverse" not in record.discovery["info"]["names"]


def test_a_learner_is_not_told_the_model_or_the_seed() -> None:
    said: list[tuple[str, float | None]] = []
    with in_own_processes() as load:
        prepared = prepare(replace(SPEC, method="rogue-learns"), method_of=load)
        record = run(prepared, lambda stage, fraction: said.append((stage, fraction)))
    told = record.discovery["info"]["told"]
    assert told.keys() >= {"model", "seed", "task"}
    assert not {"compiled-reverse", "reverse", "0"} & set(told.values())
    (line,) = [text for text, fraction in said if fraction == 1.0]
    assert line.isprintable()
    assert len(line) < 600


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("SystemExit", "SystemExit: 0"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        ("GeneratorExit", "GeneratorExit"),
        ("unreadable", "_Unreadable: (its message cannot be read)"),
        ("long", "xxx ... (cut)"),
        ("ValueError", "ValueError: [31mred and file.py"),
    ],
)
def test_whatever_is_raised_is_one_record(what: str, reason: str) -> None:
    record = isolated("rogue-raises", what=what)
    assert (record.status, record.stage) == ("failed", "discovering")
    assert reason in record.reason
    assert "in discover" in record.traceback
    assert "/home" not in record.traceback


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exit", "exited with status 0 before it answered; it printed: last words"),
        ("kill", "was ended by SIGKILL before it answered"),
        ("thread", "SystemExit: 3"),
    ],
)
def test_an_end_is_one_record(how: str, reason: str) -> None:
    record = isolated("rogue-ends", how=how)
    assert (record.status, record.stage) == ("failed", "discovering")
    assert reason in record.reason
    assert record.costs["discovery"]["queries"] == 3


def test_a_method_that_hangs_is_out_of_time() -> None:
    began = time.monotonic()
    record = isolated("rogue-ends", Limits(seconds=1.0), how="hang")
    assert (record.status, record.stage) == ("timeout", "discovering")
    assert "stopped after 1 seconds" in record.reason
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("where", ["here", "child"])
def test_a_method_that_eats_memory_is_stopped(where: str) -> None:
    record = isolated("rogue-eats", Limits(memory=300 << 20, seconds=60.0), where=where)
    assert (record.status, record.stage) == ("failed", "discovering")
    assert "emory" in record.reason


def test_megabytes_of_output_are_cut() -> None:
    printed: list[bytes] = []
    record = isolated("rogue-prints", output=printed.append)
    assert record.status == "done"
    assert 0 < sum(map(len, printed)) <= 1 << 16


def test_children_end_with_their_method(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    assert isolated("rogue-forks", note=str(note)).status == "done"
    for _ in range(100):
        if not Path(f"/proc/{note.read_text()}").exists():
            return
        time.sleep(0.05)
    pytest.fail("a grandchild that left its group is still there")


def test_what_a_method_changes_is_its_own() -> None:
    state = (torch.get_default_dtype(), torch.get_num_threads(), Path.cwd(), dict(os.environ))
    before = isolated("head-ablation")
    assert isolated("rogue-changes").status == "done"
    after = isolated("head-ablation")
    assert counted(after) == counted(before)
    now = (torch.get_default_dtype(), torch.get_num_threads(), Path.cwd(), dict(os.environ))
    assert now == state


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("nothing", "must return a Discovery, not NoneType"),
        ("shape", "have shape"),
        ("objects", "TypeError"),
        ("nan", "score of head 0.0 is nan"),
        ("nan-info", "discovery.info.loss is nan"),
        ("object-info", "discovery.info.thing is a object"),
        ("cycle", "more than 32 levels"),
        ("deep", "more than 32 levels"),
        ("digits", "whole number of more than 64 bits"),
        ("surrogate", "no Unicode"),
        ("huge", "bytes of JSON; at most 1,000,000 are kept"),
        ("trace", "whole numbers of 0 or more"),
        ("half-head", "'float' object"),
    ],
)
def test_an_answer_that_is_none_is_one_record(what: str, reason: str) -> None:
    record = isolated("rogue-answers", what=what)
    assert (record.status, record.stage, record.discovery) == ("failed", "discovering", {})
    assert reason in record.reason


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("noise", "does not speak as it should"),
        ("length", "does not speak as it should"),
        ("json", "does not speak as it should"),
        ("question", "no question heads._source"),
        ("attribute", "no question batch.source"),
        ("forged", "the method's answer is none (KeyError)"),
    ],
)
def test_forged_messages_are_refused(what: str, reason: str) -> None:
    record = isolated("rogue-speaks", Limits(seconds=20), what=what)
    assert (record.status, record.stage) == ("failed", "discovering")
    assert reason in record.reason


def test_a_method_that_kills_its_maker_is_one_record_and_the_next_run_is_fine() -> None:
    assert "was killed" in isolated("rogue-kills").reason
    assert isolated("random").status == "done"


def test_what_cannot_be_loaded_says_so_before_the_run() -> None:
    with in_own_processes() as load:
        with pytest.raises(InvalidPlugin, match=r"rogue-exits-at-import.*SystemExit: 0"):
            load("rogue-exits-at-import")
        with pytest.raises(InvalidPlugin, match=r"rogue-misnamed.*NoSuchClass"):
            load("rogue-misnamed")
        with pytest.raises(UnknownName, match="did you mean 'threshold'"):
            load("acdc", treshold=1)
        with pytest.raises(InvalidSpec, match="threshold"):
            load("acdc", threshold="much")


def test_stability_is_the_same_from_a_process_of_its_own() -> None:
    spec = replace(SPEC, method="acdc")
    with in_own_processes() as load:
        there = measure_stability(prepare(spec, method_of=load), 3, 2)
    assert there == measure_stability(prepare(spec), 3, 2)


def test_batches_that_nobody_holds_are_let_go() -> None:
    """A learner draws thousands."""
    from circuitbench.runs.isolation.host import Session

    session = Session()
    number = session.told(prepare_oracle())["batch"]["number"]
    answer, _ = session.answer(
        {"ask": "heads", "name": "draw", "args": [{"$": "oracle", "number": 0}, 5],
         "options": {}, "gone": [number]},
        memoryview(b""),
    )  # fmt: skip
    assert list(session._batches) == [answer["value"]["number"]]


def test_a_meter_can_be_raised_and_never_lowered() -> None:
    meter = Meter(queries=5)
    meter.at_least({"queries": 3, "forwards": 7})
    assert (meter.queries, meter.forwards) == (5, 7)
    for wrong in ({"queries": -1}, {"queries": float("nan")}, {"quries": 1}, {"queries": 1e300}):
        with pytest.raises(InvalidSpec, match="meter"):
            meter.at_least(wrong)


def test_values_come_back_as_they_went() -> None:
    from circuitbench.runs.isolation.codec import Decoder, Encoder

    rng = np.random.default_rng(0)
    values: list[Any] = [
        torch.from_numpy(rng.standard_normal((3, 4)).astype(np.float32)),
        rng.standard_normal((2, 0, 3)),
        torch.ones(2, dtype=torch.bool),
        {"a": (1, 0.1, None, True), 3: [circuitbench.Head(1, 2), circuitbench.Edge("embed", "m0")]},
        float("-inf"),
    ]
    encoder = Encoder(dict)
    told = [encoder.encode(value) for value in values]
    back = Decoder(memoryview(b"".join(encoder.buffers)), lambda *_: None).decode(told)
    for value, found in zip(values, back, strict=True):
        assert type(found) is type(value)
        if isinstance(value, torch.Tensor):
            assert found.dtype == value.dtype
            assert torch.equal(found, value)
        elif isinstance(value, np.ndarray):
            assert found.shape == value.shape
        else:
            assert found == value


@pytest.mark.parametrize(("text", "size"), [("4G", 4 << 30), ("500m", 500 << 20), ("1024", 1024)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


def test_a_size_that_is_none_is_refused() -> None:
    for text in ("", "4X", "-1G", "G", "1e9"):
        with pytest.raises(InvalidSpec, match="500M or 4G"):
            parse_bytes(text)
    with pytest.raises(InvalidSpec, match="timeout"):
        Limits(seconds=0)
    gc.collect()
