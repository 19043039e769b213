"""Values at the bottom of everything: heads, circuits, seeds, names."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitbench.core.circuit import Circuit, Edge, Head, Role, head_grid, heads_of
from circuitbench.core.errors import InvalidPlugin, InvalidSpec, UnknownName
from circuitbench.core.seeding import derive_seed, generator
from circuitbench.plugins import registry


@given(st.integers(0, 999), st.integers(0, 999))
def test_heads_are_written_and_read_alike(layer: Any, head: Any) -> None:
    assert Head.parse(str(Head(layer, head))) == (layer, head)


@pytest.mark.parametrize("text", ["", "9", "9.6.1", "a.b", "-1.2", "9,6"])
def test_text_that_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match=r"layer\.head"):
        Head.parse(text)


def test_edges_are_read_as_they_are_written() -> None:
    edge = Edge("0.1", "2.3.k")
    assert Edge.parse(str(edge)) == edge
    for text in ("", "0.1", "->0.1.q", "0.1->"):
        with pytest.raises(InvalidSpec, match="an edge looks like"):
            Edge.parse(text)


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 4))))
def test_grid_and_set_are_the_same_thing(heads: Any) -> None:
    assert heads_of(head_grid(heads, 4, 5)) == heads


def test_a_head_outside_the_grid_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"4\.0 is outside"):
        head_grid([(4, 0)], 4, 5)


def test_a_circuit_is_the_union_of_its_roles() -> None:
    circuit = Circuit(
        {"a": Role((Head(1, 2), Head(0, 1))), "b": Role((Head(1, 2),), needed=1)},
        "by hand",
        "constructed",
    )
    assert circuit.heads == {(0, 1), (1, 2)}
    assert circuit.ablations == ()  # it claims nothing that nobody has verified
    assert circuit.roles["a"].needed == 2
    with pytest.raises(InvalidSpec, match="cannot need"):
        Role((Head(0, 0),), needed=2)


def test_seeds_depend_on_every_axis_and_on_nothing_else() -> None:
    seeds = {
        derive_seed(root, *axes)
        for root in (0, 1)
        for axes in [("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",), ("a", 1), ()]
    }
    assert len(seeds) == 14
    assert derive_seed(7, "ioi", "prompts") == derive_seed(7, "ioi", "prompts")
    one, two = (generator(7, "x").random(3) for _ in range(2))
    assert np.array_equal(one, two)


def test_seeds_never_change_between_versions() -> None:
    assert derive_seed(0, "induction", "planted", "discovery") == 7106782673861209372


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'acdc'"):
        registry.find("method", "acdd")
    with pytest.raises(UnknownName, match=r"valid: .*planted"):
        registry.load_model("zzz@1")


def entry(name: str, value: Any) -> Any:
    return EntryPoint(name, value, "circuitbench.methods")


def test_two_plugins_of_one_name_are_refused_naming_both(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [entry("twin", "first.place:A"), entry("twin", "second.place:B")]
    monkeypatch.setattr(registry, "_entries", lambda kind: both)
    with pytest.raises(InvalidPlugin, match=r"first\.place:A.*second\.place:B"):
        registry.find("method", "twin")


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", lambda kind: [entry("lost", "no.such.module:A")])
    with pytest.raises(InvalidPlugin, match=r"'lost'.*no\.such\.module:A.*ModuleNotFoundError"):
        registry.find("method", "lost")


def test_listing_imports_no_plugin_and_no_torch() -> None:
    code = (
        "import sys; from circuitbench.plugins.registry import list_plugins; "
        "assert {'acdc', 'rl-ppo'} <= {p.name for p in list_plugins('method')}; "
        "assert not {'torch', 'transformer_lens', 'circuitbench_baselines'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
