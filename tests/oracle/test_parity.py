from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_kit import ARCHITECTURES, Hooked, RandomTask, random_model, transformer_of

from circuitbench.core.circuit import DIRECTIONS
from circuitbench.oracle import Oracle

ABLATIONS = ("zero", "mean", "resample")  # those that the reference computes


@pytest.fixture(scope="module")
def references() -> Any:
    """Models and their hooked twins, built when first drawn."""
    made = {}

    def get(name: str) -> Any:
        if name not in made:
            model = random_model(1, **ARCHITECTURES[name])
            made[name] = model, Hooked(transformer_of(model))
        return made[name]

    return get


def oracle_on(model: Any, task: Any, **options: Any) -> Any:
    return Oracle(model, task, task_name="random", seed=0, batch_size=5, **options)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(sorted(ARCHITECTURES)),
    ablation=st.sampled_from(ABLATIONS),
    direction=st.sampled_from(DIRECTIONS),
    keep=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    k=st.sampled_from([1, 3]),
    seed=st.integers(0, 5),
)
def test_query_equals_hooks(
    references: Any, name: str, ablation: Any, direction: Any, keep: Any, k: Any, seed: int
) -> None:
    model, hooked = references(name)
    oracle = oracle_on(model, RandomTask(k=k))
    batch = oracle.draw(seed)
    masks = torch.rand(4, *oracle.shape, generator=torch.Generator().manual_seed(seed)) < keep
    masks[1] = masks[0]
    got = oracle.query(masks, ablation=ablation, direction=direction, per_prompt=True, batch=batch)
    prompts, control = batch.source.prompts, batch.source.control
    whole = torch.ones(oracle.shape)
    clean = hooked.metric(prompts, whole, "zero", "noising")
    torch.testing.assert_close(batch.metric, float(clean.mean()), atol=1e-4, rtol=0)
    for i, mask in enumerate(masks.float()):
        want = clean - hooked.metric(prompts, mask, ablation, direction)
        torch.testing.assert_close(got.per_prompt_task[i], want, atol=1e-4, rtol=0)
        torch.testing.assert_close(got.task[i], want.mean(), atol=1e-4, rtol=0)
        if direction == "noising":
            loss = hooked.control(control, mask, ablation) - hooked.control(control, whole, "zero")
            torch.testing.assert_close(got.per_prompt_control[i], loss, atol=1e-4, rtol=0)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(sorted(ARCHITECTURES)),
    ablation=st.sampled_from(ABLATIONS),
    direction=st.sampled_from(DIRECTIONS),
    seed=st.integers(0, 5),
)
def test_gradient_equals_autograd_through_hooks(
    references: Any, name: str, ablation: Any, direction: Any, seed: int
) -> None:
    model, hooked = references(name)
    oracle = oracle_on(model, RandomTask(k=2))
    batch = oracle.draw(seed)
    soft = torch.rand(oracle.shape, generator=torch.Generator().manual_seed(seed))
    soft = soft.requires_grad_(True)
    metric = hooked.metric(batch.source.prompts, soft, ablation, direction).mean()
    (want,) = torch.autograd.grad(metric, soft)
    options = dict(ablation=ablation, direction=direction, batch=batch)
    got = oracle.gradient(soft.detach()[None], **options)
    torch.testing.assert_close(got[0], want, atol=1e-4, rtol=1e-4)
    divergence = hooked.divergence(batch.source.prompts, soft, ablation, direction).mean()
    (want_kl,) = torch.autograd.grad(divergence, soft)
    found = oracle.differentiate(soft.detach()[None], of=("kl", "task"), **options)
    torch.testing.assert_close(found.gradients["kl"][0], want_kl, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.gradients["task"], got, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.values["kl"][0], divergence.detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.values["task"][0], metric.detach(), atol=1e-4, rtol=0)
    if direction == "noising":
        loss = hooked.control(batch.source.control, soft, ablation).mean()
        (want_loss,) = torch.autograd.grad(loss, soft)
        got = oracle.gradient(soft.detach()[None], of="control", **options)
        torch.testing.assert_close(got[0], want_loss, atol=1e-4, rtol=1e-4)
        got = oracle.gradient(soft.detach()[None], of="reward", **options)
        torch.testing.assert_close(got[0], -want - want_loss, atol=2e-4, rtol=2e-4)
