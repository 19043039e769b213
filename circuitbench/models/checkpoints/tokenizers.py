"""Tokenizers that come with a model: from text to token ids and back, nothing added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from circuitbench.core.errors import InvalidSpec, ModelUnavailable
from circuitbench.core.extras import needs_extra

VOCABULARY = "vocabulary.txt"
_PADDING = 0.1  # share of a model's vocabulary that may stand for no token


class TextTokenizer:
    """A Hugging Face tokenizer without its special tokens.

    Args:
        tokenizer: of transformers.

    Attributes:
        bos_token_id: what stands before a text; the end-of-text token where there is none.
        all_special_ids: tokens that stand for no text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        first = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
        self.all_special_ids = tuple(tokenizer.all_special_ids)
        self.bos_token_id = int(next(token for token in first if token is not None))

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without a beginning-of-text token."""
        return [int(t) for t in self.tokenizer.encode(text, add_special_tokens=False)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self.tokenizer.decode(list(tokens)))

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a folder."""
        self.tokenizer.save_pretrained(str(folder))


class WordTokenizer:
    """A toy model's vocabulary: words separated by spaces, each one token.

    Args:
        words: by token id.
        bos: the word that stands before a text; the first by default.
    """

    def __init__(self, words: Sequence[str], bos: str | None = None) -> None:
        self.words = tuple(words)
        self._ids = {word: i for i, word in enumerate(self.words)}
        if not self.words or len(self._ids) != len(self.words):
            raise InvalidSpec("a vocabulary needs words, each of them once")
        if any(word.split() != [word] for word in self.words):
            raise InvalidSpec("a word of a vocabulary must not be empty or hold a space")
        if bos is not None and bos not in self._ids:
            raise InvalidSpec(f"the vocabulary has no word {bos!r} to begin texts with")
        self.bos_token_id = 0 if bos is None else self._ids[bos]

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; raises :class:`InvalidSpec` for a word that is not known."""
        unknown = [word for word in text.split() if word not in self._ids]
        if unknown:
            raise InvalidSpec(f"the model's vocabulary has no word {unknown[0]!r}")
        return [self._ids[word] for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        return " ".join(self.words[token] for token in tokens)

    def save(self, folder: Path) -> None:
        """Write ``vocabulary.txt``: the word to begin with, then all words, one a line."""
        lines = [self.words[self.bos_token_id], *self.words]
        (folder / VOCABULARY).write_text("\n".join(lines) + "\n", encoding="utf-8")


def tokenizer_of(folder: Path, name: str, d_vocab: int) -> TextTokenizer | WordTokenizer | None:
    """The tokenizer in a model's folder, or None where the folder has none.

    transformers would make one of length 1, which maps everything to 0, so its files are looked
    for first.

    Raises :class:`ModelUnavailable` for one that cannot be loaded or does not fit the model.
    """
    if (folder / VOCABULARY).is_file():
        bos, *words = (folder / VOCABULARY).read_text(encoding="utf-8").splitlines()
        return _fitting(WordTokenizer(words, bos), name, d_vocab)
    byte_pairs = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    whole = any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model"))
    if not whole and not byte_pairs:
        return None
    with needs_extra("a tokenizer"):
        from transformers import AutoTokenizer, GPT2TokenizerFast
    kind = AutoTokenizer if whole or (folder / "config.json").is_file() else GPT2TokenizerFast
    try:
        loaded = kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # tokenizers raise whatever their files lead them to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelUnavailable(f"the tokenizer of {name} cannot be loaded: {reason[0]}") from None
    return _fitting(TextTokenizer(loaded), name, d_vocab)


def _fitting(
    tokenizer: TextTokenizer | WordTokenizer, name: str, d_vocab: int
) -> TextTokenizer | WordTokenizer:
    if not (1 - _PADDING) * d_vocab <= len(tokenizer) <= d_vocab or len(tokenizer) < 2:
        raise ModelUnavailable(
            f"the tokenizer of {name} has {len(tokenizer)} tokens, the model {d_vocab}: "
            "they do not belong together"
        )
    return tokenizer
