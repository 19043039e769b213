"""Names that may stand in a record: safe in a file name, a table, a page and a spreadsheet."""

from __future__ import annotations

import re

from circuitbench.core.errors import InvalidSpec

# A letter or digit first: a spreadsheet takes a cell that starts with = + - @ for a formula.
_PART = r"[A-Za-z0-9][A-Za-z0-9._@:+-]*"
_NAME = re.compile(_PART)
_OPTIONS = r"(?:,[a-z_]+=[A-Za-z0-9._+-]+)*"
_MODEL_NAME = re.compile(rf"{_PART}(?:/{_PART})?{_OPTIONS}")
_LONGEST = 100


def check_name(kind: str, text: object) -> str:
    """Return ``text`` if it is a safe name of a ``kind`` (method, task, model, ...).

    A model may be named after its owner, and say how it was loaded:
    ``hf:org/name@raw,dtype=bfloat16``.

    Raises:
        InvalidSpec: unless it is 1 to 100 letters, digits or ``. _ @ : + -``, begins with a
            letter or digit and holds no ``..``.
    """
    pattern = _MODEL_NAME if kind == "model" else _NAME
    if (
        isinstance(text, str)
        and len(text) <= _LONGEST
        and pattern.fullmatch(text)
        and ".." not in text
    ):
        return text
    owner = (
        ", perhaps after an owner and '/', before options ',key=value'" if kind == "model" else ""
    )
    raise InvalidSpec(
        f"not a {kind} name: {text!r}; expected letters, digits and . _ @ : + - only, "
        f"beginning with a letter or digit, without '..'{owner}"
    )


def file_part(name: str) -> str:
    """A checked name as part of a file name: only letters, digits and ``. _ @ + -`` are left."""
    return name.translate(str.maketrans("/:,=", "--+."))
