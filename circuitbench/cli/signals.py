"""SIGTERM ends a verb as Ctrl-C does: what it started is ended, what it wrote is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """SIGTERM was received."""


@contextmanager
def terminating() -> Iterator[None]:
    """Raise :class:`Terminated` where SIGTERM arrives while a block lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
