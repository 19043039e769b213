"""Answers questions from the memo, and computes together what the memo does not know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from circuitbench.oracle.engine.base import Engine, Question


def unknown(question: Question, kl: bool = False) -> np.ndarray:
    """Rows of the question's source whose value (or KL divergence) the memo lacks."""
    values = question.source.memo.get(question.key(kl))
    rows = question.rows
    if values is None:
        return np.arange(len(question.source.prompts)) if rows is None else rows
    return np.flatnonzero(np.isnan(values)) if rows is None else rows[np.isnan(values[rows])]


def values(questions: Sequence[Question], kl: bool = False) -> np.ndarray:
    """Known answers ``[n_questions, rows]``; all questions have the same number of rows."""
    known = [q.source.known(q.key(kl)) for q in questions]
    return np.stack(
        [v if q.rows is None else v[q.rows] for q, v in zip(questions, known, strict=True)]
    )


def fill(engine: Engine, questions: Sequence[Question], kl: bool = False) -> None:
    """Compute what the memo lacks, each missing row once; ``kl`` brings the value along."""
    wanted: list[Question] = []
    seen: set[tuple[object, ...]] = set()
    for question in questions:
        missing = unknown(question, kl)
        # A pool's rows are asked one by one: which are missing differs from mask to mask.
        by_row = question.source.by_row
        blocks = [missing[i : i + 1] for i in range(len(missing))] if by_row else [None]
        for rows in blocks if len(missing) else ():
            once = id(question.source), question.key(kl), None if rows is None else int(rows[0])
            if once not in seen:
                seen.add(once)
                wanted.append(question._replace(rows=rows))
    groups: dict[int, list[Question]] = defaultdict(list)
    for question in wanted:
        groups[len(question.source.prompts) if question.rows is None else 1].append(question)
    for group in groups.values():
        found, divergence = engine.measure(group, kl)
        for i, question in enumerate(group):
            where = slice(None) if question.rows is None else question.rows
            question.source.known(question.key())[where] = found[i]
            if divergence is not None:
                question.source.known(question.key(kl=True))[where] = divergence[i]
