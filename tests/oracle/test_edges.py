from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_kit import RandomTask, random_model

from circuitbench.core.circuit import Edge
from circuitbench.core.errors import BudgetExceeded, InvalidSpec
from circuitbench.models.base import Model
from circuitbench.oracle import Oracle

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "attention-only": dict(n_layers=2, n_heads=3),
    "gpt2": dict(n_layers=2, n_heads=2, d_mlp=10, normalization="layer"),
}
MODELS = {name: random_model(1, **shape) for name, shape in ARCHITECTURES.items()}


def oracle_on(name: str, **options: Any) -> Any:
    task = RandomTask(k=2)
    return Oracle(MODELS[name], task, task_name="random", seed=0, batch_size=4, **options)


def slow(transformer: Any, tokens: Any, keep: Any, ablated: Any) -> Any:
    """Every receiver sums up what it hears, one sender at a time.

    ``keep`` maps edges to gates (1 where absent), ``ablated`` senders to what replaces them.
    Returns logits and all senders' outputs.
    """
    t, cfg = transformer, transformer.config
    outs = {"embed": t.W_E[tokens] + t.W_pos[: tokens.shape[1]]}
    biases = 0

    def heard(receiver: Any) -> Any:
        total = biases
        for sender, out in outs.items():
            gate = keep.get(Edge(sender, receiver), 1.0)
            total = total + gate * out + (1 - gate) * ablated.get(sender, 0)
        return total

    def norm(x: Any, w: Any, b: Any) -> Any:
        if cfg.normalization == "none":
            return x
        return torch.nn.functional.layer_norm(x, x.shape[-1:], w, b, cfg.norm_eps)

    future = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
    for layer, w in enumerate(t.layers):
        new = {}
        for head in range(cfg.n_heads):
            q, k, v = (
                norm(heard(f"{layer}.{head}.{letter}"), w.ln1_w, w.ln1_b) @ W[head] + b[head]
                for letter, W, b in (("q", w.W_Q, w.b_Q), ("k", w.W_K, w.b_K), ("v", w.W_V, w.b_V))
            )
            scores = (q @ k.transpose(-1, -2) * cfg.attn_scale).masked_fill(future, -torch.inf)
            new[f"{layer}.{head}"] = scores.softmax(-1) @ v @ w.W_O[head]
        outs |= new
        biases = biases + w.b_O
        if cfg.d_mlp:
            hidden = norm(heard(f"m{layer}"), w.ln2_w, w.ln2_b) @ w.W_in + w.b_in
            gelu = torch.nn.functional.gelu(hidden, approximate="tanh")
            outs[f"m{layer}"] = gelu @ w.W_out + w.b_out
    return norm(heard("logits"), t.lnf_w, t.lnf_b) @ t.W_U + t.b_U, outs


def slow_answer(oracle: Any, edges: Any, mask: Any, ablation: Any) -> Any:
    """Metric and KL divergence, means over the prompts."""
    prompts, transformer = oracle.batch.source.prompts, oracle._model.transformer
    ablated = {}
    if ablation != "zero":
        ablated = slow(transformer, prompts.counterfactual, {}, {})[1]
        if ablation == "mean":
            ablated = {s: out.mean(0, keepdim=True) for s, out in ablated.items()}
    keep = dict(zip(edges, mask, strict=True))
    logits = slow(transformer, prompts.tokens, keep, ablated)[0]
    clean = slow(transformer, prompts.tokens, {}, {})[0]
    rows = torch.arange(len(prompts))[:, None]
    log_p, log_q = (x[rows, prompts.positions].log_softmax(-1) for x in (clean, logits))
    return prompts.metric(logits).mean(), (log_p.exp() * (log_p - log_q)).sum(-1).mean()


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(sorted(ARCHITECTURES)),
    ablation=st.sampled_from(["zero", "mean", "resample"]),
    share=st.sampled_from([0.2, 0.9]),
    seed=st.integers(0, 3),
)
def test_edges_equal_path_patching_written_out(
    name: str, ablation: Any, share: Any, seed: int
) -> None:
    oracle = oracle_on(name)
    edges = oracle.edges.edges
    rng = torch.Generator().manual_seed(seed)
    mask = torch.rand(len(edges), generator=rng) < share
    got = oracle.edges.query(mask[None], ablation=ablation, kl=True)
    metric, divergence = slow_answer(oracle, edges, mask.float(), ablation)
    torch.testing.assert_close(got.task[0], oracle.clean_metric - metric, atol=1e-4, rtol=0)
    torch.testing.assert_close(got.kl[0], divergence, atol=1e-4, rtol=0)
    soft = torch.rand(len(edges), generator=rng).requires_grad_(True)
    found = oracle.edges.differentiate(soft.detach()[None], ablation=ablation)
    for name, want in zip(("task", "kl"), slow_answer(oracle, edges, soft, ablation), strict=True):
        (want_grad,) = torch.autograd.grad(want, soft, retain_graph=True)
        torch.testing.assert_close(found.gradients[name][0], want_grad, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.values[name][0], want.detach(), atol=1e-4, rtol=1e-4)
    alone = oracle.edges.gradient(soft.detach()[None], of="kl", ablation=ablation)
    torch.testing.assert_close(alone, found.gradients["kl"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_cutting_all_edges_of_a_head_is_ablating_the_head(name: str) -> None:
    oracle = oracle_on(name)
    edges = oracle.edges
    heads = oracle.head_masks()[[0, -1]]
    cut = torch.stack(
        [
            edges.without(e for e in edges.edges if e.sender == s)
            for s in ("0.0", f"1.{oracle.n_heads - 1}")
        ]
    )
    for ablation in ("zero", "mean", "resample"):
        by_head = oracle.query(heads, ablation=ablation, kl=True)
        by_edge = edges.query(cut, ablation=ablation, kl=True, control=True)
        torch.testing.assert_close(by_edge.task, by_head.task, atol=1e-4, rtol=0)
        torch.testing.assert_close(by_edge.control, by_head.control, atol=1e-4, rtol=0)
        torch.testing.assert_close(by_edge.kl, by_head.kl, atol=1e-4, rtol=0)


def test_keeping_every_edge_does_nothing() -> None:
    oracle = oracle_on("gpt2")
    damages = oracle.edges.query(torch.ones(1, len(oracle.edges.edges)), control=True)
    assert abs(float(damages.task)) < 1e-5
    assert abs(float(damages.control)) < 1e-5


def test_edges_are_on_the_same_budget_and_meter() -> None:
    oracle = oracle_on("attention-only", budget=5)
    whole = torch.ones(2, len(oracle.edges.edges))
    oracle.edges.query(whole)
    oracle.edges.gradient(whole[:1])
    assert (oracle.meter.queries, oracle.meter.gradients, oracle.remaining) == (5, 1, 0)
    assert oracle.meter.backwards == 1
    with pytest.raises(BudgetExceeded):
        oracle.edges.query(whole[:1])
    assert oracle.meter.queries == 5


def test_metric_and_kl_from_one_pass_cost_one_forward_and_two_backward_passes() -> None:
    oracle = oracle_on("attention-only", budget=10)
    drawing = oracle.meter.forwards
    oracle.edges.differentiate(torch.ones(1, len(oracle.edges.edges)))
    oracle.differentiate(torch.ones(1, *oracle.shape))
    meter = oracle.meter
    assert (meter.queries, meter.forwards - drawing, meter.backwards) == (10, 2, 4)
    with pytest.raises(BudgetExceeded):
        oracle.edges.differentiate(torch.ones(1, len(oracle.edges.edges)))


def test_bad_edge_questions_are_refused() -> None:
    oracle = oracle_on("attention-only")
    with pytest.raises(InvalidSpec, match=r"no gradient of 'reward'; valid: kl, task"):
        oracle.edges.gradient(torch.ones(1, len(oracle.edges.edges)), of="reward")
    with pytest.raises(InvalidSpec, match="nothing to differentiate"):
        oracle.differentiate(torch.ones(1, *oracle.shape), of=())
    with pytest.raises(InvalidSpec, match=r"no edge 1\.0->0\.0\.q"):
        oracle.edges.without([Edge("1.0", "0.0.q")])
    with pytest.raises(InvalidSpec, match="edge masks must be"):
        oracle.edges.query(torch.ones(1, 3))
    with pytest.raises(InvalidSpec, match="must be bool"):
        oracle.edges.query(torch.full((1, len(oracle.edges.edges)), 0.5))
    with pytest.raises(InvalidSpec, match=r"optimal .* heads only.*valid: zero, mean"):
        oracle.edges.query(torch.ones(1, len(oracle.edges.edges)), ablation="optimal")
    assert oracle.meter.queries == 0


def test_hooked_models_have_no_edges() -> None:
    class Hooks:
        def to(self, device: Any) -> Any:
            return self

    oracle = oracle_on("attention-only")
    with pytest.warns(UserWarning, match="hooks"):
        other = Oracle(
            Model("odd", 2, 3, None, hooked=Hooks()), RandomTask(), task_name="x", seed=0
        )
    assert oracle.edges.edges
    with pytest.raises(InvalidSpec, match="hooks"):
        _ = other.edges
