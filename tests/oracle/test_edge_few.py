"""Graphs of few edges are answered as all others are."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_kit import RandomTask, random_model

from circuitbench.core.errors import BudgetExceeded
from circuitbench.oracle import Oracle, edge_answers
from circuitbench.oracle.edges import query_edges_together

SHAPES: dict[str, dict[str, Any]] = {
    "attention-only": dict(n_layers=3, n_heads=3),
    "gpt2": dict(n_layers=2, n_heads=2, d_mlp=10, normalization="layer"),
    "one-layer": dict(n_layers=1, n_heads=4),
}
MODELS = {name: random_model(1, **shape) for name, shape in SHAPES.items()}


def oracle_on(name: str, **options: Any) -> Oracle:
    task: Any = RandomTask(k=2)
    return Oracle(MODELS[name], task, task_name="random", seed=0, batch_size=4, **options)


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 999),
    share=st.floats(0, 1),
    ablation=st.sampled_from(["zero", "mean", "resample"]),
)
def test_they_agree(name: str, seed: int, share: float, ablation: str) -> None:
    def ask(kept_share: int) -> Any:
        was, edge_answers.KEPT_SHARE = edge_answers.KEPT_SHARE, kept_share
        try:
            oracle = oracle_on(name, ablation=ablation)
            n = len(oracle.edges.edges)
            masks = np.random.default_rng(seed).random((3, n)) < share
            return oracle.edges.query(
                torch.from_numpy(masks), kl=True, control=True, per_prompt=True
            )
        finally:
            edge_answers.KEPT_SHARE = was

    few, all_ = ask(0), ask(10**9)  # every mask keeps few, none does but the empty one
    assert few.per_prompt_task.numpy() == pytest.approx(all_.per_prompt_task.numpy(), abs=2e-5)
    assert few.kl.numpy() == pytest.approx(all_.kl.numpy(), abs=2e-5)
    assert few.control.numpy() == pytest.approx(all_.control.numpy(), abs=2e-5)


def test_together_is_one_by_one() -> None:
    oracles = [oracle_on(name) for name in SHAPES]
    rng = np.random.default_rng(0)
    requests: list[Any] = []
    for oracle in [*oracles, oracles[0], oracles[0]]:
        mask = torch.from_numpy(rng.random(len(oracle.edges.edges)) < 0.5)
        requests.append((oracle.edges, mask, oracle.draw(len(requests) % 2)))
    answers = query_edges_together(requests, ablation="resample", kl=True)
    for (edges, mask, batch), answer in zip(requests, answers, strict=True):
        alone = edges.query(mask[None], ablation="resample", kl=True, batch=batch)
        assert float(answer.task) == pytest.approx(float(alone.task), abs=2e-5)
        assert answer.kl is not None
        assert alone.kl is not None
        assert float(answer.kl) == pytest.approx(float(alone.kl), abs=2e-5)
    assert [oracle.meter.queries for oracle in oracles] == [6, 2, 2]


def test_together_spends_nothing_where_one_cannot_pay() -> None:
    rich, poor = oracle_on("gpt2"), oracle_on("one-layer", budget=0)
    requests = [
        (oracle.edges, torch.ones(len(oracle.edges.edges), dtype=torch.bool), oracle.batch)
        for oracle in (rich, poor)
    ]
    with pytest.raises(BudgetExceeded):
        query_edges_together(requests)
    assert (rich.meter.queries, poor.meter.queries) == (0, 0)
