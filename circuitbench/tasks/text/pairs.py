"""Prompt pairs as other tools write them: CSV and JSON lines, read into a task's file."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from pydantic import ValidationError

from circuitbench.core.errors import InvalidSpec, nearest
from circuitbench.tasks.text.reading import ITEMS, decoded, explain
from circuitbench.tasks.text.schema import Pair

PREDICT, PREDICTED = "<predict>", "</predict>"
# What tools call the same thing.
NAMES = {
    "clean": "clean",
    "corrupted": "corrupted",
    "corrupt": "corrupted",
    "answer": "answer",
    "answers": "answer",
    "correct_idx": "answer",
    "wrong": "wrong",
    "wrong_answers": "wrong",
    "incorrect_idx": "wrong",
}
IDS = ("correct_idx", "incorrect_idx")


def read_pairs(content: bytes, where: str) -> tuple[Pair, ...]:
    """Pairs of a ``.csv`` or ``.jsonl`` file.

    CSV has a header: ``clean,corrupted,correct_idx,incorrect_idx`` with ids of tokens (one, or
    ``[1, 2]``), as EAP-IG's files, or ``clean,corrupted,answer,wrong`` with texts. JSON lines
    have the same keys, or mark the answer in the prompt, ``"... to<predict> Mary</predict>"``;
    what is marked in the counterfactual is then the wrong answer.

    Args:
        content: of the file.
        where: its name; its ending says how to read it.

    Raises:
        InvalidSpec: naming the line and the field.
    """
    text = decoded(content, where)
    rows = _csv(text, where) if where.lower().endswith(".csv") else _json_lines(text, where)
    pairs = tuple(_pair(row, f"{where} line {line}") for line, row in rows)
    if not pairs:
        raise InvalidSpec(f"{where} holds no pair of prompts")
    lines = [line for line, _ in rows]
    for what, wrong in (
        ("is the prompt", [pair.clean == pair.corrupted for pair in pairs]),
        ("has the same answer", [pair.corrupted_answer == pair.answer for pair in pairs]),
    ):
        offenders = [line for line, bad in zip(lines, wrong, strict=True) if bad]
        if offenders:
            raise InvalidSpec(
                f"{where}: the counterfactual {what} in {len(offenders)} of {len(pairs)} pairs, "
                f"on lines {', '.join(map(str, offenders[:20]))}"
            )
    return pairs


def _csv(text: str, where: str) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    header = [name for name in reader.fieldnames or [] if name]
    known = {NAMES[name] for name in header if name in NAMES}
    missing = [name for name in ("clean", "corrupted", "answer", "wrong") if name not in known]
    if missing:
        ids = dict(zip(("answer", "wrong"), IDS, strict=True))
        said = ", ".join(f"{name} (or {ids[name]})" if name in ids else name for name in missing)
        raise InvalidSpec(f"{where} line 1: no column {said}; it has {', '.join(header) or 'none'}")
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        for row in reader:
            if len(rows) > ITEMS:
                raise InvalidSpec(f"{where} holds more than {ITEMS:,} pairs")
            if None in row or None in row.values():
                raise InvalidSpec(f"{where} line {reader.line_num}: not {len(header)} columns")
            found = {name: row[name] for name in header if name in NAMES}
            ids_at = f"{where} line {reader.line_num}"
            rows.append(
                (
                    reader.line_num,
                    {k: _ids(v, k, ids_at) if k in IDS else v for k, v in found.items()},
                )
            )
    except csv.Error as error:
        raise InvalidSpec(f"{where} line {reader.line_num} is not valid CSV: {error}") from error
    return rows


def _ids(text: str, name: str, where: str) -> list[int]:
    """``12``, ``12.0`` or ``[12, 13]`` as ids of tokens."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        value = None
    values = value if isinstance(value, list) else [value]
    if not values or not all(
        isinstance(x, int | float) and not isinstance(x, bool) and x == int(x) and x >= 0
        for x in values
    ):
        raise InvalidSpec(f"{where}: {name} must be the id of a token, not {text!r}")
    return [int(x) for x in values]


def _json_lines(text: str, where: str) -> list[tuple[int, dict[str, Any]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if len(rows) > ITEMS:
            raise InvalidSpec(f"{where} holds more than {ITEMS:,} pairs")
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
            raise InvalidSpec(f"{where} line {number} is not valid JSON: {said}") from error
        if not isinstance(row, dict):
            raise InvalidSpec(f"{where} line {number}: expected an object, not {line[:40]!r}")
        rows.append((number, row))
    return rows


def _pair(row: dict[str, Any], where: str) -> Pair:
    values: dict[str, Any] = {}
    for key, value in row.items():
        name = NAMES.get(key)
        if name is None:
            continue  # tools write more than is needed
        if name in values:
            raise InvalidSpec(f"{where}: {name} is there twice, as {key} too")
        values[name] = value
    for side, answer in (("clean", "answer"), ("corrupted", "wrong")):
        prompt = values.get(side)
        if isinstance(prompt, str) and PREDICT in prompt:
            values[side], _, rest = prompt.partition(PREDICT)
            marked, end, _ = rest.partition(PREDICTED)
            if not end or not marked:
                raise InvalidSpec(f"{where}: {side} has {PREDICT} without {PREDICTED} behind it")
            if side == "corrupted":
                values["corrupted_answer"] = marked
            values.setdefault(answer, marked)
    missing = [name for name in ("clean", "corrupted", "answer", "wrong") if name not in values]
    if missing:
        near = f"; {nearest(next(iter(row)), NAMES)}" if row else ""
        raise InvalidSpec(f"{where}: no {', '.join(missing)}{near}")
    try:
        return Pair.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec(explain(error, where, Pair)) from error
