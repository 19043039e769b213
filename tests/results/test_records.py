"""Records: what goes in comes out, what cannot be held is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from records_kit import make

from circuitbench.core.circuit import Edge, Head
from circuitbench.core.discovery import Discovery, TracePoint
from circuitbench.core.errors import InvalidSpec, RunFailed
from circuitbench.results import (
    Record,
    check_name,
    file_name,
    hardware,
    plain,
    read_record,
    run_id,
    schema,
    versions,
    write_record,
)
from circuitbench.results.discovery import plain_discovery, read_discovery
from circuitbench.results.text import to_bytes


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    record = make()
    path = write_record(record, tmp_path / "new" / "folder")
    again = read_record(path)
    assert again == record
    assert (again.path, record.path) == (path, None)
    assert again.discovery["scores"] == [[1.0, 0.0], [0.0, 1.0]]
    assert again.discovery["selected"] == ["0.0", "1.1"]
    assert again.truth["roles"]["mover"] == {"heads": ["1.0"], "needed": 1, "sign": -1}
    assert (again.method, again.task, again.model_name) == ("acdc", "ioi", "planted@1")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_identity_is_the_spec_and_versions_but_not_the_outcome() -> None:
    record = make()
    same = [
        make(discovery={}),
        make(created="2027"),
        make(versions={"circuitbench": "0.1.0", "commit": "other"}),
    ]
    assert all(other.run_id == record.run_id for other in same)
    assert all(other != record for other in same)
    other_spec = make(spec={**record.spec, "budget": 501})
    assert len({record.run_id, make(1).run_id, make(versions={}).run_id, other_spec.run_id}) == 4
    assert run_id(dict(reversed(record.spec.items())), record.versions) == record.run_id


def test_a_record_is_frozen_and_takes_no_further_entries() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make().status = "failed"
    with pytest.raises(InvalidSpec, match="wrong entries: metrics"):
        make(metrics={})
    changed = make().replace(status="failed", stage="training")
    assert (changed.status, changed.stage, changed.spec) == ("failed", "training", make().spec)
    with pytest.raises(InvalidSpec, match="unknown stage 'resting'; valid: loading, training"):
        make().replace(stage="resting")


def test_plain_values() -> None:
    values = {
        "a": np.float32(0.5),
        "b": torch.arange(3),
        "c": (Head(9, 6),),
        "d": Path("x"),
        3: None,
        "e": np.bool_(True),
    }
    held = {"a": 0.5, "b": [0, 1, 2], "c": ["9.6"], "d": "x", "3": None, "e": True}
    assert plain(values) == held
    assert json.loads(json.dumps(plain(values))) == held
    with pytest.raises(InvalidSpec, match="info is a object"):
        plain(object(), "info")


@pytest.mark.parametrize("bad", [float("nan"), np.inf, torch.tensor(float("nan"))])
def test_numbers_that_are_not_finite_are_refused(bad: Any) -> None:
    with pytest.raises(RunFailed, match=r"measurements\.mib\.area is"):
        make(measurements={"mib": {"area": bad}})


BAD_NAMES = [
    "<script>",
    "a|b",
    "=cmd",
    "../x",
    "a..b",
    "",
    "-x",
    "@x",
    "a b",
    "a/",
    "/a",
    "a//b",
    "a/b/c",
    "a/../b",
    "a/.b",
    "a\nb",
    "a\\b",
    "x" * 101,
]


@pytest.mark.parametrize("name", [*BAD_NAMES, None, 3])
def test_unsafe_names_are_refused_at_the_source(name: str) -> None:
    with pytest.raises(InvalidSpec, match="not a task name"):
        check_name("task", name)
    for kind in ("method", "task", "model"):
        with pytest.raises(InvalidSpec, match=f"not a {kind} name"):
            make(spec={**make().spec, kind: name})


def test_usual_names_are_accepted() -> None:
    for name in ("rl-ppo", "planted@3", "ioi", "EleutherAI:pythia-70m", "a.b_c+d", "org/name@raw"):
        assert check_name("model", name) == name
    with pytest.raises(InvalidSpec, match="not a task name"):
        check_name("task", "org/name")


def test_a_name_with_an_owner_stays_in_the_folder(tmp_path: Path) -> None:
    record = make(spec={**make().spec, "model": "org/name@folded"})
    path = write_record(record, tmp_path)
    assert path.parent == tmp_path
    assert path.name == file_name(record.spec, record.run_id)
    assert read_record(path).model_name == "org/name@folded"


@pytest.mark.parametrize(
    "change",
    [{"status": "finished"}, {"spec": {"task": "t", "model": "m", "method": "x", "seed": 1.5}}],
)
def test_other_invalid_records(change: Any) -> None:
    with pytest.raises(InvalidSpec):
        make(**change)


def test_an_answer_survives_the_record() -> None:
    found = Discovery(
        scores=np.array([[0.1, -2.0], [1 / 3, 4.0]]),
        selected=frozenset({Head(0, 1)}),
        edges={Edge("0.1", "1.0.q"): 0.5},
        trace=[TracePoint(3, np.array([[0.123456789, 0], [0, 1]]))],
        info={"threshold": 0.25},
        signed=np.array([[0.1, -2.0], [1 / 3, -4.0]]),
    )
    again = read_discovery(plain_discovery(found))
    assert np.array_equal(again.scores, found.scores)
    assert again.signed is not None
    assert found.signed is not None
    assert np.array_equal(again.signed, found.signed)
    assert (again.selected, again.edges, again.info) == (found.selected, found.edges, found.info)
    assert again.trace[0].scores[0, 0] == 0.123457
    with pytest.raises(RunFailed, match=r"discovery\.info\.loss is nan"):
        plain_discovery(Discovery(found.scores, frozenset(), info={"loss": float("nan")}))


def test_the_committed_schema_is_that_of_the_code() -> None:
    assert schema.PATH.read_text() == schema.text(), "python -m circuitbench.results.schema"
    described = json.loads(schema.text())
    assert list(described["properties"]) == list(json.loads(to_bytes(make())))
    assert described["required"] == list(described["properties"])


def test_environment_is_complete_and_plain() -> None:
    found = versions(("no-such-distribution",))
    assert found["no-such-distribution"] is None
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert plain(found) == found
    machine = hardware()
    assert machine["gpu"] is None
    assert plain(machine) == machine


def test_records_are_read_without_torch_or_scipy(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_record(make(), tmp_path)
    program = (
        "import sys; from circuitbench.results import read_folder; "
        f"assert read_folder({str(tmp_path)!r})[0]; "
        "print([m for m in ('torch', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=25)
@given(st.lists(NUMBERS, max_size=5), st.text(max_size=20), st.integers())
def test_any_finite_content_survives_the_disk(
    tmp_path_factory: Any, numbers: Any, text: str, seed: int
) -> None:
    record: Record = make(
        discovery={"x": numbers, text: text}, reason=text, spec={**make().spec, "seed": seed}
    )
    again = read_record(write_record(record, tmp_path_factory.getbasetemp() / "any"))
    assert again == record
    assert to_bytes(again) == to_bytes(record)
