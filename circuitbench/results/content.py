"""Whether what a record says holds together, beyond its form."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from circuitbench.core.errors import CircuitBenchError
from circuitbench.evaluation.outcome import Outcome
from circuitbench.results.record import Record

# What reading content that does not hold together raises; 1e308 and whole numbers may overflow.
_BROKEN = (
    CircuitBenchError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
)


def outcome_of(record: Record) -> Outcome:
    """A record as metrics see it."""
    size = record.spec.get("batch_size")
    return Outcome(
        record.discovery,
        record.truth,
        record.costs,
        record.measurements,
        record.info,
        size if isinstance(size, int) else None,
    )


def faults(record: Record, outcome: Outcome | None = None) -> list[str]:
    """What is wrong with a record's content, one line each; empty if all of it holds together.

    A run that is not done says why. A finished one has finite scores of the model's shape,
    committed heads and true heads that exist, edges likewise where the truth names some, a trace
    by rising queries, and stayed within its budget.

    ``outcome`` is the record's, if it was made already.
    """
    if record.status != "done":
        return [] if record.reason else [f"status {record.status} without a reason"]
    try:
        return list(_of_finished(record, outcome or outcome_of(record)))
    except _BROKEN as error:
        return [f"discovery or truth cannot be read ({type(error).__name__}: {error})"]


def _of_finished(record: Record, outcome: Outcome) -> Iterator[str]:
    shape = (int(record.model["n_layers"]), int(record.model["n_heads"]))
    grids = [outcome.scores, *(point.scores for point in outcome.trace)]
    for grid in grids:
        if grid.shape != shape:
            yield f"scores have shape {grid.shape}, the model has {shape}"
            return
    if not all(np.isfinite(grid).all() for grid in grids):
        yield "a score is not a finite number"
    queries = [point.queries for point in outcome.trace]
    if any(after <= before for before, after in pairwise([-1, *queries])):
        yield "the trace does not go by rising queries"
        return
    if queries and queries[-1] >= 2**63:
        yield "the trace counts more queries than 64 bits can"
        return
    if not record.external:  # what was found elsewhere cost nobody knows what
        spent, budget = record.costs["discovery"]["queries"], record.spec.get("budget")
        if budget is not None and spent > budget:
            yield f"{spent} queries were spent of a budget of {budget}"
        if queries and queries[-1] > spent:
            yield f"the trace ends after {queries[-1]} queries, but {spent} were spent"
    # Reading these raises what is wrong with them.
    _ = outcome.selected
    if outcome.discovery["edges"] is not None:
        _ = outcome.edges, outcome.selected_edges
    if not record.truth:  # nobody knows one
        return
    _ = outcome.relevant
    if "degrees" in outcome.has and (outcome.degrees[~outcome.relevant] > 0).any():
        yield "a head outside the truth contributes to it"
    if "edge_degrees" in outcome.has:
        _ = outcome.edge_degrees
    if outcome.discovery["edges"] is not None and outcome.truth.edges is not None:
        _ = outcome.edge_ranking, outcome.edge_overlap
