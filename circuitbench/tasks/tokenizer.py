"""Text to tokens: what is asked of a model's tokenizer, and words for models without one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from circuitbench.core.errors import InvalidSpec
from circuitbench.models.base import Model
from circuitbench.models.planted.build import PlantedModel
from circuitbench.models.planted.language import SPECIALS, Language


@runtime_checkable
class Tokenizer(Protocol):
    """What is asked of the tokenizer that comes with a model."""

    bos_token_id: int

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        ...

    def __len__(self) -> int: ...

    def __hash__(self) -> int: ...


class Text:
    """Text as tokens for one model: encoding alone, without what a tokenizer puts around it.

    Args:
        tokenizer: the model's.
        name: of the model, for messages.

    Attributes:
        bos: the token that every prompt begins with; None where the tokenizer has none.
        language: of a planted model, which speaks no other; else None.
    """

    language: Language | None = None

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        if len(tokenizer) < 2:
            raise InvalidSpec(
                f"the tokenizer of {name} knows {len(tokenizer)} tokens, so it maps every text to "
                "the same; put tokenizer.json (or vocab.json and merges.txt) beside the weights"
            )
        self.name, self._tokenizer = name, tokenizer
        # Some models have no BOS token; what ends their documents begins them too.
        bos = getattr(tokenizer, "bos_token_id", None)
        self.bos = getattr(tokenizer, "eos_token_id", None) if bos is None else bos
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, remembered."""
        if text not in self._known:
            self._known[text] = tuple(int(token) for token in self._encode(text))
        return self._known[text]

    def behind(self, lead: str, text: str) -> tuple[int, ...] | None:
        """The tokens of ``text`` where it stands behind ``lead``; None where the two merge."""
        head, both = self.encode(lead), self.encode(lead + text)
        return both[len(head) :] if both[: len(head)] == head else None

    def continuation(self, text: str) -> tuple[int, ...]:
        """The tokens of a text that goes on from another, whatever that is."""
        alone = self.encode(text)
        # Some tokenizers put a space in front of every text.
        return alone if len(alone) == 1 else self.behind(".", text) or alone

    def _encode(self, text: str) -> Sequence[int]:
        try:  # transformers' tokenizers put BOS in front unless told otherwise
            return self._tokenizer.encode(text, add_special_tokens=False)  # type: ignore[call-arg]
        except TypeError:
            return self._tokenizer.encode(text)

    @cached_property
    def ordinary(self) -> np.ndarray:
        """Ids of all tokens that a random prompt may hold: all but the special ones."""
        special = set(getattr(self._tokenizer, "all_special_ids", ())) | {self.bos}
        return np.array([token for token in range(len(self._tokenizer)) if token not in special])


class PlantedText(Text):
    """Words for a planted model: ``name0``, ``num3``, ``word12``, and ``end``, ``cmp`` and so on.

    Words are separated by spaces, and every one is a token.

    Raises :class:`InvalidSpec` for a word that the language does not have.
    """

    def __init__(self, language: Language, name: str) -> None:
        self.name, self.language = name, language
        self.words = {word: token for token, word in enumerate(SPECIALS)}
        for kind, tokens in (
            ("name", language.names),
            ("num", language.nums),
            ("word", language.words),
        ):
            self.words |= {f"{kind}{i}": int(token) for i, token in enumerate(tokens)}
        self.bos = self.words["bos"]
        self._known = {}

    def _encode(self, text: str) -> Sequence[int]:
        missing = next((word for word in text.split() if word not in self.words), None)
        if missing is not None:
            spoken = self.language
            assert spoken is not None
            raise InvalidSpec(
                f"{self.name} has no word {missing!r}; it has "
                f"name0 to name{len(spoken.names) - 1}, "
                f"num0 to num{len(spoken.nums) - 1}, word0 to word{len(spoken.words) - 1}, "
                f"{', '.join(SPECIALS)}"
            )
        return [self.words[word] for word in text.split()]

    def continuation(self, text: str) -> tuple[int, ...]:
        """See :meth:`Text.continuation`."""
        return self.encode(text)

    @cached_property
    def ordinary(self) -> np.ndarray:
        """Ids of all tokens but the special ones."""
        assert self.language is not None
        return self.language.ordinary


def text_of(model: Model) -> Text:
    """How text becomes tokens for a model.

    Raises :class:`InvalidSpec` for a model that neither has a tokenizer nor is planted, and for
    a tokenizer that is none.
    """
    if isinstance(model.construction, PlantedModel):
        return PlantedText(model.construction.language, model.name)
    if isinstance(model.construction, Tokenizer):
        return Text(model.construction, model.name)
    raise InvalidSpec(
        f"model {model.name} has no tokenizer, so it reads no text; put tokenizer.json (or "
        "vocab.json and merges.txt) beside its weights"
    )
