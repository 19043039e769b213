"""How rankings move when another ablation asks."""

from __future__ import annotations

from circuitbench_leaderboard.board import Board, entries_by_tier
from circuitbench_leaderboard.protocol import Shift, said, shift
from circuitbench_leaderboard.tables.cells import (
    METHOD,
    Column,
    Field,
    Row,
    Table,
    count,
    plain,
    short_track,
    worded,
)


def ablations(shown: Board) -> list[Table]:
    """How rankings move under other ablations, per tier and track."""
    made = []
    tracks = list(dict.fromkeys(entry.track for entry in shown.entries))
    ours = entries_by_tier(shown.entries)
    for kind, entries in shown.ablated.items():
        theirs = entries_by_tier(entries)
        for tier in (tier for tier in ours if tier in theirs):
            for track in tracks:
                found = shift(kind, tier, track, ours[tier], theirs[tier], shown.by)
                if found is not None:
                    made.append(_ablation(shown, found, several=len(tracks) > 1))
    return made


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
    most = [m for m in found.moved if m.place_before != m.place_after][:3]
    note = (
        f"The same {count(found.grid.size, 'run')} under {was} and {found.ablation} ablation, "
        "asked and scored; who moves most stands first. "
    )
    if found.transfer is not None:
        note += f"Spearman's correlation of the two rankings: {said(found.transfer)}. "
    if most:
        moves = (f"{m.entry.label} from {m.place_before} to {m.place_after}" for m in most)
        note += f"Moved most: {'; '.join(moves)}."
    else:
        note += "Nobody moved."
    key = f"ablation-{found.ablation}-{found.tier}"
    heading = f"Tier {found.tier} under {found.ablation} ablation"
    if several:
        key, heading = f"{key}-{short_track(found.track)}", f"{heading}: {found.track}"
    return Table(key, heading, note, columns, rows)


def _moved(places: int) -> Field:
    return Field(f"{places:+d}" if places else "0", places)
