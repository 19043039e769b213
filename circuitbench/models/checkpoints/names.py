"""How a checkpoint is asked for: ``SOURCE[@raw|folded][,key=value]...``."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from circuitbench.core.errors import InvalidSpec, UnknownName, nearest

PROCESSINGS = ("raw", "folded")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_FORM = re.compile(r"(?P<source>.+?)(?:@(?P<processing>[^@,/=]*))?(?P<options>(?:,[^,=]*=[^,]*)*)")
_KEYS = ("revision", "dtype", "weights")


@dataclass(frozen=True)
class Request:
    """A checkpoint and how to take it.

    Args:
        source: a name on the Hugging Face hub, or a folder.
        processing: ``raw``, as published; ``folded``, as transformer_lens prepares them.
        revision: branch, tag or commit of a hub name.
        dtype: what matrices are kept in.
        weights: first digits of the SHA-256 that a folder's content must have.
    """

    source: str
    processing: str = "raw"
    revision: str | None = None
    dtype: str = "float32"
    weights: str | None = None

    @classmethod
    def parse(cls, text: str, scheme: str = "hf") -> Request:
        """Read what follows ``hf:``; raises :class:`InvalidSpec` or :class:`UnknownName`."""
        found = _FORM.fullmatch(text.strip())
        if not found:
            raise InvalidSpec(
                f"{scheme}: needs a {'name or folder' if scheme == 'hf' else 'folder'}, e.g. "
                f"{scheme}:{'org/name' if scheme == 'hf' else './mine'}"
            )
        processing = found["processing"]
        if processing is not None and processing not in PROCESSINGS:
            raise InvalidSpec(
                f"no processing {processing!r} of weights; {nearest(processing, PROCESSINGS)}"
            )
        options: dict[str, str] = {}
        for part in found["options"].split(",")[1:]:
            key, _, value = part.partition("=")
            if key not in _KEYS:
                raise UnknownName("option of a model", key, _KEYS)
            if key in options or not value:
                raise InvalidSpec(f"{key} must be given once, with a value, in {text!r}")
            options[key] = value
        if options.get("dtype", "float32") not in DTYPES:
            raise InvalidSpec(f"no dtype {options['dtype']!r}; {nearest(options['dtype'], DTYPES)}")
        return cls(found["source"], processing or "raw", **options)

    @property
    def torch_dtype(self) -> torch.dtype:
        """What matrices are kept in."""
        return DTYPES[self.dtype]

    def name(self, scheme: str, source: str, **pins: str | None) -> str:
        """The name that a record keeps: what was loaded, and from exactly which weights."""
        pinned = "".join(f",{key}={value}" for key, value in pins.items() if value)
        dtype = "" if self.dtype == "float32" else f",dtype={self.dtype}"
        return f"{scheme}:{source}@{self.processing}{dtype}{pinned}"
