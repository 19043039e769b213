"""Methods that misbehave, one class each; they run in a process of their own, never in the tests'.

:func:`install` registers them as a stranger's package would be.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mischief
import numpy as np
import strangers
import torch

import circuitbench
from circuitbench import Discovery

NAMES: dict[str, str] = {}


def rogue(kind: Any) -> Any:
    """Register a class under its name in lower case."""
    NAMES[f"rogue-{kind.__name__.lower()}"] = f"rogues:{kind.__name__}"
    return dataclass(kind)


def install(folder: Path) -> None:
    """Entry points of all of them, and of two that cannot be loaded."""
    names = {
        **NAMES,
        "rogue-misnamed": "rogues:NoSuchClass",
        "rogue-exits-at-import": "rogue_exit:Any",
    }
    strangers.install(
        folder,
        "rogues",
        {"circuitbench.methods": names, "circuitbench.tasks": {"rogue-task": "rogue_task:Any"}},
        rogue_exit="raise SystemExit(0)",
        rogue_task="import os; os._exit(0)",
    )


@contextmanager
def installed(folder: Path) -> Iterator[None]:
    """:func:`install`, found by this process too, and by those it makes."""
    import pytest  # methods' processes import this module too, and need neither

    from circuitbench.plugins import registry

    install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        registry._entries.cache_clear()
        yield
    registry._entries.cache_clear()


def flat(oracle: Any, **info: Any) -> Discovery:
    """An answer that is fine."""
    return Discovery(np.zeros(oracle.shape), frozenset(), info=info)


class _Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@rogue
class Raises:
    what: str = "ValueError"

    def discover(self, oracle: Any, rng: Any) -> Any:
        errors = {
            "unreadable": _Unreadable(),
            "long": ValueError("x" * 50_000_000),
            "SystemExit": SystemExit(0),
            "KeyboardInterrupt": KeyboardInterrupt(),
            "GeneratorExit": GeneratorExit(),
            "ValueError": ValueError("\x1b[31mred\nand /home/somebody/secret/file.py"),
        }
        raise errors[self.what]


@rogue
class Does:
    """One of the many kinds of :mod:`mischief`."""

    what: str = "divides"

    def discover(self, oracle: Any, rng: Any) -> Any:
        return mischief.ACTS[self.what](oracle)


@rogue
class Ends:
    how: str = "exit"

    def discover(self, oracle: Any, rng: Any) -> Any:
        oracle.query(oracle.head_masks()[:3])
        print("last words", flush=True)
        if self.how == "exit":
            os._exit(0)
        elif self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        elif self.how == "thread":
            threading.Thread(target=time.sleep, args=(600,)).start()
            sys.exit(3)
        return None


@rogue
class Eats:
    where: str = "here"

    def discover(self, oracle: Any, rng: Any) -> Any:
        if self.where == "child" and os.fork():
            time.sleep(600)
        kept = []
        while True:
            kept.append(np.ones(1 << 22))
            time.sleep(0.01)


@rogue
class Prints:
    def discover(self, oracle: Any, rng: Any) -> Any:
        for _ in range(200):
            print("y" * 100_000)
        sys.stderr.write("z" * 1_000_000)
        return flat(oracle)


@rogue
class Forks:
    note: str = ""

    def discover(self, oracle: Any, rng: Any) -> Any:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                Path(self.note).write_text(str(os.getpid()))
                time.sleep(600)
            os._exit(0)
        while not Path(self.note).exists():
            time.sleep(0.01)
        return flat(oracle)


@rogue
class Changes:
    def discover(self, oracle: Any, rng: Any) -> Any:
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(3)
        torch.manual_seed(9)
        np.random.seed(9)  # noqa: NPY002
        os.chdir("/")
        os.environ["OMP_NUM_THREADS"] = "7"
        np.mean = lambda *_, **__: 0.0  # type: ignore[assignment]
        circuitbench.Oracle.query = lambda *_, **__: 1 / 0  # type: ignore
        sys.path.clear()
        torch._C._set_grad_enabled(False)
        return flat(oracle)


@rogue
class Answers:
    what: str = "shape"

    def discover(self, oracle: Any, rng: Any) -> Any:
        scores: Any = np.zeros(oracle.shape)
        cycle: dict[str, Any] = {}
        cycle["again"] = cycle
        deep: Any = []
        for _ in range(5_000):
            deep = [deep]
        return {
            "nothing": None,
            "shape": Discovery(np.zeros((1, 1)), frozenset()),
            "objects": Discovery(
                np.array([[object()] * oracle.n_heads] * oracle.n_layers), frozenset()
            ),
            "half-head": Discovery(scores, frozenset({(0.5, 0)})),  # type: ignore[arg-type]
            "nan": Discovery(scores * np.nan, frozenset()),
            "nan-info": Discovery(scores, frozenset(), info={"loss": float("nan")}),
            "object-info": Discovery(scores, frozenset(), info={"thing": object()}),
            "cycle": Discovery(scores, frozenset(), info=cycle),
            "deep": Discovery(scores, frozenset(), info={"deep": deep}),
            "digits": Discovery(scores, frozenset(), info={"n": 10**5_000}),
            "surrogate": Discovery(scores, frozenset(), info={"text": "\ud800"}),
            "huge": Discovery(scores, frozenset(), info={"text": "x" * 100_000_000}),
            "trace": Discovery(
                scores,
                frozenset(),
                trace=[circuitbench.TracePoint(float("nan"), scores)],  # type: ignore[arg-type]
            ),
        }[self.what]


@rogue
class Speaks:
    """Writes to our side itself."""

    what: str = "noise"

    def discover(self, oracle: Any, rng: Any) -> Any:
        end = oracle._line.channel._end
        frame = {"json": b"{" * 50, "length": b""}.get(self.what, b"")
        if self.what == "length":
            end.sendall((1 << 40).to_bytes(8, "little") * 2)
        elif self.what == "noise":
            end.sendall(b"\xff" * 4096)
        elif self.what == "question":
            oracle._line.ask("heads", "_source", oracle, 4)
        elif self.what == "attribute":
            oracle._line.ask("batch", "source", oracle.batch)
        elif self.what == "json":
            end.sendall(len(frame).to_bytes(8, "little") + bytes(8) + frame)
        elif self.what == "forged":
            oracle._line.channel.send({"done": {"$": "mapping", "of": [["scores", 1]]}})
        time.sleep(600)


@rogue
class Spies:
    """Looks for the truth, or for queries that are not counted; says what it got hold of."""

    def discover(self, oracle: Any, rng: Any) -> Any:
        reached = []

        def attempt(name: str, look: Any) -> None:
            try:
                found = look()
            except Exception:
                return
            if found is not None and found is not False:
                reached.append(f"{name}: {type(found).__name__}")

        secrets = ("Model", "Circuit", "Role", "Source", "Prompts", "FastEngine", "Prepared")

        def held() -> Any:
            kinds = {type(thing).__name__ for thing in gc.get_objects()}
            return sorted(kinds & set(secrets)) or None

        def frames() -> Any:
            for frame in sys._current_frames().values():
                at: Any = frame
                while at is not None:
                    for value in at.f_locals.values():
                        if type(value).__name__ in secrets:
                            return value
                    at = at.f_back
            return None

        attempt("task", lambda: oracle._task.truth(oracle._model))
        attempt("task alone", lambda: oracle._task)
        attempt("model", lambda: oracle._model.construction)
        attempt("clean", lambda: oracle.batch.clean.__self__)
        attempt("source", lambda: oracle.batch.source.prompts)
        attempt("rows", lambda: oracle.batch.prompt_rows)
        attempt("engine", lambda: oracle.engine.measure)
        attempt("weights", lambda: oracle.engine.forward)
        attempt("edges' engine", lambda: oracle.edges._engine)
        attempt("pool", lambda: oracle._pool)
        attempt("seed", lambda: oracle.seed)
        attempt("question", lambda: oracle.batch.question("task", np.ones(oracle.shape), None, ""))
        attempt("objects", held)
        attempt("frames", frames)
        oracle.query(oracle.head_masks()[:5])
        oracle.meter.queries = 0
        oracle._account.budget = None
        oracle._account.meter = circuitbench.Meter()
        attempt("past the budget", lambda: oracle.query(oracle.head_masks()))
        attempt("lower meter", lambda: oracle._line.ask("meter", "at_least", 0, {"queries": -9}))
        oracle.meter.queries = 0
        return flat(oracle, reached=reached, names=json.dumps(sys.argv))


@rogue
class Learns:
    """Says what a learner is told."""

    def curriculum(self) -> Any:
        return circuitbench.Curriculum()

    def train(self, oracles: Any, rng: Any, tools: Any = None) -> None:
        self.told = {key: str(value) for key, value in tools.run.items()}
        tools.report(float("inf"), "\x1b[2J" + "w" * 5_000)

    def discover(self, oracle: Any, rng: Any) -> Any:
        return flat(oracle, told=self.told)


@rogue
class Tells:
    """Says where it runs, and for whom."""

    how: str = "info"

    def discover(self, oracle: Any, rng: Any) -> Any:
        here = [str(Path.home() / "secret" / "weights.bin"), "/srv/someone/data.csv", __file__]
        if self.how == "info":
            return flat(oracle, files=here, nested={"file": here[1]})
        raise FileNotFoundError(2, "No such file", here[0])


@rogue
class Kills:
    """Kills the process that made its own."""

    def discover(self, oracle: Any, rng: Any) -> Any:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
