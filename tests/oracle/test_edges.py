from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_kit import ARCHITECTURES as ALL_ARCHITECTURES
from oracle_kit import Hooked, RandomTask, random_model

from circuitbench.core.circuit import Edge
from circuitbench.core.errors import BudgetExceeded, InvalidSpec
from circuitbench.models.base import Model
from circuitbench.oracle import Oracle
from circuitbench.oracle.ablations import ablation_named
from circuitbench.oracle.edge_answers import EdgeAnswers
from circuitbench.oracle.edge_run import EdgeRun

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


def neighbours(n_edges: int, rng: np.random.Generator) -> np.ndarray:
    """Masks of all kinds: intact, single edges, random ones and what differs little from them."""
    masks = [np.ones(n_edges, bool)]
    for share in (1.0, 0.9, 0.2):
        base = rng.random(n_edges) < share
        masks.append(base)
        for size in (1, 1, 2, 3, 6):
            masks.append(base.copy())
            masks[-1][rng.integers(n_edges, size=size)] ^= True
    return np.array(masks)[rng.permutation(len(masks))]


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(sorted(ALL_ARCHITECTURES)),
    ablation=st.sampled_from(["zero", "mean", "resample"]),
    half=st.sampled_from(["task", "control"]),
    limit=st.sampled_from([1 << 30, 100_000]),
    k=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_what_masks_change_adds_up_to_whole_passes(
    name: str, ablation: Any, half: Any, limit: int, k: int, seed: int
) -> None:
    model = random_model(seed, n_layers=2, **ALL_ARCHITECTURES[name])
    oracle = Oracle(model, RandomTask(k=k), task_name="random", seed=seed, batch_size=3)
    graph, forward, kind = oracle.edges.graph, oracle.engine.forward, ablation_named(ablation)  # type: ignore[attr-defined]
    masks = neighbours(len(graph.pairs), np.random.default_rng(seed))
    plain = EdgeRun(graph, forward, oracle.batch, half, kind)
    with torch.no_grad():
        want = torch.stack(
            [plain.value_tensor(plain.final(torch.from_numpy(m).float())) for m in masks]
        )
    fast = EdgeAnswers(
        graph, forward, oracle.batch, half, kind, limit=limit, chunk_tokens=20 * seed + 1
    )
    for _ in range(2):  # the second time from what the first has left
        got, _ = fast.values(masks)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(sorted(ARCHITECTURES)),
    share=st.sampled_from([0.1, 0.95]),
    seed=st.integers(0, 3),
)
def test_denoising_gives_kept_edges_their_clean_sender(name: str, share: Any, seed: int) -> None:
    oracle = oracle_on(name)
    edges, prompts = oracle.edges.edges, oracle.batch.source.prompts
    rng = torch.Generator().manual_seed(seed)
    mask = torch.rand(len(edges), generator=rng) < share
    got = oracle.edges.query(mask[None], direction="denoising", kl=True)
    clean = slow(oracle._model.transformer, prompts.tokens, {}, {})
    ablated = dict(zip(edges, (~mask).float(), strict=True))
    logits, _ = slow(oracle._model.transformer, prompts.counterfactual, ablated, clean[1])
    want = oracle.clean_metric - prompts.metric(logits).mean()
    torch.testing.assert_close(got.task[0], want, atol=1e-4, rtol=0)
    rows = torch.arange(len(logits))[:, None]
    log_p, log_q = (x[rows, prompts.positions].log_softmax(-1) for x in (clean[0], logits))
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    torch.testing.assert_close(got.kl[0], kl, atol=1e-4, rtol=0)


def test_denoising_everything_is_the_clean_model_and_nothing_the_counterfactual() -> None:
    oracle = oracle_on("gpt2")
    n = len(oracle.edges.edges)
    masks = torch.stack([torch.ones(n), torch.zeros(n)]).bool()
    got = oracle.edges.query(masks, direction="denoising", control=True, per_prompt=True)
    by_head = oracle.query(torch.zeros(1, *oracle.shape).bool(), direction="denoising")
    assert got.control is None
    torch.testing.assert_close(got.task[:1], torch.zeros(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(got.task[1:], by_head.task, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.per_prompt_task.mean(1), got.task, atol=1e-5, rtol=0)
    with pytest.raises(InvalidSpec, match="denoising"):
        oracle.edges.query(masks, direction="denoise")


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_slopes_of_denoising_are_those_of_its_answers(name: str) -> None:
    oracle = oracle_on(name)
    n, rng = len(oracle.edges.edges), torch.Generator().manual_seed(0)
    hard = torch.rand(1, n, generator=rng) < 0.5
    asked = oracle.edges.query(hard, direction="denoising", kl=True)
    at = oracle.edges.differentiate(hard, direction="denoising")
    assert at.values["task"][0] == pytest.approx(oracle.clean_metric - float(asked.task), abs=1e-4)
    assert at.values["kl"][0] == pytest.approx(float(asked.kl), abs=1e-4)
    soft = 0.25 + torch.rand(1, n, generator=rng) / 2
    step, h = torch.randn(1, n, generator=rng), 1e-2
    found = oracle.edges.differentiate(soft, direction="denoising")
    ends = [
        oracle.edges.differentiate(soft + sign * h * step, direction="denoising").values
        for sign in (1, -1)
    ]
    for of in ("task", "kl"):
        slope = float((found.gradients[of] * step).sum())
        assert float(ends[0][of] - ends[1][of]) / (2 * h) == pytest.approx(
            slope, rel=0.01, abs=1e-3
        )
    with pytest.raises(InvalidSpec, match="offsets"):
        oracle.edges.differentiate(
            soft, direction="denoising", offsets=torch.zeros(oracle.edges.offsets_shape)
        )


def test_the_meter_counts_edge_questions_however_they_are_answered() -> None:
    oracle = oracle_on("gpt2", ablation="resample")
    n = len(oracle.edges.edges)
    before = oracle.meter.copy()
    oracle.edges.query(~torch.eye(n).bool())
    spent = oracle.meter.since(before)
    assert (spent.queries, spent.forwards, spent.backwards) == (n, n + 1, 0)
    before = oracle.meter.copy()
    oracle.edges.query(torch.eye(n)[:5].bool(), direction="denoising", control=True)
    assert oracle.meter.since(before).forwards == 5  # the counterfactual pass is counted once
    before = oracle.meter.copy()
    oracle.edges.proximity()
    spent = oracle.meter.since(before)
    assert (spent.queries, spent.forwards, spent.backwards, spent.gradients) == (1, 1, 0, 0)


def test_every_edge_alone_equals_hooks() -> None:
    oracle = oracle_on("gpt2", ablation="resample")
    transformer, prompts = oracle._model.transformer, oracle.batch.source.prompts
    bridge = Hooked(transformer).bridge
    counterfactual = slow(transformer, prompts.counterfactual, {}, {})[1]
    clean = slow(transformer, prompts.tokens, {}, {})[1]
    got = oracle.edges.query(~torch.eye(len(oracle.edges.edges)).bool()).task
    for edge, damage in zip(oracle.edges.edges, got, strict=True):
        change = counterfactual[edge.sender] - clean[edge.sender]
        layer, *head = edge.receiver.split(".")
        stream: list[Any] = []

        def note(x: Any, hook: Any, stream: Any = stream) -> None:
            stream.append(x)

        def project(
            x: Any,
            hook: Any,
            layer: Any = layer,
            head: Any = head,
            d: Any = change,
            stream: Any = stream,
        ) -> Any:
            w, letter = transformer.layers[int(layer)], head[1].upper()
            n = torch.nn.functional.layer_norm(stream[0] + d, d.shape[-1:], w.ln1_w, w.ln1_b)
            place = int(head[0])
            x = x.clone()
            x[:, :, place] = n @ getattr(w, f"W_{letter}")[place] + getattr(w, f"b_{letter}")[place]
            return x

        def add(x: Any, hook: Any, d: Any = change) -> Any:
            return x + d

        hooks: list[Any]
        if head:
            hooks = [(f"blocks.{layer}.hook_resid_pre", note)]
            hooks += [(f"blocks.{layer}.attn.hook_{head[1]}", project)]
        else:
            logits = edge.receiver == "logits"
            hooks = [("ln_final.hook_in" if logits else f"blocks.{layer[1:]}.ln2.hook_in", add)]
        metric = prompts.metric(bridge.run_with_hooks(prompts.tokens, fwd_hooks=hooks)).mean()
        assert float(damage) == pytest.approx(oracle.clean_metric - float(metric), abs=1e-4), edge


def test_runs_are_kept_within_their_memory() -> None:
    oracle = oracle_on("gpt2")
    graph, forward = oracle.edges.graph, oracle.engine.forward
    kind, rng = ablation_named("resample"), np.random.default_rng(0)
    limit = 400_000
    answers = EdgeAnswers(
        graph, forward, oracle.batch, "task", kind, limit=limit, chunk_tokens=1000
    )
    for _ in range(20):
        answers.values(rng.random((1, len(graph.pairs))) < 0.5)
        assert sum(run.bytes for run in answers._known.values()) <= limit
    assert len(answers._known) > 1


def test_proximity_is_the_share_of_what_a_receiver_hears() -> None:
    oracle = oracle_on("gpt2")
    edges, prompts = oracle.edges, oracle.batch.source.prompts
    share = dict(zip(edges.edges, edges.proximity().tolist(), strict=True))
    outs = slow(oracle._model.transformer, prompts.tokens, {}, {})[1]
    bias = oracle._model.transformer.layers[0].b_O
    for receiver, begin in (("1.1.k", ("embed", "0.0", "0.1", "m0")), ("0.0.v", ("embed",))):
        stream = sum(outs[s] for s in begin) + (bias if receiver == "1.1.k" else 0)
        near = torch.stack(
            [(stream.abs().sum(-1) - (stream - outs[s]).abs().sum(-1)).clamp_min(0) for s in begin]
        )
        for sender, want in zip(begin, (near / near.sum(0)).mean((1, 2)).tolist(), strict=True):
            assert share[Edge(sender, receiver)] == pytest.approx(want, abs=1e-5)
    into_logits = [share[e] for e in edges.edges if e.receiver == "logits"]
    assert sum(into_logits) == pytest.approx(1, abs=1e-5)


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


def test_the_gradients_of_the_prompts_are_parts_of_the_mean_at_the_same_cost() -> None:
    oracle = oracle_on("gpt2")
    hard = torch.rand(2, len(oracle.edges.edges), generator=torch.Generator().manual_seed(0)) < 0.7
    whole = oracle.edges.differentiate(hard)
    spent = oracle.meter.copy()
    parts = oracle.edges.differentiate(hard, per_prompt=True)
    again = oracle.meter.copy()
    for count in ("queries", "backwards", "gradients"):
        assert getattr(again, count) == 2 * getattr(spent, count)
    for name in ("task", "kl"):
        assert parts.gradients[name].shape == (2, 4, len(oracle.edges.edges))
        assert torch.allclose(parts.gradients[name].mean(1), whole.gradients[name], atol=1e-5)
        assert torch.allclose(parts.values[name].mean(1), whole.values[name], atol=1e-5)
    damages = oracle.edges.query(hard, per_prompt=True).per_prompt_task
    clean = parts.values["task"] + damages
    assert torch.allclose(clean[0], clean[1], atol=1e-4)


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_offsets_move_what_stands_for_a_sender_and_have_derivatives(ablation: str) -> None:
    oracle = oracle_on("gpt2")
    rng = torch.Generator().manual_seed(0)
    soft = torch.rand(1, len(oracle.edges.edges), generator=rng)
    start, step = (torch.randn(2, *oracle.edges.offsets_shape, generator=rng) / 10).unbind()

    def asked(offsets: Any) -> Any:
        return oracle.edges.differentiate(soft, ablation=ablation, offsets=offsets)

    found, plain = asked(start), oracle.edges.differentiate(soft, ablation=ablation)
    assert not plain.offsets
    unmoved = asked(torch.zeros_like(start))
    for name in ("task", "kl"):
        assert torch.allclose(unmoved.values[name], plain.values[name], atol=1e-5)
        assert torch.allclose(unmoved.gradients[name], plain.gradients[name], atol=1e-5)
        h = 0.02
        ahead, behind = (asked(start + sign * h * step).values[name][0] for sign in (1, -1))
        slope = float((found.offsets[name][0] * step).sum())
        assert float(ahead - behind) / (2 * h) == pytest.approx(slope, abs=2e-3)
    assert oracle.meter.queries == 7 * 5  # offsets cost nothing beside the masks


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
