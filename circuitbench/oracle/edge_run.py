"""Runs the model with edges ablated: who hears whom, sender by sender."""

from __future__ import annotations

import torch
from torch import Tensor

from circuitbench.core.circuit import Direction
from circuitbench.core.edges import Graph
from circuitbench.models.forward import rotate
from circuitbench.oracle.ablations import Ablation, Half
from circuitbench.oracle.batch import Batch
from circuitbench.oracle.engine import readout
from circuitbench.oracle.engine.layers import Forward
from circuitbench.oracle.rules import EXACT, Attended, Rule


class EdgeRun:
    """One half of a batch, run with edges ablated.

    In ``denoising`` the counterfactual prompts run, and a kept edge carries what its sender writes
    on the prompts; the kind of ablation plays no part.
    """

    def __init__(
        self,
        graph: Graph,
        forward: Forward,
        batch: Batch,
        half: Half,
        ablation: Ablation,
        rule: Rule = EXACT,
        direction: Direction = "noising",
    ) -> None:
        self.graph, self.f, self.half, self.rule = graph, forward, half, rule
        self.denoising = direction == "denoising"
        device = self.f.device
        self.index = torch.tensor(self.graph.pairs, device=device)  # [n_edges, 2]
        prompts, control = batch.source.prompts, batch.source.control
        rows = torch.from_numpy(batch.rows(half))
        self.prompts = prompts.take(rows).to(device) if half == "task" else None
        if self.prompts is None:
            self.tokens = other = control[rows].to(device)
        else:
            clean, counter = self.prompts.tokens, self.prompts.counterfactual
            self.tokens, other = (counter, clean) if self.denoising else (clean, counter)
        self.directions = None
        if self.prompts is not None:
            self.directions = readout.Directions(self.f.weights.unembed, self.prompts)
        self.references: list[Attended] | None = None
        with torch.no_grad():
            if rule.reference and self.prompts is not None:
                self.references = self.f.attended(other)
            # [senders, batch or 1, pos, d_model], None is zero
            lengths = None if self.prompts is None else self.prompts.lengths
            self.ablated: Tensor | None
            if self.denoising:
                self.ablated = self.outputs(other)
            else:
                self.ablated = ablation.senders(half, lambda: self.outputs(other), lengths)

    def outputs(self, tokens: Tensor) -> Tensor:
        """All senders' outputs ``[senders, batch, pos, d_model]`` in the intact model."""
        everyone = torch.ones(len(self.graph.receivers), len(self.graph.senders))
        return self._forward(tokens, everyone.to(self.f.device), None, every_sender=True)[1]

    def rows_at_once(self, senders: int, limit: int = 1 << 29) -> int:
        """Prompts whose differentiable pass stays within ``limit`` bytes, at least one."""
        each = 4 * self.tokens.shape[1] * self.f.config.d_model * senders * self.f.n_layers
        return max(1, limit // each)

    def final(
        self, mask: Tensor, rows: Tensor | None = None, offsets: Tensor | None = None
    ) -> Tensor:
        """What the unembedding reads, ``[batch, pos, d_model]``, under an edge mask.

        ``offsets [senders, d_model]`` are added to what stands for the senders' outputs.
        """
        receiver, sender = self.index.unbind(1)
        keep = torch.ones(len(self.graph.receivers), len(self.graph.senders), device=self.f.device)
        mask = mask.to(self.f.device)
        keep = keep.index_put((receiver, sender), 1 - mask if self.denoising else mask)
        tokens, ablated = self.tokens, self.ablated
        if rows is not None:
            tokens = tokens[rows]
            ablated = ablated if ablated is None or ablated.shape[1] == 1 else ablated[:, rows]
        if offsets is not None:
            shift = offsets[:, None, None].to(self.f.device)
            ablated = shift if ablated is None else ablated + shift
        return self._forward(tokens, keep, ablated, rows=rows)[0]

    def value_tensor(self, final: Tensor, rows: Tensor | None = None) -> Tensor:
        """Metric or control loss per row."""
        if self.directions is None or self.prompts is None:
            return readout.control_loss(self.f.weights.unembed, final, self.tokens)
        return self.directions.metric(self.read(final, rows)[None], rows)[0]

    def value(self, final: Tensor) -> float:
        """Metric or control loss, mean over rows."""
        return float(self.value_tensor(final).double().mean())

    def divergence(self, clean: Tensor, final: Tensor, rows: Tensor | None = None) -> Tensor:
        """KL(clean || ablated) per row, mean over the metric's positions."""
        read = self.read(clean, rows), self.read(final, rows)[None]
        return readout.kl_divergence(self.f.weights.unembed, *read)[0]

    def read(self, final: Tensor, rows: Tensor | None = None) -> Tensor:
        """What is at the metric's positions, ``[batch, k, d_model]``."""
        assert self.prompts is not None
        positions = self.prompts.positions if rows is None else self.prompts.positions[rows]
        return final[torch.arange(len(final), device=final.device)[:, None], positions]

    def _forward(
        self,
        tokens: Tensor,
        keep: Tensor,
        ablated: Tensor | None,
        every_sender: bool = False,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Final normed stream, and the outputs of all senders if asked for.

        ``rows`` says which of the batch ``tokens`` are, where they are not all of it.
        """
        f, cfg = self.f, self.f.config
        rule = self.rule if torch.is_grad_enabled() else EXACT
        x = f.embed(tokens)
        cut = (1 - keep).detach().bool() if not keep.requires_grad else torch.ones_like(keep).bool()
        cut = cut.cpu()  # what is decided by it does not wait for a GPU each time
        needed = cut.any(0) | every_sender  # senders that somebody must do without
        stream = Senders(ablated, needed)
        stream.write(x[None])
        receiver = 0
        for layer, w in enumerate(f.weights.layers):
            mine = slice(receiver, receiver + 3 * cfg.n_heads)
            layer_input = x
            if cut[mine].any():
                heard = stream.heard(x, keep[mine], cut[mine]).unflatten(0, (cfg.n_heads, 3))
                q, k, v = (self.project(layer, i, heard[:, i], rule) for i in range(3))
                z = rule.attention(q, k, v, None, self.reference(layer, rows)).transpose(1, 2)
            else:
                z = f.heads(layer, x, rule=rule, reference=self.reference(layer, rows))
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
                out = f.add_mlp(layer, heard, rule) - heard
                x = x + out
                stream.write(out[None])
                receiver += 1
            x = rule.after(layer, layer_input, x)
        if cut[receiver].any():
            x = stream.heard(x, keep[receiver:], cut[receiver:])[0]
        return f.final(x, rule), stream.outputs()

    def reference(self, layer: int, rows: Tensor | None) -> Attended | None:
        """What the backward rule wants to know of the counterfactual prompts."""
        if self.references is None or rows is None:
            return None if self.references is None else self.references[layer]
        return Attended(*(part[rows] for part in self.references[layer]))

    def project(self, layer: int, which: int, heard: Tensor, rule: Rule = EXACT) -> Tensor:
        """Queries (scaled), keys or values (``which`` 0, 1, 2), rotated.

        Every head has its own input: ``[n_heads, batch, pos, d_model]`` to
        ``[batch, n_heads, pos, d_head]``.
        """
        f, cfg = self.f, self.f.config
        n = rule.norm(heard, cfg.normalization, cfg.norm_eps)
        qkv = f.weights.layers[layer].qkv
        assert qkv.bias is not None
        sizes = [heads * cfg.d_head for heads in (cfg.n_heads, cfg.n_kv_heads, cfg.n_kv_heads)]
        weight, bias = (t.split(sizes)[which] for t in (qkv.weight, qkv.bias))
        weight, bias = (t.unflatten(0, (-1, cfg.d_head)) for t in (weight, bias))
        weight, bias = (t.repeat_interleave(cfg.n_heads // len(t), 0) for t in (weight, bias))
        part: Tensor = torch.einsum("hbpd,hkd->bhpk", n, weight) + bias[:, None]
        if cfg.positions == "rotary" and which < 2:
            part = rotate(part, *f.angles(part.shape[2]))
        return part


class Senders:
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
        lacked = cut.any(0).tolist()
        index = [i for i in self._index if lacked[i]]
        if not index:
            return x.expand(len(keep), *x.shape)
        out = torch.stack([self._out[self._index.index(i)] for i in index])
        change = -out if self.ablated is None else self.ablated[index] - out
        return x + torch.einsum("rs,sbpd->rbpd", 1 - keep[:, index], change)
