"""From a RASP program to transformer weights that compute it exactly.

After Tracr (Lindner et al. 2023, arXiv 2301.05062): every sequence gets its own directions in the
residual stream, one for each value; a selection becomes one head's query-key matrix, a map a
lookup table in an MLP. Then the basis is hidden by random rotations, and heads that do nothing
for the program are added. Causal attention, ReLU MLPs, no normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit, Edge, Head, Role
from circuitbench.core.errors import InvalidSpec
from circuitbench.models.compiled.parts import (
    HeadMatrices,
    Layout,
    Neurons,
    idle_neurons,
    language_head,
    look_alike,
    lookup,
    noise_head,
    program_head,
    staircase,
)
from circuitbench.models.compiled.rasp import Aggregate, Map, Program, Sequence, Width
from circuitbench.models.trained.skipgrams import SkipGrams
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig

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
        self._place_heads()
        self.layout = Layout(program, options.n_words, options.d_model)

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
        self.steps: dict[Head, Aggregate | Width] = {}
        for step in self.program.steps:
            if not isinstance(step, Map):
                layer = self.layer_of[step.layer]
                self.steps[Head(layer, int(free[layer].pop()))] = step
        language = Head(0, int(free[0].pop()))
        rest = [Head(layer, int(h)) for layer in range(self.n_layers) for h in free[layer]]
        known = ((head, self._known_at(head)) for head in rest[::2])
        self.copied = {head: twin for head, twin in known if twin}
        self.padding = {
            "language": (language,),
            "look-alike": tuple(self.copied),
            "noise": tuple(head for head in rest if head not in self.copied),
        }

    def _known_at(self, head: Head) -> Aggregate | Width | None:
        """A step of the program whose inputs are known in this layer, if there is one."""
        known = [step for place, step in self.steps.items() if place.layer <= head.layer]
        return known[head.head % len(known)] if known else None

    def build(
        self,
        output: Sequence,
        answers: tuple[str, ...],
        vocabulary: tuple[str, ...],
        language: SkipGrams,
    ) -> Transformer:
        """All weights, rotated into their final basis."""
        rows = [
            [self._head(Head(layer, head)) for head in range(self.n_heads)]
            for layer in range(self.n_layers)
        ]
        mlps = [self._mlp(layer) for layer in range(self.n_layers)]
        d_head = max(m.shape[1] for row in rows for h in row for m in (h.W_Q, h.W_V))
        d_mlp = max(len(mlp.b_in) for mlp in mlps)

        layout, n_words = self.layout, self.options.n_words
        d = layout.width
        embed = np.zeros((len(vocabulary), d))
        embed[0, layout.bos] = 1.0
        symbols = layout.of(self.program.tokens)
        embed[1 : 1 + len(self.program.symbols), symbols] = np.eye(len(self.program.symbols))
        embed[-n_words:, layout.word] = np.eye(n_words)
        places = np.zeros((self.program.length + 1, d))
        places[1:, layout.of(self.program.positions)] = np.eye(self.program.length)
        unembed = np.zeros((d, len(vocabulary)))
        columns = [vocabulary.index(a) for a in answers]
        unembed[range(*layout.of(output).indices(d)), columns] = ANSWER_LOGIT
        unembed[layout.word, -n_words:] = language.near + WORD_LOGIT
        unembed[layout.word_before, -n_words:] = language.far
        unembed[layout.bos, -n_words:] = WORD_LOGIT

        turn = _rotation(d, self.rng) if self.options.hide else np.eye(d)
        layers = tuple(
            self._layer(row, mlp, turn, d_head, d_mlp) for row, mlp in zip(rows, mlps, strict=True)
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

    def _head(self, at: Head) -> HeadMatrices:
        """The program's head at this place, or the padding's."""
        if at in self.steps:
            return program_head(self.steps[at], self.layout)
        if at in self.padding["language"]:
            return language_head(self.program, self.layout)
        if at in self.copied:
            return look_alike(self.copied[at], self.layout, self.rng)
        return noise_head(self.layout, self.rng)

    def _mlp(self, layer: int) -> Neurons:
        """All MLP steps of one layer."""
        here = [step for step in self.program.steps if self.layer_of[step.layer] == layer]
        parts = [lookup(step, self.layout) for step in here if isinstance(step, Map)]
        parts += [staircase(step, self.layout) for step in here if isinstance(step, Width)]
        return Neurons.join(parts, self.layout.width)

    def _layer(
        self,
        row: list[HeadMatrices],
        mlp: Neurons,
        turn: np.ndarray,
        d_head: int,
        d_mlp: int,
    ) -> LayerWeights:
        """One layer brought to common sizes and into the final basis."""
        hide, rng = self.options.hide, self.rng
        W_Q, W_K, b_Q, W_V, W_O = [], [], [], [], []
        for head in row:
            inner = _rotation(d_head, rng) if hide else np.eye(d_head)
            value = _rotation(d_head, rng) if hide else np.eye(d_head)
            W_Q.append(turn.T @ _wide(head.W_Q, d_head) @ inner)
            W_K.append(turn.T @ _wide(head.W_K, d_head) @ inner)
            b_Q.append(_wide(head.b_Q[None], d_head)[0] @ inner)
            W_V.append(turn.T @ _wide(head.W_V, d_head) @ value)
            W_O.append(value.T @ _wide(head.W_O.T, d_head).T @ turn)
        idle = idle_neurons(d_mlp - len(mlp.b_in), self.layout, rng)
        neurons = Neurons.join([mlp, idle], self.layout.width)
        order = rng.permutation(d_mlp) if hide else np.arange(d_mlp)
        return LayerWeights(
            W_Q=_tensor(np.stack(W_Q)),
            W_K=_tensor(np.stack(W_K)),
            W_V=_tensor(np.stack(W_V)),
            W_O=_tensor(np.stack(W_O)),
            b_Q=_tensor(np.stack(b_Q)),
            W_in=_tensor((turn.T @ neurons.W_in)[:, order]),
            b_in=_tensor(neurons.b_in[order]),
            W_out=_tensor((neurons.W_out @ turn)[order]),
        )

    def truth(self, output: Sequence, source: str) -> Circuit:
        """The program's heads, MLPs and edges.

        An edge is true if it carries what differs between prompts. Positions do not: an edge that
        carries nothing else is left out, for mean and resample ablation bring the same back.
        """
        maker = {id(self.program.tokens): "embed", id(self.program.positions): "embed"}
        edges: set[Edge] = set()
        roles: dict[str, Role] = {}
        places = {id(step): head for head, step in self.steps.items()}
        mlps: set[int] = set()
        for step in self.program.steps:
            if isinstance(step, Map):
                mlp = f"m{self.layer_of[step.layer]}"
                edges |= {Edge(maker[id(x)], mlp) for x in step.inputs if self._varies(x)}
                maker[id(step.out)] = mlp
                mlps.add(self.layer_of[step.layer])
                continue
            head = places[id(step)]
            edges |= {
                Edge(maker[id(x)], f"{head}.{side}")
                for side, x in _inputs(step)
                if x is not None and self._varies(x)
            }
            maker[id(step.out)] = str(head)
            roles[step.role] = Role((head,), shows="alone it destroys the answer")
            if isinstance(step, Width):
                mlp = f"m{head.layer}"
                edges.add(Edge(str(head), mlp))
                if step.select.query is not None and self._comes_and_goes(step.select.query):
                    edges.add(Edge(maker[id(step.select.query)], mlp))
                maker[id(step.out)] = mlp
                mlps.add(head.layer)
        edges.add(Edge(maker[id(output)], "logits"))
        return Circuit(
            roles=roles,
            source=source,
            kind="constructed",
            ablations=("zero", "mean", "resample"),
            edges=frozenset(edges),
            edge_ablations=("mean", "resample"),
            mlps=tuple(sorted(mlps)),
            blind_spots=(
                "attention is saturated, so gradients through queries and keys vanish",
                "edges carry what differs between prompts; positions and BOS's mark are the same "
                "on all, so the edges hold under mean and resample ablation, not under zero",
            ),
        )

    def _varies(self, sequence: Sequence) -> bool:
        """Whether a sequence can differ from one prompt to another at the same position."""
        return sequence is not self.program.positions

    def _comes_and_goes(self, sequence: Sequence) -> bool:
        """Whether a sequence can be defined on one prompt and not on another, at one position."""
        step = next((step for step in self.program.steps if step.out is sequence), None)
        if step is None:  # tokens and positions: everywhere but at BOS
            return False
        if isinstance(step, Map):
            return True
        if isinstance(step, Width):
            return step.select.query is not None and self._comes_and_goes(step.select.query)
        sides = [x for x in (step.select.query, step.select.key) if x is not None]
        return step.default is None and any(map(self._varies, sides))


def _inputs(step: Aggregate | Width) -> list[tuple[str, Sequence | None]]:
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
