"""Six programs whose transformers are compiled, not trained, and compute them exactly.

``reverse``, ``sort``, ``histogram``, ``frac-prevs``, ``dyck`` and ``most-frequent`` are the
programs of Weiss et al. 2021 (arXiv 2106.06981) and Tracr (Lindner et al. 2023, arXiv 2301.05062),
written for causal attention: where an answer depends on all of the input, it is given at blank
slots ``_`` after it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from circuitbench.core.errors import InvalidSpec
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.models.compiled.compiler import Compiled, CompilerOptions, compile_program
from circuitbench.models.compiled.rasp import Program, Select, Sequence
from circuitbench.models.limits import DEFAULT_LIMITS, Limits

SLOT = "_"
LETTERS = ("a", "b", "c", "d", "e", "f", "g", "h")


class Example(Protocol):
    """A program, plain Python that says what it computes, and inputs to run it on."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        ...

    @property
    def reads(self) -> int:
        """How many answers of a prompt are read."""
        ...

    def write(self) -> tuple[Program, Sequence]:
        """The program and its output."""
        ...

    def draw(self, rng: np.random.Generator) -> list[str]:
        """A random input, one symbol a position."""
        ...

    def answers(self, symbols: list[str]) -> list[str | None]:
        """The right answer at each position, None where there is none."""
        ...


def _equal(a: object, b: object) -> bool:
    return a == b


@dataclass(frozen=True)
class Reverse:
    """``a b c . _ _ _`` gives ``c b a`` at the slots; the input ends where the stop is.

    Heads: ``find-stop`` brings the stop's position to every slot, ``fetch`` copies the symbol as
    far before the stop as the slot is after it.
    """

    name: str = "reverse"
    reads: int = 3
    longest: int = 6
    shortest: int = 3

    def write(self) -> tuple[Program, Sequence]:
        """See :class:`Example`."""
        program = Program((*LETTERS[:6], ".", SLOT), 2 * self.longest + 1)
        stop = program.aggregate(
            "find-stop", Select(None, program.tokens, lambda k: k == "."), program.positions
        )
        mirrored = program.map(
            lambda here, stop: 2 * stop - here if stop < here < 2 * stop else None,
            program.positions,
            stop,
        )
        select = Select(mirrored, program.positions, _equal)
        return program, program.aggregate("fetch", select, program.tokens)

    def draw(self, rng: np.random.Generator) -> list[str]:
        """See :class:`Example`."""
        length = int(rng.integers(self.shortest, self.longest + 1))
        body = [str(x) for x in rng.choice(LETTERS[:6], length)]
        return [*body, ".", *[SLOT] * (2 * self.longest - length)]

    def answers(self, symbols: list[str]) -> list[str | None]:
        """See :class:`Example`."""
        body = symbols[: symbols.index(".")]
        head: list[str | None] = [None] * (len(body) + 1)
        return [*head, *body[::-1], *[None] * (len(symbols) - 2 * len(body) - 1)]


@dataclass(frozen=True)
class Sort:
    """Six different letters of eight, six working slots, then the letters in order.

    Heads: ``copy`` brings each letter to its working slot, ``rank`` counts the letters before it
    in the alphabet, ``place`` fetches the letter of the right rank.
    """

    name: str = "sort"
    reads: int = 4
    n: int = 6

    def write(self) -> tuple[Program, Sequence]:
        """See :class:`Example`."""
        n = self.n
        program = Program((*LETTERS, SLOT), 3 * n)
        tokens, positions = program.tokens, program.positions
        copied = program.aggregate(
            "copy", Select(positions, positions, lambda q, k: n < q <= 2 * n and k == q - n), tokens
        )
        rank = program.width(
            "rank", Select(copied, tokens, lambda q, k: SLOT not in (q, k) and k < q), n - 1
        )
        placed = Select(positions, rank, lambda q, k: q - 2 * n - 1 == k)
        return program, program.aggregate("place", placed, copied)

    def draw(self, rng: np.random.Generator) -> list[str]:
        """See :class:`Example`."""
        return [*(str(x) for x in rng.permutation(LETTERS)[: self.n]), *[SLOT] * (2 * self.n)]

    def answers(self, symbols: list[str]) -> list[str | None]:
        """See :class:`Example`."""
        return [*[None] * (2 * self.n), *sorted(symbols[: self.n])]


@dataclass(frozen=True)
class Histogram:
    """For each letter of the input, at its slot, how often it occurs.

    Heads: ``copy`` brings the letter to its slot, ``count`` counts its equals.
    """

    name: str = "histogram"
    reads: int = 4
    n: int = 8

    def write(self) -> tuple[Program, Sequence]:
        """See :class:`Example`."""
        n = self.n
        program = Program((*LETTERS[:4], SLOT), 2 * n)
        tokens, positions = program.tokens, program.positions
        copied = program.aggregate(
            "copy", Select(positions, positions, lambda q, k: q > n and k == q - n), tokens
        )
        same = Select(copied, tokens, lambda q, k: q == k != SLOT)
        return program, program.width("count", same, n)

    def draw(self, rng: np.random.Generator) -> list[str]:
        """See :class:`Example`."""
        return [*(str(x) for x in rng.choice(LETTERS[:4], self.n)), *[SLOT] * self.n]

    def answers(self, symbols: list[str]) -> list[str | None]:
        """See :class:`Example`."""
        counts = Counter(symbols[: self.n])
        return [*[None] * self.n, *[str(counts[x]) for x in symbols[: self.n]]]


@dataclass(frozen=True)
class FracPrevs:
    """At each position, which fraction of the letters so far equals the first.

    Heads: ``first`` brings the first letter everywhere, ``count`` counts its equals so far.
    """

    name: str = "frac-prevs"
    reads: int = 4
    n: int = 8

    def write(self) -> tuple[Program, Sequence]:
        """See :class:`Example`."""
        program = Program(LETTERS[:3], self.n)
        tokens, positions = program.tokens, program.positions
        first = program.aggregate("first", Select(None, positions, lambda k: k == 1), tokens)
        count = program.width("count", Select(first, tokens, _equal), self.n)
        return program, program.map(
            lambda c, p: Fraction(c, p) if 1 <= c <= p else None, count, positions
        )

    def draw(self, rng: np.random.Generator) -> list[str]:
        """See :class:`Example`."""
        return [str(x) for x in rng.choice(LETTERS[:3], self.n)]

    def answers(self, symbols: list[str]) -> list[str | None]:
        """See :class:`Example`."""
        return [
            str(Fraction(symbols[: i + 1].count(symbols[0]), i + 1)) for i in range(len(symbols))
        ]


@dataclass(frozen=True)
class Dyck:
    """Shuffle-Dyck-2: at each position ``T`` if all brackets of both kinds are closed, ``P`` if
    some are open, ``F`` if ever one was closed that was not open.

    Heads: ``open`` and ``close`` of each kind count brackets so far, ``broken`` of each kind
    notices an earlier place where more were closed than opened.
    """

    name: str = "dyck"
    reads: int = 4
    n: int = 8

    def write(self) -> tuple[Program, Sequence]:
        """See :class:`Example`."""
        program = Program(("(", ")", "[", "]"), self.n)
        balanced, broken = [], []
        for kind, (left, right) in (("round", "()"), ("square", "[]")):
            opened, closed = (
                program.width(
                    f"{side}-{kind}", Select(None, program.tokens, lambda k, b=b: k == b), self.n
                )
                for side, b in (("open", left), ("close", right))
            )
            below = program.map(lambda o, c: o < c, opened, closed)
            balanced.append(program.map(lambda o, c: o == c, opened, closed))
            select = Select(None, below, lambda k: k)
            broken.append(program.aggregate(f"broken-{kind}", select, below, default=False))
        return program, program.map(
            lambda b1, b2, x1, x2: "F" if x1 or x2 else "T" if b1 and b2 else "P",
            *balanced,
            *broken,
        )

    def draw(self, rng: np.random.Generator) -> list[str]:
        """Mostly well-formed so far; in half of the inputs one bracket is turned around."""
        depth, symbols = [0, 0], []
        for _ in range(self.n):
            kind = int(rng.integers(2))
            close = depth[kind] > 0 and rng.random() < 0.6
            depth[kind] += -1 if close else 1
            symbols.append(("()", "[]")[kind][int(close)])
        if rng.random() < 0.5:
            at = int(rng.integers(self.n // 2))
            symbols[at] = {"(": ")", ")": "(", "[": "]", "]": "["}[symbols[at]]
        return symbols

    def answers(self, symbols: list[str]) -> list[str | None]:
        """See :class:`Example`."""
        depth, broken, answers = Counter[str](), False, list[str | None]()
        for symbol in symbols:
            kind = "round" if symbol in "()" else "square"
            depth[kind] += 1 if symbol in "([" else -1
            broken = broken or depth[kind] < 0
            answers.append("F" if broken else "P" if any(depth.values()) else "T")
        return answers


@dataclass(frozen=True)
class MostFrequent:
    """After the input and its working slots, at the last slot: the letter that occurs most.

    Heads: ``copy`` brings each letter to its working slot, ``count`` counts its equals, ``best``
    attends to the highest count. Inputs have one most frequent letter.
    """

    name: str = "most-frequent"
    reads: int = 1
    n: int = 7

    def write(self) -> tuple[Program, Sequence]:
        """See :class:`Example`."""
        n = self.n
        program = Program((*LETTERS[:5], SLOT), 2 * n + 1)
        tokens, positions = program.tokens, program.positions
        copied = program.aggregate(
            "copy", Select(positions, positions, lambda q, k: n < q <= 2 * n and k == q - n), tokens
        )
        count = program.width("count", Select(copied, tokens, lambda q, k: q == k != SLOT), n)
        best = Select(positions, count, lambda q, k: k if q == 2 * n + 1 else 0)
        return program, program.aggregate("best", best, copied)

    def draw(self, rng: np.random.Generator) -> list[str]:
        """See :class:`Example`."""
        while True:
            letters = [str(x) for x in rng.choice(LETTERS[:5], self.n)]
            (_, most), (_, next_most) = [*Counter(letters).most_common(2), ("", 0)][:2]
            if most > next_most:
                return [*letters, *[SLOT] * (self.n + 1)]

    def answers(self, symbols: list[str]) -> list[str | None]:
        """See :class:`Example`."""
        ((best, _),) = Counter(symbols[: self.n]).most_common(1)
        return [*[None] * (2 * self.n), best]


EXAMPLES: dict[str, Example] = {
    example.name: example
    for example in (Reverse(), Sort(), Histogram(), FracPrevs(), Dyck(), MostFrequent())
}


# Replacing one of six counts by that of another prompt changes all of an answer or nothing, so its
# mean effect over a few dozen prompts is noisy.
LIMITS = {"dyck": Limits(stability=0.4)}


@dataclass(frozen=True)
class CompiledConstruction:
    """What the tasks need to know of a compiled model."""

    example: Example
    compiled: Compiled


def compiled_model(
    example: Example, options: CompilerOptions | None = None, name: str = ""
) -> Model:
    """Compile a program into a model; by default eight heads a layer, hidden basis."""
    options = options or CompilerOptions(n_heads=8)
    program, output = example.write()
    compiled = compile_program(
        program,
        output,
        source=f"compiled from the RASP program {example.name!r}",
        options=options,
    )
    config = compiled.transformer.config
    return Model(
        name=name or f"compiled-{example.name}",
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        transformer=compiled.transformer,
        construction=CompiledConstruction(example, compiled),
        provenance={
            "kind": "compiled",
            "program": example.name,
            "seed": options.seed,
            "hidden_basis": options.hide,
            "n_words": options.n_words,
        },
        dials=asdict(options),
        limits=LIMITS.get(example.name, DEFAULT_LIMITS),
    )


def _factory(name: str, variant: str) -> Model:
    if variant and not (variant.isascii() and variant.isdecimal()):
        raise InvalidSpec(
            f"compiled-{name}@{variant}: what follows @ is a seed, a whole number such as 3"
        )
    options = CompilerOptions(n_heads=8, seed=int(variant or 0))
    full = f"compiled-{name}" + (f"@{variant}" if variant else "")
    return compiled_model(EXAMPLES[name], options, full)


@Info(
    title="Compiled program: reverse",
    family="Compiled",
    paper="Lindner et al. 2023",
    link="https://arxiv.org/abs/2301.05062",
)
def reverse(variant: str = "") -> Model:
    """The model ``compiled-reverse``; the variant seeds padding and hidden basis."""
    return _factory("reverse", variant)


@Info(
    title="Compiled program: sort",
    family="Compiled",
    paper="Lindner et al. 2023",
    link="https://arxiv.org/abs/2301.05062",
)
def sort(variant: str = "") -> Model:
    """The model ``compiled-sort``; the variant seeds padding and hidden basis."""
    return _factory("sort", variant)


@Info(
    title="Compiled program: histogram",
    family="Compiled",
    paper="Lindner et al. 2023",
    link="https://arxiv.org/abs/2301.05062",
)
def histogram(variant: str = "") -> Model:
    """The model ``compiled-histogram``; the variant seeds padding and hidden basis."""
    return _factory("histogram", variant)


@Info(
    title="Compiled program: fractions",
    family="Compiled",
    paper="Lindner et al. 2023",
    link="https://arxiv.org/abs/2301.05062",
)
def frac_prevs(variant: str = "") -> Model:
    """The model ``compiled-frac-prevs``; the variant seeds padding and hidden basis."""
    return _factory("frac-prevs", variant)


@Info(
    title="Compiled program: brackets",
    family="Compiled",
    paper="Lindner et al. 2023",
    link="https://arxiv.org/abs/2301.05062",
)
def dyck(variant: str = "") -> Model:
    """The model ``compiled-dyck``; the variant seeds padding and hidden basis."""
    return _factory("dyck", variant)


@Info(
    title="Compiled program: most frequent",
    family="Compiled",
    paper="Lindner et al. 2023",
    link="https://arxiv.org/abs/2301.05062",
)
def most_frequent(variant: str = "") -> Model:
    """The model ``compiled-most-frequent``; the variant seeds padding and hidden basis."""
    return _factory("most-frequent", variant)
