"""Rubbish for whatever reads what strangers wrote: nothing but the documented errors may come out.

python tests/kits/fuzz.py --inputs 100000
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agents_kit import FixedDifference, additive_model
from forgeries import EVIL, forge, sealed
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from synthetic_records import record

from circuitbench.core.circuit import Edge, Head
from circuitbench.core.errors import CircuitBenchError
from circuitbench.oracle import Oracle
from circuitbench.results import check_name
from circuitbench.results.content import faults, outcome_of
from circuitbench.results.run_row import RunRow
from circuitbench.results.store import file_name
from circuitbench.results.text import from_bytes, to_bytes
from circuitbench.runs.isolation.limits import parse_bytes
from circuitbench.runs.spec import SPEC_KEYS, build_spec
from circuitbench.runs.sweep_file import parse_seeds, read_sweep
from circuitbench.runs.yaml_text import plain_yaml

BATCH = 20  # inputs of one example
WHOLE = to_bytes(record("acdc", "ioi"))
CONTENT = json.loads(WHOLE)
HERE = Path("record.json")

TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(), max_size=20),  # surrogates too
    st.sampled_from([value for value in EVIL if isinstance(value, str)]),
    st.from_regex(r"[\w.@:+,=/-]{1,30}", fullmatch=True),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
        st.sampled_from([value for value in EVIL if not isinstance(value, list | dict)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
BYTES = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda start, size, new: WHOLE[:start] + new + WHOLE[start + size :],
        st.integers(0, len(WHOLE)),
        st.integers(0, 40),
        st.binary(max_size=20),
    ),
)
YAML = st.one_of(
    TEXTS,
    st.text("{}[]&*!:-,'\"|>?%#@ \n\tab01.", max_size=60),
    VALUES.map(lambda value: json.dumps(value)[:2_000] if _dumps(value) else "x"),
)
SPECS = st.dictionaries(
    st.one_of(st.sampled_from(SPEC_KEYS), st.text(max_size=12)), VALUES, max_size=5
)
SWEEPS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("methods", "tasks", "models", "seeds", "ablations", "hyperparameters", "blocks", "budget"),
        VALUES,
    ),
)
MASKS = st.one_of(
    VALUES,
    st.builds(
        lambda shape, kind: np.zeros(shape, dtype=kind),
        st.lists(st.integers(0, 3), max_size=4).map(tuple),
        st.sampled_from(["bool", "float32", "float64", "int64", "complex64", "U1", "O"]),
    ),
    st.builds(
        lambda shape, value: torch.full(shape, value),
        st.lists(st.integers(0, 3), max_size=4).map(tuple),
        st.sampled_from([True, False, 0.5, float("nan"), 2, 1e30]),
    ),
)


def _dumps(value: Any) -> bool:
    try:
        return bool(json.dumps(value))
    except ValueError:
        return False


def read_bytes(data: bytes) -> None:
    """What is no record, and what was one."""
    from_bytes(data, HERE)


def read_forged(number: int) -> None:
    """A record with a right checksum and wrong content, on to its row on the board."""
    try:
        data = sealed(forge(CONTENT, random.Random(number)))
    except ValueError:  # more digits than Python writes
        return
    read = from_bytes(data, HERE)
    outcome = outcome_of(read)
    if not faults(read, outcome):
        RunRow.of(read, outcome)


def read_names(text: str) -> None:
    """A name that is taken stays in the folder."""
    for parse in (Head.parse, Edge.parse, parse_bytes, parse_seeds):
        _documented(parse, text)
    name = check_name("model", text)
    spec = {"method": "m", "task": "t", "model": name, "seed": 0}
    file = file_name(spec, "0" * 16)
    assert Path("out", file).resolve().parent == Path("out").resolve()
    assert len(file) <= 255
    assert "/" not in file


def read_spec(values: dict[str, Any]) -> None:
    """Settings of a run."""
    build_spec(values)


def read_yaml(text: str) -> None:
    """Text of a file."""
    plain_yaml(text, "file.yaml")


def read_sweep_file(values: dict[str, Any]) -> None:
    """A file of a sweep, as JSON, which is YAML."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", errors="replace") as file:
        file.write(json.dumps(values)[:100_000] if _dumps(values) else str(values))
        file.flush()
        read_sweep(Path(file.name), {})


ORACLE = Oracle(
    additive_model(np.ones((2, 2))),
    FixedDifference(),
    task_name="fixed",
    seed=0,
    weight=0.0,
    batch_size=2,
)


def ask(mask: Any) -> None:
    """Anything in place of a mask."""
    ORACLE.query(mask)


Reader = Callable[[Any], None]
TARGETS: dict[str, tuple[Reader, st.SearchStrategy[Any], int]] = {  # and its share of all inputs
    "damaged records": (read_bytes, BYTES, 35),
    "forged records": (read_forged, st.integers(0, 2**32), 5),
    "names, heads, edges, sizes, seeds": (read_names, TEXTS, 40),
    "specs": (read_spec, SPECS, 5),
    "YAML": (read_yaml, YAML, 5),
    "sweep files": (read_sweep_file, SWEEPS, 5),
    "masks": (ask, MASKS, 5),
}


def _documented(reader: Callable[[Any], Any], given: Any) -> bool:
    """Whether it was taken; raises unless a refusal is one of ours, in words for a person."""
    try:
        reader(given)
    except CircuitBenchError as error:
        if not str(error):
            raise AssertionError("an error without a word") from error
        return False
    return True


def fuzz(name: str, inputs: int, start: int = 0) -> Counter[str]:
    """Throw so many inputs at one target; raises what is not documented."""
    reader, strategy, _ = TARGETS[name]
    found: Counter[str] = Counter()

    @seed(start)
    @settings(
        max_examples=max(1, inputs // BATCH),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(strategy, min_size=BATCH, max_size=BATCH))
    def throw(batch: list[Any]) -> None:
        for one in batch:
            found["taken" if _documented(reader, one) else "refused"] += 1

    throw()
    return found


def main() -> None:
    """Fuzz all targets and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TARGETS, help="one target, with all the inputs")
    options = parser.parse_args()
    whole = 0
    for name, (*_, share) in TARGETS.items():
        if options.only in (None, name):
            wanted = options.inputs if options.only else options.inputs * share // 100
            found = fuzz(name, wanted, options.seed)
            whole += found.total()
            print(f"{name}: {found['refused']:,} refused, {found['taken']:,} taken", flush=True)
    print(f"{whole:,} inputs: nothing but documented errors")


if __name__ == "__main__":
    main()
