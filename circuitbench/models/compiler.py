"""From a RASP program to transformer weights that compute it exactly.

After Tracr (Lindner et al. 2023, arXiv 2301.05062): every sequence gets its own directions in the
residual stream, one for each value; a selection becomes one head's query-key matrix, a map a
lookup table in an MLP. Then the basis is hidden by random rotations, and heads that do nothing
for the program are added. Causal attention, ReLU MLPs, no normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from circuitbench.circuit import Circuit, Edge, Head, Role
from circuitbench.errors import InvalidSpec
from circuitbench.models.rasp import Aggregate, Map, Program, Sequence, Step, Width
from circuitbench.models.skipgrams import SkipGrams
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig

SHARPNESS = 30.0
"""Score difference between a selected key and BOS, twice over: leaks are below e^-15 a key."""
ANSWER_LOGIT = 10.0
WORD_LOGIT = 30.0
"""Words follow words: far enough above the answers that a program's output never competes."""


@dataclass(frozen=True)
class CompilerOptions:
    """How a program is laid into a transformer.

    Args:
        n_layers, n_heads: the grid; None for the smallest that holds the program (with the
            language's head), otherwise padded with heads that do nothing for it.
        d_model: width; None for as many directions as the program needs and 8 to spare.
        n_words: words of ordinary text the model also speaks (see :class:`SkipGrams`).
        hide: rotate the residual stream and every head, and permute heads and neurons.
        seed: of everything random: the language, the padding, the rotations.
    """

    n_layers: int | None = None
    n_heads: int | None = None
    d_model: int | None = None
    n_words: int = 8
    hide: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Compiled:
    """A compiled program.

    Args:
        transformer: the weights.
        vocabulary: all tokens in order: BOS, symbols, answers that are no symbols, words.
        truth: heads by role, MLPs and edges.
        language: of the ordinary text, whose words are the last tokens of the vocabulary.
        padding: what the other heads are: ``language``, ``look-alike`` or ``noise``.
    """

    transformer: Transformer
    vocabulary: tuple[str, ...]
    truth: Circuit
    language: SkipGrams
    padding: dict[str, tuple[Head, ...]]


@dataclass(frozen=True)
class _HeadMatrices:
    """One head in the plain basis: ``W_Q``/``W_K [d, k]``, ``b_Q [k]``, ``W_V [d, v]``,
    ``W_O [v, d]``; ``k`` and ``v`` differ from head to head.
    """

    W_Q: np.ndarray
    W_K: np.ndarray
    b_Q: np.ndarray
    W_V: np.ndarray
    W_O: np.ndarray


@dataclass
class _Layout:
    """Which directions of the residual stream belong to what, in the plain basis."""

    width: int = 0
    places: dict[int, slice] = field(default_factory=dict)

    def add(self, size: int) -> slice:
        self.width += size
        return slice(self.width - size, self.width)

    def of(self, sequence: Sequence) -> slice:
        return self.places[id(sequence)]


def compile_program(
    program: Program,
    output: Sequence,
    *,
    source: str,
    options: CompilerOptions | None = None,
) -> Compiled:
    """Weights that give ``output`` as their next token wherever it is defined.

    ``output``'s values become tokens by ``str``. Raises :class:`InvalidSpec` for a grid or a
    width that cannot hold the program, naming what it needs.
    """
    options = options or CompilerOptions()
    rng = np.random.default_rng(options.seed)
    language = SkipGrams.draw(options.n_words, rng)
    answers = tuple(str(v) for v in output.values)
    vocabulary = _vocabulary(program, answers, options.n_words)
    compiler = _Compiler(program, options, rng)
    transformer = compiler.build(output, answers, vocabulary, language)
    return Compiled(
        transformer, vocabulary, compiler.truth(output, source), language, compiler.padding
    )


def _vocabulary(program: Program, answers: tuple[str, ...], n_words: int) -> tuple[str, ...]:
    words = tuple(f"w{i}" for i in range(n_words))
    new = tuple(a for a in answers if a not in program.symbols)
    vocabulary = ("<bos>", *program.symbols, *new, *words)
    if len(set(vocabulary)) != len(vocabulary):
        raise InvalidSpec("tokens '<bos>' and 'w0', 'w1', ... are taken; rename the symbols")
    return vocabulary


class _Compiler:
    """Lays one program out; the methods follow the order in which it happens."""

    def __init__(
        self, program: Program, options: CompilerOptions, rng: np.random.Generator
    ) -> None:
        self.program, self.options, self.rng = program, options, rng
        self.n_layers, self.n_heads = self._grid()
        # A deeper grid spreads the program's layers over it, in order.
        chosen = rng.choice(self.n_layers, program.n_layers, replace=False)
        self.layer_of = [int(layer) for layer in sorted(chosen)]
        self.heads: dict[int, Head] = {}
        self.padding: dict[str, tuple[Head, ...]] = {}
        self._place_heads()
        self._lay_out()

    def _grid(self) -> tuple[int, int]:
        program, options = self.program, self.options
        crowd = [0] * program.n_layers
        for step in program.steps:
            crowd[step.layer] += not isinstance(step, Map)
        # The language's head lives in whichever layer comes first.
        needed = max([crowd[0] + 1, *crowd[1:]])
        n_layers = program.n_layers if options.n_layers is None else options.n_layers
        n_heads = needed if options.n_heads is None else options.n_heads
        if n_layers < program.n_layers:
            raise InvalidSpec(
                f"the program needs {program.n_layers} layers, not {n_layers}: each step must "
                "come after what it reads"
            )
        if n_heads < needed:
            raise InvalidSpec(f"the program needs {needed} heads in one layer, not {n_heads}")
        return n_layers, n_heads

    def _place_heads(self) -> None:
        free = [list(self.rng.permutation(self.n_heads)) for _ in range(self.n_layers)]
        if not self.options.hide:
            free = [list(range(self.n_heads))[::-1] for _ in range(self.n_layers)]
        for step in self.program.steps:
            if not isinstance(step, Map):
                layer = self.layer_of[step.layer]
                self.heads[id(step)] = Head(layer, int(free[layer].pop()))
        self.padding["language"] = (Head(0, int(free[0].pop())),)
        rest = [Head(layer, int(h)) for layer in range(self.n_layers) for h in free[layer]]
        alike = [head for i, head in enumerate(rest) if i % 2 == 0 and self._model_for(head)]
        self.padding["look-alike"] = tuple(alike)
        self.padding["noise"] = tuple(head for head in rest if head not in alike)

    def _model_for(self, head: Head) -> Aggregate | Width | None:
        """The step a look-alike at ``head`` imitates: one whose inputs are known there."""
        known = [
            step
            for step in self.program.steps
            if not isinstance(step, Map) and self.layer_of[step.layer] <= head.layer
        ]
        return known[head.head % len(known)] if known else None

    def _lay_out(self) -> None:
        layout, program = _Layout(), self.program
        self.bos = layout.add(1)
        for sequence in (program.tokens, program.positions, *(s.out for s in program.steps)):
            layout.places[id(sequence)] = layout.add(len(sequence.values))
        self.shares = {id(s): layout.add(1) for s in program.steps if isinstance(s, Width)}
        self.word = layout.add(self.options.n_words)
        self.word_before = layout.add(self.options.n_words)
        needed = layout.width + 2
        width = layout.width + 8 if self.options.d_model is None else self.options.d_model
        if width < needed:
            raise InvalidSpec(
                f"d_model {width} is too small: the program needs {needed} (one direction for "
                "each value of each sequence, and 2 for the padding)"
            )
        self.spare = layout.add(width - layout.width)
        self.layout = layout

    def build(
        self,
        output: Sequence,
        answers: tuple[str, ...],
        vocabulary: tuple[str, ...],
        language: SkipGrams,
    ) -> Transformer:
        """All weights, rotated into their final basis."""
        grid = [[self._blank()] * self.n_heads for _ in range(self.n_layers)]
        for step in self.program.steps:
            if not isinstance(step, Map):
                layer, head = self.heads[id(step)]
                grid[layer][head] = self._head(step)
        for kind, heads in self.padding.items():
            for layer, head in heads:
                grid[layer][head] = self._padding_head(kind, Head(layer, head))
        mlps = [self._mlp(layer) for layer in range(self.n_layers)]
        d_head = max(m.shape[1] for row in grid for h in row for m in (h.W_Q, h.W_V))
        d_mlp = max(w_in.shape[1] for w_in, _, _ in mlps)

        d = self.layout.width
        embed = np.zeros((len(vocabulary), d))
        embed[0, self.bos] = 1.0
        symbols = self.layout.of(self.program.tokens)
        embed[1 : 1 + len(self.program.symbols), symbols] = np.eye(len(self.program.symbols))
        embed[-self.options.n_words :, self.word] = np.eye(self.options.n_words)
        places = np.zeros((self.program.length + 1, d))
        places[1:, self.layout.of(self.program.positions)] = np.eye(self.program.length)
        unembed = np.zeros((d, len(vocabulary)))
        columns = [vocabulary.index(a) for a in answers]
        unembed[range(*self.layout.of(output).indices(d)), columns] = ANSWER_LOGIT
        unembed[self.word, -self.options.n_words :] = language.near + WORD_LOGIT
        unembed[self.word_before, -self.options.n_words :] = language.far
        unembed[self.bos, -self.options.n_words :] = WORD_LOGIT

        turn = _rotation(d, self.rng) if self.options.hide else np.eye(d)
        layers = tuple(
            self._layer(row, mlp, turn, d_head, d_mlp) for row, mlp in zip(grid, mlps, strict=True)
        )
        config = TransformerConfig(
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=d,
            d_head=d_head,
            d_vocab=len(vocabulary),
            n_ctx=self.program.length + 1,
            attn_scale=1.0,
            d_mlp=d_mlp,
            activation="relu",
        )
        return Transformer(
            config,
            W_E=_tensor(embed @ turn),
            W_U=_tensor(turn.T @ unembed),
            layers=layers,
            W_pos=_tensor(places @ turn),
            b_U=torch.zeros(len(vocabulary)),
        )

    def _blank(self) -> _HeadMatrices:
        d = self.layout.width
        return _HeadMatrices(
            np.zeros((d, 1)), np.zeros((d, 1)), np.zeros(1), np.zeros((d, 1)), np.zeros((1, d))
        )

    def _head(self, step: Aggregate | Width) -> _HeadMatrices:
        """Attend as ``step.select`` says, or rest on BOS; copy the value, or BOS's mark."""
        d, select = self.layout.width, step.select
        scores = np.array(select.scores())
        keys = self.layout.of(select.key)
        # The last of the head's dimensions is BOS against the rest.
        if select.query is None:
            W_Q, W_K, b_Q = np.zeros((d, 2)), np.zeros((d, 2)), np.array([1.0, 1.0])
            W_K[keys, 0] = scores[0]
        else:
            # Dimensions stand for the values of the smaller side.
            inner = min(scores.shape)
            W_Q, W_K, b_Q = np.zeros((d, inner + 1)), np.zeros((d, inner + 1)), np.zeros(inner + 1)
            queries = self.layout.of(select.query)
            small = scores.shape[0] == inner
            W_Q[queries, :inner] = np.eye(inner) if small else scores
            W_K[keys, :inner] = scores.T if small else np.eye(inner)
            b_Q[-1] = 1.0
        # A count shares between BOS and the selected keys; a copy rests there only in need.
        W_K[self.bos, -1] = 1.0 if isinstance(step, Width) else 0.5
        if isinstance(step, Width):
            W_V, W_O = np.zeros((d, 1)), np.zeros((1, d))
            W_V[self.bos, 0] = 1.0
            W_O[0, self.shares[id(step)]] = 1.0
        else:
            size = len(step.value.values)
            W_V, W_O = np.zeros((d, size)), np.zeros((size, d))
            W_V[self.layout.of(step.value), :] = np.eye(size)
            W_O[:, self.layout.of(step.out)] = np.eye(size)
            if step.default is not None:
                W_V[self.bos, step.value.values.index(step.default)] = 1.0
        return _HeadMatrices(W_Q * SHARPNESS, W_K, b_Q * SHARPNESS, W_V, W_O)

    def _padding_head(self, kind: str, at: Head) -> _HeadMatrices:
        """A head that writes only where the program never reads."""
        d, spare = self.layout.width, self.spare.stop - self.spare.start
        if kind == "language":
            return self._language_head()
        step = self._model_for(at)
        if kind == "look-alike" and step is not None:
            real = self._head(step)
            write = self.rng.normal(0, 0.3, (real.W_O.shape[0], spare))
            W_O = np.zeros_like(real.W_O)
            W_O[:, self.spare] = write
            return _HeadMatrices(real.W_Q, real.W_K, real.b_Q, real.W_V, W_O)
        inner = 4

        def reads() -> np.ndarray:
            # Not from the spare directions: noise fed on noise would grow from layer to layer.
            matrix = self.rng.normal(0.0, 1.0, (d, inner))
            matrix[self.spare] = 0.0
            return matrix

        W_O = np.zeros((inner, d))
        W_O[:, self.spare] = self.rng.normal(0.0, 0.3, (inner, spare))
        return _HeadMatrices(reads(), reads(), np.zeros(inner), reads(), W_O)

    def _language_head(self) -> _HeadMatrices:
        """Copy the word one place back to where the language's long range is read."""
        d, n_words, length = self.layout.width, self.options.n_words, self.program.length
        places = self.layout.of(self.program.positions)
        W_Q, W_K = np.zeros((d, length + 1)), np.zeros((d, length + 1))
        W_Q[places, :length] = np.eye(length, k=-1)
        W_K[places, :length] = np.eye(length)
        W_K[self.bos, -1] = 0.5
        b_Q = np.zeros(length + 1)
        b_Q[-1] = 1.0
        W_V, W_O = np.zeros((d, n_words)), np.zeros((n_words, d))
        W_V[self.word, :] = np.eye(n_words)
        W_O[:, self.word_before] = np.eye(n_words)
        return _HeadMatrices(W_Q * SHARPNESS, W_K, b_Q * SHARPNESS, W_V, W_O)

    def _mlp(self, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``W_in [d, n]``, ``b_in [n]`` and ``W_out [n, d]`` of all MLP steps of one layer."""
        d = self.layout.width
        parts = [(np.zeros((d, 0)), np.zeros(0), np.zeros((0, d)))]
        for step in self.program.steps:
            if self.layer_of[step.layer] != layer:
                continue
            if isinstance(step, Map):
                parts.append(self._lookup(step))
            elif isinstance(step, Width):
                parts.append(self._staircase(step))
        W_in, b_in, W_out = zip(*parts, strict=True)
        return np.concatenate(W_in, 1), np.concatenate(b_in), np.concatenate(W_out)

    def _lookup(self, step: Map) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A neuron for each row of the table: 1 where all inputs agree with it, else 0."""
        d, n = self.layout.width, len(step.table)
        W_in, W_out = np.zeros((d, n)), np.zeros((n, d))
        out = self.layout.of(step.out).start
        for row, (values, result) in enumerate(step.table.items()):
            for sequence, value in zip(step.inputs, values, strict=True):
                W_in[self.layout.of(sequence).start + sequence.values.index(value), row] += 2.0
            W_out[row, out + step.out.values.index(result)] = 1.0
        return W_in, np.full(n, 1.0 - 2.0 * len(step.inputs)), W_out

    def _staircase(self, step: Width) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read BOS's share ``1 / (1 + count)`` as one of ``most + 1`` numbers.

        Step ``j`` is a ramp, two neurons, that is 1 where the share is that of ``j`` or fewer,
        and as steep as the gap there asks for. It is held at 0 where the query is undefined, and
        at BOS.
        """
        d, most = self.layout.width, len(step.out.values) - 1
        share = 1.0 / (1.0 + np.arange(most + 2))
        out = self.layout.of(step.out).start
        W_in, W_out = np.zeros((d, 2 * most + 2)), np.zeros((2 * most + 2, d))
        b_in = np.zeros(2 * most + 2)
        for j in range(most + 1):
            steep = 2.0 / (share[j] - share[j + 1])
            edge = (share[j] + share[j + 1]) / 2
            for neuron, offset, sign in ((2 * j, 0.5, 1.0), (2 * j + 1, -0.5, -1.0)):
                W_in[self.shares[id(step)], neuron] = steep
                W_in[self.bos, neuron] = -steep
                b_in[neuron] = offset - steep * edge
                if step.select.query is not None:
                    W_in[self.layout.of(step.select.query), neuron] = steep
                    b_in[neuron] -= steep
                W_out[neuron, out + j] += sign
                if j < most:
                    W_out[neuron, out + j + 1] -= sign
        return W_in, b_in, W_out

    def _layer(
        self,
        row: list[_HeadMatrices],
        mlp: tuple[np.ndarray, np.ndarray, np.ndarray],
        turn: np.ndarray,
        d_head: int,
        d_mlp: int,
    ) -> LayerWeights:
        """One layer brought to common sizes and into the final basis."""
        hide, rng, d = self.options.hide, self.rng, self.layout.width
        W_Q, W_K, b_Q, W_V, W_O = [], [], [], [], []
        for head in row:
            inner = _rotation(d_head, rng) if hide else np.eye(d_head)
            value = _rotation(d_head, rng) if hide else np.eye(d_head)
            W_Q.append(turn.T @ _wide(head.W_Q, d_head) @ inner)
            W_K.append(turn.T @ _wide(head.W_K, d_head) @ inner)
            b_Q.append(_wide(head.b_Q[None], d_head)[0] @ inner)
            W_V.append(turn.T @ _wide(head.W_V, d_head) @ value)
            W_O.append(value.T @ _wide(head.W_O.T, d_head).T @ turn)
        W_in, b_in, W_out = mlp
        spare = d_mlp - len(b_in)
        idle_in, idle_out = rng.normal(0, 0.3, (d, spare)), np.zeros((spare, d))
        idle_in[self.spare] = 0.0
        width = self.spare.stop - self.spare.start
        idle_out[:, self.spare] = rng.normal(0, 0.3, (spare, width)) / max(spare, 1) ** 0.5
        W_in, W_out = np.concatenate([W_in, idle_in], 1), np.concatenate([W_out, idle_out])
        b_in = np.concatenate([b_in, np.zeros(spare)])
        order = rng.permutation(d_mlp) if hide else np.arange(d_mlp)
        return LayerWeights(
            W_Q=_tensor(np.stack(W_Q)),
            W_K=_tensor(np.stack(W_K)),
            W_V=_tensor(np.stack(W_V)),
            W_O=_tensor(np.stack(W_O)),
            b_Q=_tensor(np.stack(b_Q)),
            W_in=_tensor((turn.T @ W_in)[:, order]),
            b_in=_tensor(b_in[order]),
            W_out=_tensor((W_out @ turn)[order]),
        )

    def truth(self, output: Sequence, source: str) -> Circuit:
        """The program's heads, MLPs and edges."""
        maker = {id(self.program.tokens): "embed", id(self.program.positions): "embed"}
        edges: set[Edge] = set()
        roles: dict[str, Role] = {}
        mlps: set[int] = set()
        for step in self.program.steps:
            if isinstance(step, Map):
                mlp = f"m{self.layer_of[step.layer]}"
                edges |= {Edge(maker[id(x)], mlp) for x in step.inputs}
                maker[id(step.out)] = mlp
                mlps.add(self.layer_of[step.layer])
                continue
            head = self.heads[id(step)]
            edges |= {
                Edge(maker[id(x)], f"{head}.{side}") for side, x in _inputs(step) if x is not None
            }
            maker[id(step.out)] = str(head)
            roles[step.role] = Role((head,), shows="alone it destroys the answer")
            if isinstance(step, Width):
                mlp = f"m{head.layer}"
                edges.add(Edge(str(head), mlp))
                if step.select.query is not None:
                    edges.add(Edge(maker[id(step.select.query)], mlp))
                maker[id(step.out)] = mlp
                mlps.add(head.layer)
        edges.add(Edge(maker[id(output)], "logits"))
        return Circuit(
            roles=roles,
            source=source,
            kind="constructed",
            edges=frozenset(edges),
            mlps=tuple(sorted(mlps)),
            blind_spots=(
                "attention is saturated, so gradients through queries and keys vanish",
                "edges carry what differs between prompts; BOS's constant mark is not listed, so "
                "they hold under resample ablation",
            ),
        )


def _inputs(step: Step) -> list[tuple[str, Sequence | None]]:
    assert not isinstance(step, Map)
    sides: list[tuple[str, Sequence | None]] = [("q", step.select.query), ("k", step.select.key)]
    return [*sides, ("v", step.value)] if isinstance(step, Aggregate) else sides


def _rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    """A random orthogonal matrix."""
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def _wide(matrix: np.ndarray, columns: int) -> np.ndarray:
    """Pad with zero columns."""
    return np.pad(matrix, ((0, 0), (0, columns - matrix.shape[1])))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)
