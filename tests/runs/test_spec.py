from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.plugins.hyperparameters import hyperparameters
from circuitbench.runs.command import command_line
from circuitbench.runs.spec import (
    RunSpec,
    build_spec,
    configure,
    dotted,
    parse_assignment,
    read_config,
)


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
        ({"ablation": "noise"}, "no ablation 'noise'; valid: mean, optimal"),
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


@dataclass(frozen=True)
class Rates:
    gamma: float = 0.9
    epochs: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise InvalidSpec(f"gamma must lie between 0 and 1, not {self.gamma}")


@dataclass(frozen=True)
class Net:
    width: int = 8
    rates: Rates = Rates(gamma=0.1)


@dataclass
class Grouped:
    """Groups, a group in a group, a group that differs from its class, and plain settings."""

    ppo: Rates = Rates(epochs=2)
    net: Net = Net()
    warm_start: str = ""
    weights: dict[str, float] = field(default_factory=dict)


@pytest.mark.parametrize(
    "overrides",
    [
        {"ppo.gamma": 0.5, "net.rates.epochs": 7, "warm_start": "acdc"},
        {"ppo": {"gamma": 0.5}, "net": {"rates": {"epochs": 7}}, "warm_start": "acdc"},
        {"ppo": {"gamma": 0.5}, "net.rates": {"epochs": 7}, "warm_start": "acdc"},
    ],
)
def test_groups_are_reached_dotted_or_nested_and_keep_their_other_defaults(overrides: Any) -> None:
    expected: Any = Grouped(Rates(0.5, 2), Net(8, Rates(0.1, 7)), "acdc")
    assert configure(Grouped, overrides, "rl") == expected
    assert hyperparameters(expected) == {
        "ppo": {"gamma": 0.5, "epochs": 2},
        "net": {"width": 8, "rates": {"gamma": 0.1, "epochs": 7}},
        "warm_start": "acdc",
        "weights": {},
    }
    assert configure(Grouped, hyperparameters(expected), "rl") == expected


def test_a_setting_may_itself_be_a_mapping() -> None:
    made = configure(Grouped, dotted({"weights": {"a": 1, "b": 2}}), "rl")
    assert made.weights == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ppo.gama", "ppo.gamma"),
        ("epochs", "ppo.epochs"),
        ("width", "net.width"),
        ("pop.epochs", "ppo.epochs"),
        ("net.rates.epoch", "net.rates.epochs"),
        ("warmstart", "warm_start"),
    ],
)
def test_a_misspelt_setting_names_the_nearest_of_all_groups(name: str, near: str) -> None:
    with pytest.raises(UnknownName, match=f"rl '{name}'; did you mean '{near}'"):
        configure(Grouped, {name: 1}, "rl")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dqn": 3}, "unknown setting of rl 'dqn'"),
        ({"dqn": {"gamma": 0.5}}, "unknown setting of rl 'dqn.gamma'; did you mean 'ppo.gamma'"),
        ({"ppo": 3}, r"rl.ppo is a group of settings, not a value \(3\); set one of ppo.gamma, "),
        ({"ppo": None}, "rl.ppo is a group"),
        ({"ppo.epochs": 1.5}, "rl.ppo.epochs cannot be 1.5"),
        ({"net.rates": {"gamma": "high"}}, "rl.net.rates.gamma cannot be 'high'"),
        ({"ppo.gamma": 2}, "rl.ppo: gamma must lie between 0 and 1, not 2"),
        ({"net.rates.gamma": -1}, "^rl.net.rates: gamma must lie"),
        ({"warm_start.x": 1}, "rl.warm_start cannot be"),
        ({"ppo.gamma": 0.5, "ppo": 3}, "rl.ppo contradicts"),
        ({"ppo": 3, "ppo.gamma": 0.5}, "rl.ppo.gamma contradicts"),
    ],
)
def test_misuse_of_groups_is_one_clear_line(overrides: Any, message: str) -> None:
    with pytest.raises((InvalidSpec, UnknownName), match=message) as caught:
        configure(Grouped, overrides, "rl")
    assert "\n" not in str(caught.value)


def test_a_file_may_nest_and_the_command_line_overrides_single_settings(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("hyperparameters:\n  ppo: {gamma: 0.5, epochs: 3}\n  net.width: 4\n")
    spec = build_spec(read_config(path), {"hyperparameters": {"ppo.gamma": 0.7}})
    assert spec.hyperparameters == {"ppo.gamma": 0.7, "ppo.epochs": 3, "net.width": 4}
    assert "--set ppo.gamma=0.7 --set ppo.epochs=3" in command_line(spec)


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
