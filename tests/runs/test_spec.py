from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.runs.command import command_line
from circuitbench.runs.spec import RunSpec, build_spec, configure, parse_assignment, read_config


def test_later_layers_win_and_hyperparameters_merge() -> None:
    spec = build_spec(
        {"method": "acdc", "seed": 1, "hyperparameters": {"a": 1, "b": 1}},
        {"seed": 2, "hyperparameters": {"b": 2}},
    )
    assert (spec.method, spec.seed) == ("acdc", 2)
    assert spec.hyperparameters == {"a": 1, "b": 2}


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'budget'"):
        build_spec({"budgett": 3})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": -1}, "at least one query"),
        ({"budget": 0}, "at least one query"),
        ({"budget": "many"}, "budget"),
        ({"seed": -1}, "seed"),
        ({"device": "gpu"}, "'auto', 'cpu' or 'cuda'"),
        ({"ablation": "noise"}, "'zero', 'mean' or 'resample'"),
        ({"weight": float("nan")}, "weight"),
        ({"batch_size": 1}, "batch_size"),
        ({"hyperparameters": [1]}, "mapping"),
    ],
)
def test_bad_values_are_refused_by_name(settings: Any, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        build_spec(settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: [", "not valid YAML"),
        ("- a\n- b", "key: value"),
        ("methods: acdc", "did you mean 'method'"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_bad_config_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSpec, match=message) as caught:
        read_config(path)
    assert "run.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"none\.yaml"):
        read_config(tmp_path / "none.yaml")


@dataclass(frozen=True)
class Knobs:
    size: int = 3
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    limit: int | None = None


def test_hyperparameters_take_the_fields_types() -> None:
    knobs = configure(Knobs, {"size": 4, "rate": 1, "names": ["x"], "limit": None}, "knobs")
    assert knobs == Knobs(size=4, rate=1.0, names=("x",))
    assert isinstance(knobs.rate, float)


@pytest.mark.parametrize("bad", [{"size": 1.5}, {"size": "x"}, {"kind": "c"}, {"rate": None}])
def test_a_hyperparameter_of_the_wrong_type_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidSpec, match=f"knobs.{next(iter(bad))}"):
        configure(Knobs, bad, "knobs")


def test_an_unknown_hyperparameter_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'rate'"):
        configure(Knobs, {"rates": 1}, "knobs")


def test_assignments_are_read_as_yaml() -> None:
    assert parse_assignment("a=0.5") == ("a", 0.5)
    assert parse_assignment("a=b=c") == ("a", "b=c")
    assert parse_assignment("a=[1, 2]") == ("a", [1, 2])
    for bad in ("a", "=1", "a=[1"):
        with pytest.raises(InvalidSpec):
            parse_assignment(bad)


@given(
    seed=st.integers(0, 2**31),
    budget=st.none() | st.integers(1, 10**6),
    values=st.dictionaries(
        st.sampled_from(["size", "rate", "kind", "names"]),
        st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.booleans()
        | st.none()
        | st.text(st.characters(codec="ascii", categories=["L"]), min_size=1)
        | st.lists(st.integers(0, 9), max_size=3),
    ),
)
def test_the_command_line_of_a_spec_repeats_it(seed: int, budget: Any, values: Any) -> None:
    import shlex

    spec = RunSpec(
        method="acdc", model="planted@3", seed=seed, budget=budget, hyperparameters=values
    )
    words = shlex.split(command_line(spec))
    assert words[:2] == ["circuitbench", "run"]
    options, assignments = {}, {}
    for name, value in zip(words[2::2], words[3::2], strict=True):
        if name == "--set":
            key, parsed = parse_assignment(value)
            assignments[key] = parsed
        else:
            options[name.removeprefix("--").replace("-", "_")] = value
    assert build_spec(options, {"hyperparameters": assignments}) == spec
