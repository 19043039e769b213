"""The fast way of answering: plain weights, shared prefixes, no logits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, finalize

import numpy as np
import torch
from torch import Tensor

from circuitbench.models.transformer import Transformer
from circuitbench.oracle.ablations import Half, Objective, Text, ablation_named
from circuitbench.oracle.engine import readout
from circuitbench.oracle.engine.base import Quantity, Question, Source
from circuitbench.oracle.engine.layers import Forward, at_positions
from circuitbench.oracle.engine.limits import Memory, halving
from circuitbench.oracle.engine.prefix_cache import Run, Runner, Stream, Swap
from circuitbench.oracle.rules import EXACT, Attended, Rule

FAST_TOLERANCE = 1e-3  # nats/token of a span's control loss


@dataclass(eq=False)
class _Prepared:
    """A source on the device."""

    task: Stream
    counter: Stream
    control: Stream
    directions: readout.Directions
    lengths: Tensor | None
    swaps: dict[tuple[Half, str], Swap | None] = field(default_factory=dict)
    fitted: dict[str, list[Tensor]] = field(default_factory=dict)


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
        self.forward = Forward(transformer, body, unembed, self.device)
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
        self, questions: Sequence[Question], kl: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See :meth:`Engine.measure`."""
        half = questions[0].half
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        runs = [self._run(question) for question in questions]
        for i, run in enumerate(runs):
            reads = run.reads
            groups[(run.tokens.shape, None if reads is None else reads.shape)].append(i)
        n_rows = runs[0].tokens.shape[0]
        values = np.empty((len(questions), n_rows), np.float32)
        divergence = np.empty((len(questions), n_rows), np.float32) if kl else None
        for members in groups.values():

            def read(chunk: list[int], x: Tensor, members: list[int] = members) -> None:
                index = [members[c] for c in chunk]
                some = [questions[i] for i in index]
                normed = self.forward.final(x).unflatten(0, (len(index), -1))
                if half == "control":
                    out = self._control_loss([runs[i] for i in index], normed)
                else:
                    out = self._metric(some, normed)
                if divergence is not None:
                    divergence[index] = self._kl(some, normed)
                values[index] = out.cpu().numpy()

            keeps = np.stack([_kept(questions[i]) for i in members])
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

    def differentiate(
        self, question: Question, of: Sequence[Quantity] = ("value",), rule: Rule = EXACT
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Engine.differentiate`."""
        n = len(question.source.prompts)
        rows = np.arange(n) if question.rows is None else question.rows
        pos = self._run(question).stream.tokens.shape[1]
        values = np.zeros(len(of), np.float32)
        gradients = np.zeros((len(of), *question.mask.shape), np.float32)
        start, at_once = 0, max(1, self.runner.chunk_tokens // pos)
        while start < len(rows):

            def run(size: int, start: int = start) -> tuple[np.ndarray, np.ndarray]:
                part = rows[start : start + size]
                whole = len(part) == n and question.rows is None
                some = question._replace(rows=None if whole else part)
                return self._differentiate(some, of, rule)

            size = min(at_once, len(rows) - start)
            (value, gradient), at_once = halving(run, size, self.runner.recover)
            values += value * (at_once / len(rows))
            gradients += gradient * (at_once / len(rows))
            start += at_once
        return values, gradients

    def _differentiate(
        self, question: Question, of: Sequence[Quantity], rule: Rule
    ) -> tuple[np.ndarray, np.ndarray]:
        """All rows of a question at once."""
        f = self.forward
        run = self._run(question)
        given = torch.tensor(question.mask, dtype=torch.float32, device=self.device)
        mask = given.requires_grad_()
        gates = 1 - mask if question.direction == "denoising" else mask
        clean = self._clean_final(question.source, question.rows) if "kl" in of else None
        references = self._references(question, run) if rule.reference else None
        before = f.flops
        with torch.enable_grad():
            x, reads = f.embed(run.tokens), run.reads
            last = len(f.weights.layers) - 1
            for layer in range(last + 1):
                reference = None if references is None else references[layer]
                z = f.heads(layer, x, reads if layer == last else None, None, rule, reference)
                gate = gates[layer][:, None]
                swap = 0.0 if run.swap is None else run.swap.rows(layer, run.rows)
                z = gate * z + (1 - gate) * swap
                if layer == last and reads is not None:
                    x = at_positions(x, reads)
                after = f.write(layer, x, z, rule=rule)
                x = rule.after(layer, x, after)
            normed = f.final(x, rule)
            values, forward = [], f.flops - before
            for quantity in of:
                before = f.flops
                value = self._quantity(quantity, question, normed, clean).mean()
                values.append((value, forward + f.flops - before))
            grads = []
            for i, (value, flops) in enumerate(values):
                more = i + 1 < len(values)
                grads.append(torch.autograd.grad(value, mask, retain_graph=more)[0])
                f.flops += flops  # every product has one of the same size on the way back
        found = torch.stack([value for value, _ in values]).detach(), torch.stack(grads)
        return found[0].cpu().numpy(), found[1].cpu().numpy()

    @torch.no_grad()
    def _references(self, question: Question, run: Run) -> list[Attended]:
        """Queries and keys of every layer on the prompts at the other end."""
        prepared = self._prepare(question.source)
        other = prepared.task if question.direction == "denoising" else prepared.counter
        return self.forward.attended(Run(other, run.rows).tokens, run.reads)

    def _quantity(
        self, quantity: Quantity, question: Question, normed: Tensor, clean: Tensor | None
    ) -> Tensor:
        """``[rows, k, d_model]`` after the final norm to the values ``[rows]``, differentiable."""
        f = self.forward
        if quantity == "kl":
            assert clean is not None  # whoever asks for it brings it
            f.flops += clean[..., 0].numel() * self._unembed_flops
            return readout.kl_divergence(f.weights.unembed, clean, normed[None])[0]
        if question.half == "control":
            tokens = self._run(question).tokens
            f.flops += tokens.numel() * self._unembed_flops
            return readout.control_loss(f.weights.unembed, normed, tokens)
        return self._metric([question], normed[None])[0]

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
                prompts.lengths,
            )
            streams = {s.serial for s in (prepared.task, prepared.counter, prepared.control)}
            finalize(source, self.runner.cache.dead.append, streams)
        return prepared

    def _run(self, question: Question) -> Run:
        """The stream a question runs on, and what takes the place of the heads it ablates."""
        prepared, half = self._prepare(question.source), question.half
        rows = None if question.rows is None else torch.from_numpy(question.rows).to(self.device)
        kind = question.ablation.name
        if half == "control":
            stream = prepared.control
        elif question.direction == "denoising":
            stream, kind = prepared.counter, "clean"
        else:
            stream = prepared.task
        if (half, kind) not in prepared.swaps:
            prepared.swaps[half, kind] = self._swap(question, prepared)
        return Run(stream, rows, prepared.swaps[half, kind])

    @torch.no_grad()
    def _swap(self, question: Question, prepared: _Prepared) -> Swap | None:
        if question.direction == "denoising":
            return Swap(self._clean_heads(prepared.task))
        ablation, half = question.ablation, question.half
        z = ablation.heads(half, _Activations(self, prepared))
        if z is None:
            return None
        reads = prepared.task.reads
        if half == "task" and reads is not None and ablation.everywhere:
            z = [*z[:-1], at_positions(z[-1].expand(len(reads), -1, -1, -1), reads)]
        return Swap(z)

    def _clean_heads(
        self, stream: Stream, everywhere: bool = False, n: int | None = None
    ) -> list[Tensor]:
        """Every layer's head outputs in the intact model, of the first ``n`` rows.

        The last layer's are given only where it is read, unless ``everywhere``.
        """
        f, parts, rows = self.forward, [], stream.tokens[:n]
        step = max(1, self.runner.chunk_tokens // stream.tokens.shape[1])
        last = len(f.weights.layers) - 1
        for start in range(0, len(rows), step):
            x, z = f.embed(rows[start : start + step]), []
            for layer in range(last + 1):
                reads = stream.reads if layer == last and not everywhere else None
                reads = None if reads is None else reads[start : start + step]
                z.append(f.heads(layer, x, reads))
                if layer < last:
                    x = f.write(layer, x, z[-1])
            parts.append(z)
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def _clean_final(self, source: Source, rows: np.ndarray | None) -> Tensor:
        f = self.forward
        intact = np.ones((1, f.config.n_layers, f.config.n_heads), bool)
        run = self._run(Question(source, "task", rows, intact[0], ablation_named("zero")))
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

    def _metric(self, questions: list[Question], normed: Tensor) -> Tensor:
        """``[n, rows, k, d_model]`` to ``[n, rows]``."""
        first = questions[0]
        same = all(q.source is first.source and q.rows is first.rows for q in questions)
        out = []
        for q, one in [(first, normed)] if same else zip(questions, normed[:, None], strict=True):
            rows = None if q.rows is None else torch.from_numpy(q.rows).to(self.device)
            out.append(self._prepare(q.source).directions.metric(one, rows))
        return torch.cat(out)

    def _kl(self, questions: list[Question], normed: Tensor) -> np.ndarray:
        clean: dict[object, Tensor] = {}
        out = []
        for q, one in zip(questions, normed, strict=True):
            key = id(q.source), None if q.rows is None else q.rows.tobytes()
            if key not in clean:
                clean[key] = self._clean_final(q.source, q.rows)
            out.append(readout.kl_divergence(self.forward.weights.unembed, clean[key], one[None]))
            self.forward.flops += one.shape[0] * one.shape[1] * self._unembed_flops
        return torch.cat(out).cpu().numpy()


class _Activations:
    """See :class:`circuitbench.oracle.ablations.Activations`."""

    def __init__(self, engine: FastEngine, prepared: _Prepared) -> None:
        self._engine, self._prepared = engine, prepared
        self.fitted, self.lengths = prepared.fitted, prepared.lengths

    def heads(self, text: Text, everywhere: bool = True, n: int | None = None) -> list[Tensor]:
        """See :meth:`Activations.heads`."""
        prepared = self._prepared
        streams = {
            "prompts": prepared.task,
            "counterfactual": prepared.counter,
            "control": prepared.control,
        }
        return self._engine._clean_heads(streams[text], everywhere, n)

    def alone(self, layer: int, n: int) -> Objective:
        """See :meth:`Activations.alone`; the layers below are run once, heads in chunks."""
        engine, f, stream = self._engine, self._engine.forward, self._prepared.task
        tokens, reads = stream.tokens[:n], stream.reads
        assert reads is not None  # prompts are read at the metric's positions
        reads = reads[:n]
        last, unembed = f.n_layers - 1, f.weights.unembed

        def below(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
            """The stream that a layer's outputs are added to, and these outputs."""
            z = f.heads(layer, x, reads.repeat(len(x) // len(tokens), 1) if layer == last else None)
            if layer == last:
                x = at_positions(x, reads.repeat(len(x) // len(tokens), 1))
            return x, z

        def above(layer: int, x: Tensor, z: Tensor) -> Tensor:
            """What the unembedding reads, ``[n, k, d_model]``."""
            x = f.write(layer, x, z)
            for later in range(layer + 1, last + 1):
                x, z = below(later, x)
                x = f.write(later, x, z)
            return f.final(x)

        x = f.embed(tokens)
        for lower in range(layer):
            x = f.write(lower, x, f.heads(lower, x))
        x, z = below(layer, x)
        clean = above(layer, x, z)

        def some(heads: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
            n, before = len(heads), f.flops
            off = torch.nn.functional.one_hot(heads, z.shape[2]).bool()[:, None, None, :, None]
            given = constants.detach().requires_grad_()
            with torch.enable_grad():
                changed = torch.where(off, given[:, None, None, None], z).flatten(0, 1)
                normed = above(layer, x.repeat(n, 1, 1), changed).unflatten(0, (n, -1))
                loss = readout.kl_divergence(unembed, clean, normed).mean(1)
                f.flops += normed.shape[:3].numel() * engine._unembed_flops
                (gradient,) = torch.autograd.grad(loss.sum(), given)
            f.flops += f.flops - before
            return loss.detach(), gradient

        def objective(heads: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
            parts, start = [], 0
            at_once = max(1, engine.runner.chunk_tokens // tokens.numel())
            while start < len(heads):

                def run(size: int, start: int = start) -> tuple[Tensor, Tensor]:
                    return some(heads[start : start + size], constants[start : start + size])

                size = min(at_once, len(heads) - start)
                part, at_once = halving(run, size, engine.runner.recover)
                parts.append(part)
                start += at_once
            losses, gradients = zip(*parts, strict=True)
            return torch.cat(losses), torch.cat(gradients)

        return objective


def _kept(question: Question) -> np.ndarray:
    """The heads that keep the run's own output: in a denoising run, those *not* restored."""
    return ~question.mask if question.direction == "denoising" else question.mask
