"""What the oracle asks of whatever computes, and the fast way of computing it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol
from weakref import WeakKeyDictionary, finalize

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Ablation, Direction
from circuitbench.models.transformer import Transformer
from circuitbench.oracle.batch import Source
from circuitbench.oracle.engine import readout
from circuitbench.oracle.engine.layers import Forward, at_positions
from circuitbench.oracle.engine.memory import Memory, halving
from circuitbench.oracle.engine.prefix_cache import Run, Runner, Stream, Swap

Half = Literal["task", "control"]
FAST_TOLERANCE = 1e-3  # nats/token of a span's control loss


class Ask(NamedTuple):
    """One mask on some rows of a source (all of them if ``rows`` is None).

    ``mask [n_layers, n_heads]``: bool for :meth:`Engine.measure`, float for
    :meth:`Engine.gradient`; True or 1 where the head is kept.
    """

    source: Source
    rows: np.ndarray | None
    mask: np.ndarray
    ablation: Ablation = "zero"
    direction: Direction = "noising"


class Engine(Protocol):
    """Computes values per prompt or per control span; knows nothing of budgets or memos."""

    @property
    def flops(self) -> float:
        """Floating-point operations of all matrix products so far; 0 if unknown."""
        ...

    def measure(
        self, half: Half, asks: Sequence[Ask], kl: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Metric or control loss ``[n_asks, rows]``, and the KL divergence if asked for."""
        ...

    def accuracy(self, source: Source, rows: np.ndarray | None) -> float:
        """The intact model's accuracy."""
        ...

    def gradient(self, half: Half, ask: Ask) -> np.ndarray:
        """Derivative ``[n_layers, n_heads]`` of the mean metric or control loss by the mask."""
        ...


@dataclass(eq=False)
class _Prepared:
    """A source on the device."""

    task: Stream
    counter: Stream
    control: Stream
    directions: readout.Directions
    swaps: dict[tuple[str, str], Swap] = field(default_factory=dict)


class FastEngine:
    """Plain per-layer weights, shared prefixes, no logits (see the modules it is made of).

    Args:
        transformer: the model's weights.
        device: where to compute.
        cache_bytes: memory for states kept between questions; by default what the machine has.
        chunk_tokens: positions run at once; likewise.
        body, unembed: what layers and control logits are computed in. A rough unembedding
            checks itself on the first control text it sees (``error``, nats/token) and is
            replaced by the exact one where it is off by more than :data:`FAST_TOLERANCE`.
    """

    def __init__(
        self,
        transformer: Transformer,
        device: str | torch.device = "cpu",
        cache_bytes: int | None = None,
        chunk_tokens: int | None = None,
        body: torch.dtype = torch.float32,
        unembed: torch.dtype = torch.float32,
    ) -> None:
        self.transformer = transformer
        self.device = torch.device(device)
        self.forward = Forward(transformer.to(self.device), body, unembed)
        self.error: float | None = None
        self._unembed_is_rough = unembed != torch.float32 and body == torch.float32
        memory = Memory(transformer.config, self.device)
        self.runner = Runner(
            self.forward,
            memory.cache_bytes if cache_bytes is None else cache_bytes,
            memory.chunk_tokens if chunk_tokens is None else chunk_tokens,
        )
        self._prepared: WeakKeyDictionary[Source, _Prepared] = WeakKeyDictionary()

    @property
    def flops(self) -> float:
        """See :attr:`Engine.flops`."""
        return self.forward.flops

    @torch.no_grad()
    def measure(
        self, half: Half, asks: Sequence[Ask], kl: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See :meth:`Engine.measure`."""
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        runs = [self._run(half, ask) for ask in asks]
        for i, run in enumerate(runs):
            reads = run.reads
            groups[(run.tokens.shape, None if reads is None else reads.shape)].append(i)
        n_rows = runs[0].tokens.shape[0]
        values = np.empty((len(asks), n_rows), np.float32)
        divergence = np.empty((len(asks), n_rows), np.float32) if kl else None
        for members in groups.values():

            def read(chunk: list[int], x: Tensor, members: list[int] = members) -> None:
                index = [members[c] for c in chunk]
                some = [asks[i] for i in index]
                normed = self.forward.final(x).unflatten(0, (len(index), -1))
                if half == "control":
                    out = self._control_loss([runs[i] for i in index], normed)
                else:
                    out = self._metric(some, normed)
                if divergence is not None:
                    divergence[index] = self._kl(some, normed)
                values[index] = out.cpu().numpy()

            keeps = np.stack([_kept(asks[i]) for i in members])
            self.runner.finals([runs[i] for i in members], keeps, read)
        return values, divergence

    @torch.no_grad()
    def accuracy(self, source: Source, rows: np.ndarray | None) -> float:
        """See :meth:`Engine.accuracy`."""
        normed = self._clean_final(source, rows)
        prompts = source.prompts if rows is None else source.prompts.take(torch.from_numpy(rows))
        prompts = prompts.to(self.device)
        logits = readout.logits_at(self.forward.weights.unembed, normed)[..., prompts.choices]
        top = prompts.choices[logits.argmax(-1)]
        hit = (prompts.token_ids == top[..., None]) & (prompts.weights > 0)
        return float(hit.any(-1).float().mean())

    def gradient(self, half: Half, ask: Ask) -> np.ndarray:
        """See :meth:`Engine.gradient`."""
        n = len(ask.source.prompts)
        rows = np.arange(n) if ask.rows is None else ask.rows
        pos = self._run(half, ask).stream.tokens.shape[1]
        out = np.zeros(ask.mask.shape, np.float32)
        start, at_once = 0, max(1, self.runner.chunk_tokens // pos)
        while start < len(rows):

            def run(size: int, start: int = start) -> np.ndarray:
                part = rows[start : start + size]
                whole = len(part) == n and ask.rows is None
                return self._gradient(half, ask._replace(rows=None if whole else part))

            grad, at_once = halving(run, min(at_once, len(rows) - start), self.runner.recover)
            out += grad * (at_once / len(rows))
            start += at_once
        return out

    def _gradient(self, half: Half, ask: Ask) -> np.ndarray:
        """All rows of an ask at once."""
        f = self.forward
        run = self._run(half, ask)
        mask = torch.tensor(ask.mask, dtype=torch.float32, device=self.device, requires_grad=True)
        gates = 1 - mask if ask.direction == "denoising" else mask
        before = f.flops
        with torch.enable_grad():
            x, reads = f.embed(run.tokens), run.reads
            last = len(f.weights.layers) - 1
            for layer in range(last + 1):
                z = f.heads(layer, x, reads if layer == last else None)
                gate = gates[layer][:, None]
                swap = 0.0 if run.swap is None else run.swap.rows(layer, run.rows)
                z = gate * z + (1 - gate) * swap
                if layer == last and reads is not None:
                    x = at_positions(x, reads)
                x = f.add_mlp(layer, f.add_attention(layer, x, z))
            normed = f.final(x)
            if half == "control":
                value = readout.control_loss(f.weights.unembed, normed, run.tokens).mean()
                f.flops += run.tokens.numel() * self._unembed_flops
            else:
                value = self._metric([ask], normed[None]).mean()
            (grad,) = torch.autograd.grad(value, mask)
        f.flops += f.flops - before  # every product has one of the same size on the way back
        return grad.cpu().numpy()

    @property
    def _unembed_flops(self) -> float:
        return 2.0 * self.forward.weights.unembed.rows.numel()

    def _prepare(self, source: Source) -> _Prepared:
        prepared = self._prepared.get(source)
        if prepared is None:
            prompts = source.prompts.to(self.device)
            prepared = self._prepared[source] = _Prepared(
                Stream(prompts.tokens, prompts.positions),
                Stream(prompts.counterfactual, prompts.positions),
                Stream(source.control.to(self.device)),
                readout.Directions(self.forward.weights.unembed, prompts),
            )
            streams = {s.serial for s in (prepared.task, prepared.counter, prepared.control)}
            finalize(source, self.runner.cache.dead.append, streams)
        return prepared

    def _run(self, half: Half, ask: Ask) -> Run:
        """The stream an ask runs on, and what takes the place of the heads it ablates."""
        prepared = self._prepare(ask.source)
        rows = None if ask.rows is None else torch.from_numpy(ask.rows).to(self.device)
        kind: str = ask.ablation
        if half == "control":
            stream = prepared.control
        elif ask.direction == "denoising":
            stream, kind = prepared.counter, "clean"
        else:
            stream = prepared.task
        if kind == "zero":
            return Run(stream, rows)
        swap = prepared.swaps.get((half, kind))
        if swap is None:
            swap = prepared.swaps[half, kind] = self._swap(half, kind, prepared)
        return Run(stream, rows, swap)

    @torch.no_grad()
    def _swap(self, half: Half, kind: str, prepared: _Prepared) -> Swap:
        if half == "control":
            z = self._clean_heads(prepared.control)
            if kind == "resample":
                return Swap([layer.roll(-1, 0) for layer in z])
        else:
            stream = prepared.task if kind == "clean" else prepared.counter
            z = self._clean_heads(stream, everywhere=kind == "mean")
        if kind == "mean":
            z = [layer.mean(0, keepdim=True) for layer in z]
            reads = prepared.task.reads
            if half == "task" and reads is not None:
                z[-1] = z[-1][0][reads]
        return Swap(z)

    def _clean_heads(self, stream: Stream, everywhere: bool = False) -> list[Tensor]:
        """Every layer's head outputs in the intact model (the last's only where it is read)."""
        f, parts = self.forward, []
        step = max(1, self.runner.chunk_tokens // stream.tokens.shape[1])
        last = len(f.weights.layers) - 1
        for start in range(0, len(stream.tokens), step):
            x, z = f.embed(stream.tokens[start : start + step]), []
            for layer in range(last + 1):
                reads = stream.reads if layer == last and not everywhere else None
                reads = None if reads is None else reads[start : start + step]
                z.append(f.heads(layer, x, reads))
                if layer < last:
                    x = f.add_mlp(layer, f.add_attention(layer, x, z[-1]))
            parts.append(z)
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def _clean_final(self, source: Source, rows: np.ndarray | None) -> Tensor:
        f = self.forward
        intact = np.ones((1, f.config.n_layers, f.config.n_heads), bool)
        run = self._run("task", Ask(source, rows, intact[0]))
        found: list[Tensor] = []
        self.runner.finals([run], intact, lambda _, x: found.append(f.final(x)))
        return found[-1]

    def _control_loss(self, runs: list[Run], normed: Tensor) -> Tensor:
        """``[n, rows, pos, d_model]`` to ``[n, rows]``."""
        unembed = self.forward.weights.unembed
        tokens = torch.cat([run.tokens for run in runs])
        out = readout.control_loss(unembed, normed.flatten(0, 1), tokens)
        self.forward.flops += tokens.numel() * self._unembed_flops
        if self._unembed_is_rough and self.error is None:
            exact = readout.control_loss(unembed.exact(), normed.flatten(0, 1), tokens)
            self.error = float((out - exact).abs().max())
            if self.error > FAST_TOLERANCE:
                self.forward.weights.unembed = unembed.exact()
                self._unembed_is_rough = False
                out = exact
        return out.view(len(runs), -1)

    def _metric(self, asks: list[Ask], normed: Tensor) -> Tensor:
        """``[n, rows, k, d_model]`` to ``[n, rows]``."""
        same = all(a.source is asks[0].source and a.rows is asks[0].rows for a in asks)
        out = []
        for ask, one in [(asks[0], normed)] if same else zip(asks, normed[:, None], strict=True):
            rows = None if ask.rows is None else torch.from_numpy(ask.rows).to(self.device)
            out.append(self._prepare(ask.source).directions.metric(one, rows))
        return torch.cat(out)

    def _kl(self, asks: list[Ask], normed: Tensor) -> np.ndarray:
        clean: dict[object, Tensor] = {}
        out = []
        for ask, one in zip(asks, normed, strict=True):
            key = id(ask.source), None if ask.rows is None else ask.rows.tobytes()
            if key not in clean:
                clean[key] = self._clean_final(ask.source, ask.rows)
            out.append(readout.kl_divergence(self.forward.weights.unembed, clean[key], one[None]))
            self.forward.flops += one.shape[0] * one.shape[1] * self._unembed_flops
        return torch.cat(out).cpu().numpy()


def _kept(ask: Ask) -> np.ndarray:
    """The heads that keep the run's own output: in a denoising run, those *not* restored."""
    return ~ask.mask if ask.direction == "denoising" else ask.mask
