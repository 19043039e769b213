"""How a run says how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Called with the stage's name and the fraction of it that is done (None: not known).
Progress = Callable[[str, float | None], None]


def silent(stage: str, fraction: float | None) -> None:
    """The progress callback that shows nothing."""
