"""Kinds of mischief for one method that does what it is told: ``rogue-does`` of :mod:`rogues`.

``ENDINGS`` says how a run of each must end. What changes the process alone must end as ``done``.
"""

from __future__ import annotations

import asyncio
import builtins
import ctypes
import gc
import json
import locale
import logging
import math
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import circuitbench
from circuitbench import Discovery, Edge, Head, TracePoint

Act = Callable[[Any], Any]
ACTS: dict[str, Act] = {}
ENDINGS: dict[str, str] = {}


def ends(status: str, **acts: Act) -> None:
    """State some kinds, each under its name, and how a run of them must end."""
    for name, act in acts.items():
        ACTS[name.replace("_", "-")] = act
        ENDINGS[name.replace("_", "-")] = status


def flat(oracle: Any, **more: Any) -> Discovery:
    """An answer that is fine, but for what is given."""
    scores = more.pop("scores", np.zeros(oracle.shape))
    return Discovery(scores, more.pop("heads", frozenset()), **more)


def raising(error: Callable[[], BaseException]) -> Act:
    """Raise it."""

    def act(oracle: Any) -> Any:
        raise error()

    return act


def answering(**more: Any) -> Act:
    """A discovery with other contents; those that can be called are given the oracle."""
    return lambda oracle: flat(
        oracle, **{key: value(oracle) if callable(value) else value for key, value in more.items()}
    )


def first(change: Callable[[], Any]) -> Act:
    """Change something of the process, ask a question, answer."""

    def act(oracle: Any) -> Any:
        change()
        oracle.query(oracle.head_masks()[:3])
        return flat(oracle)

    return act


def in_turn(*steps: Callable[[], Any]) -> Act:
    """One step after the other, and no answer."""

    def act(oracle: Any) -> Any:
        for step in steps:
            step()

    return act


def repeat(step: Callable[[], Any]) -> Act:
    """For ever."""

    def act(oracle: Any) -> Any:
        while True:
            step()

    return act


class _Text(str):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class _NoRepr(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def _circular() -> BaseException:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    return one


def _nested() -> BaseException:
    error: Exception = ValueError("inmost")
    for _ in range(200):
        error = ExceptionGroup("group", [error])
    return error


def _bottomless(depth: int = 0) -> int:
    return _bottomless(depth + 1) + 1


ends(
    "failed",
    raises_in_a_group=raising(_nested),
    raises_in_a_circle=raising(_circular),
    raises_without_text=raising(lambda: ValueError(_Text())),
    raises_without_repr=raising(lambda: _NoRepr("x")),
    raises_a_class_named_oddly=raising(lambda: type("Bad\nName\x1b[2J", (Exception,), {})("x")),
    raises_a_class_of_a_long_name=raising(lambda: type("B" * 100_000, (Exception,), {})("x")),
    raises_half_a_character=raising(lambda: ValueError("\ud800")),
    raises_bytes=raising(lambda: ValueError(b"\xff" * 100_000)),
    raises_many_arguments=raising(lambda: ValueError(*range(100_000))),
    raises_with_notes=raising(lambda: _noted()),
    raises_base_exception=raising(lambda: BaseException("base")),
    raises_stop_iteration=raising(lambda: StopIteration(1)),
    raises_cancelled=raising(lambda: asyncio.CancelledError()),
    raises_broken_pipe=raising(lambda: BrokenPipeError(32, "Broken pipe")),
    raises_timeout=raising(lambda: TimeoutError("I was too slow")),
    raises_memory_error=raising(lambda: MemoryError()),
    raises_system_exit_with_text=raising(lambda: SystemExit("goodbye")),
    raises_system_exit_none=raising(lambda: SystemExit()),
    raises_unicode_error=lambda oracle: b"\xff".decode(),
    recurses=lambda oracle: _bottomless(),
    asserts=raising(lambda: AssertionError()),
    divides=lambda oracle: 1 / 0,
    changes_the_device=lambda oracle: first(lambda: torch.set_default_device("meta"))(oracle),
    asks_nonsense=lambda oracle: oracle.query("all of them"),
    asks_another_shape=lambda oracle: oracle.query(np.zeros((1, 99, 99), dtype=bool)),
    asks_what_is_not_there=lambda oracle: oracle.truth(),
    asks_nan_weights=lambda oracle: oracle.query(np.full((1, *oracle.shape), np.nan)),
    asks_an_unknown_quantity=lambda oracle: oracle.query(oracle.head_masks(), quantity="truth"),
)


def _noted() -> BaseException:
    error = ValueError("noted")
    for i in range(2_000):
        error.add_note("note " * 100 + str(i))
    return error


def _crash() -> None:
    ctypes.string_at(0)


def _closing_everything() -> None:
    os.closerange(0, 256)


ends(
    "failed",
    exits_with_1=lambda oracle: os._exit(1),
    exits_with_255=lambda oracle: os._exit(255),
    exits_from_a_thread=in_turn(
        lambda: threading.Thread(target=lambda: os._exit(3)).start(), lambda: time.sleep(60)
    ),
    aborts=lambda oracle: os.abort(),
    crashes=lambda oracle: _crash(),
    ended_by_term=in_turn(lambda: os.kill(os.getpid(), signal.SIGTERM), lambda: time.sleep(60)),
    ended_by_hangup=in_turn(lambda: os.kill(os.getpid(), signal.SIGHUP), lambda: time.sleep(60)),
    ended_by_alarm=in_turn(lambda: signal.alarm(1), lambda: time.sleep(60)),
    ended_by_the_clock=in_turn(
        lambda: resource.setrlimit(resource.RLIMIT_CPU, (1, 1)),
        lambda: sum(1 for _ in iter(int, 1)),
    ),
    becomes_another_program=lambda oracle: os.execv("/bin/true", ["true"]),
    closes_everything=first(_closing_everything),
    gives_a_generator=lambda oracle: (i for i in range(3)),
    gives_a_coroutine=lambda oracle: _later(),
)
ends(
    "timeout",
    stops_itself=in_turn(lambda: os.kill(os.getpid(), signal.SIGSTOP)),
    spins=repeat(lambda: None),
    waits_for_a_lock=lambda oracle: _locked(),
    asks_for_ever=lambda oracle: repeat(lambda: oracle.query(oracle.head_masks()[:1]))(oracle),
)


async def _later() -> None:
    """A method that should not have been written as a coroutine."""


def _locked() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _at_once(oracle: Any) -> Any:
    return flat(oracle, info={"sum": float(np.ones(1 << 30).sum())})


def _shared(oracle: Any) -> Any:
    pages = mmap.mmap(-1, 3 << 30)
    for place in range(0, len(pages), 4096):
        pages[place] = 1
        if place % (64 << 20) == 0:
            time.sleep(0.01)
    time.sleep(60)


def _torch_memory(oracle: Any) -> Any:
    kept = []
    while True:
        kept.append(torch.ones(1 << 24))
        time.sleep(0.01)


ends("failed", eats_at_once=_at_once, eats_shared_pages=_shared, eats_tensors=_torch_memory)


class _Lies(Discovery):
    @property
    def info(self) -> Any:
        raise RuntimeError("no info")

    @info.setter
    def info(self, value: Any) -> None:
        pass


def _trace(*points: Any) -> Act:
    return answering(trace=lambda oracle: [TracePoint(n, np.zeros(oracle.shape)) for n in points])


def _lying(oracle: Any) -> Any:
    lie = object.__new__(_Lies)
    object.__setattr__(lie, "scores", np.zeros(oracle.shape))
    return lie


ends(
    "failed",
    gives_text=lambda oracle: "all heads",
    gives_a_class=lambda oracle: Discovery,
    gives_a_dictionary=lambda oracle: {"scores": np.zeros(oracle.shape), "heads": []},
    gives_an_array=lambda oracle: np.zeros(oracle.shape),
    gives_a_lie=_lying,
    gives_scores_of_text=answering(scores=lambda oracle: np.full(oracle.shape, "high")),
    gives_complex_scores=answering(scores=lambda oracle: np.full(oracle.shape, 1j)),
    gives_infinite_scores=answering(scores=lambda oracle: np.full(oracle.shape, np.inf)),
    gives_flat_scores=answering(scores=lambda oracle: np.zeros(oracle.n_layers * oracle.n_heads)),
    gives_scores_in_three_dimensions=answering(scores=lambda oracle: np.zeros((1, *oracle.shape))),
    gives_no_scores=answering(scores=lambda oracle: np.zeros((0, 0))),
    gives_one_score=answering(scores=lambda oracle: np.float64(1.0)),
    gives_ragged_scores=answering(scores=lambda oracle: [[0.0], [0.0, 1.0]]),
    gives_none_scores=answering(scores=lambda oracle: None),
    gives_a_head_out_of_range=answering(heads=lambda oracle: frozenset({Head(99, 0)})),
    gives_a_negative_head=answering(heads=lambda oracle: frozenset({(-1, 0)})),
    gives_half_a_head=answering(heads=lambda oracle: frozenset({(0.5, 0)})),
    gives_a_head_of_text=answering(heads=lambda oracle: frozenset({"0.1 and more"})),
    gives_a_number_of_heads=answering(heads=lambda oracle: 3),
    gives_an_edge_of_text=answering(edges=lambda oracle: {"nowhere": 1.0}),
    gives_an_edge_backwards=answering(edges=lambda oracle: {Edge("logits", "embed"): 1.0}),
    gives_an_edge_of_no_number=answering(edges=lambda oracle: {oracle.edges.edges[0]: math.nan}),
    commits_to_an_unknown_edge=answering(selected_edges=lambda oracle: frozenset({"nowhere"})),
    gives_a_backward_trace=_trace(5, 3),
    gives_a_negative_trace=_trace(-1),
    gives_half_a_query=_trace(0.5),
    gives_a_trace_of_text=answering(trace=lambda oracle: ["first", "second"]),
    gives_a_trace_of_another_shape=answering(
        trace=lambda oracle: [TracePoint(0, np.zeros((1, 99)))]
    ),
    gives_bytes_as_info=answering(info=lambda oracle: {"raw": b"\x00"}),
    gives_infinity_as_info=answering(info=lambda oracle: {"loss": math.inf}),
    gives_a_function_as_info=answering(info=lambda oracle: {"call": print}),
    gives_a_list_for_info=answering(info=lambda oracle: [1, 2, 3]),
    gives_a_million_names=answering(info=lambda oracle: {f"name {i}": i for i in range(1_000_000)}),
)


def _everywhere(change: Callable[..., Any], *given: Any) -> Act:
    return first(lambda: change(*given))


def _deaf() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)


ends(
    "done",
    changes_the_dtype=_everywhere(torch.set_default_dtype, torch.float64),
    changes_the_threads=_everywhere(torch.set_num_threads, 3),
    changes_torch_seed=_everywhere(torch.manual_seed, 9),
    changes_numpy_seed=_everywhere(np.random.seed, 9),
    changes_python_seed=_everywhere(random.seed, 9),
    changes_gradients=_everywhere(torch._C._set_grad_enabled, False),
    changes_inference=first(lambda: torch.inference_mode().__enter__()),
    changes_determinism=_everywhere(torch.use_deterministic_algorithms, True),
    changes_denormals=_everywhere(torch.set_flush_denormal, True),
    changes_precision=_everywhere(torch.set_float32_matmul_precision, "medium"),
    changes_the_folder=_everywhere(os.chdir, "/"),
    changes_the_environment=first(lambda: os.environ.update(OMP_NUM_THREADS="7", HOME="/nowhere")),
    clears_the_environment=first(os.environ.clear),
    changes_the_umask=_everywhere(os.umask, 0o777),
    changes_the_locale=_everywhere(locale.setlocale, locale.LC_ALL, "C"),
    changes_the_priority=_everywhere(os.nice, 5),
    changes_the_recursion=_everywhere(sys.setrecursionlimit, 500),
    changes_the_switching=_everywhere(sys.setswitchinterval, 1.0),
    changes_the_warnings=_everywhere(warnings.simplefilter, "error"),
    changes_numpy_errors=first(lambda: np.seterr(all="raise")),
    changes_numpy_printing=first(lambda: np.set_printoptions(precision=1)),
    changes_the_logging=_everywhere(logging.disable, 100),
    changes_what_ends_it=first(_deaf),
    changes_the_waste=first(gc.disable),
    changes_numpy=first(lambda: setattr(np, "mean", lambda *_, **__: 0.0)),
    changes_torch=first(lambda: setattr(torch.nn.functional, "softmax", None)),
    changes_the_builtins=first(lambda: setattr(builtins, "round", None)),
    changes_the_clock=first(lambda: setattr(time, "time", lambda: 0.0)),
    changes_the_oracle=first(lambda: setattr(circuitbench.Oracle, "edges", None)),
    changes_the_path=first(sys.path.clear),
    changes_the_temporary_folder=first(lambda: setattr(tempfile, "tempdir", "/nowhere")),
    closes_the_output=first(lambda: sys.stdout.close()),
    replaces_the_output=first(lambda: setattr(sys, "stdout", None)),
    counts_on_files=_everywhere(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0)),
    leaves_a_thread=first(lambda: threading.Thread(target=time.sleep, args=(60,)).start()),
    leaves_a_timer=first(lambda: signal.setitimer(signal.ITIMER_REAL, 30)),
    leaves_an_exit=first(lambda: __import__("atexit").register(os._exit, 9)),
    leaves_a_child=first(
        lambda: os.fork() or in_turn(lambda: time.sleep(60), lambda: os._exit(0))(None)
    ),
    writes_json_on_its_output=first(lambda: print(json.dumps({"done": {"scores": [1]}}))),
    prints_escapes=first(lambda: print("\x1b[2J\x1b]0;title\x07" * 1_000)),
    prints_half_characters=first(lambda: sys.stdout.buffer.write(b"\xff\xfe" * 1_000)),
    gives_a_trace_beyond_its_queries=_trace(10**9),
    gives_a_set_as_info=answering(info=lambda oracle: {"set": {1, 2}}),
    gives_numbers_as_names=answering(info=lambda oracle: {(1, 2): "pair"}),
)
