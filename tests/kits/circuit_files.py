"""Random circuit files of small models."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from circuitbench.files import PARTS, RANKINGS, CircuitFile, Config


def circuit(
    config: Config, parts: tuple[str, ...] = ("edge_scores", "edges_in"), seed: int = 0
) -> CircuitFile:
    """Random values for these parts; some nodes are not scored."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for part in parts:
        shape: tuple[int, ...] = (config.n_edges,) if part.startswith("edge") else (config.n_nodes,)
        if part.startswith("neuron"):
            shape = (*shape, config.d_model or 0)
        arrays[part] = (
            rng.normal(size=shape) if part.endswith("scores") else rng.random(shape) < 0.5
        )
        if part in ("node_scores", "neuron_scores"):
            arrays[part][0] = np.nan
    return CircuitFile(config, **arrays)


@st.composite
def circuits(draw: st.DrawFn, parts: tuple[str, ...] = PARTS) -> CircuitFile:
    """Any circuit that has some of ``parts`` and nothing else."""
    neurons = any(part.startswith("neuron") for part in parts)
    d_model = st.integers(1, 4) if neurons else st.none()
    config = Config(
        draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.booleans()), draw(d_model)
    )
    chosen = draw(st.lists(st.sampled_from(parts), min_size=1, unique=True))
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    arrays: dict[str, Any] = {}
    for part in chosen:
        of_edges, scores = part.startswith("edge"), part.endswith("scores")
        item = st.booleans() if not scores else numbers if of_edges else numbers | st.just(np.nan)
        size = config.n_edges if of_edges else config.n_nodes
        width = config.d_model if part.startswith("neuron") else None
        # A few values over and over: an array of hundreds of drawn ones is slow to shrink.
        few = draw(st.lists(item, min_size=1, max_size=6))
        values = np.resize(np.array(few), size * (width or 1))
        if scores and np.isnan(values).any():
            values[-1] = draw(numbers)  # NaN throughout would say nothing
        arrays[part] = values.reshape((size, width) if width else (size,))
    ranking = draw(st.sampled_from(RANKINGS)) if set(parts) == set(PARTS) else "absolute"
    return CircuitFile(config, ranking=ranking, **arrays)
