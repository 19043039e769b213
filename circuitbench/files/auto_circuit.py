"""auto-circuit's ``PruneScores``: ``{module of the destination: tensor [(head,) source]}``.

Source: UFO-101/auto-circuit, ``types.py`` (``Edge.prune_score``) and ``utils/graph_utils.py``
(``make_model_patchable``). Sources come in the order of our nodes; a destination's tensor has
only those before it. A file may hold one such dict, or ``{task: {algorithm: dict}}``, which is
how their experiments save them. It knows scores of edges, and nothing else.

Refused in one line: scores per position of the prompt, models made patchable with
``separate_qkv=False`` (edges into a head as a whole), parallel attention and MLP.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch

from circuitbench.core.errors import InvalidCircuitFile
from circuitbench.files import torch_files
from circuitbench.files.circuit_file import CircuitFile, Config
from circuitbench.files.fields import found, of_kind
from circuitbench.files.names import unknown

_MODULE = re.compile(
    r"blocks\.(0|[1-9][0-9]{0,5})\.hook_(q_input|k_input|v_input|mlp_in|resid_post|attn_in)"
)


def dumps(circuit: CircuitFile) -> bytes:
    """The file of a circuit: its edge scores; without any, its edges as 1 and the others as 0.

    Raises :class:`InvalidCircuitFile` where it puts neither edges nor nodes in or out.
    """
    scores = circuit.edge_scores
    if scores is None:
        if circuit.edges_in is None and circuit.nodes_in is None:
            raise InvalidCircuitFile("it holds scores of edges, and here are none")
        scores = circuit.shown_edges.astype(float)
    content, left = {}, torch_files.scores_tensor(scores)
    for modules, shape in _modules(circuit.config):
        # Ours go head by head, and query, key and value within one.
        block, left = left[: math.prod(shape)], left[math.prod(shape) :]
        parts = block.reshape(shape).unbind(1) if len(modules) == 3 else (block,)
        for module, part in zip(modules, parts, strict=True):
            content[module] = part.clone()  # contiguous, without the rest of its storage
    return torch_files.dump(content)


def loads(content: Any, entry: str = "") -> CircuitFile:
    """The circuit in a loaded file.

    Args:
        content: what :func:`circuitbench.files.torch_files.load` gave.
        entry: ``TASK/ALGORITHM``, where a file holds several.

    Raises:
        InvalidCircuitFile: names the module at fault, or the entries to choose from.
    """
    content = _chosen(_with_text_keys(content, "the file"), entry)
    config = _config(content)
    expected = _modules(config)
    known = [module for modules, _ in expected for module in modules]
    for module in content:
        if module not in known:
            raise InvalidCircuitFile(f"{unknown('module', module, known)} ({config})")
    blocks = []
    for modules, run in expected:
        heads = len(modules) == 3
        shape = (run[0], run[2]) if heads else run
        parts = [_scores(content, module, shape, config) for module in modules]
        blocks.append(np.stack(parts, 1).ravel() if heads else parts[0])
    return CircuitFile(config, edge_scores=np.concatenate(blocks))


def _scores(
    content: dict[str, Any], module: str, shape: tuple[int, ...], config: Config
) -> np.ndarray:
    if module not in content:
        raise InvalidCircuitFile(f"{module} is missing ({config})")
    value = content[module]
    if len(shape) == 2 and shape[0] == 1 and getattr(value, "ndim", 2) == 1:
        value = value[None]  # an older version gave one head no dimension of its own
    scores = torch_files.numbers(value, shape, module)
    if not np.isfinite(scores).all():
        place = np.argwhere(~np.isfinite(scores))[0].tolist()
        raise InvalidCircuitFile(f"{module}{place} is {scores[tuple(place)]}")
    return scores


def is_one(content: Any) -> bool:
    """Whether a loaded file looks like auto-circuit's."""
    if not isinstance(content, dict) or not content:
        return False
    modules = any(isinstance(key, str) and _MODULE.fullmatch(key) for key in content)
    return modules or all(isinstance(value, dict) for value in content.values())


def _with_text_keys(value: Any, where: str) -> dict[str, Any]:
    content = dict(value) if isinstance(value, dict) else of_kind(value, dict, where)
    for key in content:
        of_kind(key, str, f"a key of {where}")
    return content


def _modules(config: Config) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """The destinations' modules in the order of our edges, and the shape of that run of edges.

    A layer's heads are one run ``[heads, 3, sources]`` over three modules, each ``[heads,
    sources]``; an MLP and the logits are ``[sources]`` each.
    """
    modules: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
    heads, sources = config.n_heads, 1
    for layer in range(config.n_layers):
        names = tuple(f"blocks.{layer}.hook_{letter}_input" for letter in "qkv")
        modules.append((names, (heads, 3, sources)))
        sources += heads
        if config.mlps:
            modules.append(((f"blocks.{layer}.hook_mlp_in",), (sources,)))
            sources += 1
    return [*modules, ((f"blocks.{config.n_layers - 1}.hook_resid_post",), (sources,))]


def _chosen(content: dict[str, Any], entry: str) -> dict[str, Any]:
    """The one dict of tensors, in ``{task: {algorithm: dict}}`` the one of this entry."""
    found_at = _leaves(content, ())
    if entry:
        wanted = next((leaf for path, leaf in found_at if "/".join(path) == entry), None)
        if wanted is None:
            raise InvalidCircuitFile(unknown("entry", entry, ("/".join(p) for p, _ in found_at)))
        return wanted
    if len(found_at) != 1:
        names = ", ".join("/".join(path) for path, _ in found_at)
        raise InvalidCircuitFile(f"holds {len(found_at)} circuits; choose an entry of: {names}")
    return found_at[0][1]


def _leaves(
    content: dict[str, Any], path: tuple[str, ...]
) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    if len(path) == 2 or not content or not all(isinstance(v, dict) for v in content.values()):
        return [(path, content)]
    where = "/".join(path) or "the file"
    return [
        leaf
        for key, value in content.items()
        for leaf in _leaves(_with_text_keys(value, f"{where}: {key}"), (*path, key))
    ]


def _config(content: dict[str, Any]) -> Config:
    """What the names and shapes of the tensors say of the model."""
    layers, mlps = 0, False
    for module in content:
        match = _MODULE.fullmatch(module)
        if match is None:
            raise InvalidCircuitFile(
                f"not a module of auto-circuit: {found(module)}; e.g. blocks.0.hook_q_input"
            )
        if match[2] == "attn_in":
            raise InvalidCircuitFile(
                f"{module}: edges into a head as a whole (separate_qkv=False); "
                "edges into its query, key and value are needed"
            )
        layers, mlps = max(layers, int(match[1]) + 1), mlps or match[2] == "mlp_in"
    first = "blocks.0.hook_q_input"
    if first not in content:
        raise InvalidCircuitFile(f"{first} is missing")
    queries, last = content[first], content.get(f"blocks.{layers - 1}.hook_resid_post")
    if not isinstance(queries, torch.Tensor):
        raise InvalidCircuitFile(f"{first} must be a tensor, not {found(queries)}")
    if queries.ndim > 2 or (isinstance(last, torch.Tensor) and last.ndim > 1):
        raise InvalidCircuitFile(
            f"{first} has shape {list(queries.shape)}: scores per position of the prompt; "
            "only scores of whole edges are read"
        )
    if queries.ndim == 0:
        raise InvalidCircuitFile(f"{first} must be [heads, sources], not a single number")
    return Config(layers, queries.shape[0] if queries.ndim == 2 else 1, mlps)
