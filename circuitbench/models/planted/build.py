"""From a config and a seed to weights.

Roles are placed on the grid, written on named features, and hidden by random rotations of the
residual stream and of every head. Nothing is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Head
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.seeding import generator
from circuitbench.models.planted.config import PlantedConfig
from circuitbench.models.planted.fading import divide
from circuitbench.models.planted.features import FeatureSpace, feature_space
from circuitbench.models.planted.language import Language, make_language, random_rotation
from circuitbench.models.planted.roles import CATALOGUE, LANGUAGE_ROLES, HeadMaps, Wiring
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig


@dataclass(frozen=True)
class PlantedModel:
    """A planted model's inside: what tasks draw prompts from and read the truth off.

    ``heads`` maps every role, ``lookalike`` and ``noise`` included, to its heads.
    """

    config: PlantedConfig
    seed: int
    language: Language
    space: FeatureSpace
    heads: Mapping[str, tuple[Head, ...]]
    transformer: Transformer
    wiring: Wiring

    @property
    def dials(self) -> dict[str, Any]:
        """How hard this model is made, by the names of the dials."""
        config = self.config
        modes = {"or": 0, "and": 0}
        for n, mode in config.roles.values():
            modes[mode] += n if n > 1 else 0
        return {
            "or_copies": modes["or"],
            "and_copies": modes["and"],
            "backup_heads": len(self.heads.get("backup_name_mover", ())),
            "negative_heads": len(self.heads.get("negative_name_mover", ())),
            "shared_tasks": config.shared_tasks,
            "shared_language": config.shared_language,
            "lookalikes": config.lookalikes,
            "noise_heads": len(self.heads["noise"]),
            "noise": config.noise,
            "output_noise": config.output_noise,
            "superposition": config.superposition,
        }


def plant(config: PlantedConfig, seed: int = 0) -> PlantedModel:
    """Write the weights: a pure function of ``config`` and ``seed``."""
    language = make_language(
        config.n_names,
        config.n_nums,
        config.n_words,
        config.d_word,
        config.language,
        config.name_logit,
        config.burstiness,
        generator(seed, "planted", "language"),
    )
    space = feature_space(
        language,
        config.n_ctx,
        config.d_pos,
        config.d_junk,
        config.out_scale,
        config.shared_tasks,
        paths=1 if config.fading is None else len(config.fading.paths),
    )
    wiring = _wiring(config, language, space, generator(seed, "planted", "fading"))
    heads = _place(config, generator(seed, "planted", "places"))
    maps = _head_maps(config, wiring, heads, generator(seed, "planted", "lookalikes"))
    transformer = _hide(config, space, heads, maps, generator(seed, "planted", "weights"))
    return PlantedModel(config, seed, language, space, heads, transformer, wiring)


def _place(config: PlantedConfig, rng: np.random.Generator) -> dict[str, tuple[Head, ...]]:
    """Draw a place for every head; roles with the narrowest choice of layers go first."""
    free = [Head(layer, head) for layer in range(config.n_layers) for head in range(config.n_heads)]
    placed: dict[str, tuple[Head, ...]] = {}
    for role in sorted(config.roles, key=lambda role: (len(config.window(role)), role)):
        window, count = config.window(role), config.roles[role].n
        options = [head for head in free if head.layer in window]
        if len(options) < count:
            raise InvalidSpec(
                f"role {role} needs {count} heads in layers {window.start} to {window.stop - 1}, "
                f"where {len(options)} are left: more roles than heads"
            )
        chosen = [options[i] for i in rng.choice(len(options), count, replace=False)]
        placed[role] = tuple(sorted(chosen))
        free = [head for head in free if head not in chosen]
    rest = [free[i] for i in rng.permutation(len(free))]
    placed["lookalike"] = tuple(sorted(rest[: config.lookalikes]))
    placed["noise"] = tuple(sorted(rest[config.lookalikes :]))
    return placed


def _head_maps(
    config: PlantedConfig,
    wiring: Wiring,
    heads: Mapping[str, tuple[Head, ...]],
    rng: np.random.Generator,
) -> dict[Head, HeadMaps]:
    """The maps on features of every head but the noise heads."""
    maps = {
        head: CATALOGUE[role].build(wiring, copy)
        for role in config.roles
        for copy, head in enumerate(heads[role])
    }
    space, models = wiring.space, sorted(config.roles) or ["unigram"]
    for i, head in enumerate(heads["lookalike"]):
        model = CATALOGUE[models[i % len(models)]].build(wiring, 0)
        ov = [
            (space.read(block), _random_map(space, block, rng)) for block in ("tok_name", "tok_num")
        ]
        if config.fading is not None and config.fading.leak:
            leak = config.fading.leak * rng.choice([-1.0, 1.0])
            ov += [(value, leak * output) for value, output in model.ov]
        maps[head] = HeadMaps(model.qk, tuple(ov))
    return maps


def _wiring(
    config: PlantedConfig, language: Language, space: FeatureSpace, rng: np.random.Generator
) -> Wiring:
    """What the catalogue's roles are written with; ``rng`` draws how circuits fade."""
    fading = config.fading
    divisions, repairs, hurts = {}, {}, {}
    if fading is not None:
        tokens = {"name": len(language.names), "num": len(language.nums)}
        for role in sorted(set(config.roles) - set(LANGUAGE_ROLES)):
            kind, n = CATALOGUE[role], config.roles[role].n
            rest = kind.writes_logits or bool(kind.stands_in_for)
            divisions[role] = divide(n, tokens[kind.group], fading, not rest, rng)
            if kind.stands_in_for:
                repairs[role] = float(rng.uniform(*fading.repair))
            if kind.sign < 0:
                hurts[role] = float(rng.uniform(*fading.hurt))
    return Wiring(
        roles=config.roles,
        space=space,
        language=language,
        sharpness=config.sharpness,
        gain=config.gain * (1.0 if fading is None else fading.paths[0]),
        inhibition=config.inhibition,
        negative=config.negative,
        repair=config.repair,
        out_scale=config.out_scale,
        shared_tasks=config.shared_tasks,
        shared_language=config.shared_language,
        softness=None if fading is None else fading.softness,
        paths=(1.0,) if fading is None else fading.paths,
        divisions=divisions,
        repairs=repairs,
        hurts=hurts,
    )


def _random_map(space: FeatureSpace, block: str, rng: np.random.Generator) -> np.ndarray:
    """A random map ``[width, size]`` from a block into what nobody reads."""
    junk = space.write("junk")
    width = space.read(block).shape[1]
    return np.asarray(rng.standard_normal((width, junk.shape[0])) / math.sqrt(junk.shape[0]) @ junk)


def _hide(
    config: PlantedConfig,
    space: FeatureSpace,
    heads: Mapping[str, tuple[Head, ...]],
    maps: Mapping[Head, HeadMaps],
    rng: np.random.Generator,
) -> Transformer:
    """Turn maps on features into weights in random bases, and fill the rest with noise."""
    d_head = max(head_maps.width for head_maps in maps.values()) if maps else 8
    d_model = round(space.size / config.superposition)
    basis = _basis(space, d_model, rng)
    noise = config.noise / math.sqrt(max(len(heads["noise"]), 1))
    outputs = np.ones(space.size)
    for block in ("out_name", "out_num", "out_word"):
        outputs[space.blocks[block]] = config.out_scale

    layers = []
    for layer in range(config.n_layers):
        weights: dict[str, list[Tensor]] = {name: [] for name in "QKVO"}
        for head in range(config.n_heads):
            planted = maps.get(Head(layer, head))
            if planted is None:
                q, k, v, o = _noise_head(space.size, d_head, noise, outputs, rng)
            else:
                q, k, v, o = _stack(planted, d_head)
                spread = rng.standard_normal(o.shape) / math.sqrt(space.size) * outputs
                o = o + config.output_noise * np.linalg.norm(o, axis=1, keepdims=True) * spread
            attention, value = random_rotation(d_head, rng), random_rotation(d_head, rng)
            weights["Q"].append(_tensor(basis.T @ q @ attention * math.sqrt(d_head)))
            weights["K"].append(_tensor(basis.T @ k @ attention))
            weights["V"].append(_tensor(basis.T @ v @ value))
            weights["O"].append(_tensor(value.T @ o @ basis))
        layers.append(LayerWeights(*(torch.stack(weights[name]) for name in "QKVO")))
    return Transformer(
        config=TransformerConfig(
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            d_model=d_model,
            d_head=d_head,
            d_vocab=space.embed.shape[0],
            n_ctx=config.n_ctx,
            attn_scale=1.0 / math.sqrt(d_head),
        ),
        W_E=_tensor(space.embed @ basis),
        W_pos=_tensor(space.positions @ basis),
        W_U=_tensor(basis.T @ space.unembed),
        layers=tuple(layers),
    )


def _basis(space: FeatureSpace, d_model: int, rng: np.random.Generator) -> np.ndarray:
    """Features -> residual stream ``[size, d_model]``.

    A random rotation where every feature has a dimension. In superposition the wide blocks
    share what single features leave over, as a tight frame: single features decide which heads
    are awake, and one that is not exact puts whole roles to sleep.
    """
    exact = np.zeros(space.size, dtype=bool)
    for block in space.blocks.values():
        exact[block] = block.stop - block.start == 1
    shared, left = int((~exact).sum()), d_model - int(exact.sum())
    basis = np.zeros((space.size, d_model))
    basis[~exact, :left] = random_rotation(shared, rng)[:, :left] * math.sqrt(shared / left)
    basis[exact, left:] = np.eye(int(exact.sum()))
    return np.asarray(basis @ random_rotation(d_model, rng))


def _stack(maps: HeadMaps, d_head: int) -> tuple[np.ndarray, ...]:
    """A head's terms side by side, padded to ``d_head``: Q, K, V ``[size, d]``, O ``[d, size]``."""
    q, k, v = (
        np.hstack([term[i] for term in terms])
        for terms, i in ((maps.qk, 0), (maps.qk, 1), (maps.ov, 0))
    )
    o = np.vstack([term[1] for term in maps.ov])
    padded = (np.pad(m, [(0, 0), (0, d_head - m.shape[1])]) for m in (q, k, v))
    return *padded, np.pad(o, [(0, d_head - o.shape[0]), (0, 0)])


def _noise_head(
    size: int, d_head: int, norm: float, outputs: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Moderately sharp random attention and a random output of about ``norm``.

    ``outputs [size]`` scales what is written and hides logits from being read, which would
    otherwise dominate the head.
    """
    q, k = (rng.standard_normal((size, d_head)) / math.sqrt(2 * d_head) for _ in range(2))
    v = rng.standard_normal((size, d_head)) / math.sqrt(4 * d_head)
    o = rng.standard_normal((d_head, size)) / math.sqrt(size) * norm * outputs
    seen = (outputs == 1.0)[:, None]
    return q * seen, k * seen, v * seen, o


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)
