"""Planted models: transformers whose circuits are known because they were written by hand.

A :class:`PlantedConfig` says which roles exist, in how many copies, and how hard they are made
to find; :func:`plant` turns it and a seed into weights. Nothing is trained. Roles are written
on named features (:mod:`~circuitbench.models.planted_roles`), which random rotations of the
residual stream and of every head then hide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from circuitbench.circuit import Head
from circuitbench.errors import InvalidSpec, UnknownName
from circuitbench.models.base import Model
from circuitbench.models.language import Language, make_language, random_rotation
from circuitbench.models.planted_features import FeatureSpace, feature_space
from circuitbench.models.planted_roles import (
    CATALOGUE,
    OPTIONAL,
    UNSHARED_ROLES,
    Copies,
    HeadMaps,
    Wiring,
    task_roles,
)
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig
from circuitbench.seeding import generator

MAX_SUPERPOSITION = 1.6


@dataclass(frozen=True)
class PlantedConfig:
    """What to plant. The dials of difficulty come last.

    Args:
        n_layers, n_heads: the grid; at least 2 x 2.
        roles: role -> :class:`Copies` (see ``CATALOGUE`` for the roles); ``or`` is redundancy.
        n_names, n_nums, n_words: sizes of the three groups of tokens.
        d_word, d_pos, d_junk: dimensions of word codes, position codes, and of what nobody reads.
        n_ctx: longest prompt.
        sharpness: attention score of a match, in nats.
        gain: logit that a task's last role writes, summed over its copies.
        language: sd of the unigram, bigram and skip-bigram log-odds.
        name_logit: log-odds of a name in ordinary text; burstiness: how often a pair of names
            comes back there.
        out_scale: scale at which logits are stored in the residual stream.
        inhibition: strength of S-inhibition inside the movers' scores, in units of a match.
        negative: what the negative name movers write against the movers, relative to ``gain``.
        repair: what the backups give back, relative to what one mover writes.
        shared_tasks: induction, two-hop and docstring share previous-token heads, and the last
            two share their movers.
        shared_language: previous-token heads also carry the language's skip-bigrams.
        lookalikes: heads with the attention pattern of a real role and an output nobody reads.
        noise: norm of what all noise heads (every head left over) write together.
        output_noise: norm of a random map added to what every planted head writes.
        superposition: features per residual dimension; above 1 they overlap.
    """

    n_layers: int = 12
    n_heads: int = 12
    roles: Mapping[str, Copies] = field(default_factory=dict)
    n_names: int = 12
    n_nums: int = 8
    n_words: int = 24
    d_word: int = 10
    d_pos: int = 12
    d_junk: int = 12
    n_ctx: int = 24
    sharpness: float = 20.0
    gain: float = 10.0
    language: tuple[float, float, float] = (0.8, 1.6, 0.8)
    name_logit: float = 1.0
    burstiness: float = 0.95
    out_scale: float = 0.1
    inhibition: float = 1.5
    negative: float = 0.35
    repair: float = 1.0
    shared_tasks: bool = True
    shared_language: bool = False
    lookalikes: int = 24
    noise: float = 0.5
    output_noise: float = 0.0
    superposition: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", {r: Copies(*c) for r, c in self.roles.items()})
        _check(self)

    def window(self, role: str) -> range:
        """Layers a role may stand in: its stages, each a quarter of the network."""
        first, last = CATALOGUE[role].stages
        layers = self.n_layers
        return range(math.ceil(first * layers / 4), math.ceil((last + 1) * layers / 4))

    def does(self, task: str) -> bool:
        """Whether every role the task cannot do without is planted."""
        roles = task_roles(task, self.shared_tasks)
        return bool(roles) and all(role in self.roles or role in OPTIONAL for role in roles)


def _check(config: PlantedConfig) -> None:
    """Refuse, with the reason, what cannot be planted."""
    if config.n_layers < 2 or config.n_heads < 2:
        raise InvalidSpec(
            f"a planted model needs at least 2 x 2 heads, not {config.n_layers} x {config.n_heads}"
        )
    for role, (count, mode) in config.roles.items():
        if role not in CATALOGUE:
            raise UnknownName("role", role, CATALOGUE)
        if count < 1 or mode not in ("and", "or"):
            raise InvalidSpec(f"role {role}: expected (copies >= 1, 'and' or 'or'), not {count, mode}")
        if mode == "or" and CATALOGUE[role].writes_logits:
            raise InvalidSpec(
                f"role {role} writes logits, which add up: it cannot be an 'or'; use 'and', or "
                "backup_name_mover"
            )
        if config.shared_tasks and role in UNSHARED_ROLES:
            raise InvalidSpec(f"role {role} exists only with shared_tasks=False")
        if not config.window(role):
            stage = CATALOGUE[role].stages[0] + 1
            raise InvalidSpec(
                f"role {role} stands in quarter {stage} of 4, which has no layer in a model of "
                f"{config.n_layers} layers"
            )
        for group in CATALOGUE[role].reads:
            if not any(source in config.roles for source in group.split("|")):
                raise InvalidSpec(
                    f"role {role} reads what {group.replace('|', ' or ')} writes, which is absent"
                )
    if config.shared_language and "previous_token" not in config.roles:
        raise InvalidSpec("shared_language needs role previous_token to carry the skip-bigrams")
    if config.shared_language and "skip_bigram" in config.roles:
        raise InvalidSpec("with shared_language previous_token heads replace role skip_bigram")
    taken, room = sum(c.count for c in config.roles.values()), config.n_layers * config.n_heads
    if taken + config.lookalikes > room:
        raise InvalidSpec(
            f"{taken} planted heads and {config.lookalikes} look-alikes do not fit into "
            f"{config.n_layers} x {config.n_heads} heads"
        )
    if not 1.0 <= config.superposition <= MAX_SUPERPOSITION:
        raise InvalidSpec(
            f"superposition {config.superposition} is outside 1 to {MAX_SUPERPOSITION}: with more "
            "features per dimension d_model is too small to keep them apart"
        )
    for name, least in (("n_names", 8), ("n_nums", 4), ("n_words", 4), ("n_ctx", 18)):
        if getattr(config, name) < least:
            raise InvalidSpec(f"{name} must be at least {least}, not {getattr(config, name)}")


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
    )
    heads = _place(config, generator(seed, "planted", "places"))
    maps = _head_maps(config, language, space, heads, generator(seed, "planted", "lookalikes"))
    transformer = _hide(config, space, heads, maps, generator(seed, "planted", "weights"))
    return PlantedModel(config, seed, language, space, heads, transformer)


def _place(config: PlantedConfig, rng: np.random.Generator) -> dict[str, tuple[Head, ...]]:
    """Draw a place for every head; roles with the narrowest choice of layers go first."""
    free = [Head(layer, head) for layer in range(config.n_layers) for head in range(config.n_heads)]
    placed: dict[str, tuple[Head, ...]] = {}
    for role in sorted(config.roles, key=lambda role: (len(config.window(role)), role)):
        window, count = config.window(role), config.roles[role].count
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
    language: Language,
    space: FeatureSpace,
    heads: Mapping[str, tuple[Head, ...]],
    rng: np.random.Generator,
) -> dict[Head, HeadMaps]:
    """The maps on features of every head but the noise heads."""
    wiring = Wiring(
        roles=config.roles,
        space=space,
        language=language,
        sharpness=config.sharpness,
        gain=config.gain,
        inhibition=config.inhibition,
        negative=config.negative,
        repair=config.repair,
        out_scale=config.out_scale,
        shared_tasks=config.shared_tasks,
        shared_language=config.shared_language,
    )
    maps = {
        head: CATALOGUE[role].build(wiring, copy)
        for role in config.roles
        for copy, head in enumerate(heads[role])
    }
    models = sorted(config.roles) or ["unigram"]
    for i, head in enumerate(heads["lookalike"]):
        pattern = CATALOGUE[models[i % len(models)]].build(wiring, 0).qk
        ov = tuple(
            (space.read(block), _random_map(space, block, rng)) for block in ("tok_name", "tok_num")
        )
        maps[head] = HeadMaps(pattern, ov)
    return maps


def _random_map(space: FeatureSpace, block: str, rng: np.random.Generator) -> np.ndarray:
    """A random map ``[width, size]`` from a block into what nobody reads."""
    junk = space.write("junk")
    width = space.read(block).shape[1]
    return rng.standard_normal((width, junk.shape[0])) / math.sqrt(junk.shape[0]) @ junk


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
    # features -> residual stream; orthogonal, or (superposition) as near as fewer dimensions allow
    basis = random_rotation(space.size, rng)[:, :d_model] * math.sqrt(space.size / d_model)
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
                o = o + config.output_noise * spread
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


def planted_model(name: str, config: PlantedConfig, variant: str = "") -> Model:
    """A :class:`Model` planted from ``config`` with the seed that ``variant`` names."""
    seed = seed_of(name, variant)
    construction = plant(config, seed)
    return Model(
        name=f"{name}@{variant}" if variant else name,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        transformer=construction.transformer,
        construction=construction,
        provenance={"kind": "planted", "preset": name, "seed": seed},
    )


def seed_of(name: str, variant: str) -> int:
    """The seed named by what follows ``@``; ``""`` is 0."""
    if variant == "":
        return 0
    if not (variant.isascii() and variant.isdigit()):
        raise InvalidSpec(
            f"{name}@{variant}: expected a seed, a non-negative integer, e.g. {name}@3"
        )
    return int(variant)


PLANTED = PlantedConfig(
    roles={
        "previous_token": Copies(2),
        "duplicate_token": Copies(2),
        "s_inhibition": Copies(2),
        "name_mover": Copies(3),
        "backup_name_mover": Copies(2),
        "negative_name_mover": Copies(1),
        "induction": Copies(3),
        "first_hop": Copies(1),
        "chain_mover": Copies(2),
        "argument_reader": Copies(1),
        "year_reader": Copies(1),
        "greater_than": Copies(2),
        "bigram": Copies(3),
        "skip_bigram": Copies(2),
        "unigram": Copies(1),
    }
)


def planted(variant: str = "") -> Model:
    """The default: 12 x 12 heads, work shared by copies, self-repair in IOI."""
    return planted_model("planted", PLANTED, variant)
