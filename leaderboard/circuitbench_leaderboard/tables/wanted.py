"""What a board should be able to do, and whether this one does."""

from __future__ import annotations

from circuitbench_leaderboard.board import Board
from circuitbench_leaderboard.protocol import demands
from circuitbench_leaderboard.tables.cells import Column, Row, Table, short_track, worded


def wanted(shown: Board) -> list[Table]:
    """What a board should be able to do, and whether this one does; of each track that ranks."""
    columns = (Column("wanted", "Wanted"), Column("found", "Found"), Column("met", "So"))
    words = {True: "yes", False: "no", None: "–"}
    note = (
        "A board that is of use tells methods apart on circuits that are hard to find, and its "
        "ranking there predicts that on models nobody built. Reported either way."
    )
    tracks = list(dict.fromkeys(s.entry.track for s in shown.overall.standings))
    made = []
    for i, track in enumerate(tracks):
        rows = tuple(
            Row((worded(d.wanted), worded(d.found), worded(words[d.met])), ())
            for d in demands(shown.by_tier, track)
        )
        key = f"wanted-{short_track(track)}" if i else "wanted"
        title = "What the board should do" + (f": {track}" if len(tracks) > 1 else "")
        made.append(Table(key, title, note, columns if rows else (), rows))
    return made
