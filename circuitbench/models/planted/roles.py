"""What every planted head and MLP does: the catalogues of roles, each as maps on features.

Roles and names follow the circuits they are modelled on: induction (Olsson et al. 2022, arXiv
2209.11895), indirect object identification (Wang et al. 2022, arXiv 2211.00593), docstring
(Heimersheim and Janiak 2023), greater-than (Hanna et al. 2023, arXiv 2305.00586).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from circuitbench.models.planted.wiring import HeadMaps, MLPMaps, Term, Wiring

Builder = Callable[[Wiring, int], HeadMaps]
MLPBuilder = Callable[[Wiring], MLPMaps]


@dataclass(frozen=True)
class RoleKind:
    """An entry of the catalogue.

    Args:
        stages: first and last quarter of the network (0 to 3) the role may stand in.
        build: copy index -> maps.
        reads: what must stand below it; of roles joined by ``|`` one suffices.
        sign: -1 where ablation improves the metric.
        writes_logits: its copies add up in the logits, so they cannot be an "or".
        group: of the tokens it serves.
        stands_in_for: the role it repairs.
        fades: whether it exists only where circuits fade.
    """

    stages: tuple[int, int]
    build: Builder
    reads: tuple[str, ...] = ()
    sign: int = 1
    writes_logits: bool = False
    group: str = "name"
    stands_in_for: str = ""
    fades: bool = False


@dataclass(frozen=True)
class MLPKind:
    """An entry of the catalogue of MLPs; copies always share the work.

    Args:
        stages: first and last quarter of the network (0 to 3) it may stand in.
        build: what one copy computes.
        reads: the head role or MLP role that must stand below it, if any.
    """

    stages: tuple[int, int]
    build: MLPBuilder
    reads: str = ""


def _previous_token(w: Wiring, copy: int) -> HeadMaps:
    read, write, share = w.space.read, w.space.write, w.share("previous_token", copy)
    ov = [
        (w.served("previous_token", copy, "name"), share * write("prev")),
        (read("skip"), share * write("after_skip")),
    ]
    if w.shared_language:
        part = 1.0 / w.copies("previous_token").n
        ov.append((read("tok_word") @ w.language.skip_bigram, w.logits("word", part)))
    return HeadMaps((w.at_offset(1, w.sharpness),), tuple(ov))


def _chain_previous_token(w: Wiring, copy: int) -> HeadMaps:
    read, write, share = w.space.read, w.space.write, w.share("chain_previous_token", copy)
    ov = (
        (read("tok_name"), share * write("chain_prev")),
        (read("skip"), share * write("chain_after_skip")),
    )
    return HeadMaps((w.at_offset(1, w.sharpness),), ov)


def _argument_previous_token(w: Wiring, copy: int) -> HeadMaps:
    share = w.share("argument_previous_token", copy)
    ov = (w.space.read("tok_name"), share * w.space.write("argument_prev"))
    return HeadMaps((w.at_offset(1, w.sharpness),), (ov,))


def _induction(w: Wiring, copy: int) -> HeadMaps:
    """Attend to what followed the current name last time; rest after SKIP."""
    read, beta = w.space.read, w.scale("previous_token")
    match = (beta * read("tok_name"), read("prev"))
    rest = w.sink(beta * w.threshold("previous_token"), after_skip=beta)
    return HeadMaps((match, rest), (w.copied("induction", copy),))


def _first_hop(w: Wiring, copy: int) -> HeadMaps:
    """Induction only after SKIP, whose result is kept for the second hop."""
    role, block = w.previous("two-hop")
    flag = "after_skip" if block == "prev" else "chain_after_skip"
    read, beta, total = w.space.read, w.scale(role), w.total(role)
    match = (beta * read("tok_name"), read(block))
    rest = w.sink(beta * (total + w.threshold(role)), **{flag: -beta * total})
    return HeadMaps((match, rest), (w.kept("first_hop", copy, "name"),))


def _second_hop(
    w: Wiring, copy: int, role: str, task: str, sources: tuple[str, ...], flag: str | None
) -> HeadMaps:
    """Attend to the name that follows the intermediate result, awake only under ``flag``."""
    previous, block = w.previous(task)
    read, beta = w.space.read, w.scale(previous, *sources)
    match = (beta * read("hop_name"), read(block))
    names_only = (beta * read("one"), read("name"))
    level = 1.0 + w.threshold(previous, *sources)
    if flag is None:
        rest = w.sink(beta * level)
    else:
        most = w.total(previous) * max(w.total(source) for source in sources)
        rest = w.sink(beta * (level + most), **{flag: -beta * most})
    return HeadMaps((match, names_only, rest), (w.copied(role, copy),))


def _chain_mover(w: Wiring, copy: int) -> HeadMaps:
    if w.shared_tasks:
        sources = ("first_hop", "argument_reader")
        return _second_hop(w, copy, "chain_mover", "two-hop", sources, None)
    return _second_hop(w, copy, "chain_mover", "two-hop", ("first_hop",), "chain_after_skip")


def _argument_mover(w: Wiring, copy: int) -> HeadMaps:
    return _second_hop(w, copy, "argument_mover", "docstring", ("argument_reader",), "param")


def _argument_reader(w: Wiring, copy: int) -> HeadMaps:
    """At PARAM, fetch the argument listed last (two positions back)."""
    beta = w.sharpness
    rest = w.sink(1.6 * beta, param=-1.1 * beta)
    return HeadMaps((w.at_offset(2, beta), rest), (w.kept("argument_reader", copy, "name"),))


def _duplicate_token(w: Wiring, copy: int) -> HeadMaps:
    """Attend to an earlier copy of the current name (not to itself), and flag it."""
    read, beta = w.space.read, 2.0 * w.sharpness
    match = (beta * read("tok_name"), read("tok_name"))
    # the strength at which a self-match and the worst side lobe stay equally far below the sink
    not_self = w.at_offset(0, -beta / (1.0 + w.space.side_lobe))
    seen = w.seen("duplicate_token", copy, "name")
    flagged = (seen, w.share("duplicate_token", copy) * w.space.write("duplicate"))
    return HeadMaps((match, not_self, w.sink(0.5 * beta)), (flagged,))


def _s_inhibition(w: Wiring, copy: int) -> HeadMaps:
    """At END, attend to the repeated name and tell the movers not to copy it."""
    read, write, share = w.space.read, w.space.write, w.share("s_inhibition", copy)
    beta = w.scale("duplicate_token")
    repeated = (beta * read("end"), read("duplicate"))
    ov = (
        (w.served("s_inhibition", copy, "name"), share * write("inhibited")),
        (w.seen("s_inhibition", copy, "name"), share * write("subject_found")),
    )
    return HeadMaps((repeated, w.sink(beta * w.threshold("duplicate_token"))), ov)


def _moving(w: Wiring) -> tuple[Term, ...]:
    """Attend to names that are not inhibited, once a subject has been found."""
    read, beta = w.space.read, w.scale("s_inhibition")
    return (
        (beta * read("subject_found"), read("name")),
        (-w.inhibition * beta * read("inhibited"), read("tok_name")),
        w.sink(beta * w.threshold("s_inhibition")),
    )


def _name_mover(w: Wiring, copy: int) -> HeadMaps:
    part = w.share("name_mover", copy) * w.space.write("movers_awake")
    ov = (w.copied("name_mover", copy), (w.seen("name_mover", copy, "name"), part))
    return HeadMaps(_moving(w), ov)


def _negative_name_mover(w: Wiring, copy: int) -> HeadMaps:
    negative = w.hurts.get("negative_name_mover", w.negative)
    strength = -negative * w.gain * w.share("negative_name_mover", copy)
    return HeadMaps(_moving(w), ((w.space.read("tok_name"), w.logits("name", strength)),))


def _backup_name_mover(w: Wiring, copy: int) -> HeadMaps:
    """A name mover that sleeps while every mover reports to be awake."""
    read, movers = w.space.read, w.copies("name_mover").n
    beta = w.sharpness
    # the sink is half a match above names while all movers are awake, half below if one is not
    rest = w.sink(0.5 * beta, end=(1.0 - movers) * beta, movers_awake=movers * beta)
    qk = (
        (beta * read("end"), read("name")),
        (-w.inhibition * beta * read("inhibited"), read("tok_name")),
        rest,
    )
    strength = w.share("backup_name_mover", copy) * w.repair * w.gain / movers
    return HeadMaps(qk, ((read("tok_name"), w.logits("name", strength)),))


def _year_reader(w: Wiring, copy: int) -> HeadMaps:
    """At CMP, fetch the number."""
    read, beta = w.space.read, w.sharpness
    kept = w.kept("year_reader", copy, "num")
    return HeadMaps(((beta * read("cmp"), read("num")), w.sink(0.5 * beta)), (kept,))


def _code_reader(w: Wiring, copy: int) -> HeadMaps:
    """At CMP, fetch what an MLP made of the number."""
    read, beta = w.space.read, w.sharpness
    kept = (read("num_code"), w.share("code_reader", copy) * w.space.write("hop_num"))
    return HeadMaps(((beta * read("cmp"), read("num")), w.sink(0.5 * beta)), (kept,))


def _number_code(w: Wiring) -> MLPMaps:
    """At every number, say which it is in a code of the model's own (a permutation)."""
    code = np.roll(np.eye(len(w.language.nums)), 1, axis=1)
    return w.steps("tok_num", code @ w.space.write("num_code") / w.mlps["number_code"])


def _number_table(w: Wiring) -> MLPMaps:
    """Look the fetched number up: raise every number above it, lower the others."""
    table = np.roll(_above(w), 1, axis=0) @ w.logits("num", 1.0 / w.mlps["number_table"])
    # a reader's copies share the work, and so do those that made the code it reads
    parts = max(w.parts("code_reader"), w.mlps["number_code"])
    return w.steps("hop_num", table, parts)


def _above(w: Wiring) -> np.ndarray:
    """Logits ``[number, number]`` that raise all numbers above one and lower the others."""
    order = np.arange(len(w.language.nums))
    return np.asarray(np.sign(order - order[:, None] - 0.5) * 0.5 * w.gain)


def _greater_than(w: Wiring, copy: int) -> HeadMaps:
    """Attend to the fetched number and raise every number above it, lower the others."""
    read, beta = w.space.read, w.scale("year_reader")
    match = (beta * read("hop_num"), read("tok_num"))
    raised = w.served("greater_than", copy, "num") @ _above(w)
    ov = (raised, w.logits("num", w.share("greater_than", copy)))
    return HeadMaps((match, w.sink(beta * w.threshold("year_reader"))), (ov,))


def _part_of(matrix: np.ndarray, copy: int, count: int) -> np.ndarray:
    """Every ``count``-th column: copies share a map by sharing what they write."""
    return np.asarray(matrix * (np.arange(matrix.shape[1]) % count == copy))


def _bigram(w: Wiring, copy: int) -> HeadMaps:
    part = _part_of(w.language.bigram, copy, w.copies("bigram").n)
    ov = (w.space.read("tok_word") @ part, w.logits("word"))
    return HeadMaps((w.at_offset(0, w.sharpness),), (ov,))


def _skip_bigram(w: Wiring, copy: int) -> HeadMaps:
    part = _part_of(w.language.skip_bigram, copy, w.copies("skip_bigram").n)
    ov = (w.space.read("tok_word") @ part, w.logits("word"))
    return HeadMaps((w.at_offset(1, w.sharpness),), (ov,))


def _unigram(w: Wiring, copy: int) -> HeadMaps:
    part = _part_of(w.language.unigram[None], copy, w.copies("unigram").n)
    return HeadMaps((w.sink(w.sharpness),), ((w.space.read("bos") @ part, w.logits("word")),))


CATALOGUE: dict[str, RoleKind] = {
    "previous_token": RoleKind((0, 0), _previous_token),
    "chain_previous_token": RoleKind((0, 0), _chain_previous_token),
    "argument_previous_token": RoleKind((0, 0), _argument_previous_token),
    "duplicate_token": RoleKind((0, 0), _duplicate_token),
    "argument_reader": RoleKind((0, 1), _argument_reader),
    "year_reader": RoleKind((0, 1), _year_reader, group="num"),
    "code_reader": RoleKind((1, 1), _code_reader),
    "first_hop": RoleKind((1, 1), _first_hop, ("previous_token|chain_previous_token",)),
    "s_inhibition": RoleKind((1, 1), _s_inhibition, ("duplicate_token",)),
    "induction": RoleKind((1, 2), _induction, ("previous_token",), writes_logits=True),
    "name_mover": RoleKind((2, 2), _name_mover, ("s_inhibition",), writes_logits=True),
    "chain_mover": RoleKind(
        (2, 3),
        _chain_mover,
        ("first_hop|argument_reader", "previous_token|chain_previous_token"),
        writes_logits=True,
    ),
    "argument_mover": RoleKind(
        (2, 3),
        _argument_mover,
        ("argument_reader", "argument_previous_token"),
        writes_logits=True,
    ),
    "greater_than": RoleKind(
        (2, 3), _greater_than, ("year_reader",), writes_logits=True, group="num"
    ),
    "negative_name_mover": RoleKind(
        (2, 3), _negative_name_mover, ("s_inhibition",), sign=-1, writes_logits=True
    ),
    "backup_name_mover": RoleKind((3, 3), _backup_name_mover, ("name_mover",), writes_logits=True),
    "bigram": RoleKind((0, 3), _bigram, writes_logits=True),
    "skip_bigram": RoleKind((0, 3), _skip_bigram, writes_logits=True),
    "unigram": RoleKind((0, 3), _unigram, writes_logits=True),
}

MLP_CATALOGUE: dict[str, MLPKind] = {
    "number_code": MLPKind((0, 0), _number_code),
    "number_table": MLPKind((2, 3), _number_table, "code_reader"),
}

UNSHARED_ROLES = ("chain_previous_token", "argument_previous_token", "argument_mover")
"""Roles that exist only where tasks do not share their heads."""

MAX_PATHS = 3
"""Parallel circuits of one task, at most."""

STAND_INS = (
    "previous_token",
    "duplicate_token",
    "argument_reader",
    "year_reader",
    "first_hop",
    "s_inhibition",
    "induction",
    "name_mover",
    "chain_mover",
    "greater_than",
)
"""Roles that others may stand in for, in a later layer."""

AGAINST = ("induction", "chain_mover", "greater_than")
"""Roles that others may work against, beside name movers."""


def _stand_in(base: str, w: Wiring, copy: int) -> HeadMaps:
    """Does what ``base`` does, but turns away from what has been written already.

    What it would attend to loses score as far as the stream holds what that would write: its
    sink wins where all of it is there, and loses where none is. So it wakes whatever the
    ablation puts in place of what is missing.
    """
    role = f"{base}_stand_in"
    part = w.divisions[role].copy(copy, w.repairs[role])
    maps = CATALOGUE[base].build(w.alone(base, part), 0)
    read = w.space.read
    margin, slope = 0.5 * w.scale(base), w.scale(base)
    if base in ("previous_token", "argument_reader", "year_reader", "duplicate_token"):
        # these find what they attend to by its place, for which scores are sharp
        margin = w.sharpness if base == "previous_token" else 0.5 * w.sharpness
    if base == "duplicate_token":  # the margin varies with where the earlier copy stands
        slope = 2.0 * w.sharpness
    sleep = ((margin - 0.5 * slope) * read("one"), read("bos"))
    written = tuple((-slope * query, key) for query, key in _written(base, w))
    return HeadMaps(maps.qk, maps.ov, (sleep, *written))


def _written(base: str, w: Wiring) -> tuple[Term, ...]:
    """How much of what a role would write for a key stands in the query's stream already."""
    read = w.space.read
    if base == "previous_token":
        return (read("prev"), read("tok_name")), (read("after_skip"), read("skip"))
    if base == "duplicate_token":
        return ((read("duplicate"), read("name")),)
    if base == "s_inhibition":
        return ((read("inhibited"), read("tok_name")),)
    if base in ("argument_reader", "first_hop"):
        return ((read("hop_name"), read("tok_name")),)
    if base == "year_reader":
        return ((read("hop_num"), read("tok_num")),)
    if base == "greater_than":
        above = _above(w)
        size = w.out_scale * (above[0] ** 2).sum()
        return ((read("out_num") @ above.T / size, read("tok_num")),)
    return ((read("out_name") / (w.out_scale * w.gain), read("tok_name")),)


def _against(base: str, w: Wiring, copy: int) -> HeadMaps:
    """Attends as ``base`` does and writes against the answer."""
    role = f"negative_{base}"
    part = w.divisions[role].copy(copy, -w.hurts[role])
    return CATALOGUE[base].build(w.alone(base, part), 0)


def _on_path(role: str, path: int, w: Wiring, copy: int) -> HeadMaps:
    return CATALOGUE[role].build(w.on_path(path), copy)


def _derived() -> dict[str, RoleKind]:
    """Stand-ins, heads against the answer, and all of them on parallel paths."""
    kinds = {}
    for role in STAND_INS:
        kinds[f"{role}_stand_in"] = replace(
            CATALOGUE[role],
            build=partial(_stand_in, role),
            reads=(role,),
            stands_in_for=role,
            fades=True,
        )
    for role in AGAINST:
        kinds[f"negative_{role}"] = replace(
            CATALOGUE[role], build=partial(_against, role), sign=-1, fades=True
        )
    tasks = [
        role for role in CATALOGUE if role not in (*UNSHARED_ROLES, *LANGUAGE_ROLES, "code_reader")
    ]
    for role, kind in {**{role: CATALOGUE[role] for role in tasks}, **kinds}.items():
        for path in range(2, MAX_PATHS + 1):
            kinds[f"{role}_{path}"] = replace(
                kind,
                build=partial(_on_path, role, path),
                reads=tuple(
                    "|".join(f"{one}_{path}" for one in group.split("|")) for group in kind.reads
                ),
                stands_in_for=kind.stands_in_for and f"{kind.stands_in_for}_{path}",
                fades=True,
            )
    return kinds


LANGUAGE_ROLES = ("bigram", "skip_bigram", "unigram")
"""Roles of no task."""

CATALOGUE |= _derived()

OPTIONAL = frozenset(
    {"backup_name_mover", "negative_name_mover", *(r for r, k in CATALOGUE.items() if k.fades)}
)
"""Roles a task can do without."""


def stand_in_of(role: str) -> str:
    """The name of the role that would stand in for ``role``."""
    base, _, path = role.rpartition("_")
    return f"{base}_stand_in_{path}" if path.isdigit() else f"{role}_stand_in"


def task_mlps(task: str) -> tuple[str, ...]:
    """The roles of MLPs of a task in a model that has MLPs, in the order information flows."""
    return ("number_code", "number_table") if task == "greater-than" else ()


def task_roles(task: str, shared_tasks: bool, mlps: bool = False) -> tuple[str, ...]:
    """The roles of a task, in the order information flows; optional ones included.

    ``mlps``: in a model that has MLPs, which take over part of some circuits.
    """
    if mlps and task == "greater-than":
        return ("code_reader",)
    chain = _chain(task, shared_tasks)
    if not shared_tasks:
        return chain
    plain = []
    for role in chain:
        plain += [role, f"{role}_stand_in", f"negative_{role}"]
    if task == "ioi":
        plain += ["backup_name_mover"]
    paths = [f"{role}_{path}" for path in range(2, MAX_PATHS + 1) for role in plain]
    return tuple(role for role in (*plain, *paths) if role in CATALOGUE)


def _chain(task: str, shared_tasks: bool) -> tuple[str, ...]:
    """The roles a task cannot do without."""
    if task == "induction":
        return "previous_token", "induction"
    if task == "ioi":
        return "duplicate_token", "s_inhibition", "name_mover"
    if task == "greater-than":
        return "year_reader", "greater_than"
    if task == "two-hop":
        previous = "previous_token" if shared_tasks else "chain_previous_token"
        return previous, "first_hop", "chain_mover"
    if task == "docstring":
        if shared_tasks:
            return "previous_token", "argument_reader", "chain_mover"
        return "argument_previous_token", "argument_reader", "argument_mover"
    return ()
