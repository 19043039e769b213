"""What to plant: sizes, roles, and the dials of difficulty, checked for what is impossible."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.models.planted.fading import Fading
from circuitbench.models.planted.roles import (
    CATALOGUE,
    MAX_PATHS,
    MLP_CATALOGUE,
    OPTIONAL,
    UNSHARED_ROLES,
    stand_in_of,
    task_mlps,
    task_roles,
)
from circuitbench.models.planted.wiring import Copies

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
        output_noise: norm of a random map added to what every planted head writes, relative to it.
        superposition: features per residual dimension; above 1 they overlap.
        fading: lets circuits fade instead of collapse, see :class:`Fading`; needs shared tasks.
        mlps: role of an MLP -> copies, which share the work (see ``MLP_CATALOGUE``); any makes
            every layer have an MLP.
        lookalike_mlps: MLPs that read what a real one reads and write what nobody reads; those
            left over compute noise, as noise heads do.
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
    language: tuple[float, float, float] = (1.0, 2.8, 1.2)
    name_logit: float = 2.0
    burstiness: float = 0.98
    out_scale: float = 0.1
    inhibition: float = 1.5
    negative: float = 0.35
    repair: float = 1.0
    shared_tasks: bool = True
    shared_language: bool = False
    lookalikes: int = 24
    noise: float = 0.15
    output_noise: float = 0.0
    superposition: float = 1.0
    fading: Fading | None = None
    mlps: Mapping[str, int] = field(default_factory=dict)
    lookalike_mlps: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", {r: Copies(*c) for r, c in self.roles.items()})
        _check(self)

    def window(self, role: str) -> range:
        """Layers a role may stand in: its stages, each a quarter of the network.

        The last layer is left to those who stand in for it.
        """
        first, last = (CATALOGUE.get(role) or MLP_CATALOGUE[role]).stages
        layers = self.n_layers
        window = range(math.ceil(first * layers / 4), math.ceil((last + 1) * layers / 4))
        if role in CATALOGUE and CATALOGUE[role].stands_in_for:
            return window[-1:]
        return window[:-1] if stand_in_of(role) in self.roles else window

    def does(self, task: str) -> bool:
        """Whether every role the task cannot do without is planted."""
        roles = self.roles_of(task)
        return (
            bool(roles)
            and all(role in self.roles or role in OPTIONAL for role in roles)
            and all(role in self.mlps for role in self.mlps_of(task))
        )

    def roles_of(self, task: str) -> tuple[str, ...]:
        """The roles of a task's heads in this model, planted or not."""
        return task_roles(task, self.shared_tasks, bool(self.mlps))

    def mlps_of(self, task: str) -> tuple[str, ...]:
        """The roles of a task's MLPs in this model, planted or not."""
        return task_mlps(task) if self.mlps else ()


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
            raise InvalidSpec(
                f"role {role}: expected (copies >= 1, 'and' or 'or'), not {count, mode}"
            )
        if mode == "or" and CATALOGUE[role].writes_logits:
            raise InvalidSpec(
                f"role {role} writes logits, which add up: it cannot be an 'or'; use 'and', or "
                "backup_name_mover"
            )
        if CATALOGUE[role].fades and config.fading is None:
            raise InvalidSpec(f"role {role} exists only where circuits fade; set fading")
        if config.fading is not None and mode == "or":
            raise InvalidSpec(f"role {role}: where circuits fade, copies are 'and'; use excess")
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
                raise _unread(role, group)
    _check_mlps(config)
    if config.fading is not None:
        if not config.shared_tasks:
            raise InvalidSpec("fading needs shared_tasks=True")
        if len(config.fading.paths) > MAX_PATHS:
            raise InvalidSpec(f"at most {MAX_PATHS} paths, not {len(config.fading.paths)}")
        beyond = [
            role
            for role in config.roles
            if role.rpartition("_")[2].isdigit()
            and int(role.rpartition("_")[2]) > len(config.fading.paths)
        ]
        if beyond:
            raise InvalidSpec(
                f"role {beyond[0]} is on a path that fading.paths has no share for; it has "
                f"{len(config.fading.paths)}"
            )
    if config.shared_language and "previous_token" not in config.roles:
        raise InvalidSpec("shared_language needs role previous_token to carry the skip-bigrams")
    if config.shared_language and "skip_bigram" in config.roles:
        raise InvalidSpec("with shared_language previous_token heads replace role skip_bigram")
    taken, room = sum(c.n for c in config.roles.values()), config.n_layers * config.n_heads
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


def _check_mlps(config: PlantedConfig) -> None:
    """Refuse, with the reason, MLPs that cannot be planted."""
    for role, count in config.mlps.items():
        if role not in MLP_CATALOGUE:
            raise UnknownName("role of an MLP", role, MLP_CATALOGUE)
        if count < 1:
            raise InvalidSpec(f"MLP role {role}: expected 1 copy or more, not {count}")
        source = MLP_CATALOGUE[role].reads
        if source and source not in config.roles:
            raise _unread(role, source)
    if "code_reader" in config.roles and "number_code" not in config.mlps:
        raise _unread("code_reader", "number_code")
    taken = sum(config.mlps.values()) + config.lookalike_mlps
    if taken > config.n_layers:
        raise InvalidSpec(f"{taken} planted MLPs do not fit into {config.n_layers} layers")
    if config.lookalike_mlps and not config.mlps:
        raise InvalidSpec("lookalike_mlps needs MLPs to look like; name some in mlps")


def _unread(role: str, sources: str) -> InvalidSpec:
    """The refusal of a role whose input nobody writes."""
    return InvalidSpec(
        f"role {role} reads what {sources.replace('|', ' or ')} writes, which is absent"
    )
