"""The same questions about edges: what if this receiver did not hear that sender?

A receiver (a head's query, key or value input, an MLP, the logits) reads the residual stream,
which is the sum of what all earlier senders (embedding, heads, MLPs) wrote. An ablated edge
replaces one sender's contribution to one receiver, everywhere else it stays (path patching:
Wang et al. 2022; the unit of ACDC, Conmy et al. 2023). The derivative by an edge's soft mask is
edge attribution patching (Syed et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitbench.core.circuit import Edge
from circuitbench.core.edges import graph_of
from circuitbench.core.errors import InvalidSpec
from circuitbench.models.forward import normalize, rotate
from circuitbench.oracle.ablations import ABLATIONS, Ablation, Half, ablation_named
from circuitbench.oracle.account import GRADIENT_COST, Account
from circuitbench.oracle.batch import Batch
from circuitbench.oracle.damages import Damages
from circuitbench.oracle.engine import readout
from circuitbench.oracle.engine.fast import FastEngine


class EdgeOracle:
    """Answers edge masks ``[n_masks, n_edges]`` (True = kept), metered and budgeted like heads.

    Use it as ``oracle.edges``. Edges are in the order of :attr:`edges`. A head's output is
    ``z @ W_O`` without ``b_O``; an MLP's includes its bias; the embedding's includes positions.

    Args:
        engine: has the model's weights.
        account: of the oracle whose budget and meter these questions are on.
        current: gives the batch that is asked about by default.
        ablation: name of the default kind.
        weight: of the control damage in the reward.
    """

    def __init__(
        self,
        engine: FastEngine,
        account: Account,
        current: Callable[[], Batch],
        *,
        ablation: str,
        weight: float,
    ) -> None:
        self._engine, self._account, self._current = engine, account, current
        self._default, self._weight = ablation, weight
        config = engine.forward.config
        self.graph = graph_of(config.n_layers, config.n_heads, config.d_mlp > 0)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, in the order of the masks' columns."""
        return self.graph.edges

    @cached_property
    def _place(self) -> dict[Edge, int]:
        return {edge: i for i, edge in enumerate(self.edges)}

    def without(self, edges: Iterable[Edge]) -> Tensor:
        """The mask ``[n_edges]`` that ablates some edges and keeps the rest.

        Raises :class:`InvalidSpec` for an edge the model does not have.
        """
        mask = torch.ones(len(self.edges), dtype=torch.bool)
        for edge in edges:
            if edge not in self._place:
                raise InvalidSpec(f"the model has no edge {edge}; e.g. {self.edges[0]}")
            mask[self._place[edge]] = False
        return mask

    @torch.no_grad()
    def query(
        self,
        masks: Tensor,
        *,
        ablation: str | None = None,
        control: bool = False,
        kl: bool = False,
        per_prompt: bool = False,
        batch: Batch | None = None,
    ) -> Damages:
        """Damages of edge masks ``[n_masks, n_edges]``, one query each.

        Args:
            masks: bool, True = kept.
            ablation: what replaces a sender's contribution, instead of the oracle's own kind.
            control: whether to measure control damage too.
            kl: whether to measure the KL divergence too.
            per_prompt: whether to give the task damage of each prompt too.
            batch: instead of the oracle's default one.

        Raises:
            BudgetExceeded: if the budget does not cover all masks; nothing is spent then.
            InvalidSpec: for an ablation that cannot replace every sender.
        """
        kind, batch = self._ablation(ablation), batch or self._current()
        kept = self._checked(masks)
        if not ((kept == 0) | (kept == 1)).all():
            raise InvalidSpec("a query's edge masks must be bool (soft masks are for gradients)")
        self._account.charge(len(kept))
        for _ in kept:
            self._account.ask(batch, kind, control=control)
        values, loss, divergence = [], [], []
        with self._account.timed():
            run = _Run(self, batch, "task", kind)
            text = _Run(self, batch, "control", kind) if control else None
            clean = run.final(torch.ones(len(self.edges))) if kl and len(kept) else None
            for mask in kept:
                final = run.final(mask)
                values.append(run.value_tensor(final).double().cpu())
                if clean is not None:
                    divergence.append(run.divergence(clean, final))
                if text is not None:
                    loss.append(text.value(text.final(mask)))
            metric, control_loss = batch.metric, batch.control_loss if control else 0.0
            clean_rows = torch.from_numpy(batch.clean(batch, "task")) if per_prompt else None
        each = torch.stack(values) if values else torch.zeros(0, len(batch)).double()
        return Damages(
            task=metric - torch.tensor([float(row.mean()) for row in values]),
            control=torch.tensor(loss) - control_loss if control else None,
            weight=self._weight,
            kl=torch.tensor(divergence) if kl else None,
            per_prompt_task=None if clean_rows is None else (clean_rows - each).float(),
        )

    def gradient(
        self, masks: Tensor, *, ablation: str | None = None, batch: Batch | None = None
    ) -> Tensor:
        """Derivative ``[n_masks, n_edges]`` of the task metric by soft edge masks, 3 queries each.

        At all-ones masks this is edge attribution patching, times minus one: the first-order
        estimate of what ablating the edge takes from the metric.
        """
        kind, batch = self._ablation(ablation), batch or self._current()
        soft = self._checked(masks)
        out = torch.zeros_like(soft)
        self._account.charge(GRADIENT_COST * len(soft))
        for _ in soft:
            self._account.ask(batch, kind, gradient=True)
        with self._account.timed():
            n = len(batch)
            run = _Run(self, batch, "task", kind)
            step = run.rows_at_once(len(self.graph.senders))
            for i, mask in enumerate(soft):
                for start in range(0, n, step):
                    rows = torch.arange(start, min(start + step, n))
                    gates = mask.clone().requires_grad_(True)
                    with torch.enable_grad():
                        value = run.value_tensor(run.final(gates, rows), rows)
                    out[i] += torch.autograd.grad(value.sum(), gates)[0] / n
        return out

    def _ablation(self, name: str | None) -> Ablation:
        ablation = ablation_named(self._default if name is None else name)
        if not ablation.edges:
            raise InvalidSpec(
                f"{ablation.name} ablation replaces heads only, not the embedding or MLPs, so it "
                f"knows no edges; valid: {', '.join(a.name for a in ABLATIONS.values() if a.edges)}"
            )
        return ablation

    def _checked(self, masks: Tensor) -> Tensor:
        masks = torch.as_tensor(masks)
        if masks.dim() != 2 or masks.shape[1] != len(self.edges):
            raise InvalidSpec(
                f"edge masks must be [n_masks, {len(self.edges)}], not {tuple(masks.shape)}"
            )
        soft = masks.detach().cpu().float()
        if not ((soft >= 0) & (soft <= 1)).all():
            raise InvalidSpec("edge masks must lie in [0, 1]")
        return soft


class _Run:
    """One half of a batch, run with edges ablated."""

    def __init__(self, edges: EdgeOracle, batch: Batch, half: Half, ablation: Ablation) -> None:
        self.graph, self.f, self.half = edges.graph, edges._engine.forward, half
        device = self.f.device
        self.index = torch.tensor(self.graph.pairs, device=device)  # [n_edges, 2]
        prompts, control = batch.source.prompts, batch.source.control
        rows = torch.from_numpy(batch.rows(half))
        self.prompts = prompts.take(rows).to(device) if half == "task" else None
        self.tokens = (prompts.tokens if half == "task" else control)[rows].to(device)
        self.directions = None
        if self.prompts is not None:
            self.directions = readout.Directions(self.f.weights.unembed, self.prompts)
        with torch.no_grad():  # [senders, batch or 1, pos, d_model], None is zero
            lengths = None if self.prompts is None else self.prompts.lengths
            self.ablated = ablation.senders(half, self._outputs_elsewhere, lengths)

    def _outputs_elsewhere(self) -> Tensor:
        """All senders' outputs on the counterfactual prompts, or on the control spans."""
        tokens = self.tokens if self.prompts is None else self.prompts.counterfactual
        everyone = torch.ones(len(self.graph.receivers), len(self.graph.senders))
        return self._forward(tokens, everyone.to(self.f.device), None, every_sender=True)[1]

    def rows_at_once(self, senders: int, limit: int = 1 << 29) -> int:
        """Prompts whose differentiable pass stays within ``limit`` bytes, at least one."""
        each = 4 * self.tokens.shape[1] * self.f.config.d_model * senders * self.f.n_layers
        return max(1, limit // each)

    def final(self, mask: Tensor, rows: Tensor | None = None) -> Tensor:
        """What the unembedding reads, ``[batch, pos, d_model]``, under an edge mask."""
        receiver, sender = self.index.unbind(1)
        keep = torch.ones(len(self.graph.receivers), len(self.graph.senders), device=self.f.device)
        keep = keep.index_put((receiver, sender), mask.to(self.f.device))
        tokens, ablated = self.tokens, self.ablated
        if rows is not None:
            tokens = tokens[rows]
            ablated = ablated if ablated is None or ablated.shape[1] == 1 else ablated[:, rows]
        return self._forward(tokens, keep, ablated)[0]

    def value_tensor(self, final: Tensor, rows: Tensor | None = None) -> Tensor:
        """Metric or control loss per row."""
        if self.directions is None or self.prompts is None:
            return readout.control_loss(self.f.weights.unembed, final, self.tokens)
        return self.directions.metric(self._read(final, rows)[None], rows)[0]

    def value(self, final: Tensor) -> float:
        """Metric or control loss, mean over rows."""
        return float(self.value_tensor(final).double().mean())

    def divergence(self, clean: Tensor, final: Tensor) -> float:
        """Mean KL(clean || ablated) at the metric's positions."""
        read = self._read(clean), self._read(final)[None]
        return float(readout.kl_divergence(self.f.weights.unembed, *read).mean())

    def _read(self, final: Tensor, rows: Tensor | None = None) -> Tensor:
        assert self.prompts is not None
        positions = self.prompts.positions if rows is None else self.prompts.positions[rows]
        return final[torch.arange(len(final), device=final.device)[:, None], positions]

    def _forward(
        self, tokens: Tensor, keep: Tensor, ablated: Tensor | None, every_sender: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Final normed stream, and the outputs of all senders if asked for."""
        f, cfg = self.f, self.f.config
        x = f.embed(tokens)
        cut = (1 - keep).detach().bool() if not keep.requires_grad else torch.ones_like(keep).bool()
        needed = cut.any(0) | every_sender  # senders that somebody must do without
        stream = _Senders(ablated, needed)
        stream.write(x[None])
        receiver = 0
        for layer, w in enumerate(f.weights.layers):
            mine = slice(receiver, receiver + 3 * cfg.n_heads)
            if cut[mine].any():
                z = self._heads(layer, stream.heard(x, keep[mine], cut[mine]))
            else:
                z = f.heads(layer, x)
            output = w.out.weight.T.unflatten(0, (cfg.n_heads, cfg.d_head))
            before = len(stream)
            if needed[before : before + cfg.n_heads].any():
                out = torch.einsum("bphk,hkd->hbpd", z, output)
                x = x + out.sum(0) + (0 if w.out.bias is None else w.out.bias)
                stream.write(out)
            else:
                x = f.add_attention(layer, x, z)
                stream.skip(cfg.n_heads)
            receiver = mine.stop
            if cfg.d_mlp:
                here = slice(receiver, receiver + 1)
                heard = stream.heard(x, keep[here], cut[here])[0] if cut[here].any() else x
                out = f.add_mlp(layer, heard) - heard
                x = x + out
                stream.write(out[None])
                receiver += 1
        if cut[receiver].any():
            x = stream.heard(x, keep[receiver:], cut[receiver:])[0]
        return f.final(x), stream.outputs()

    def _heads(self, layer: int, heard: Tensor) -> Tensor:
        """``z [batch, pos, n_heads, d_head]`` where every q, k and v has its own input.

        ``heard [3 * n_heads, batch, pos, d_model]``, ordered head by head.
        """
        f, cfg = self.f, self.f.config
        n = normalize(heard, cfg.normalization, cfg.norm_eps).unflatten(0, (cfg.n_heads, 3))
        qkv = f.weights.layers[layer].qkv
        assert qkv.bias is not None
        sizes = [heads * cfg.d_head for heads in (cfg.n_heads, cfg.n_kv_heads, cfg.n_kv_heads)]
        parts = []
        for i, (weight, bias) in enumerate(
            zip(qkv.weight.split(sizes), qkv.bias.split(sizes), strict=True)
        ):
            weight, bias = (t.unflatten(0, (-1, cfg.d_head)) for t in (weight, bias))
            weight, bias = (t.repeat_interleave(cfg.n_heads // len(t), 0) for t in (weight, bias))
            part = torch.einsum("hbpd,hkd->bhpk", n[:, i], weight) + bias[:, None]
            parts.append(part)
        q, k, v = parts
        if cfg.positions == "rotary":
            cos, sin = f.angles(q.shape[2])
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        return z.transpose(1, 2)


class _Senders:
    """What has been written to the residual stream so far, sender by sender."""

    def __init__(self, ablated: Tensor | None, needed: Tensor) -> None:
        self.ablated, self.needed = ablated, needed
        self._out: list[Tensor] = []
        self._index: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def write(self, out: Tensor) -> None:
        """``[new senders, batch, pos, d_model]``; kept for those that are needed."""
        for i, one in enumerate(out):
            if self.needed[self._count + i]:
                self._out.append(one)
                self._index.append(self._count + i)
        self._count += len(out)

    def skip(self, n: int) -> None:
        """``n`` senders that nobody does without."""
        self._count += n

    def outputs(self) -> Tensor:
        """``[needed senders, batch, pos, d_model]``."""
        return torch.stack(self._out) if self._out else torch.empty(0)

    def heard(self, x: Tensor, keep: Tensor, cut: Tensor) -> Tensor:
        """What receivers hear, ``[receivers, batch, pos, d_model]``.

        ``keep`` and ``cut`` are ``[receivers, senders]``; each hears the stream ``x`` plus, for
        every sender it should do without, that sender's replacement minus its output.
        """
        index = [i for i in self._index if cut[:, i].any()]
        if not index:
            return x.expand(len(keep), *x.shape)
        out = torch.stack([self._out[self._index.index(i)] for i in index])
        change = -out if self.ablated is None else self.ablated[index] - out
        return x + torch.einsum("rs,sbpd->rbpd", 1 - keep[:, index], change)
