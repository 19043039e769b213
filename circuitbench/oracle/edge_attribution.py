"""Derivatives by what every receiver hears, taken anywhere, times what a sender has to say.

An edge's attribution at a point is ``(z_clean - z_ablated) . d value / d input`` of its sender's
outputs on the two ends and its receiver's input at that point. At the intact model it is the
derivative by the edge's gate (edge attribution patching, Syed et al. 2023, arXiv 2310.10348).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from circuitbench.oracle.edge_run import EdgeRun
from circuitbench.oracle.engine import readout
from circuitbench.oracle.paths import GradPath, Path
from circuitbench.oracle.rules import EXACT


class Attribution:
    """Attributions of all edges at the points of a path.

    Args:
        run: of the prompts; its ablation is the other end.
        of: ``task`` or ``kl``.
        by_span: whether to tell positions apart, by the spans the prompts name.
    """

    def __init__(self, run: EdgeRun, of: str, by_span: bool) -> None:
        assert run.prompts is not None  # control text has no counterfactuals
        self.run, self.of = run, of
        self.f, self.graph = run.f, run.graph
        with torch.no_grad():
            self.clean = run.outputs(run.tokens)
            ablated = torch.zeros_like(self.clean) if run.ablated is None else run.ablated
            self.ablated = ablated.expand_as(self.clean)
            everything = torch.ones(len(self.graph.pairs))
            self.intact = run.final(everything) if of == "kl" else None
        # Which positions are told apart, [batch, pos, n_spans].
        self.members: Tensor | None = None
        if by_span:
            spans = run.prompts.members()
            self.members = torch.stack(list(spans.values()), -1).float()

    @property
    def n_spans(self) -> int:
        """Spans that are told apart; 1 where none are."""
        return 1 if self.members is None else self.members.shape[-1]

    def along(self, path: Path, per_prompt: bool = False) -> Tensor:
        """Means over the prompts ``[n_points, n_edges, sender's span, receiver's span]``.

        With ``per_prompt`` every prompt's own, ``[n_points, n_prompts, n_edges, ...]``.
        """
        n, spans = len(self.run.tokens), self.n_spans
        receiver, sender = self.run.index.cpu().unbind(1)
        sums = torch.zeros(path.n_points, n if per_prompt else 1, len(sender), spans, spans)
        widest = 3 * self.f.config.n_heads * spans + 2
        step = 1 if per_prompt else self.run.rows_at_once(widest)
        for start in range(0, n, step):
            rows = torch.arange(start, min(start + step, n), device=self.f.device)
            for point, moved in enumerate(self._points(path, rows)):
                found = self._at(moved, rows).cpu()[receiver, sender]
                sums[point, start if per_prompt else 0] += found
        return sums if per_prompt else sums[:, 0] / n

    def _points(self, path: Path, rows: Tensor) -> Iterator[Mapping[int, Tensor]]:
        """At every point what senders put out instead, ``[batch, pos, d_model]`` by sender."""
        if isinstance(path, GradPath):
            for embedded in self._gradient_path(path.steps, rows):
                yield {0: embedded}
            return
        moving = [self.graph.senders.index(name) for name in path.senders]
        for alpha in path.alphas:
            yield {
                s: self.ablated[s, rows] + alpha * (self.clean[s, rows] - self.ablated[s, rows])
                for s in moving
            }

    def _gradient_path(self, steps: int, rows: Tensor) -> Iterator[Tensor]:
        unembed = self.f.weights.unembed

        def logits(embedded: Tensor) -> Tensor:
            final = self._final({0: embedded}, rows, None)
            return readout.logits_at(unembed, self.run.read(final, rows))

        with torch.no_grad():
            target = logits(self.ablated[0, rows])
        embedded = self.clean[0, rows]
        for _ in range(steps):
            given = embedded.detach().requires_grad_()
            with torch.enable_grad():
                distance = (logits(given) - target).square().sum()
                (slope,) = torch.autograd.grad(distance, given)
            size = slope.flatten(1).norm(dim=1).clamp_min(1e-12)
            embedded = embedded - slope / size[:, None, None]
            yield embedded

    def _at(self, moved: Mapping[int, Tensor], rows: Tensor) -> Tensor:
        """Sums over prompts ``[receivers, senders, sender's span, receiver's span]``."""
        inputs: list[Tensor] = []
        with torch.enable_grad():
            final = self._final(moved, rows, inputs)
            if self.intact is None:
                value = self.run.value_tensor(final, rows)
            else:
                value = self.run.divergence(self.intact[rows], final, rows)
            slopes = torch.autograd.grad(
                value.sum(), inputs, allow_unused=True, materialize_grads=True
            )
        change = self.clean[:, rows] - self.ablated[:, rows]
        spans = self.n_spans
        found = change.new_zeros(len(self.graph.receivers), len(change), spans, spans)
        start = 0
        for slope in slopes:  # [receivers, spans or 1, batch, pos, d_model]
            here = slice(start, start + len(slope))
            if self.members is None:
                found[here, :, 0, 0] = slope[:, 0].flatten(1) @ change.flatten(1).T
            else:
                members = self.members[rows]
                for mine in range(spans):
                    told = (change * members[..., mine, None]).flatten(1).T
                    if slope.shape[1] == 1:  # these hear where they are
                        found[here, :, mine, mine] = slope[:, 0].flatten(1) @ told
                    else:  # keys and values, by who looks at them
                        found[here, :, mine] = (slope.flatten(2) @ told).transpose(1, 2)
            start += len(slope)
        return found[self._order]

    @property
    def _order(self) -> Tensor:
        """Where each receiver is in ``_final``'s inputs: all queries of a layer, keys, values."""
        heads, order, start = self.f.config.n_heads, [], 0
        for _ in range(self.f.n_layers):
            order += [start + which * heads + h for h in range(heads) for which in range(3)]
            start += 3 * heads
            if self.f.config.d_mlp:
                order.append(start)
                start += 1
        return torch.tensor([*order, start], device=self.f.device)

    def _final(
        self, moved: Mapping[int, Tensor], rows: Tensor, inputs: list[Tensor] | None
    ) -> Tensor:
        """What the unembedding reads, some senders' outputs replaced.

        ``inputs``, if given, gets what receivers hear ``[receivers, n_spans or 1, batch, pos,
        d_model]``, differentiable: queries, keys, values of a layer, then its MLP, at last the
        logits. Keys and values are heard once by every span of queries.
        """
        f, cfg, run = self.f, self.f.config, self.run
        rule = run.rule if inputs is not None else EXACT
        x = moved[0] if 0 in moved else f.embed(run.tokens[rows])
        sender = 1

        def hear(x: Tensor, receivers: int, copies: int = 1) -> Tensor:
            """``x`` as every receiver's own input ``[receivers, copies, ...]``."""
            own = torch.zeros(receivers, copies, *x.shape, device=x.device)
            assert inputs is not None
            inputs.append(own.requires_grad_())
            return x + own

        for layer, w in enumerate(f.weights.layers):
            before, heads = x, cfg.n_heads
            if inputs is None:
                z = f.heads(layer, x)
            else:
                z = self._attend(
                    layer,
                    rows,
                    [hear(x, heads, self.n_spans if which else 1) for which in range(3)],
                )
            mine = range(sender, sender + heads)
            after = f.add_attention(layer, x, z)
            for s in mine:
                if s in moved:
                    h = s - sender
                    output = w.out.weight.T.unflatten(0, (heads, cfg.d_head))[h]
                    after = after + moved[s] - z[:, :, h] @ output
            x, sender = after, mine.stop
            if cfg.d_mlp:
                heard = x if inputs is None else hear(x, 1)[0, 0]
                out = f.add_mlp(layer, heard, rule) - heard
                x = x + moved.get(sender, out)
                sender += 1
            x = rule.after(layer, before, x)
        if inputs is not None:
            x = hear(x, 1)[0, 0]
        return f.final(x, rule)

    def _attend(self, layer: int, rows: Tensor, heard: list[Tensor]) -> Tensor:
        """``z [batch, pos, n_heads, d_head]``; keys and values once for every span of queries."""
        run, rule = self.run, self.run.rule
        reference = run.reference(layer, rows)
        q = run.project(layer, 0, heard[0][:, 0], rule)
        parts = []
        for span in range(self.n_spans):
            k, v = (run.project(layer, which, heard[which][:, span], rule) for which in (1, 2))
            z = rule.attention(q, k, v, None, reference).transpose(1, 2)
            if self.members is not None:
                z = z * self.members[rows][..., span, None, None]
            parts.append(z)
        return torch.stack(parts).sum(0)
