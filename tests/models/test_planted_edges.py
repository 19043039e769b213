"""The edges of a planted circuit: what its heads' maps read of what others write, and varies."""

from typing import Any

import numpy as np
import pytest

from circuitbench.core.circuit import Edge
from circuitbench.core.edges import graph_of
from circuitbench.models.planted.edges import edges_of
from circuitbench.models.planted.presets import PRESETS, planted, planted_easy, planted_mlp
from circuitbench.plugins import registry

TASKS = ("induction", "ioi", "docstring", "greater-than", "two-hop")


def truth_of(task: Any, model: Any) -> Any:
    return task.truth(model)


def by_role(truth: Any) -> set[tuple[str, str, str]]:
    """Edges as (role that sends, role that receives, q, k, v or nothing)."""
    role = {str(head): name for name, part in truth.roles.items() for head in part.heads}
    found = set()
    for sender, receiver in truth.edges:
        head, dot, letter = receiver.rpartition(".")
        found.add((role.get(sender, sender), role.get(head, receiver), letter if dot else ""))
    return found


def written_out(*lines: str) -> set[tuple[str, str, str]]:
    """``"embed > induction q, v"`` as edges between roles."""
    found = set()
    for line in lines:
        sender, _, rest = line.partition(" > ")
        receiver, _, letters = rest.partition(" ")
        found |= {(sender, receiver, x) for x in (letters.split(", ") if letters else [""])}
    return found


@pytest.mark.parametrize(
    ("task", "edges"),
    [
        (
            "induction",
            written_out(
                "embed > previous_token v",
                "previous_token > induction k",
                "embed > induction q, v",
                "induction > logits",
            ),
        ),
        (
            "docstring",  # arguments stand in other places, so that keys hear what is a name
            written_out(
                "embed > argument_previous_token v",
                "embed > argument_reader v",
                "argument_previous_token > argument_mover k",
                "argument_reader > argument_mover q",
                "embed > argument_mover k, v",
                "argument_mover > logits",
            ),
        ),
        (
            "two-hop",  # names stand in the same places, so that no key hears what is a name
            written_out(
                "embed > chain_previous_token v",
                "chain_previous_token > first_hop k",
                "embed > first_hop q, v",
                "chain_previous_token > chain_mover k",
                "first_hop > chain_mover q",
                "embed > chain_mover v",
                "chain_mover > logits",
            ),
        ),
        (
            "ioi",
            written_out(
                "embed > duplicate_token q, k, v",
                "duplicate_token > s_inhibition k",
                "embed > s_inhibition v",
                "s_inhibition > name_mover q",
                "embed > name_mover k, v",
                "name_mover > logits",
            ),
        ),
        (
            "greater-than",
            written_out(
                "embed > year_reader k, v",
                "year_reader > greater_than q",
                "embed > greater_than k, v",
                "greater_than > logits",
            ),
        ),
    ],
)
def test_edges_are_those_that_the_roles_are_written_with(task: str, edges: Any) -> None:
    assert by_role(truth_of(registry.load_task(task), planted_easy())) == edges


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "planted-large" else ())
        for name in PRESETS
    ],
)
def test_every_preset_states_edges_that_join_its_circuit_up(preset: str) -> None:
    model = registry.load_model(preset)
    for name in TASKS:
        truth: Any = registry.load_task(name).truth(model)
        assert truth.edge_ablations == ("mean", "resample")
        nodes = {*map(str, truth.heads), *(f"m{layer}" for layer in truth.mlps)}
        assert {edge.sender for edge in truth.edges} == {"embed", *nodes}
        heard = {edge.receiver for edge in truth.edges}
        assert {x[:-2] if x[-1] in "qkv" else x for x in heard} == {"logits", *nodes}
        mlps = bool(model.construction.mlps)
        assert truth.edges <= set(graph_of(model.n_layers, model.n_heads, mlps).edges)


def test_greater_than_runs_through_mlps() -> None:
    model = planted_mlp()
    truth: Any = registry.load_task("greater-than").truth(model)
    role = {f"m{i}": name for name, layers in model.construction.mlps.items() for i in layers}
    found = {(role.get(a, a), role.get(b, b), letter) for a, b, letter in by_role(truth)}
    assert found == written_out(
        "embed > number_code",
        "embed > code_reader k",
        "number_code > code_reader v",
        "code_reader > number_table",
        "number_table > logits",
    )
    assert truth.mlps == tuple(sorted(int(m[1:]) for m in role if role[m].startswith("number")))
    without: Any = registry.load_task("ioi").truth(model)
    assert without.mlps == ()


def test_every_copy_has_the_edges_of_its_role() -> None:
    truth: Any = registry.load_task("ioi").truth(registry.load_model("planted-redundant"))
    for sender in truth.roles["duplicate_token"].heads:
        for receiver in truth.roles["s_inhibition"].heads:
            assert Edge(str(sender), f"{receiver}.k") in truth.edges


@pytest.mark.parametrize("task", TASKS)
def test_edges_do_not_depend_on_which_prompts_are_drawn(task: str) -> None:
    model, loaded = planted(), registry.load_task(task)
    truth: Any = loaded.truth(model)
    for seed in (1, 2):
        drawn = loaded.prompts(model, 16, np.random.default_rng(seed))
        tensors = (drawn.tokens, drawn.counterfactual, drawn.positions, drawn.token_ids)
        arrays: list[Any] = [x.numpy() for x in tensors]
        again = edges_of(model.construction, tuple(truth.roles), *arrays)
        assert again == truth.edges


def test_what_is_the_same_on_every_prompt_is_no_edge() -> None:
    model, loaded = planted_easy(), registry.load_task("ioi")
    drawn = loaded.prompts(model, 4, np.random.default_rng(0))
    tokens = drawn.tokens[:1].repeat(4, 1).numpy()
    same = drawn.positions.numpy(), drawn.token_ids.numpy()
    roles = tuple(truth_of(loaded, model).roles)
    assert edges_of(model.construction, roles, tokens, tokens, *same) == frozenset()
