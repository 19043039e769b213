"""What another process prints: passed on up to a limit, and never in its way."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from circuitbench.runs.failure import shown, without_folders

PASSED = 1 << 16  # bytes that are passed on
TAIL = 400  # characters that a reason quotes


class Printed:
    """A pipe for the standard output and error of a process.

    Args:
        output: told what is printed, as it comes, up to 64 KiB; the rest is dropped.
    """

    def __init__(self, output: Callable[[bytes], None] = lambda text: None) -> None:
        self._read, self.end = os.pipe()
        os.set_blocking(self._read, False)
        self._output, self._passed, self._tail = output, 0, b""

    def handed_over(self) -> None:
        """Let go of :attr:`end`: the other process has it."""
        os.close(self.end)

    def drain(self) -> None:
        """Take what is there, a few megabytes at most."""
        with suppress(OSError):
            for _ in range(256):
                text = os.read(self._read, 1 << 16)
                if not text:
                    return
                self._tail = (self._tail + text)[-4 * TAIL :]
                if self._passed < PASSED:
                    self._output(text[: PASSED - self._passed])
                    self._passed += len(text)

    def tail(self) -> str:
        """The last that was printed, in one line."""
        text = " ".join(self._tail.decode("utf-8", "replace").split())
        return shown(without_folders(text)[-TAIL:], TAIL)

    def close(self) -> None:
        """Take what is left and close; more than once is fine."""
        if self._read >= 0:
            self.drain()
            os.close(self._read)
            self._read = -1
