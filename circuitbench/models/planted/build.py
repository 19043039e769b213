"""From a config and a seed to weights.

Roles are placed on the grid, written on named features, and hidden by random rotations of the
residual stream and of every head, and by shuffling the neurons of MLPs. Nothing is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitbench.core.circuit import Edge, Head
from circuitbench.core.errors import InvalidSpec
from circuitbench.core.seeding import generator
from circuitbench.models.planted.config import PlantedConfig
from circuitbench.models.planted.fading import divide
from circuitbench.models.planted.features import FeatureSpace, feature_space
from circuitbench.models.planted.language import Language, make_language, random_rotation
from circuitbench.models.planted.roles import CATALOGUE, LANGUAGE_ROLES, MLP_CATALOGUE
from circuitbench.models.planted.wiring import HeadMaps, MLPMaps, Wiring
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig


@dataclass(frozen=True)
class PlantedModel:
    """A planted model's inside: what tasks draw prompts from and read the truth off.

    ``heads`` maps every role, ``lookalike`` and ``noise`` included, to its heads; ``mlps`` every
    role of an MLP, the same two included, to its layers, and is empty where there are no MLPs.
    ``edges`` remembers what tasks have read off it: which edges are true takes seconds to say.
    """

    config: PlantedConfig
    seed: int
    language: Language
    space: FeatureSpace
    heads: Mapping[str, tuple[Head, ...]]
    transformer: Transformer
    wiring: Wiring
    mlps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    edges: dict[str, frozenset[Edge]] = field(default_factory=dict, init=False, repr=False)

    @property
    def dials(self) -> dict[str, Any]:
        """How hard this model is made, by the names of the dials."""
        config = self.config
        modes = {"or": 0, "and": 0}
        for n, mode in config.roles.values():
            modes[mode] += n if n > 1 else 0
        mlps = {"mlps": sum(config.mlps.values()), "lookalike_mlps": config.lookalike_mlps}
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
            **(mlps if config.mlps else {}),
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
        mlps=bool(config.mlps),
    )
    wiring = _wiring(config, language, space, generator(seed, "planted", "fading"))
    heads = _place(config, generator(seed, "planted", "places"))
    maps = _head_maps(config, wiring, heads, generator(seed, "planted", "lookalikes"))
    basis, transformer = _hide(config, space, heads, maps, generator(seed, "planted", "weights"))
    if not config.mlps:
        return PlantedModel(config, seed, language, space, heads, transformer, wiring)
    rng = generator(seed, "planted", "mlps")
    mlps = _place_mlps(config, rng)
    neurons = _mlp_maps(config, wiring, mlps, rng)
    transformer = _with_mlps(transformer, basis, neurons, rng)
    return PlantedModel(config, seed, language, space, heads, transformer, wiring, mlps)


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


def _place_mlps(config: PlantedConfig, rng: np.random.Generator) -> dict[str, tuple[int, ...]]:
    """Draw a layer for every MLP that is planted, narrow windows first; the rest are noise."""
    free = list(range(config.n_layers))
    placed: dict[str, tuple[int, ...]] = {}
    for role in sorted(config.mlps, key=lambda role: (len(config.window(role)), role)):
        options = [layer for layer in free if layer in config.window(role)]
        if len(options) < config.mlps[role]:
            raise InvalidSpec(
                f"MLP role {role} needs {config.mlps[role]} layers of its quarters, where "
                f"{len(options)} are left"
            )
        placed[role] = tuple(sorted(rng.choice(options, config.mlps[role], replace=False).tolist()))
        free = [layer for layer in free if layer not in placed[role]]
    rest = rng.permutation(free).tolist()
    placed["lookalike"] = tuple(sorted(rest[: config.lookalike_mlps]))
    placed["noise"] = tuple(sorted(rest[config.lookalike_mlps :]))
    return placed


def _mlp_maps(
    config: PlantedConfig,
    wiring: Wiring,
    mlps: Mapping[str, tuple[int, ...]],
    rng: np.random.Generator,
) -> list[MLPMaps]:
    """The maps on features of every layer's MLP; all have as many neurons as the widest."""
    space = wiring.space
    maps = {
        layer: MLP_CATALOGUE[role].build(wiring) for role in config.mlps for layer in mlps[role]
    }
    width = max(len(m.bias) for m in maps.values())
    models = sorted(config.mlps)
    for i, layer in enumerate(mlps["lookalike"]):
        model = MLP_CATALOGUE[models[i % len(models)]].build(wiring)
        junk = _random_write(space, len(model.bias), rng)
        maps[layer] = replace(model, write=junk)
    norm = config.noise / math.sqrt(max(len(mlps["noise"]), 1))
    outputs = _output_scale(config, space)
    for layer in mlps["noise"]:
        read = rng.standard_normal((space.size, width)) / 2.0 * (outputs == 1.0)[:, None]
        write = rng.standard_normal((width, space.size)) / math.sqrt(space.size * width) * outputs
        maps[layer] = MLPMaps(read, np.zeros(width), norm * write)
    return [_padded(maps[layer], width) for layer in range(config.n_layers)]


def _padded(maps: MLPMaps, width: int) -> MLPMaps:
    """The same with neurons that do nothing, ``width`` in all."""
    more = width - len(maps.bias)
    return MLPMaps(
        np.pad(maps.read, [(0, 0), (0, more)]),
        np.pad(maps.bias, (0, more)),
        np.pad(maps.write, [(0, more), (0, 0)]),
    )


def _with_mlps(
    transformer: Transformer,
    basis: np.ndarray,
    maps: list[MLPMaps],
    rng: np.random.Generator,
) -> Transformer:
    """The transformer with an MLP in every layer, its neurons shuffled."""
    layers = []
    for layer, mlp in zip(transformer.layers, maps, strict=True):
        order = rng.permutation(len(mlp.bias))
        layers.append(
            replace(
                layer,
                W_in=_tensor((basis.T @ mlp.read)[:, order]),
                b_in=_tensor(mlp.bias[order]),
                W_out=_tensor((mlp.write @ basis)[order]),
            )
        )
    config = replace(transformer.config, d_mlp=len(maps[0].bias), activation="relu")
    return replace(transformer, config=config, layers=tuple(layers))


def _output_scale(config: PlantedConfig, space: FeatureSpace) -> np.ndarray:
    """``[size]``: the scale at which every feature is stored, 1 but for logits."""
    outputs = np.ones(space.size)
    for block in ("out_name", "out_num", "out_word"):
        outputs[space.blocks[block]] = config.out_scale
    return outputs


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
        maps[head] = HeadMaps(model.scores, tuple(ov))
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
        mlps=config.mlps,
    )


def _random_map(space: FeatureSpace, block: str, rng: np.random.Generator) -> np.ndarray:
    """A random map ``[width, size]`` from a block into what nobody reads."""
    return _random_write(space, space.read(block).shape[1], rng)


def _random_write(space: FeatureSpace, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random map ``[width, size]`` into what nobody reads."""
    junk = space.write("junk")
    return np.asarray(rng.standard_normal((width, junk.shape[0])) / math.sqrt(junk.shape[0]) @ junk)


def _hide(
    config: PlantedConfig,
    space: FeatureSpace,
    heads: Mapping[str, tuple[Head, ...]],
    maps: Mapping[Head, HeadMaps],
    rng: np.random.Generator,
) -> tuple[np.ndarray, Transformer]:
    """Turn maps on features into weights in random bases, and fill the rest with noise.

    Gives the basis of the residual stream ``[size, d_model]`` too.
    """
    d_head = max(head_maps.width for head_maps in maps.values()) if maps else 8
    d_model = round(space.size / config.superposition)
    basis = _basis(space, d_model, rng)
    noise = config.noise / math.sqrt(max(len(heads["noise"]), 1))
    outputs = _output_scale(config, space)

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
    return basis, Transformer(
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
        for terms, i in ((maps.scores, 0), (maps.scores, 1), (maps.ov, 0))
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
