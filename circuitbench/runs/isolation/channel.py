"""Messages between two processes: a length, one JSON text, raw bytes. Nothing is ever unpickled."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

_HEAD = struct.Struct("<QQ")  # bytes of the JSON text, bytes of all that follows it

LARGEST = 1 << 30  # bytes of one message
TICK = 0.2  # seconds between two looks at the limits


class BrokenMessage(Exception):
    """The other side sent what is no message of ours, or too large a one."""


class Closed(Exception):
    """The other side is gone."""


class Channel:
    """One end of a connection; both ends speak in turn, except for what needs no answer.

    Args:
        end: a connected stream socket; it is the channel's from now on.
        tick: called at least every 0.2 seconds while waiting; what it raises ends the waiting.
        largest: bytes of a message that is still taken.
    """

    def __init__(
        self, end: socket.socket, tick: Callable[[], None] | None = None, largest: int = LARGEST
    ) -> None:
        self._end, self._tick, self._largest = end, tick, largest
        self._looked = time.monotonic()
        end.settimeout(None if tick is None else TICK)

    def fileno(self) -> int:
        """Of the socket, for ``select``."""
        return self._end.fileno()

    def close(self) -> None:
        """Hang up."""
        self._end.close()

    def send(self, message: Any, buffers: Sequence[memoryview | bytes] = ()) -> None:
        """Send JSON-able data, and bytes beside it.

        Raises:
            Closed: nobody is there any more.
        """
        text = json.dumps(message, separators=(",", ":")).encode("utf-8", "surrogatepass")
        size = sum(len(buffer) for buffer in buffers)
        data = memoryview(b"".join([_HEAD.pack(len(text), size), text, *buffers]))
        while data:
            try:
                data = data[self._end.send(data) :]
            except TimeoutError:
                self._look()
            except OSError as error:
                raise Closed from error

    def receive(self) -> tuple[Any, memoryview]:
        """The next message, and the bytes that came with it.

        Raises:
            Closed: the other side is gone.
            BrokenMessage: it is too large, or no JSON.
        """
        text_size, size = _HEAD.unpack(self._take(_HEAD.size))
        if text_size + size > self._largest:
            raise BrokenMessage(
                f"a message of {text_size + size:,} bytes; at most {self._largest:,} are taken"
            )
        data = self._take(text_size + size)
        try:
            message = json.loads(bytes(data[:text_size]).decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise BrokenMessage(f"a message that is no JSON ({type(error).__name__})") from error
        return message, data[text_size:]

    def _take(self, size: int) -> memoryview:
        data = memoryview(bytearray(size))
        taken = 0
        while taken < size:
            if self._tick is not None and time.monotonic() - self._looked >= TICK:
                self._look()
            try:
                count = self._end.recv_into(data[taken:])
            except TimeoutError:
                self._look()
                continue
            except OSError as error:
                raise Closed from error
            if count == 0:
                raise Closed
            taken += count
        return data

    def _look(self) -> None:
        assert self._tick is not None
        self._looked = time.monotonic()
        self._tick()
