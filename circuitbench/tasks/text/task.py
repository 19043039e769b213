"""A task that is a file: the contract of :class:`circuitbench.tasks.base.Task`, from data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Circuit
from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.core.info import Info
from circuitbench.models.base import Model
from circuitbench.tasks.base import Prompts
from circuitbench.tasks.text.draw import Draws
from circuitbench.tasks.text.pairs import read_pairs
from circuitbench.tasks.text.reading import decoded, read_bytes, read_yaml
from circuitbench.tasks.text.schema import TaskFile, Truth
from circuitbench.tasks.tokenizer import Text, text_of

HERE = Path(__file__).parent
FILES, TRUTHS, CONTROL = HERE / "files", HERE / "truths", HERE / "control.txt"
YAML, PAIRS = (".yaml", ".yml"), (".csv", ".jsonl")
ENDINGS = (*YAML, *PAIRS)
HASH = 12  # digits of a content's hash


@dataclass(frozen=True)
class TextTask:
    """A behaviour from a file.

    Args:
        name: what a record calls it.
        file: what it says.
        truths: the circuits it names, in its order.
        truth_name: which is scored, or ``none``; None is the file's choice.
        control_text: what control spans are cut from; None is the model's own language (planted
            models) or the text that ships with us.
        control_name: where that is from, as a record says it.
    """

    name: str
    file: TaskFile
    truths: Mapping[str, Truth] = field(default_factory=dict)
    truth_name: str | None = None
    control_text: str | None = None
    control_name: str | None = None
    _draws: dict[int, tuple[object, Draws]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def default_model(self) -> str:
        """The model that the file names; raises :class:`InvalidSpec` if it names none."""
        if self.file.model is None:
            raise InvalidSpec(f"{self.name} names no model; say which with --model, e.g. gpt2")
        return self.file.model

    @property
    def info(self) -> Info:
        """What the file says of itself."""
        file = self.file
        return Info(file.title, file.family, file.paper, file.link, version=file.version)

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        """``n`` prompts in the model's tokens; raises :class:`InvalidSpec` where they don't fit."""
        prompts = self._drawn_for(model).prompts(n, rng)
        if model.transformer is not None:
            longest = model.transformer.config.n_ctx
            if prompts.tokens.shape[1] > longest:
                raise InvalidSpec(
                    f"{self.name}: a prompt has {prompts.tokens.shape[1]} tokens; {model.name} "
                    f"reads {longest}"
                )
        return prompts

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        """``n`` spans of ordinary text, ``[n, span]`` long, BOS first."""
        text = self._drawn_for(model).text
        span = self.file.control.span
        if model.transformer is not None:
            span = min(span, model.transformer.config.n_ctx)
        if self.control_text is None and text.language is not None:
            return torch.from_numpy(text.language.text(n, span, rng))
        stream = self._stream(text)
        if len(stream) <= span:
            raise InvalidSpec(
                f"the control text of {self.name} has {len(stream)} tokens; more than {span} are "
                "needed"
            )
        starts = rng.integers(len(stream) - span, size=n)
        spans = stream[starts[:, None] + np.arange(span)]
        # Without a BOS token, all spans begin with the text's first one.
        spans[:, 0] = stream[0] if text.bos is None else text.bos
        return torch.from_numpy(spans)

    def truth(self, model: Model) -> Circuit | None:
        """The circuit that is scored, None where the file has none of this model.

        Raises :class:`InvalidSpec` where a truth was asked for that is of another model.
        """
        if self.truth_name == "none" or not self.truths:
            return None
        if self.truth_name is not None:
            truth = self.truths[self.truth_name]
            if not truth.is_of(model):
                raise InvalidSpec(
                    f"truth {self.truth_name!r} is of {', '.join(truth.models)} "
                    f"({truth.layers} x {truth.heads} heads), not of {model.name} "
                    f"({model.n_layers} x {model.n_heads})"
                )
            return truth.circuit()
        first = self.file.truth
        names = list(self.truths) if first is None else [first, *self.truths]
        return next((self.truths[x].circuit() for x in names if self.truths[x].is_of(model)), None)

    def with_truth(self, name: str) -> TextTask:
        """The same task scored against another of its truths, or against ``none``.

        Raises :class:`UnknownName` for a truth that the file does not name.
        """
        if name != "none" and name not in self.truths:
            raise UnknownName("truth", name, [*self.truths, "none"])
        return replace(self, truth_name=name, _draws={})

    def with_control(self, path: Path) -> TextTask:
        """The same task with control spans from another text file."""
        text, name = read_control(path)
        return replace(self, control_text=text, control_name=name, _draws={})

    def _drawn_for(self, model: Model) -> Draws:
        key = id(model.construction)
        known = self._draws.get(key)
        if known is None or known[0] is not model.construction:
            text = text_of(model)
            known = self._draws[key] = model.construction, Draws(self.file, text, self.name)
        return known[1]

    def _stream(self, text: Text) -> np.ndarray:
        """All tokens of the control text in one row.

        Raises :class:`InvalidSpec` where a model knows other words, with what to do.
        """
        whole = CONTROL.read_text("utf-8") if self.control_text is None else self.control_text
        # Line by line: as one piece it may exceed the longest input a tokenizer warns about.
        lines = whole.splitlines(keepends=True)
        try:
            tokens = [token for line in lines for token in text.encode(line)]
        except InvalidSpec as error:
            raise InvalidSpec(
                f"{error}, which the control text needs; give one in the model's words: "
                'control: {text: "..."} in the file, or --control FILE'
            ) from None
        return np.array(tokens, dtype=np.int64)


def is_file(name: str) -> bool:
    """Whether a task's name is that of a file, perhaps with the hash of its content behind it."""
    return split_hash(name)[0].lower().endswith(ENDINGS)


def split_hash(name: str) -> tuple[str, str]:
    """``my.yaml@0123456789ab`` as name and hash; the hash is empty where none is given."""
    path, at, digits = name.rpartition("@")
    hashed = at and len(digits) == HASH and all(x in "0123456789abcdef" for x in digits)
    return (path, digits) if hashed else (name, "")


def read_task(name: str) -> TextTask:
    """The task of a YAML, CSV or JSON lines file.

    Its name is that of the file, without folders, and the hash of all that the file says
    (files that it refers to included).

    Args:
        name: a path, perhaps followed by ``@`` and the hash that the content must have.

    Raises:
        InvalidSpec: the file is not there, is not what it should be, or has changed.
    """
    written, expected = split_hash(name)
    path = Path(written)
    contents = [read_bytes(path)]

    def beside(other: str) -> bytes:
        if Path(other).is_absolute() or ".." in Path(other).parts:
            raise InvalidSpec(f"{path.name}: {other!r} must be beside the file, not elsewhere")
        contents.append(read_bytes(path.parent / other))
        return contents[-1]

    if path.suffix.lower() in PAIRS:
        pairs = read_pairs(contents[0], path.name)
        file = TaskFile.model_validate({"title": path.stem, "pairs": pairs})
        truths: Mapping[str, Truth] = {}
        control = None
    else:
        file, truths, control = _read_yaml_task(contents[0], path.name, beside)
    found = _digest(*contents)
    if expected and expected != found:
        raise InvalidSpec(
            f"{path} has changed: its hash is {found}, not {expected}; leave the hash out to "
            "take it as it is"
        )
    return TextTask(f"{path.name}@{found}", file, truths, control_text=control)


def shipped_names() -> list[str]:
    """The names of the behaviours that ship with us."""
    return sorted(path.stem for path in FILES.glob("*.yaml"))


def read_shipped(name: str) -> TextTask:
    """One of the behaviours that ship with us."""

    def beside(other: str) -> bytes:
        return read_bytes(FILES / other)

    content = read_bytes(FILES / f"{name}.yaml")
    file, truths, control = _read_yaml_task(content, name, beside)
    return TextTask(name, file, truths, control_text=control)


def read_truth(name: str) -> Truth:
    """A truth that ships with us; raises :class:`UnknownName` if there is none of this name."""
    known = sorted(path.stem for path in TRUTHS.glob("*.yaml"))
    if name not in known:
        raise UnknownName("truth", name, known)
    return read_yaml(read_bytes(TRUTHS / f"{name}.yaml"), f"truth {name}", Truth)


def read_control(path: Path) -> tuple[str, str]:
    """A control text, and its name with the hash of its content.

    Args:
        path: perhaps followed by ``@`` and the hash that the content must have.
    """
    written, expected = split_hash(str(path))
    content = read_bytes(Path(written))
    found = _digest(content)
    if expected and expected != found:
        raise InvalidSpec(f"{written} has changed: its hash is {found}, not {expected}")
    return decoded(content, written), f"{Path(written).name}@{found}"


def _read_yaml_task(
    content: bytes, where: str, beside: Callable[[str], bytes]
) -> tuple[TaskFile, Mapping[str, Truth], str | None]:
    file = read_yaml(content, where, TaskFile)
    if file.pairs_file is not None:
        pairs = read_pairs(beside(file.pairs_file), Path(file.pairs_file).name)
        file = file.model_copy(update={"pairs": pairs})
    truths = {}
    for name, truth in file.truths.items():
        try:
            truths[name] = read_truth(name) if truth is None else truth
        except UnknownName as error:
            raise InvalidSpec(f"{where}: {error}") from error
    control = file.control.text
    if file.control.file is not None:
        control = decoded(beside(file.control.file), file.control.file)
    return file, truths, control


def _digest(*contents: bytes) -> str:
    whole = hashlib.sha256()
    for content in contents:
        whole.update(content if len(contents) == 1 else hashlib.sha256(content).digest())
    return whole.hexdigest()[:HASH]
