"""Our side of a method in a process of its own: it looks like a method, and serves the real one.

Model, task, truth, oracle, meter and budget are here; what comes from the other side is data, and
is checked.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch

from circuitbench.core.circuit import Edge, Head
from circuitbench.core.discovery import Discovery, TracePoint
from circuitbench.core.errors import CircuitBenchError, RunFailed, TimedOut
from circuitbench.oracle import Batch, Meter, Oracle, query_together
from circuitbench.oracle.edges import query_edges_together
from circuitbench.plugins.method import (
    Curriculum,
    Method,
    Plot,
    Report,
    TrainingTools,
    unplotted,
    unreported,
)
from circuitbench.results.plain import plain
from circuitbench.runs.failure import shown
from circuitbench.runs.isolation.channel import BrokenMessage, Channel, Closed
from circuitbench.runs.isolation.codec import Decoder, Encoder
from circuitbench.runs.isolation.errors import described, from_method
from circuitbench.runs.isolation.limits import Limits
from circuitbench.runs.isolation.nursery import Nursery, NurseryLost, ending, nursery
from circuitbench.runs.isolation.output import Printed
from circuitbench.runs.isolation.remote import (
    BATCH_QUESTIONS,
    COUNTERS,
    EDGE_QUESTIONS,
    EDGE_VALUES,
    HEAD_QUESTIONS,
    TOLD,
)

MESSAGE = 1 << 28  # bytes of a question, or of an answer of the method
BATCHES = 1 << 16  # that a method may hold at a time

# What a method sees without a question, as a record says it.
SHOWN = (*TOLD, "budget", "meter", "clean_metric", "clean_control", "accuracy", "edges")


MethodOf = Callable[..., Method]


@contextmanager
def in_own_processes(
    limits: Limits = Limits(), output: Callable[[bytes], None] = lambda text: None
) -> Iterator[MethodOf]:
    """Gives what loads methods into processes of their own, for as long as the block lasts.

    Args:
        limits: of each.
        output: told what they print, up to 64 KiB each.
    """
    guests: list[Guest] = []

    def method_of(name: str, **hyperparameters: Any) -> Method:
        guest = Guest(limits, output)
        guests.append(guest)
        return _loaded(guest, name, hyperparameters)

    nursery()
    try:
        yield method_of
    finally:
        for guest in guests:
            guest.close()


class Guest:
    """A process with a method in it, under limits."""

    def __init__(self, limits: Limits, output: Callable[[bytes], None]) -> None:
        self._limits, self.session = limits, Session()
        ours, theirs = socket.socketpair()
        self._printed = Printed(output)
        request = {
            "run": "guest",
            "path": sys.path,
            "cwd": str(Path.cwd()),
            "threads": torch.get_num_threads(),
            "memory": limits.memory,
        }
        self._channel = Channel(ours, self._look, MESSAGE)
        self._pid: int | None = None
        try:
            self._nursery, self._pid = _forked(request, theirs, self._printed.end)
        except NurseryLost:
            self.close()
            raise
        finally:
            theirs.close()
            self._printed.handed_over()
        self._started = time.monotonic()
        self._why = "the method's process is gone"

    def command(
        self, command: Mapping[str, Any], report: Report = unreported, plot: Plot = unplotted
    ) -> Any:
        """Let it do something, and answer what it asks meanwhile.

        Raises:
            TimedOut: it took too long.
            RunFailed: it ended, took too much memory, or does not speak as it should.
            CircuitBenchError: what the method raised.
        """
        if self._pid is None:
            raise RunFailed(self._why)
        try:
            self._channel.send(command)
            while True:
                message, data = self._channel.receive()
                if "ask" in message:
                    self._channel.send(*self.session.answer(message, data))
                elif "report" in message:
                    fraction, text = message["report"]
                    report(min(max(float(fraction), 0.0), 1.0), shown(str(text), 500))
                elif "point" in message:
                    plot(dict(message["point"]))
                elif "failed" in message:
                    self._printed.drain()
                    raise from_method(message["failed"])
                else:
                    return Decoder(data, _no_handle).decode(message["done"])
        except Closed as error:
            raise self._lost(f"the method's process {self._ending()} before it answered") from error
        except (BrokenMessage, LookupError, TypeError, ValueError, AttributeError) as error:
            what = str(error) if isinstance(error, BrokenMessage) else type(error).__name__
            raise self._lost(f"the method's process does not speak as it should: {what}") from error
        except NurseryLost:
            self._pid = None
            raise

    def close(self) -> None:
        """End the process and all its children."""
        if self._pid is not None:
            with suppress(RunFailed):
                self._nursery.end(self._pid)
            self._pid = None
        self._channel.close()
        self._printed.close()

    def _ending(self) -> str:
        """How the process ended, in words."""
        assert self._pid is not None
        select.select([], [], [], 0.05)  # one that hung up may be about to exit: let it
        try:
            return ending(self._nursery.end(self._pid))
        except RunFailed:
            return "was killed, with the process that made it,"

    def _lost(self, why: str, kind: type[CircuitBenchError] = RunFailed) -> CircuitBenchError:
        self._why = why
        self.close()
        said = self._printed.tail()
        return kind(f"{why}; it printed: {said}" if said else why)

    def _look(self) -> None:
        """Called a few times a second while waiting: passes output on, holds the limits."""
        self._printed.drain()
        seconds, memory = self._limits.seconds, self._limits.memory
        if seconds is not None and time.monotonic() - self._started > seconds:
            raise self._lost(f"stopped after {seconds:g} seconds", TimedOut)
        if memory is not None and self._pid is not None and _resident(self._pid) > memory:
            raise self._lost(f"took more than the {memory:,} bytes of memory it may")


def _forked(request: Mapping[str, Any], end: socket.socket, output: int) -> tuple[Nursery, int]:
    """A new process and its maker; if that was killed since the last one, by another."""
    try:
        maker = nursery()
        return maker, maker.fork(request, end, output)
    except NurseryLost:
        maker = nursery()
        return maker, maker.fork(request, end, output)


class Session:
    """The oracles and batches that a method may ask about, by numbers that are never used twice."""

    def __init__(self) -> None:
        self.oracles: list[Oracle] = []
        self.meters: list[Meter] = []
        self._engines: list[object] = []
        self._batches: dict[int, Batch] = {}
        self._numbers: dict[Batch, int] = {}
        self._next = 0
        self._told: dict[int, list[float]] = {}

    def told(self, oracle: Oracle) -> dict[str, Any]:
        """What a method is told of an oracle before it asks."""
        return {
            "number": _place(oracle, self.oracles),
            "told": {name: getattr(oracle, name) for name in (*TOLD, "budget")},
            "meter": _place(oracle.meter, self.meters),
            "engine": _place(oracle.engine, self._engines),
            "meters": self._counts(),
            "batch": self._number(oracle.batch),
        }

    def answer(
        self, message: Mapping[str, Any], data: memoryview
    ) -> tuple[dict[str, Any], list[memoryview | bytes]]:
        """The answer to a question, or the error that it meets, with the meters as they are then.

        Raises:
            BrokenMessage: it is no question.
        """
        decoder = Decoder(data, self._handle)
        args = [decoder.decode(value) for value in message["args"]]
        options = {str(k): decoder.decode(value) for k, value in message["options"].items()}
        of, name = str(message["ask"]), str(message["name"])
        try:
            encoder = Encoder(self._number)
            answer = {"value": encoder.encode(self._asked(of, name, args, options))}
        except BrokenMessage:
            raise
        except Exception as error:  # the method's own to handle
            answer, encoder = {"error": described(error)}, Encoder(self._number)
        for number in message["gone"]:
            if number in self._batches:
                del self._numbers[self._batches.pop(number)]
        return {**answer, "meters": self._counts()}, encoder.buffers

    def _asked(self, of: str, name: str, args: list[Any], options: dict[str, Any]) -> Any:
        first, *others = args
        if of == "heads" and name in HEAD_QUESTIONS and isinstance(first, Oracle):
            return getattr(first, name)(*others, **options)
        if of == "edges" and name in EDGE_QUESTIONS and isinstance(first, Oracle):
            return getattr(first.edges, name)(*others, **options)
        if of == "edges" and name in EDGE_VALUES and isinstance(first, Oracle):
            return getattr(first.edges, name)
        if of == "edges" and name == "mlps" and isinstance(first, Oracle):
            return any(sender.startswith("m") for sender in first.edges.graph.senders)
        if of == "batch" and name in BATCH_QUESTIONS and isinstance(first, Batch):
            return getattr(first, name)
        if of == "together" and name == "query":
            damages = query_together(list(zip(first, *others, strict=True)), **options)
            losses = [one.control for one in damages if one.control is not None]
            return torch.cat([one.task for one in damages]), torch.cat(losses) if losses else None
        if of == "together" and name == "edges":
            masks, batches = others
            edges = [oracle.edges for oracle in first]
            damages = query_edges_together(list(zip(edges, masks, batches, strict=True)), **options)
            kls = [one.kl for one in damages if one.kl is not None]
            return torch.cat([one.task for one in damages]), torch.cat(kls) if kls else None
        if of == "meter" and name == "at_least":
            return self.meters[first].at_least(*others)
        raise BrokenMessage(f"no question {of}.{name}"[:100])

    def _counts(self) -> dict[int, list[float]]:
        """The counters of every meter that has moved since they were told last."""
        counts = {i: [getattr(m, name) for name in COUNTERS] for i, m in enumerate(self.meters)}
        moved = {i: count for i, count in counts.items() if self._told.get(i) != count}
        self._told = counts
        return moved

    def _number(self, batch: Batch) -> dict[str, Any]:
        number = self._numbers.get(batch)
        if number is None:
            if len(self._batches) >= BATCHES:
                raise RunFailed(f"a method may hold {BATCHES:,} batches at a time")
            number, self._next = self._next, self._next + 1
            self._numbers[batch], self._batches[number] = number, batch
        return {"number": number, "seed": batch.seed, "size": len(batch)}

    def _handle(self, kind: str, told: Mapping[str, Any]) -> Oracle | Batch:
        number = int(told["number"])
        return self._batches[number] if kind == "batch" else self.oracles[number]


class _Isolated:
    """Stands for a method that only discovers."""

    shown = SHOWN

    def __init__(self, guest: Guest, stated: Mapping[str, Any]) -> None:
        self._guest, self.stated_hyperparameters = guest, stated

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """What the method answers, read from data."""
        told = self._guest.session.told(oracle)
        command = {"do": "discover", "oracle": told, "rng": _told_rng(rng)}
        answer = self._guest.command(command)
        try:
            return _discovery(answer)
        except CircuitBenchError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise RunFailed(f"the method's answer is none ({type(error).__name__})") from error

    def _train(
        self, oracles: Sequence[Oracle], rng: np.random.Generator, tools: TrainingTools | None
    ) -> None:
        given = None
        if tools is not None:
            encoder = Encoder(dict)
            given = {
                "checkpoints": tools.checkpoints and str(tools.checkpoints.absolute()),
                "tensorboard": tools.tensorboard and str(tools.tensorboard.absolute()),
                "run": dict(tools.run),
                # Of other models than the scored one, where a curriculum is labelled.
                "truths": [encoder.encode(truth) for truth in tools.truths],
            }
        command = {
            "do": "train",
            "oracles": [self._guest.session.told(oracle) for oracle in oracles],
            "rng": _told_rng(rng),
            "tools": given,
        }
        told = tools or TrainingTools()
        self._guest.command(command, told.report, told.plot)


class _Trainable(_Isolated):
    """Stands for a method that trains."""

    def train(self, oracles: Sequence[Oracle], rng: np.random.Generator) -> None:
        """Let it train."""
        self._train(oracles, rng, None)


class _Learner(_Isolated):
    """Stands for a learner."""

    def __init__(self, guest: Guest, stated: Mapping[str, Any], curriculum: Curriculum) -> None:
        super().__init__(guest, stated)
        self._curriculum = curriculum

    def curriculum(self) -> Curriculum:
        """As it said when it was loaded."""
        return self._curriculum

    def train(
        self,
        oracles: Sequence[Oracle],
        rng: np.random.Generator,
        tools: TrainingTools = TrainingTools(),
    ) -> None:
        """Let it train."""
        self._train(oracles, rng, tools)


def _loaded(guest: Guest, name: str, hyperparameters: Mapping[str, Any]) -> Method:
    command = {"do": "load", "method": name, "hyperparameters": plain(hyperparameters)}
    said = guest.command(command)
    try:
        stated, curriculum = dict(said["hyperparameters"]), said["curriculum"]
        if curriculum is not None:
            tasks, pool, models, labelled, spent = curriculum
            names = tuple(map(str, tasks)), tuple(map(str, models))
            said_so = Curriculum(names[0], pool, names[1], bool(labelled), dict(spent))
            return _Learner(guest, stated, said_so)
        return _Trainable(guest, stated) if said["trainable"] else _Isolated(guest, stated)
    except (LookupError, TypeError, ValueError) as error:
        raise RunFailed(f"method {name!r} says nothing of itself") from error


def _discovery(told: Mapping[str, Any]) -> Discovery:
    return Discovery(
        scores=told["scores"],
        selected=frozenset(Head(index(layer), index(head)) for layer, head in told["selected"]),
        edges=_edges(told["edges"], told["edge_scores"]),
        trace=[
            TracePoint(queries, scores)
            for queries, scores in zip(told["trace_queries"], told["trace_scores"], strict=True)
        ],
        info=json.loads(told["info"]),
        signed=told["signed"],
        signed_edges=_edges(told["signed_edges"], told["signed_edge_scores"]),
        selected_edges=None
        if told["selected_edges"] is None
        else frozenset(map(Edge.parse, told["selected_edges"])),
    )


def _place(thing: Any, things: list[Any]) -> int:
    """Where in a list a thing stands; it is put at the end if it is not there yet."""
    for i, other in enumerate(things):
        if other is thing:
            return i
    things.append(thing)
    return len(things) - 1


def _edges(names: Sequence[str] | None, scores: np.ndarray | None) -> dict[Edge, float] | None:
    if names is None or scores is None:
        return None
    return {Edge.parse(n): float(s) for n, s in zip(names, scores, strict=True)}


def _told_rng(rng: np.random.Generator) -> dict[str, Any]:
    bits = rng.bit_generator
    sequence = bits.seed_seq
    assert isinstance(sequence, np.random.SeedSequence)
    names = ("entropy", "spawn_key", "pool_size", "n_children_spawned")
    state = {name: getattr(sequence, name) for name in names}
    return {"state": bits.state, "sequence": state}


def _no_handle(kind: str, told: Mapping[str, Any]) -> Any:
    raise BrokenMessage(f"an answer with a {kind} in it")


def _resident(session: int) -> int:
    """Resident bytes of all processes of a session; 0 where the system does not say (not Linux)."""
    total, page = 0, os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError):
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal():
                with suppress(OSError, ValueError):
                    fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                    total += page * int(fields[21]) if int(fields[3]) == session else 0
    return total
