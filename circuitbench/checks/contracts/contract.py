"""What a contract is: promises in order, each with a check and with advice."""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from circuitbench.core.errors import InvalidPlugin, ModelUnavailable
from circuitbench.core.extras import MissingExtra, missing_extra

Standing = Literal["kept", "broken", "unsaid", "unknown"]

S = TypeVar("S")


class UndescribedPlugin(UserWarning):
    """A plug-in that says nothing of itself: lists show its name and the family ``other``."""


@dataclass(frozen=True)
class Promise(Generic[S]):
    """One promise of a plug-in.

    Args:
        name: a word or two.
        says: what is promised, as one sentence.
        advice: what to do where it is broken.
        check: raises where it is.
        needs: names of promises without which this one cannot be looked at.
    """

    name: str
    says: str
    advice: str
    check: Callable[[S], None]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """How a plug-in stands to one promise.

    Args:
        name, says, advice: of the promise.
        standing: ``kept``; ``broken``; ``unsaid`` (allowed, but lists have nothing to show);
            ``unknown`` (what it needs is broken).
        message: what was found, in one line; empty if the promise is kept.
        traceback: of what was raised.
        error: what was raised.
    """

    name: str
    says: str
    advice: str
    standing: Standing
    message: str = ""
    traceback: str = field(default="", repr=False)
    error: Exception | None = field(default=None, repr=False, compare=False)


class Contract(Generic[S]):
    """The promises of one kind of plug-in, in the order in which they are looked at."""

    def __init__(self) -> None:
        self.promises: list[Promise[S]] = []

    def promise(
        self, name: str, advice: str, needs: tuple[str, ...] = ()
    ) -> Callable[[Callable[[S], None]], Callable[[S], None]]:
        """Add a promise: the decorated check's docstring is what is promised."""

        def added(check: Callable[[S], None]) -> Callable[[S], None]:
            says = " ".join((inspect.getdoc(check) or "").split())
            self.promises.append(Promise(name, says, advice, check, needs))
            return check

        return added

    def look(self, plugin: S) -> Iterator[Finding]:
        """How ``plugin`` stands to each promise; those that hang on a broken one are unknown.

        Raises:
            ModelUnavailable, MissingExtra: it cannot be looked at on this machine.
        """
        standings: dict[str, Standing] = {}
        for promise in self.promises:
            lacking = [need for need in promise.needs if standings[need] in ("broken", "unknown")]
            finding = (
                Finding(promise.name, promise.says, promise.advice, "unknown", lacking[0])
                if lacking
                else _look(promise, plugin)
            )
            standings[promise.name] = finding.standing
            yield finding

    def insist(self, plugin: S) -> None:
        """Raise :class:`InvalidPlugin` at the first promise that is broken; stops there."""
        for finding in self.look(plugin):
            if finding.standing == "unsaid":
                warnings.warn(finding.message, UndescribedPlugin, stacklevel=3)
            elif isinstance(finding.error, InvalidPlugin):
                raise finding.error
            elif finding.standing == "broken":
                raise InvalidPlugin(finding.message) from finding.error


def _look(promise: Promise[S], plugin: S) -> Finding:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UndescribedPlugin)
            promise.check(plugin)
    except (ModelUnavailable, MissingExtra):
        raise
    except Exception as error:  # a stranger's code
        absent = missing_extra(error)
        if absent is not None:
            raise absent from error
        ours = isinstance(error, InvalidPlugin)
        message = " ".join(
            f"{'' if ours else f'it raised {type(error).__name__}: '}{error}".split()
        )
        where = "".join(traceback.format_exception(error))
        return Finding(promise.name, promise.says, promise.advice, "broken", message, where, error)
    said = [w for w in caught if issubclass(w.category, UndescribedPlugin)]
    for other in (w for w in caught if not issubclass(w.category, UndescribedPlugin)):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if said:
        text = str(said[0].message)
        return Finding(promise.name, promise.says, promise.advice, "unsaid", text)
    return Finding(promise.name, promise.says, promise.advice, "kept")
