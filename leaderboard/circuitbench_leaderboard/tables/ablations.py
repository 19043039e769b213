"""How rankings move when another ablation asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from circuitbench_leaderboard.board import Board, entries_by_tier
from circuitbench_leaderboard.protocol import Moved, Shift, said, shift
from circuitbench_leaderboard.tables.cells import (
    METHOD,
    Column,
    Field,
    Row,
    Table,
    count,
    plain,
    short_track,
    spanned,
    worded,
)


def ablations(shown: Board) -> list[Table]:
    """How rankings move under other ablations: all in short, then each tier and track."""
    found = list(_shifts(shown))
    if not found:
        return []
    several = len({entry.track for entry in shown.entries}) > 1
    return [_in_short(shown, found), *(_ablation(shown, one, several) for one in found)]


def _shifts(shown: Board) -> Iterator[Shift]:
    ours = entries_by_tier(shown.entries)
    for kind, entries in shown.ablated.items():
        theirs = entries_by_tier(entries)
        for tier in (tier for tier in ours if tier in theirs):
            for track in dict.fromkeys(entry.track for entry in shown.entries):
                found = shift(kind, tier, track, ours[tier], theirs[tier], shown.by)
                if found is not None:
                    yield found


def _in_short(shown: Board, found: Sequence[Shift]) -> Table:
    was = shown.ablation or "the board's"
    columns = (
        Column("tier", "Tier"),
        Column("track", "Track"),
        Column("ablation", "Ablation"),
        Column("methods", "Methods", numeric=True),
        Column("rho", "Spearman", f"Correlation with the ranking under {was}.", numeric=True),
        Column("before", f"First, {was}"),
        Column("after", "First, there"),
        Column("moves", "Moved most"),
    )
    rows = tuple(
        Row(
            (
                *map(worded, (one.tier, one.track, one.ablation)),
                plain(len(one.moved), 0),
                _rho(one),
                worded(_first([(m.place_before, m) for m in one.moved])),
                worded(_first([(m.place_after, m) for m in one.moved])),
                worded(_most(one) or "nobody"),
            ),
            (),
        )
        for one in found
    )
    note = (
        f"Rankings by {shown.by.title} of the same runs under {was} and another ablation, asked "
        "and scored; Spearman's correlation of the two with its 95 % interval."
    )
    return Table("ablations", "How rankings move under other ablations", note, columns, rows)


def _rho(one: Shift) -> Field:
    found = one.transfer
    return Field("–", None) if found is None else spanned(found.rho, found.interval, 2)


def _first(places: Sequence[tuple[int, Moved]]) -> str:
    return ", ".join(m.entry.label for place, m in places if place == 1)


def _most(one: Shift) -> str:
    """Who moves most, at most three."""
    most = [m for m in one.moved if m.place_before != m.place_after][:3]
    return "; ".join(f"{m.entry.label} from {m.place_before} to {m.place_after}" for m in most)


def _ablation(shown: Board, found: Shift, several: bool) -> Table:
    title, was = shown.by.title, shown.ablation or "the board's"
    columns = (
        METHOD,
        Column("before", f"{title}, {was}", numeric=True),
        Column("after", f"{title}, {found.ablation}", numeric=True),
        Column("place_before", f"#, {was}", numeric=True),
        Column("place_after", f"#, {found.ablation}", numeric=True),
        Column("moved", "Moved", "Places won; below 0, lost.", numeric=True),
    )
    digits = shown.by.digits
    rows = tuple(
        Row(
            (
                worded(m.entry.label),
                plain(m.before, digits),
                plain(m.after, digits),
                plain(m.place_before, 0),
                plain(m.place_after, 0),
                _moved(m.place_before - m.place_after),
            ),
            m.entry.runs,
        )
        for m in found.moved
    )
    note = (
        f"The same {count(found.grid.size, 'run')} under {was} and {found.ablation} ablation, "
        "asked and scored; who moves most stands first. "
    )
    if found.transfer is not None:
        note += f"Spearman's correlation of the two rankings: {said(found.transfer)}. "
    most = _most(found)
    note += f"Moved most: {most}." if most else "Nobody moved."
    key = f"ablation-{found.ablation}-{found.tier}"
    heading = f"Tier {found.tier} under {found.ablation} ablation"
    if several:
        key, heading = f"{key}-{short_track(found.track)}", f"{heading}: {found.track}"
    return Table(key, heading, note, columns, rows)


def _moved(places: int) -> Field:
    return Field(f"{places:+d}" if places else "0", places)
