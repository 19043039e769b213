"""Planted models do their tasks, by the heads that were planted for them and by no others."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_kit import transformer_of

from circuitbench.core.circuit import Edge, Head
from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.models.forward import forward
from circuitbench.models.planted import presets
from circuitbench.models.planted.language import SPECIALS
from circuitbench.models.planted.presets import Copies, PlantedConfig, plant, planted, planted_model
from circuitbench.oracle import Oracle
from circuitbench.tasks.base import Task
from circuitbench.tasks.planted.docstring import Docstring
from circuitbench.tasks.planted.greater_than import GreaterThan
from circuitbench.tasks.planted.induction import Induction
from circuitbench.tasks.planted.ioi import IOI
from circuitbench.tasks.planted.two_hop import TwoHop

TASKS: dict[str, Task] = {
    "induction": Induction(),
    "ioi": IOI(),
    "docstring": Docstring(),
    "greater-than": GreaterThan(),
    "two-hop": TwoHop(),
}
INDUCTION = {"previous_token": Copies(1), "induction": Copies(1)}


class Ablated:
    """A model's tasks with heads ablated, in units of each task's gap."""

    def __init__(self, model: Any, prompts: Any = 8) -> None:
        self.heads = model.construction.heads
        self.oracles = {
            name: Oracle(model, task, task_name=name, seed=0, batch_size=prompts)
            for name, task in TASKS.items()
        }

    def masks(self, sets: Any) -> Any:
        oracle = self.oracles["ioi"]
        masks = torch.ones(len(sets), *oracle.shape, dtype=torch.bool)
        for mask, heads in zip(masks, sets, strict=True):
            for head in heads:
                mask[head] = False
        return masks

    def effects(self, task: Any, sets: Any) -> Any:
        oracle = self.oracles[task]
        damage = oracle.query(self.masks(sets), control=False).task
        return (damage / oracle.clean_metric).tolist()

    def control(self, sets: Any) -> Any:
        loss = self.oracles["ioi"].query(self.masks(sets)).control
        assert loss is not None
        return loss.tolist()


@pytest.fixture(scope="module")
def default() -> Any:
    return Ablated(planted())


@pytest.fixture(scope="module")
def redundant() -> Any:
    return Ablated(presets.planted_redundant())


def test_planting_is_a_pure_function_of_config_and_seed() -> None:
    one, two, other = (
        plant(presets.PLANTED, 5),
        plant(presets.PLANTED, 5),
        plant(presets.PLANTED, 6),
    )
    assert one.heads == two.heads
    for mine, same in zip(one.transformer.layers, two.transformer.layers, strict=True):
        assert torch.equal(mine.W_Q, same.W_Q)
        assert torch.equal(mine.W_O, same.W_O)
    assert torch.equal(one.transformer.W_E, two.transformer.W_E)
    assert one.heads != other.heads
    assert not torch.equal(one.transformer.W_E, other.transformer.W_E)


def test_default_is_12_by_12_with_dozens_of_distractors(default: Any) -> None:
    model = planted()
    assert (model.n_layers, model.n_heads) == (12, 12)
    assert len(default.heads["lookalike"]) >= 24
    assert len(default.heads["noise"]) >= 48
    assert sorted(head for heads in default.heads.values() for head in heads) == [
        Head(layer, head) for layer in range(12) for head in range(12)
    ]


@pytest.mark.parametrize(
    ("task", "role", "low", "high"),
    [
        ("induction", "previous_token", 0.95, 1.05),
        ("induction", "induction", 0.28, 0.38),
        ("ioi", "duplicate_token", 1.0, 2.0),
        ("ioi", "s_inhibition", 0.1, 0.5),
        ("ioi", "name_mover", -0.05, 0.05),
        ("ioi", "backup_name_mover", -0.05, 0.05),
        ("ioi", "negative_name_mover", -0.6, -0.4),
        ("docstring", "previous_token", 0.95, 1.05),
        ("docstring", "argument_reader", 0.95, 1.05),
        ("docstring", "chain_mover", 0.45, 0.55),
        ("greater-than", "year_reader", 0.95, 1.05),
        ("greater-than", "greater_than", 0.45, 0.55),
        ("two-hop", "previous_token", 0.95, 1.05),
        ("two-hop", "first_hop", 0.95, 1.05),
        ("two-hop", "chain_mover", 0.45, 0.55),
    ],
)
def test_every_role_alone(default: Any, task: Any, role: Any, low: Any, high: Any) -> None:
    for effect in default.effects(task, [[head] for head in default.heads[role]]):
        assert low <= effect <= high


def test_backups_act_only_while_a_mover_is_off(default: Any) -> None:
    movers, backups = default.heads["name_mover"], default.heads["backup_name_mover"]
    one_mover, movers_off, both_off, all_off = default.effects(
        "ioi", [movers[:1], movers, [movers[0], *backups], [*movers, *backups]]
    )
    assert abs(one_mover) < 0.05
    assert both_off > one_mover + 0.5
    assert all_off > movers_off + 0.5


@pytest.mark.parametrize(
    ("task", "role"),
    [
        ("induction", "previous_token"),
        ("ioi", "duplicate_token"),
        ("ioi", "s_inhibition"),
        ("docstring", "argument_reader"),
        ("two-hop", "first_hop"),
        ("greater-than", "year_reader"),
    ],
)
def test_any_copy_of_an_or_suffices(redundant: Any, task: Any, role: Any) -> None:
    copies = list(redundant.heads[role])
    but_one = [[head for head in copies if head != kept] for kept in copies]
    *kept_one, none = redundant.effects(task, [*but_one, copies])
    assert max(map(abs, kept_one)) < 0.05
    assert none > 0.95


@pytest.mark.parametrize("task", ["induction", "ioi", "greater-than"])
def test_no_distractor_moves_a_task(default: Any, task: Any) -> None:
    distractors = [*default.heads["lookalike"], *default.heads["noise"]]
    effects = default.effects(task, [[head] for head in distractors])
    assert max(map(abs, effects)) < 0.02
    half = np.random.default_rng(0).permutation(len(distractors))[: len(distractors) // 2]
    (together,) = default.effects(task, [[distractors[i] for i in half]])
    assert abs(together) < 0.05


def test_distractors_do_not_move_the_language_and_its_heads_do(default: Any) -> None:
    distractors = [*default.heads["lookalike"], *default.heads["noise"]]
    some = [[head] for head in distractors[::4]]
    assert max(map(abs, default.control(some))) < 0.02
    general = [default.heads[role] for role in ("bigram", "skip_bigram", "unigram")]
    assert min(default.control(general)) > 0.05


def test_lookalikes_have_the_pattern_of_a_real_role() -> None:
    model = plant(presets.PLANTED, 0)

    def pattern(head: Any) -> Any:
        layer = model.transformer.layers[head.layer]
        return layer.W_Q[head.head] @ layer.W_K[head.head].T

    real = [
        pattern(heads[0])
        for role, heads in model.heads.items()
        if role not in ("lookalike", "noise")
    ]
    for head in model.heads["lookalike"]:
        assert min(float((pattern(head) - other).abs().max()) for other in real) < 1e-2


@settings(max_examples=8, deadline=None)
@given(layers=st.integers(2, 9), heads=st.integers(2, 6), seed=st.integers(0, 2**32))
def test_induction_works_on_any_grid(layers: Any, heads: Any, seed: int) -> None:
    config = PlantedConfig(layers, heads, roles=INDUCTION, lookalikes=1)
    model = planted_model("x", config, str(seed))
    oracle = Oracle(model, TASKS["induction"], task_name="i", seed=0, batch_size=8)
    assert oracle.batch.accuracy == 1.0
    assert oracle.clean_metric == pytest.approx(10.0, rel=0.05)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"n_layers": 1}, "at least 2 x 2"),
        ({"roles": {"previous_token": Copies(0)}}, "copies >= 1"),
        ({"roles": {"induction": Copies(1)}}, "reads what previous_token writes"),
        ({"roles": {**INDUCTION, "induction": Copies(2, "or")}}, "writes logits"),
        ({"roles": {**INDUCTION, "unigram": Copies(99)}, "n_layers": 4}, "do not fit"),
        ({"roles": {"previous_token": Copies(13)}, "n_layers": 4}, "more roles than heads"),
        (
            {"roles": {**presets.PLANTED.roles}, "n_layers": 2, "n_heads": 40},
            "has no layer in a model of 2 layers",
        ),
        ({"superposition": 3.0}, "too small to keep them apart"),
        ({"d_pos": 2}, "too small to tell 24 positions apart"),
        ({"n_names": 3}, "n_names must be at least"),
        ({"roles": {"argument_mover": Copies(1)}}, "only with shared_tasks=False"),
        ({"shared_language": True}, "needs role previous_token"),
        ({"roles": {"code_reader": Copies(1)}}, "reads what number_code writes"),
        ({"mlps": {"number_table": 1}}, "reads what code_reader writes"),
        ({"mlps": {"number_code": 0}}, "1 copy or more"),
        ({"mlps": {"number_code": 4}}, "where 3 are left"),
        ({"mlps": {"number_code": 3}, "lookalike_mlps": 10}, "do not fit into 12 layers"),
        ({"lookalike_mlps": 1}, "needs MLPs to look like"),
    ],
)
def test_what_cannot_be_planted_is_refused_with_the_reason(options: Any, reason: Any) -> None:
    with pytest.raises(InvalidSpec, match=reason):
        plant(PlantedConfig(**({"lookalikes": 0} | options)))


@pytest.mark.parametrize(("readers", "mode"), [(1, "and"), (3, "and"), (3, "or")])
def test_copies_around_an_mlp_share_the_work_or_stand_in(readers: Any, mode: Any) -> None:
    roles = {"code_reader": Copies(readers, mode)}
    mlps = {"number_code": 2, "number_table": 2}
    config = PlantedConfig(n_layers=8, n_heads=4, roles=roles, mlps=mlps, lookalikes=0)
    model = planted_model("tables", config, "5")
    oracle = Oracle(model, GreaterThan(), task_name="greater-than", seed=0, batch_size=8)
    assert oracle.batch.accuracy == 1.0
    effects = oracle.query(oracle.head_masks(), control=False).task / oracle.clean_metric
    inside = [head[0] * 4 + head[1] for head in model.construction.heads["code_reader"]]
    assert torch.allclose(effects[inside], torch.tensor(0.0 if mode == "or" else 1.0), atol=0.02)
    edges = oracle.edges
    for layer in model.construction.mlps["number_table"]:
        cut = edges.without([Edge(f"m{layer}", "logits")])
        assert float(edges.query(cut[None]).task) == pytest.approx(
            oracle.clean_metric / 2, rel=0.02
        )


def test_an_unknown_role_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'number_table'"):
        PlantedConfig(mlps={"number_tabel": 1})
    with pytest.raises(UnknownName, match="did you mean 'induction'"):
        PlantedConfig(roles={"inductoin": Copies(1)})


@pytest.mark.parametrize("variant", ["x", "-1", "1.5", "held_out"])
def test_a_variant_is_a_seed(variant: Any) -> None:
    with pytest.raises(InvalidSpec, match="expected a seed"):
        planted(variant)


def test_held_out_seeds_are_fresh_and_recorded() -> None:
    one, two = planted("held-out"), planted("held-out")
    assert one.provenance["held_out"]
    assert one.provenance["seed"] != two.provenance["seed"]
    again = planted(one.name.partition("@")[2])
    assert torch.equal(transformer_of(again).W_E, transformer_of(one).W_E)


def test_text_follows_its_own_statistics() -> None:
    language = planted().construction.language
    text = language.text(400, 24, np.random.default_rng(0))
    assert (text[:, 0] == 0).all()
    assert text[:, 1:].min() >= len(SPECIALS)
    repeats = [
        row[j + 1] == row[i + 1]
        for row in text
        for i in range(1, 22)
        for j in range(i + 1, 23)
        if row[i] == row[j]
        and {row[i], row[i + 1]} <= set(language.names.tolist())
        and row[i] not in row[i + 1 : j]
    ]
    assert np.mean(repeats) > 0.9


def test_loads_as_a_transformer_lens_model() -> None:
    from circuitbench.models.pretrained import to_transformer_lens

    model = planted()
    prompts = TASKS["ioi"].prompts(model, 8, np.random.default_rng(0))
    bridge = to_transformer_lens(transformer_of(model))
    with torch.no_grad():
        theirs = bridge(prompts.tokens)
    assert torch.allclose(theirs, forward(transformer_of(model), prompts.tokens).logits, atol=1e-4)
