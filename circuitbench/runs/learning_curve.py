"""The learning curve of a run: a CSV file beside its record, written while the learner trains.

Its numbers come from the method. Nothing here reads the file again, and what it can hold is names
that are words and numbers, so a spreadsheet finds no formula in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from circuitbench.core.errors import InvalidSpec
from circuitbench.plugins.method import Plot

SUFFIX = ".curve.csv"
LONGEST = 100_000  # points; what comes after them is left out
WIDEST = 16  # columns
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@contextmanager
def learning_curve(record: Path) -> Iterator[Plot]:
    """What takes the points of a training and writes them beside the record at ``record``.

    The first point names the columns and replaces an earlier file; without one there is no file.
    """
    curve = _Curve(record.with_suffix(SUFFIX))
    try:
        yield curve.add
    finally:
        curve.close()


class _Curve:
    def __init__(self, path: Path) -> None:
        self.path, self.points = path, 0
        self.names: tuple[str, ...] = ()
        self.file: TextIO | None = None

    def add(self, point: Mapping[str, float | None]) -> None:
        """One more line.

        Raises :class:`InvalidSpec` for a point of other names than the first, or of what is no
        number.
        """
        names = tuple(point)
        if self.points == 0:
            if not 0 < len(names) <= WIDEST or not all(map(_is_name, names)):
                given = ", ".join(map(repr, names))[:200] or "none"
                raise InvalidSpec(
                    f"a point of a learning curve has 1 to {WIDEST} figures, each named by a word "
                    f"like episode_return; this one has {given}"
                )
            self.names = names
        if names != self.names:
            raise InvalidSpec(
                f"a learning curve began with {', '.join(self.names)}; every point must have "
                "these, in this order"
            )
        line = ",".join(_text(name, value) for name, value in point.items())
        self.points += 1
        if self.points <= LONGEST:
            with suppress(OSError):  # the record meets a folder that fails again, and says so
                self._write(line)

    def close(self) -> None:
        """Nothing comes any more."""
        if self.file is not None:
            self.file.close()

    def _write(self, line: str) -> None:
        if self.points == 1:
            self.path.unlink(missing_ok=True)
            self.file = self.path.open("x", encoding="ascii")
            self.file.write(",".join(self.names) + "\n")
        if self.file is not None:
            self.file.write(line + "\n")
            self.file.flush()


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _text(name: str, value: object) -> str:
    """A number as Python writes it; nothing for None."""
    if value is None:
        return ""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidSpec(
            f"{name} of a learning curve must be a number or None, not {value!r:.40}"
        ) from error
    return str(int(number)) if number.is_integer() else repr(number)
