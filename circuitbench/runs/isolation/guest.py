"""What runs in a method's own process: loads it, lets it train and discover, hands back data."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidPlugin, RunFailed
from circuitbench.oracle import Meter
from circuitbench.plugins.hyperparameters import hyperparameters
from circuitbench.plugins.method import Learner, Method, TrainableMethod, TrainingTools
from circuitbench.plugins.registry import look_where
from circuitbench.results.plain import bounded, plain
from circuitbench.runs.isolation.channel import Channel, Closed
from circuitbench.runs.isolation.codec import Decoder, Encoder
from circuitbench.runs.isolation.errors import described, from_oracle
from circuitbench.runs.isolation.remote import (
    COUNTERS,
    Engine,
    RemoteBatch,
    RemoteMeter,
    RemoteOracle,
)
from circuitbench.runs.prepare import curriculum_of, load_method


def main(end: socket.socket) -> None:
    """Do what the other side says until it hangs up."""
    guest = _Guest(Channel(end))
    with contextlib.suppress(Closed):
        while True:
            guest.obey()


class _Line:
    """Asks the other side, and keeps what it has told: meters, engines, batches."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._lock = threading.RLock()
        self._meters: dict[int, Meter] = {}
        self._engines: dict[int, Engine] = {}
        self._batches: WeakValueDictionary[int, RemoteBatch] = WeakValueDictionary()
        self._gone: list[int] = []

    def ask(self, of: str, name: str, /, *args: Any, **options: Any) -> Any:
        """See :class:`~circuitbench.runs.isolation.remote.Line`."""
        with self._lock:
            encoder = Encoder(lambda thing: {"number": thing.number})
            asked = [encoder.encode(value) for value in args]
            given = {key: encoder.encode(value) for key, value in options.items()}
            gone, self._gone = self._gone, []
            message = {"ask": of, "name": name, "args": asked, "options": given, "gone": gone}
            self.channel.send(message, encoder.buffers)
            answer, data = self.channel.receive()
            self._read(answer["meters"])
            if "error" in answer:
                raise from_oracle(answer["error"])
            return Decoder(data, self.handle).decode(answer["value"])

    def let_go(self, batch: int) -> None:
        """See :class:`~circuitbench.runs.isolation.remote.Line`."""
        self._gone.append(batch)

    def report(self, fraction: float, text: str) -> None:
        """Say how far a training is; nothing is answered."""
        with self._lock:
            self.channel.send({"report": [float(fraction), str(text)[:500]]})

    def plot(self, point: Mapping[str, float | None]) -> None:
        """Tell a point of the learning curve; nothing is answered."""
        told = {str(k): None if v is None else float(v) for k, v in point.items()}
        with self._lock:
            self.channel.send({"point": told})

    def oracle(self, told: Mapping[str, Any]) -> RemoteOracle:
        """The oracle that the other side describes."""
        number = told["meter"]
        meter = self._meters.setdefault(number, RemoteMeter(number, self))
        engine = self._engines.setdefault(told["engine"], Engine())
        self._read(told["meters"])
        batch = self.handle("batch", told["batch"])
        return RemoteOracle(told["number"], told["told"], meter, engine, batch, self)

    def _read(self, meters: Mapping[str, Sequence[float]]) -> None:
        for number, counts in meters.items():
            vars(self._meters[int(number)]).update(zip(COUNTERS, counts, strict=True))

    def handle(self, kind: str, told: Mapping[str, Any]) -> RemoteBatch:
        """The batch of a number."""
        number = told["number"]
        batch = self._batches.get(number)
        if batch is None:
            batch = RemoteBatch(number, told["seed"], told["size"], self)
            self._batches[number] = batch
        return batch


class _Guest:
    """Obeys: load, train, discover."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.line = channel, _Line(channel)
        self.method: Method | None = None

    def obey(self) -> None:
        """One command; whatever it raises is told."""
        command, _ = self.channel.receive()
        try:
            done, buffers = getattr(self, f"_{command['do']}")(command)
        except Closed:
            raise
        except BaseException as error:  # a plug-in may raise anything, to exit included
            done, buffers = {"failed": described(error)}, []
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        self.channel.send(done, buffers)

    def _load(self, command: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        name = command["method"]
        try:
            self.method = method = load_method(name, **command["hyperparameters"])
        except Exception:
            raise
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
            raise InvalidPlugin(f"method {name!r} could not be loaded: {why}") from error
        if not isinstance(method, Method):
            raise InvalidPlugin(f"method {name!r} has no discover(oracle, rng)")
        curriculum = curriculum_of(method, name) if isinstance(method, Learner) else None
        content = {
            "hyperparameters": plain(hyperparameters(method), "spec.hyperparameters"),
            "trainable": isinstance(method, TrainableMethod),
            "curriculum": curriculum
            and [
                list(curriculum.tasks),
                curriculum.pool,
                list(curriculum.models),
                curriculum.labelled,
                dict(curriculum.spent),
            ],
        }
        return {"done": Encoder(dict).encode(content)}, []

    def _train(self, command: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        method, tools = self.method, command["tools"]
        assert isinstance(method, TrainableMethod)
        oracles = [self.line.oracle(told) for told in command["oracles"]]
        rng = _generator(command["rng"])
        if tools is None:
            method.train(oracles, rng)
        else:
            assert isinstance(method, Learner)
            checkpoints, tensorboard = (
                None if tools[key] is None else Path(tools[key])
                for key in ("checkpoints", "tensorboard")
            )
            decoder = Decoder(memoryview(b""), self.line.handle)
            truths = tuple(decoder.decode(truth) for truth in tools["truths"])
            report, told, plot = self.line.report, tools["run"], self.line.plot
            given = TrainingTools(report, checkpoints, tensorboard, told, truths, plot)
            method.train(oracles, rng, given)
        return {"done": None}, []

    def _discover(self, command: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
        assert self.method is not None
        found = self.method.discover(
            self.line.oracle(command["oracle"]), _generator(command["rng"])
        )
        if not isinstance(found, Discovery):
            raise RunFailed(f"discover() must return a Discovery, not {type(found).__name__}")
        info = json.dumps(bounded(found.info, "discovery.info"))
        encoder = Encoder(dict)
        edges = None if found.edges is None else [str(edge) for edge in found.edges]
        content = {
            "scores": np.asarray(found.scores),
            "selected": [tuple(map(index, head)) for head in found.selected],
            "edges": edges,
            "edge_scores": None if found.edges is None else _floats(found.edges.values()),
            "trace_queries": [point.queries for point in found.trace],
            "trace_scores": [np.asarray(point.scores) for point in found.trace],
            "info": info,
            "signed": None if found.signed is None else np.asarray(found.signed),
            "signed_edges": None
            if found.signed_edges is None
            else [str(edge) for edge in found.signed_edges],
            "signed_edge_scores": None
            if found.signed_edges is None
            else _floats(found.signed_edges.values()),
            "selected_edges": None
            if found.selected_edges is None
            else [str(edge) for edge in found.selected_edges],
        }
        return {"done": encoder.encode(content)}, encoder.buffers


def _floats(values: Any) -> np.ndarray:
    return np.array([float(value) for value in values], dtype=float)


def _generator(told: Mapping[str, Any]) -> np.random.Generator:
    """The generator that the other side would have handed over, children and all."""
    sequence = np.random.SeedSequence(**told["sequence"])
    generator = np.random.Generator(np.random.PCG64(sequence))
    generator.bit_generator.state = told["state"]
    return generator


def begin(end: socket.socket, request: Mapping[str, Any]) -> None:
    """In a process that was just made: take on what the other side has, then :func:`main`."""
    look_where(request["path"])
    sys.argv = ["circuitbench"]
    os.chdir(request["cwd"])
    torch.set_num_threads(request["threads"])
    main(end)
