"""A sweep as a YAML file: the product of methods, tasks, models, seeds, ablations, settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.plugins.tiers import model_for, places
from circuitbench.runs.spec import SPEC_KEYS, RunSpec, build_spec, dotted
from circuitbench.runs.yaml_text import plain_yaml

MOST = 1_000_000  # runs of a sweep
SEEDS = 10_000  # named at once

AXES = {
    "methods": "method",
    "tasks": "task",
    "models": "model",
    "seeds": "seed",
    "ablations": "ablation",
}
_SETTINGS = tuple(key for key in SPEC_KEYS if key not in AXES.values() and key != "hyperparameters")
KEYS = (*AXES, "tiers", "hyperparameters", *_SETTINGS)
FILE_KEYS = (*KEYS, "blocks", "out")


def read_sweep(path: Path, settings: Mapping[str, Any]) -> tuple[list[RunSpec], Path | None]:
    """All runs that a sweep file states, seeds varying slowest, and where their records go.

    Args:
        path: of the file; docs/sweeps.md says what it may hold.
        settings: of the command line, which outrank the file's.

    Raises:
        UnknownName, InvalidSpec: naming the file and the fault.
    """
    try:
        with path.open("rb") as file:
            text = file.read(4_000_001).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidSpec(f"cannot read sweep file {path}: {reason}") from error
    content = plain_yaml(text, str(path))
    if not isinstance(content, dict):
        raise InvalidSpec(f"{path} must hold 'key: value' lines; valid: {', '.join(FILE_KEYS)}")
    try:
        out = content.pop("out", None)
        specs = [spec for block in _blocks(content) for spec in _product(block, settings)]
    except (InvalidSpec, UnknownName) as error:
        raise InvalidSpec(f"{path}: {error}") from error
    return list({repr(spec): spec for spec in specs}.values()), out and Path(str(out))


def parse_seeds(text: str) -> list[int]:
    """``"0,1,2"`` or ``"0-4"`` or both mixed; raises :class:`InvalidSpec` on anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _is_seed(first) or (dash and not _is_seed(last)):
            raise InvalidSpec(f"seeds must look like 0,1,2 or 0-4, not {text[:80]!r}")
        start, stop = int(first), int(last) + 1 if dash else int(first) + 1
        if stop - start > SEEDS:
            raise InvalidSpec(f"{text[:80]!r} names more than {SEEDS} seeds")
        seeds += range(start, stop)
    if not seeds or len(seeds) > SEEDS:
        raise InvalidSpec(f"{text[:80]!r} names {len(seeds)} seeds; expected between 1 and {SEEDS}")
    return list(dict.fromkeys(seeds))


def _is_seed(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _blocks(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The file's blocks, each with what stands outside of them."""
    blocks = content.pop("blocks", [{}])
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise InvalidSpec("blocks must be a list of mappings")
    for block in blocks:
        whole = {**content, **block}
        for key in whole:
            if key not in KEYS:
                raise UnknownName("setting", key, FILE_KEYS)
        yield from _by_tier(whole)


def _by_tier(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A block of tiers as blocks of one task on one model with one seed; any other as it is."""
    if "tiers" not in block:
        yield block
        return
    for key in ("tasks", "models"):
        if key in block:
            raise InvalidSpec(f"a tier has its own {key}; leave out {key}, or tiers")
    rest = {key: value for key, value in block.items() if key != "tiers"}
    for seed, tier in product(_values(block, "seeds"), _values(block, "tiers")):
        for place in places(tier):
            model = model_for(tier, place, seed)
            yield {**rest, "tasks": place.task, "models": model, "seeds": seed}


def _product(block: Mapping[str, Any], settings: Mapping[str, Any]) -> list[RunSpec]:
    axes = {one: _values(block, many) for many, one in AXES.items()}
    chosen = block.get("hyperparameters") or {}
    if not isinstance(chosen, dict):
        raise InvalidSpec("hyperparameters must be a mapping of methods to their settings")
    for method in chosen:
        if method not in axes["method"]:
            raise UnknownName("method of this sweep", method, map(str, axes["method"]))
    base = {key: block[key] for key in _SETTINGS if key in block}
    variants = {method: _variants(method, chosen.get(method)) for method in axes["method"]}
    sizes = [len(axes[one]) for one in AXES.values() if one != "method"]
    total = sum(map(len, variants.values()))
    for size in sizes:
        total *= size
    if total > MOST:
        raise InvalidSpec(f"{total:,} runs; at most {MOST:,} are planned at once")
    order = ("seed", "task", "model", "ablation", "method")
    specs = []
    for combination in product(*(axes[one] for one in order)):
        named = {k: v for k, v in zip(order, combination, strict=True) if v is not None}
        for variant in variants[named["method"]]:
            specs.append(build_spec({**base, **named, "hyperparameters": variant}, settings))
    return specs


def _values(block: Mapping[str, Any], key: str) -> list[Any]:
    """The values of one axis."""
    if key not in block:
        if key in ("methods", "tasks"):
            raise InvalidSpec(f"a sweep needs {key}")
        return {"seeds": [0]}.get(key, [None])
    value = block[key]
    if key == "seeds" and isinstance(value, str):
        return parse_seeds(value)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise InvalidSpec(f"{key} must name at least one")
    kind = int if key == "seeds" else str
    for item in values:
        if type(item) is not kind:
            raise InvalidSpec(f"{key} cannot hold {item!r}; expected {kind.__name__}")
    return list(dict.fromkeys(values))


def _variants(method: str, chosen: Any) -> list[dict[str, Any]]:
    """The settings of a method, every combination of those that are given as ``each: [...]``."""
    if chosen is None:
        return [{}]
    if not isinstance(chosen, dict):
        raise InvalidSpec(f"hyperparameters of {method} must be 'name: value' lines")
    choices: dict[str, list[Any]] = {}
    for name, value in dotted(chosen).items():
        key, several = (name[: -len(".each")], True) if name.endswith(".each") else (name, False)
        if several and not (isinstance(value, list) and value):
            raise InvalidSpec(f"{method}.{key}: each must be a list of values")
        choices[key] = value if several else [value]
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
