"""Every backward rule by what it changes, and edges' attributions, against autograd written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle_kit import ARCHITECTURES, RandomTask, random_model, transformer_of
from torch import Tensor

from circuitbench.core.errors import BudgetExceeded, InvalidSpec
from circuitbench.models.base import Model
from circuitbench.models.forward import activate, rotary_angles, rotate
from circuitbench.oracle import Oracle
from circuitbench.oracle.edge_attribution import Attribution
from circuitbench.oracle.paths import GradPath, Straight
from circuitbench.oracle.rules import RULES
from circuitbench.tasks.base import Prompts, spans_at

MODELS = {name: random_model(2, n_layers=2, **shape) for name, shape in ARCHITECTURES.items()}


class Spanned(RandomTask):
    """Random prompts that name three of their positions."""

    def prompts(self, model: Model, n: int, rng: Any) -> Prompts:
        drawn = super().prompts(model, n, rng)
        last = torch.arange(n) % 3 + 5
        spans = spans_at(n, {"first": 0, "middle": torch.tensor([[2, 4]]), "late": last})
        return Prompts(**{**vars(drawn), "spans": spans})


def oracle_on(name: str, task: Any = None, **options: Any) -> Oracle:
    options = {"batch_size": 4, **options}
    return Oracle(MODELS[name], task or RandomTask(k=2), task_name="x", seed=0, **options)


# A model written out once more: plain, every input of a receiver its own tensor, and with the
# backward rule spelt as a surrogate whose true gradient is the rule's.


class Written:
    def __init__(self, oracle: Oracle, rule: str = "exact") -> None:
        self.t: Any = transformer_of(oracle._model)
        self.cfg, self.rule = self.t.config, rule
        self.prompts = oracle.batch.source.prompts
        self.outs: list[Tensor] = []
        self.heard: dict[str, Tensor] = {}
        self.qk: list[tuple[Tensor, Tensor]] = []
        self.other: Written | None = None
        if rule == "atp-qk":
            self.other = Written(oracle)
            self.other.run(self.prompts.counterfactual)

    def share(self, x: Tensor, share: float) -> Tensor:
        return x * share + x.detach() * (1 - share)

    def norm(self, x: Tensor, w: Any, b: Any) -> Tensor:
        if self.cfg.normalization == "none":
            return x
        if self.cfg.normalization == "layer":
            x = x - x.mean(-1, keepdim=True)
        scale = (x.pow(2).mean(-1, keepdim=True) + self.cfg.norm_eps).sqrt()
        scale = scale.detach() if self.rule in ("gim", "relp", "relp-frozen") else scale
        x = x / scale * w
        return x if b is None else x + b

    def pattern(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        past = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()

        def soft(q: Tensor, k: Tensor, heat: float = 1.0) -> Tensor:
            scores = q @ k.transpose(-1, -2) * self.cfg.attn_scale / heat
            return scores.masked_fill(~past, -torch.inf).softmax(-1)

        if self.rule == "relp-frozen":
            return soft(q, k).detach()
        if self.rule == "gim":
            q, k = self.share(q, 0.25), self.share(k, 0.25)
            warm = 2 * soft(q, k, 2.0)  # twice: the package leaves out the inner 1/2
            return soft(q, k).detach() + warm - warm.detach()
        return soft(q, k)

    def run(self, tokens: Tensor, gates: Any = None, swap: Any = None, moved: Any = None) -> Tensor:
        """Logits; ``gates [n_layers, n_heads]`` mix z with ``swap``, ``moved`` replaces outputs."""
        t, cfg = self.t, self.cfg
        moved = moved or {}
        self.outs, self.heard, self.qk, self.z = [], {}, [], []

        def hear(name: str, x: Tensor) -> Tensor:
            self.heard[name] = x + torch.zeros_like(x).requires_grad_()
            if self.heard[name].requires_grad:
                self.heard[name].retain_grad()
            return self.heard[name]

        def say(out: Tensor) -> Tensor:
            out = moved.get(len(self.outs), out)
            self.outs.append(out)
            return out

        x = t.W_E[tokens]
        x = x if t.W_pos is None else x + t.W_pos[: tokens.shape[1]]
        x = say(x)
        for i, w in enumerate(t.layers):
            parts = []
            for letter, W, b in (("q", w.W_Q, w.b_Q), ("k", w.W_K, w.b_K), ("v", w.W_V, w.b_V)):
                W, b = (m.repeat_interleave(cfg.n_heads // len(m), 0) for m in (W, b))
                heads = [
                    self.norm(hear(f"{i}.{h}.{letter}", x), w.ln1_w, w.ln1_b) @ W[h] + b[h]
                    for h in range(cfg.n_heads)
                ]
                parts.append(torch.stack(heads, 1))
            q, k, v = parts
            if cfg.positions == "rotary":
                cos, sin = rotary_angles(cfg, tokens.shape[1], q.device)
                q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            self.qk.append((q, k))
            v = self.share(v, 0.5) if self.rule == "gim" else v
            z = self.pattern(i, q, k) @ v
            self.z.append(z)
            if gates is not None:
                gate = gates[i][:, None, None]
                z = gate * z + (1 - gate) * (0 if swap is None else swap[i])
            for h in range(cfg.n_heads):
                x = x + say(z[:, h] @ w.W_O[h])
            x = x + w.b_O
            if cfg.d_mlp:
                n = self.norm(hear(f"m{i}", x), w.ln2_w, w.ln2_b)
                pre = n @ (w.W_in if w.W_gate is None else w.W_gate)
                pre = pre if w.W_gate is not None or w.b_in is None else pre + w.b_in
                act = activate(pre, cfg.activation)
                if self.rule.startswith("relp"):
                    act = pre * (act / pre).detach()
                if w.W_gate is not None:
                    up = n @ w.W_in
                    if self.rule != "exact":
                        act, up = self.share(act, 0.5), self.share(up, 0.5)
                    act = act * up
                out = act @ w.W_out
                x = x + say(out if w.b_out is None else out + w.b_out)
        n = self.norm(hear("logits", x), t.lnf_w, t.lnf_b)
        logits: Tensor = n @ t.W_U + t.b_U
        return logits

    def metric(self, logits: Tensor) -> Tensor:
        return self.prompts.metric(logits).mean()

    def divergence(self, logits: Tensor) -> Tensor:
        rows = torch.arange(len(self.prompts))[:, None]
        with torch.no_grad():
            clean = Written.__new__(Written)
            clean.__dict__ |= self.__dict__
            log_p = clean.run(self.prompts.tokens)[rows, self.prompts.positions].log_softmax(-1)
        log_q = logits[rows, self.prompts.positions].log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("rule", ["exact", "gim", "relp", "relp-frozen"])
def test_gradients_of_heads_follow_the_rule(name: str, rule: str) -> None:
    oracle = oracle_on(name)
    written = Written(oracle, rule)
    with torch.no_grad():
        written.run(written.prompts.counterfactual)
        swap = list(written.z)
    gates = torch.rand(oracle.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    logits = written.run(written.prompts.tokens, gates, swap)
    found = oracle.differentiate(gates.detach()[None], ablation="resample", rule=rule)
    for of, value in (("task", written.metric(logits)), ("kl", written.divergence(logits))):
        (want,) = torch.autograd.grad(value, gates, retain_graph=True)
        torch.testing.assert_close(found.values[of][0], value.detach(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.gradients[of][0], want, atol=1e-4, rtol=1e-3)
    if rule != "exact" and transformer_of(oracle._model).config.normalization != "none":
        exact = oracle.gradient(gates.detach()[None], ablation="resample")
        assert (exact - found.gradients["task"]).abs().max() > 1e-3  # it does change something


def by_receiver(written: Written, moved: Any, of: str, change: list[Tensor]) -> dict[str, Tensor]:
    """``change . d value / d input`` of every receiver, ``[senders, batch, pos]``."""
    logits = written.run(written.prompts.tokens, moved=moved)
    heard = dict(written.heard)
    value = written.metric(logits) if of == "task" else written.divergence(logits)
    slopes = torch.autograd.grad(value, list(heard.values()))
    return {
        receiver: torch.stack([(slope * c).sum(-1) for c in change])
        for receiver, slope in zip(heard, slopes, strict=True)
    }


def written_ends(written: Written) -> tuple[list[Tensor], list[Tensor]]:
    """All senders' outputs on the counterfactuals and on the prompts."""
    with torch.no_grad():
        written.run(written.prompts.counterfactual)
        ablated = list(written.outs)
        written.run(written.prompts.tokens)
    return ablated, list(written.outs)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("rule", ["exact", "gim", "relp"])
@pytest.mark.parametrize("senders", [("embed",), ("0.1", "1.0")])
def test_attributions_equal_autograd_at_every_point(name: str, rule: str, senders: Any) -> None:
    oracle = oracle_on(name)
    written = Written(oracle, rule)
    ablated, clean = written_ends(written)
    change = [c - a for c, a in zip(clean, ablated, strict=True)]
    graph = oracle.edges.graph
    of: Any = "kl" if rule == "exact" else "task"
    alphas = (0.0, 0.4)
    path = Straight(alphas, senders)
    got = oracle.edges.attribution(path, ablation="resample", rule=rule, of=of)
    assert got.shape == (2, len(graph.edges))
    for alpha, row in zip(alphas, got, strict=True):
        places = [graph.senders.index(s) for s in senders]
        moved = {s: ablated[s] + alpha * change[s] for s in places}
        told = by_receiver(written, moved, of, change)
        want = [told[edge.receiver][graph.senders.index(edge.sender)].sum() for edge in graph.edges]
        torch.testing.assert_close(row, torch.stack(want), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_at_the_clean_point_an_attribution_is_the_gradient_by_the_gate(
    name: str, rule: str, ablation: str
) -> None:
    oracle = oracle_on(name)
    whole = torch.ones(1, len(oracle.edges.edges))
    by_gate = oracle.edges.gradient(whole, ablation=ablation, rule=rule)
    got = oracle.edges.attribution(ablation=ablation, rule=rule)
    torch.testing.assert_close(got, by_gate, atol=1e-4, rtol=1e-3)


def test_attributions_of_the_prompts_are_parts_of_the_mean_at_the_same_cost() -> None:
    oracle = oracle_on("gpt2")
    path = Straight((0.0, 0.5))
    whole = oracle.edges.attribution(path)
    spent = oracle.meter.queries
    parts = oracle.edges.attribution(path, per_prompt=True)
    assert oracle.meter.queries == 2 * spent
    assert parts.shape == (2, len(oracle.batch), len(oracle.edges.edges))
    torch.testing.assert_close(parts.mean(1), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_heads_edges_sum_to_its_own_attribution(name: str, rule: str) -> None:
    oracle = oracle_on(name)
    nodes = oracle.gradient(torch.ones(1, *oracle.shape), ablation="resample", rule=rule)[0]
    edges = oracle.edges.attribution(ablation="resample", rule=rule)[0]
    sums = torch.zeros(oracle.shape)
    for edge, value in zip(oracle.edges.edges, edges, strict=True):
        if "." in edge.sender:
            layer, head = map(int, edge.sender.split("."))
            sums[layer, head] += value
    torch.testing.assert_close(sums, nodes, atol=1e-4, rtol=1e-3)


def test_integrated_inputs_sum_to_the_difference_of_the_metric() -> None:
    for name in ("gpt2", "llama"):
        oracle = oracle_on(name)
        written = Written(oracle)
        with torch.no_grad():
            ends = [
                float(written.metric(written.run(tokens)))
                for tokens in (written.prompts.counterfactual, written.prompts.tokens)
            ]
        points = 64
        path = Straight(tuple((i + 0.5) / points for i in range(points)))
        edges = oracle.edges.attribution(path, ablation="resample").mean(0)
        of_embed = torch.tensor([edge.sender == "embed" for edge in oracle.edges.edges])
        assert float(edges[of_embed].sum()) == pytest.approx(ends[1] - ends[0], abs=2e-3)


def test_the_qk_fix_is_what_patching_a_query_or_a_key_does_to_the_pattern() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k, q2, k2 = (3 * torch.randn(2, 3, 5, 4, generator=rng) for _ in range(4))
    v = torch.randn(2, 3, 5, 4, generator=rng)
    grad = torch.randn(2, 3, 5, 4, generator=rng)
    rule = RULES["atp-qk"]
    q, k = q.requires_grad_(), k.requires_grad_()
    z = rule.attention(q, k, v, None, (q2, k2))  # type: ignore[arg-type]
    to_q, to_k = torch.autograd.grad((z * grad).sum(), (q, k))
    plain = RULES["exact"].attention
    with torch.no_grad():
        torch.testing.assert_close(z, plain(q, k, v, None, None), atol=1e-5, rtol=1e-5)
        change = (plain(q2, k, v, None, None) - z) * grad  # equation 7, a query at a time
        torch.testing.assert_close(((q2 - q) * to_q).sum(-1), change.sum(-1), atol=1e-4, rtol=1e-3)
        for key in range(5):  # equation 9, one key at a time
            one = k.clone()
            one[:, :, key] = k2[:, :, key]
            change = (plain(q, one, v, None, None) - z) * grad
            got = ((k2 - k) * to_k).sum(-1)[:, :, key]
            torch.testing.assert_close(got, change.sum((-1, -2)), atol=1e-4, rtol=1e-3)


def test_a_dropped_layer_passes_nothing_back() -> None:
    oracle = oracle_on("gpt2")
    whole = torch.ones(1, *oracle.shape)
    got = oracle.gradient(whole, rule=RULES["exact"].dropping(1))[0]
    assert not got[1].any()
    edges = oracle.edges.attribution(ablation="zero")[0]
    direct = torch.zeros(oracle.n_heads)  # of layer 0, on all ways round layer 1
    for edge, value in zip(oracle.edges.edges, edges, strict=True):
        if edge.sender.startswith("0.") and edge.receiver == "logits":
            direct[int(edge.sender[2:])] += value
    through = oracle.edges.attribution(ablation="zero", rule=RULES["exact"].dropping(1))[0]
    for edge, value in zip(oracle.edges.edges, through, strict=True):
        if edge.receiver.startswith(("1.", "m1")):
            assert value == 0
        elif edge.sender.startswith("0.") and edge.receiver == "m0":
            direct[int(edge.sender[2:])] += value
    torch.testing.assert_close(got[0], direct, atol=1e-4, rtol=1e-3)


def test_spans_part_the_attribution_and_queries_look_from_their_own() -> None:
    oracle = oracle_on("llama", Spanned())
    edges = oracle.edges
    assert edges.spans == ("first", "middle", "late", "rest")
    parts = edges.attribution(ablation="resample", by_span=True)
    assert parts.shape == (1, len(edges.edges), 4, 4)
    whole = edges.attribution(ablation="resample")
    torch.testing.assert_close(parts.sum((-1, -2)), whole, atol=1e-4, rtol=1e-3)
    written = Written(oracle)
    ablated, clean = written_ends(written)
    change = [c - a for c, a in zip(clean, ablated, strict=True)]
    told = by_receiver(written, {}, "task", change)
    members = list(written.prompts.members().values())
    for i, edge in enumerate(edges.edges):
        by_position = told[edge.receiver][edges.graph.senders.index(edge.sender)]
        by_sender = torch.stack([by_position[m].sum() for m in members])
        torch.testing.assert_close(parts[0, i].sum(1), by_sender, atol=1e-4, rtol=1e-3)
        if not edge.receiver.endswith((".k", ".v")):
            assert not (parts[0, i] * (1 - torch.eye(4))).any()
    # No query looks ahead: the first position hears nothing of later ones.
    assert not parts[0, :, 1:, 0].any()
    # Freezing all queries but those of one span leaves that span's column of keys and values.
    assert parts[0, :, 0, 1].abs().max() > 1e-4


def test_the_gradient_path_goes_towards_the_answer_on_the_counterfactual() -> None:
    oracle = oracle_on("gpt2")
    run = oracle.edges._run(oracle.batch, "task", _resample())
    attribution = Attribution(run, "task", by_span=False)
    rows = torch.arange(len(oracle.batch))
    points = list(attribution._gradient_path(3, rows))
    written = Written(oracle)
    ablated, clean = written_ends(written)
    read = torch.arange(len(rows))[:, None], written.prompts.positions
    with torch.no_grad():
        target = written.run(written.prompts.counterfactual)[read]
    at = clean[0]
    for point in points:
        here = at.clone().requires_grad_()
        logits = written.run(written.prompts.tokens, moved={0: here})[read]
        (slope,) = torch.autograd.grad((logits - target).square().sum(), here)
        at = at - slope / slope.flatten(1).norm(dim=1)[:, None, None]
        torch.testing.assert_close(point, at, atol=1e-4, rtol=1e-3)
    got = oracle.edges.attribution(GradPath(3), ablation="resample")
    change = [c - a for c, a in zip(clean, ablated, strict=True)]
    for row, point in zip(got, points, strict=True):
        told = by_receiver(written, {0: point}, "task", change)
        graph = oracle.edges.graph
        want = [told[e.receiver][graph.senders.index(e.sender)].sum() for e in graph.edges]
        torch.testing.assert_close(row, torch.stack(want), atol=1e-4, rtol=1e-3)


def _resample() -> Any:
    from circuitbench.oracle.ablations import ABLATIONS

    return ABLATIONS["resample"]


def test_attributions_are_metered_by_the_same_rule() -> None:
    oracle = oracle_on("attention-only", budget=3 * 2 + 6 * 2)
    before = oracle.meter.copy()
    oracle.edges.attribution(Straight((0.0, 0.5)), ablation="resample")
    oracle.edges.attribution(GradPath(2), ablation="resample")
    spent = oracle.meter.since(before)
    assert (spent.queries, spent.gradients, spent.backwards) == (18, 6, 6)
    assert spent.forwards == 7  # and the counterfactual pass, once
    with pytest.raises(BudgetExceeded):
        oracle.edges.attribution(ablation="resample")


def test_bad_questions_of_rules_and_paths_are_refused() -> None:
    oracle = oracle_on("attention-only")
    with pytest.raises(InvalidSpec, match=r"no backward rule 'gmi'.*gim"):
        oracle.gradient(torch.ones(1, *oracle.shape), rule="gmi")
    with pytest.raises(InvalidSpec, match="control text"):
        oracle.gradient(torch.ones(1, *oracle.shape), of="reward", rule="atp-qk")
    with pytest.raises(InvalidSpec, match=r"no sender '0\.9'"):
        oracle.edges.attribution(Straight((1.0,), ("0.9",)))
    with pytest.raises(InvalidSpec, match=r"in \[0, 1\]"):
        Straight((1.5,))
    with pytest.raises(InvalidSpec, match="resample, not mean"):
        oracle.edges.attribution(GradPath(), ablation="mean")
    with pytest.raises(InvalidSpec, match="name no positions"):
        oracle.edges.attribution(by_span=True)
    assert oracle.meter.queries == 0
