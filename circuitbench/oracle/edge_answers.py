"""Values of edge masks on one half of a batch: which run each is compared with, in what chunks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Direction
from circuitbench.core.edges import Graph
from circuitbench.oracle.ablations import Ablation, Half
from circuitbench.oracle.batch import Batch
from circuitbench.oracle.edge_few import FewEdges
from circuitbench.oracle.edge_flow import proximities
from circuitbench.oracle.edge_states import Known, Layout, States, Written
from circuitbench.oracle.engine import readout
from circuitbench.oracle.engine.layers import Forward
from circuitbench.oracle.engine.limits import halving

_Note = Callable[[np.ndarray, Tensor], None]
"""Takes the places of some masks and what the logits hear under them."""

FEW = 3  # receivers: a mask that differs by more from every known run becomes one itself
KEPT_SHARE = 16  # of the edges, at most one in so many is kept: only who is heard is run
_OTHERS = 3  # known runs of a block besides the intact one
_LOOKED_AT = 64  # masks that are compared with a run that was made for one of them
_WORK_SHARE = 4  # of the memory for known runs, one part in so many is for work


class EdgeAnswers:
    """Answers for one half of a batch, one kind of ablation and one direction.

    Runs that were made are kept as long as they fit ``limit`` bytes, the intact one first. Where
    the prompts' own states would not fit, the prompts are taken in blocks.

    Args:
        graph: of the model.
        forward: the layers.
        batch, half: what is asked about.
        ablation: what receivers hear in place of an ablated edge's sender.
        direction: in ``denoising`` the counterfactual prompts run, and a kept edge carries what
            its sender writes on the clean ones.
        limit: bytes of known runs and of the work on masks.
        chunk_tokens: positions that go through a layer at once.
    """

    def __init__(
        self,
        graph: Graph,
        forward: Forward,
        batch: Batch,
        half: Half,
        ablation: Ablation,
        direction: Direction = "noising",
        *,
        limit: int,
        chunk_tokens: int,
    ) -> None:
        cfg, device = forward.config, forward.device
        self.f, self.limit, self.chunk_tokens = forward, limit, chunk_tokens
        self.denoising = direction == "denoising"
        self.layout = Layout(cfg.n_layers, cfg.n_heads, cfg.d_mlp > 0, graph.pairs)
        rows = torch.from_numpy(batch.rows(half))
        self.prompts = batch.source.prompts.take(rows).to(device) if half == "task" else None
        if self.prompts is None:
            self.tokens = other = batch.source.control[rows].to(device)
            self.reads = self.directions = None
        else:
            clean, counter = self.prompts.tokens, self.prompts.counterfactual
            self.tokens, other = (counter, clean) if self.denoising else (clean, counter)
            self.reads = self.prompts.positions
            self.directions = readout.Directions(forward.weights.unembed, self.prompts)
        with torch.no_grad():
            self.ablated, self._clean = self._instead(other, half, ablation)
        self._intact = np.ones(len(graph.pairs), bool)
        self._blocks = self._in_blocks()
        self._log_p: dict[int, Tensor] = {}
        self._known: OrderedDict[tuple[int, bytes], Known] = OrderedDict()
        self._few: dict[int, FewEdges] = {}

    @torch.no_grad()
    def values(self, masks: np.ndarray, kl: bool = False) -> tuple[Tensor, Tensor | None]:
        """Metric or control loss ``[n, rows]`` of masks ``[n, n_edges]`` (bool, True = kept).

        With ``kl`` also KL(clean || ablated) at the metric's positions, from the same runs.
        """
        masks = ~masks if self.denoising else masks
        values = torch.zeros(len(masks), len(self.tokens), device=self.f.device)
        divergence = torch.zeros_like(values) if kl else None
        for block, rows in enumerate(self._blocks if len(masks) else ()):
            states = self._states(rows)

            def note(
                which: np.ndarray, finals: Tensor, block: int = block, rows: slice = rows
            ) -> None:
                index = torch.from_numpy(which).to(values.device)
                normed = self.f.final(finals)
                values[index, rows] = self._value(normed, rows)
                if divergence is not None:
                    divergence[index, rows] = self._divergence(block, rows, normed)

            few = masks.sum(1) * KEPT_SHARE <= masks.shape[1]
            self._ask_few(block, states, masks, np.flatnonzero(few), note)
            others = np.flatnonzero(~few)
            if len(others):
                self._ask(block, states, masks[others], partial(_renumbered, others, note))
        return values.cpu(), None if divergence is None else divergence.cpu()

    @torch.no_grad()
    def proximities(self) -> Tensor:
        """See :func:`proximities`; the mean over rows, of the intact model."""
        total = torch.zeros(())
        for block, rows in enumerate(self._blocks):
            states = self._states(rows)
            total = total + proximities(states, self._intact_run(block, states)).cpu()
        return total / len(self.tokens)

    def _ask_few(
        self, block: int, states: States, masks: np.ndarray, which: np.ndarray, note: _Note
    ) -> None:
        """Those of the masks that keep few edges, many at a time."""
        if len(which) == 0:
            return
        if block not in self._few:
            self._few[block] = FewEdges(states)
        few, start = self._few[block], 0
        needed = few.heard_by_someone(masks[which])
        at_once = max(1, self.limit // _WORK_SHARE // few.bytes_each(needed))
        while start < len(which):
            place = slice(start, start + at_once)

            def answer(size: int, place: slice = place) -> int:
                chosen, rows = which[place][:size], needed[place][:size]
                note(chosen, few.finals(masks[chosen], rows))
                return size

            start += halving(answer, len(which[place]), self._recover)[0]

    def _ask(self, block: int, states: States, masks: np.ndarray, note: _Note) -> None:
        """Every mask from the run it differs least from, or as a run of its own."""
        layout = self.layout
        knowns = [self._intact_run(block, states)]
        knowns += [k for (b, _), k in self._known.items() if b == block and k is not knowns[0]]
        nearest = np.zeros(len(masks), int)
        changed = layout.changed(masks, knowns[0].mask)

        def compare(new: int, among: np.ndarray) -> None:
            other = layout.changed(masks[among], knowns[new].mask)
            nearer = other.sum(1) < changed[among].sum(1)
            nearest[among[nearer]], changed[among[nearer]] = new, other[nearer]

        for new in range(1, len(knowns)):
            compare(new, np.arange(len(masks)))
        waiting = np.ones(len(masks), bool)
        for i in range(len(masks)):
            if not waiting[i] or changed[i].sum() <= FEW:
                continue
            run = states.run(masks[i], like=knowns[nearest[i]])
            self._keep(block, run)
            note(np.array([i]), run.final[None])
            waiting[i] = False
            among = i + 1 + np.flatnonzero(waiting[i + 1 :][:_LOOKED_AT])
            others = among[layout.changed(masks[among], run.mask).sum(1) < changed[among].sum(1)]
            if len(others):
                knowns.append(run)
                compare(len(knowns) - 1, others)
        left = np.flatnonzero(waiting)
        first = np.where(changed.any(1), changed.argmax(1), layout.logits)
        order = sorted(left.tolist(), key=lambda i: (nearest[i], first[i]))
        start = 0
        while start < len(order):
            group = nearest[order[start]], first[order[start]]
            known = knowns[group[0]]
            at_once = self._at_once(known, int(group[1]), states)
            chunk = [i for i in order[start : start + at_once] if (nearest[i], first[i]) == group]

            def answer(size: int, chunk: list[int] = chunk, known: Known = known) -> int:
                which = np.array(chunk[:size])
                note(which, states.finals(known, masks[which], changed[which]))
                return size

            start += halving(answer, len(chunk), self._recover)[0]

    def _recover(self) -> None:
        """Give memory back after running out of it."""
        self._known.clear()
        if self.f.device.type == "cuda":
            torch.cuda.empty_cache()

    def _at_once(self, known: Known, first: int, states: States) -> int:
        """How many masks that differ from ``known`` first by one receiver run together."""
        pos = states.tokens.numel()
        layout, layer = self.layout, self.layout.layer_of(first)
        cut = ~known.keep[first + 1 :]
        # Senders whose gains are kept, and inputs of one layer that hear streams of their own.
        gains = (
            int(cut[:, layout.heads(layer).start :].any(0).sum()) if layer < layout.n_layers else 0
        )
        streams = 3 * layout.n_heads if cut.any() else 1
        each = 4 * pos * self.f.config.d_model * (gains + 3 * streams + 4)
        work = self.limit // _WORK_SHARE
        return max(1, min(self.chunk_tokens // pos, work // each))

    def _instead(
        self, other: Tensor, half: Half, ablation: Ablation
    ) -> tuple[Written | None, Tensor | None]:
        """What takes senders' places; in denoising also the clean run's final stream."""
        found: list[tuple[Written, Tensor]] = []

        def written() -> Written:
            step = max(1, self.chunk_tokens // other.shape[1])
            for start in range(0, len(other), step):
                part = slice(start, start + step)
                reads = None if self.reads is None else self.reads[part]
                found.append(States(self.f, self.layout, other[part], reads, None).written())
            return Written(
                torch.cat([w.embed for w, _ in found]),
                [torch.cat(z, 1) for z in zip(*(w.z for w, _ in found), strict=True)],
                [torch.cat(m) for m in zip(*(w.mlps for w, _ in found), strict=True)],
            )

        if self.denoising:
            return written(), torch.cat([end for _, end in found])
        lengths = None if self.prompts is None else self.prompts.lengths
        if ablation.senders(half, lambda: self.f.embed(other)[None], lengths) is None:
            return None, None
        outputs = written()

        def replaced(x: Tensor) -> Tensor:
            """``[senders, rows, pos, d]``; ablations are the same for z as for what is written."""
            out = ablation.senders(half, lambda: x, lengths)
            assert out is not None  # of one sender as of another
            return out

        return Written(
            replaced(outputs.embed[None])[0],
            [replaced(z) for z in outputs.z],
            [replaced(m[None])[0] for m in outputs.mlps],
        ), None

    def _in_blocks(self) -> list[slice]:
        """Blocks of rows whose intact run and one with all inputs cut fit half of the limit."""
        cfg, layout = self.f.config, self.layout
        streams = 2 * cfg.n_layers * (4 + 2 * layout.mlps) + layout.receivers
        each = 4 * self.tokens.shape[1] * cfg.d_model * streams
        size = max(1, min(len(self.tokens), self.limit // 2 // each))
        return [slice(start, start + size) for start in range(0, len(self.tokens), size)]

    def _states(self, rows: slice) -> States:
        reads = None if self.reads is None else self.reads[rows]
        ablated = None if self.ablated is None else self.ablated.take(rows)
        return States(self.f, self.layout, self.tokens[rows], reads, ablated)

    def _intact_run(self, block: int, states: States) -> Known:
        known = self._known.get((block, self._intact.tobytes()))
        if known is None:
            known = states.run(self._intact)
            self._keep(block, known)
        return known

    def _keep(self, block: int, run: Known) -> None:
        """Remember a run; the oldest that are not intact go first to make room."""
        self._known[block, run.mask.tobytes()] = run
        room = self.limit - self.limit // _WORK_SHARE
        others = [key for key, other in self._known.items() if other is not run]
        mine = [k for k in others if k[0] == block and k[1] != self._intact.tobytes()]
        for key in mine[: -_OTHERS + 1 or None]:
            del self._known[key]
            others.remove(key)
        others.sort(key=lambda key: key[1] == self._intact.tobytes())
        while others and sum(known.bytes for known in self._known.values()) > room:
            del self._known[others.pop(0)]

    def _value(self, normed: Tensor, rows: slice) -> Tensor:
        """Metric or control loss ``[n, rows]`` of ``[n, rows, pos or k, d_model]``."""
        if self.directions is None:
            tokens = self.tokens[rows].repeat(len(normed), 1)
            loss = readout.control_loss(self.f.weights.unembed, normed.flatten(0, 1), tokens)
            self.f.flops += 2.0 * tokens.numel() * self.f.weights.unembed.rows.numel()
            return loss.view(len(normed), -1)
        index = torch.arange(len(self.tokens), device=normed.device)[rows]
        return self.directions.metric(normed, index)

    def _divergence(self, block: int, rows: slice, normed: Tensor) -> Tensor:
        """KL(clean || ablated) ``[n, rows]``."""
        unembed = self.f.weights.unembed
        if block not in self._log_p:
            if self._clean is None:
                clean = self._intact_run(block, self._states(rows)).final
            else:
                clean = self._clean[rows]
            self._log_p[block] = readout.log_probabilities(unembed, self.f.final(clean))
        self.f.flops += 2.0 * normed[..., 0].numel() * unembed.rows.numel()
        return readout.divergence_from(self._log_p[block], unembed, normed)


def _renumbered(places: np.ndarray, note: _Note, which: np.ndarray, finals: Tensor) -> None:
    """Note what is known of some masks of some masks."""
    note(places[which], finals)
