from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch

from circuitbench import (
    Head,
    InvalidSpec,
    Model,
    Oracle,
    RunSpec,
    Straight,
    describe,
    list_plugins,
    method_class,
)
from circuitbench.checks.contracts import ToyTask, toy_model
from circuitbench.runs.prepare import Prepared, prepare, unmet
from circuitbench.runs.run import run
from circuitbench_baselines.attribution import AttributionPatching, EdgeAttributionPatching
from circuitbench_baselines.backward_rules import AtPStar, RelP
from circuitbench_baselines.edge_paths import (
    EAPGP,
    EAPCleanCorrupted,
    EAPIGActivations,
    EAPIGInputs,
)
from circuitbench_baselines.gim import GIM
from circuitbench_baselines.position_aware import PositionAwareEAP

RNG = np.random.default_rng(0)


def toy_oracle(budget: int | None = None) -> Oracle:
    return Oracle(toy_model(), ToyTask(), task_name="toy", seed=5, batch_size=4, budget=budget)


@pytest.mark.parametrize(
    ("method", "queries"),
    [
        (EAPIGInputs(), 15),
        (EAPIGActivations(), 3 * 5 * 4),  # the embedding and three layers without MLPs
        (EAPCleanCorrupted(), 6),
        (EAPGP(), 30),
        (GIM(), 3),
        (PositionAwareEAP(), 3),
        (AtPStar(), 9),
        (RelP(), 3),
    ],
)
def test_methods_cost_what_they_say(method: Any, queries: int) -> None:
    oracle = toy_oracle(budget=queries)
    method.discover(oracle, RNG)
    assert oracle.meter.queries == queries


def effects_of(discovery: Any) -> dict[Any, float]:
    assert discovery.signed_edges is not None
    return dict(discovery.signed_edges)


def test_paths_average_attributions_at_their_points() -> None:
    oracle = toy_oracle()
    edges = oracle.edges.edges

    def mean(*alphas: float) -> Any:
        points = oracle.edges.attribution(Straight(alphas), ablation="resample")
        return dict(zip(edges, points.mean(0).double().tolist(), strict=True))

    for method, want in (
        (EAPIGInputs(steps=2), mean(0.0, 0.5)),
        (EAPCleanCorrupted(), mean(0.0, 1.0)),
        (EdgeAttributionPatching(), mean(1.0)),
        (GIM(), None),
    ):
        found = effects_of(method.discover(oracle, RNG))
        if want is not None:
            assert found == pytest.approx(want, abs=1e-5)
    own = effects_of(EAPIGActivations(steps=2).discover(oracle, RNG))
    heads = tuple(f"1.{h}" for h in range(4))
    moved = oracle.edges.attribution(Straight((0.5, 1.0), heads), ablation="resample").mean(0)
    for edge, value in zip(edges, moved.tolist(), strict=True):
        if edge.sender in heads:
            assert own[edge] == pytest.approx(value, abs=1e-6)


def test_kl_is_attributed_as_what_ablating_adds() -> None:
    oracle = toy_oracle()
    found = effects_of(EAPIGInputs(of="kl", steps=32).discover(oracle, RNG))
    of_embed = sum(value for edge, value in found.items() if edge.sender == "embed")
    whole = torch.zeros(1, len(oracle.edges.edges))
    added = oracle.edges.query(whole, ablation="resample", kl=True).kl
    assert added is not None
    assert of_embed == pytest.approx(
        float(added[0]), rel=0.15
    )  # integrated: the left-hand sum of 32 points


def test_positions_tell_apart_what_eap_adds_up() -> None:
    oracle = toy_oracle()
    by_place = effects_of(PositionAwareEAP().discover(oracle, RNG))
    summed = effects_of(EdgeAttributionPatching().discover(oracle, RNG))
    parts = oracle.edges.attribution(ablation="resample", by_span=True)[0].flatten(1)
    for edge, row in zip(oracle.edges.edges, parts, strict=True):
        assert abs(by_place[edge]) == pytest.approx(float(row.abs().max()), abs=1e-6)
        assert float(row.sum()) == pytest.approx(summed[edge], abs=1e-5)


def test_relp_on_linear_parts_is_attribution_patching_and_atp_star_is_not() -> None:
    oracle = toy_oracle()  # attention only, no norms
    plain = AttributionPatching().discover(oracle, RNG).scores
    np.testing.assert_allclose(RelP().discover(oracle, RNG).scores, plain, atol=1e-5)
    star = AtPStar().discover(oracle, RNG)
    assert (star.scores >= 0).all()
    # The last layer's heads act on the logits alone: each dropped layer but theirs says the same.
    np.testing.assert_allclose(star.scores[2], np.abs(plain[2]), atol=1e-5)


class Hooks:
    """Stands for a transformer_lens model; nothing may be asked of it."""

    def to(self, device: Any) -> Any:
        return self


def hooked() -> Model:
    return Model("toy-hooked", 3, 4, None, hooked=Hooks())


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("gim", "gim needs edges; toy-hooked is run by hooks"),
        ("atp-star", "atp-star needs backward rules; toy-hooked is run by hooks"),
        ("position-aware-eap", "position-aware-eap needs named positions"),
        ("acdc-edges", "acdc-edges needs edges; toy-hooked is run by hooks"),
    ],
)
def test_a_method_that_cannot_run_is_skipped_before_any_compute(
    method: str, reason: str, monkeypatch: Any
) -> None:
    class Unnamed(ToyTask):
        def prompts(self, model: Any, n: int, rng: Any) -> Any:
            return dataclasses.replace(super().prompts(model, n, rng), spans=None)

    positions = method == "position-aware-eap"
    task: Any = Unnamed() if positions else ToyTask()
    model = toy_model() if positions else hooked()
    spec = RunSpec(method=method, task="ioi")
    prepared: Prepared = prepare(spec, lambda name: model, task_of=lambda *_: task)
    record = run(prepared)
    assert record.status == "skipped"
    assert record.reason.startswith(reason)
    assert record.costs["discovery"]["queries"] == 0
    assert record.costs["discovery"]["forwards"] == 0
    assert not record.discovery


def test_every_edge_method_states_its_projection_to_heads() -> None:
    ours = [p for p in list_plugins("method") if p.target.startswith("circuitbench_baselines")]
    of_edges = [p.name for p in ours if describe("method", p.name).granularity == "edges"]
    assert len(of_edges) > 15
    for name in of_edges:
        said = " ".join((method_class(name).__doc__ or "").split())
        assert re.search("head (is worth|scores)|projection to heads", said), name


@pytest.mark.parametrize(
    ("model", "budget", "reason"),
    [
        (toy_model(), None, ""),
        (Model("toy-large", 30, 12, toy_model().transformer), 10, ""),
        (
            Model("toy-large", 30, 12, toy_model().transformer),
            None,
            "exact-edge-patching asks about every edge; toy-large has 189,361",
        ),
    ],
)
def test_too_many_edges_are_skipped_without_a_budget(
    model: Model, budget: int | None, reason: str
) -> None:
    spec = RunSpec(method="exact-edge-patching", task="ioi", budget=budget)
    why = unmet(prepare(spec, lambda name: model, task_of=lambda *_: ToyTask()))
    assert why.startswith(reason)
    assert bool(why) == bool(reason)


def test_wrong_settings_are_refused() -> None:
    oracle = toy_oracle()
    for method in (EAPIGInputs(steps=0), EAPIGActivations(steps=0), EAPGP(steps=0)):
        with pytest.raises(InvalidSpec, match="steps must be 1 or more"):
            method.discover(oracle, RNG)
    with pytest.raises(InvalidSpec, match=r"no backward rule 'rlep'.*relp"):
        RelP(rule="rlep").discover(oracle, RNG)
    assert oracle.meter.queries == 0


def test_a_head_is_worth_its_strongest_edge() -> None:
    oracle = toy_oracle()
    discovery = GIM().discover(oracle, RNG)
    edges = discovery.edges
    assert edges is not None
    for layer in range(3):
        for head in range(4):
            name = str(Head(layer, head))
            best = max(value for edge, value in edges.items() if edge.sender == name)
            assert discovery.scores[layer, head] == pytest.approx(best)
