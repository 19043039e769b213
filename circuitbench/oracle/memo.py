"""Answers requests from the memo, and computes together what the memo does not know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from circuitbench.core.circuit import Ablation, Direction
from circuitbench.oracle.batch import Batch, Part
from circuitbench.oracle.engine.fast import Ask, Engine, Half


class Request(NamedTuple):
    """One mask ``[n_layers, n_heads]`` on one batch."""

    batch: Batch
    mask: np.ndarray
    ablation: Ablation
    direction: Direction

    def key(self, part: Part) -> tuple[str, str, str, bytes]:
        """What the memo files the answer under."""
        # Denoising restores clean activations: the kind of ablation plays no part in it.
        kind = "resample" if self.direction == "denoising" else self.ablation
        return part, kind, self.direction, self.mask.tobytes()

    def ask(self, half: Half) -> Ask:
        """The engine's question on this whole batch."""
        source = self.batch.source
        rows = self.batch.rows(half) if source.by_row else None
        return Ask(source, rows, self.mask, self.ablation, self.direction)


def parts_of(control: bool, kl: bool) -> tuple[Part, ...]:
    """What a question must find out."""
    return ("task", *(("control",) if control else ()), *(("kl",) if kl else ()))


def unknown(request: Request, part: Part) -> np.ndarray:
    """Rows of the request's source that the memo cannot answer."""
    rows = request.batch.rows(part)
    values = request.batch.source.memo.get(request.key(part))
    return rows if values is None else rows[np.isnan(values[rows])]


def values(requests: Sequence[Request], part: Part) -> np.ndarray:
    """Known answers ``[n_requests, batch]``; all requests of one batch size."""
    return np.stack([r.batch.source.known(r.key(part))[r.batch.rows(part)] for r in requests])


def answer(engine: Engine, requests: Sequence[Request], control: bool, kl: bool) -> int:
    """Make the memo know all answers; returns how many requests it knew already."""
    parts = parts_of(control, kl)
    known = sum(all(not len(unknown(r, part)) for part in parts) for r in requests)
    fill(engine, requests, "kl" if kl else "task")
    if control:
        fill(engine, requests, "control")
    return known


def fill(engine: Engine, requests: Sequence[Request], part: Part) -> None:
    """Compute what the memo lacks of one part, each missing row once."""
    half: Half = "control" if part == "control" else "task"
    asks: list[Ask] = []
    keys: list[Request] = []
    seen: set[tuple[object, ...]] = set()
    for request in requests:
        missing = unknown(request, part)
        source = request.batch.source
        # A pool's rows are asked one by one: which are missing differs from mask to mask.
        blocks = [missing[i : i + 1] for i in range(len(missing))] if source.by_row else [None]
        for rows in blocks if len(missing) else ():
            once = id(source), request.key(part), None if rows is None else int(rows[0])
            if once not in seen:
                seen.add(once)
                asks.append(request.ask(half)._replace(rows=rows))
                keys.append(request)
    groups: dict[int, list[int]] = defaultdict(list)
    for i, ask in enumerate(asks):
        groups[len(ask.source.prompts) if ask.rows is None else 1].append(i)
    for members in groups.values():
        found, divergence = engine.measure(half, [asks[i] for i in members], part == "kl")
        for i, row, kl_row in zip(
            members, found, found if divergence is None else divergence, strict=True
        ):
            source, own = asks[i].source, asks[i].rows
            where = slice(None) if own is None else own
            source.known(keys[i].key(half))[where] = row
            if part == "kl":
                source.known(keys[i].key("kl"))[where] = kl_row
