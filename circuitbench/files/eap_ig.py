"""What the two formats of EAP-IG and MIB share: configuration, and what neither can say.

Sources: hannamw/EAP-IG ``src/eap/graph.py`` (``Graph.to_json``, ``from_json``, ``to_pt``,
``from_pt``) and the loaders of MIB's circuit track, which also take circuits without scores.

Neither format tells an empty circuit from scores that nobody has cut yet, or a model without
MLPs from one whose MLPs score 0, or how scores are to be ranked. Files written here say so under
one more key, :data:`MARK`, that the tools do not look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitbench.core.errors import InvalidCircuitFile
from circuitbench.files.circuit_file import PARTS, RANKINGS, CircuitFile, Config, Ranking
from circuitbench.files.fields import entry, found, of_kind

MARK = "circuitbench"


@dataclass(frozen=True)
class Mark:
    """What a file of ours says beyond the format: which arrays were given, MLPs, the ranking."""

    parts: tuple[str, ...]
    mlps: bool
    ranking: Ranking

    @classmethod
    def of(cls, circuit: CircuitFile) -> Mark:
        """The mark that goes with a circuit."""
        return cls(circuit.parts, circuit.config.mlps, circuit.ranking)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {"parts": list(self.parts), "mlps": self.mlps, "ranking": self.ranking}


def read_mark(content: dict[Any, Any]) -> Mark | None:
    """The mark of a parsed file; None for other tools' files. Raises InvalidCircuitFile."""
    if MARK not in content:
        return None
    mark = of_kind(content[MARK], dict, MARK)
    parts = entry(mark, "parts", list, f"{MARK}.")
    for part in parts:
        if part not in PARTS:
            raise InvalidCircuitFile(f"{MARK}.parts: unknown {found(part)}")
    ranking = entry(mark, "ranking", str, f"{MARK}.")
    if ranking not in RANKINGS:
        raise InvalidCircuitFile(f"{MARK}.ranking must be absolute or signed, not {found(ranking)}")
    return Mark(tuple(parts), entry(mark, "mlps", bool, f"{MARK}."), ranking)


def config_dict(config: Config) -> dict[str, Any]:
    """``cfg`` of a file. An unknown ``d_model`` is 0: their reader makes arrays of that width."""
    return {
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "parallel_attn_mlp": False,
        "d_model": config.d_model or 0,
    }


def read_config(content: dict[Any, Any], mlps: bool) -> Config:
    """The configuration of a parsed file; raises :class:`InvalidCircuitFile`."""
    cfg = entry(content, "cfg", dict)
    if cfg.get("parallel_attn_mlp"):
        raise InvalidCircuitFile(
            "cfg.parallel_attn_mlp is true; only models whose heads come before their layer's "
            "MLP are read"
        )
    n_layers, n_heads = (entry(cfg, key, int, "cfg.") for key in ("n_layers", "n_heads"))
    d_model = cfg.get("d_model")
    if d_model is not None:
        d_model = of_kind(d_model, int, "cfg.d_model") or None
    try:
        return Config(n_layers, n_heads, mlps, d_model)
    except InvalidCircuitFile as error:
        raise InvalidCircuitFile(f"cfg: {error}") from error


def assemble(
    config: Config, arrays: Mapping[str, np.ndarray | None], mark: Mark | None
) -> CircuitFile:
    """The circuit of what a file holds, given by name of array.

    Without a mark a membership that is false throughout means that nothing was cut yet.
    """
    if mark is not None:
        for part in mark.parts:
            if arrays.get(part) is None:
                raise InvalidCircuitFile(f"{MARK}.parts names {part}, which the file lacks")
        given: dict[str, Any] = {part: arrays[part] for part in mark.parts}
        return CircuitFile(config, ranking=mark.ranking, **given)
    kept: dict[str, Any] = {
        name: array
        for name, array in arrays.items()
        if array is not None and (name not in ("edges_in", "nodes_in") or array.any())
    }
    return CircuitFile(config, **kept)


def shown_nodes(circuit: CircuitFile) -> np.ndarray:
    """Membership of nodes to write, ``[n_nodes]``: where unsaid, that of nodes with an edge in."""
    if circuit.nodes_in is not None:
        return circuit.nodes_in
    inside = np.zeros(circuit.config.n_nodes, dtype=bool)
    if circuit.edges_in is not None:
        inside[circuit.config.edge_ends[1][circuit.edges_in]] = True
    return inside
