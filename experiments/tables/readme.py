"""The tables of the README, made from records.

    python experiments/tables/readme.py            # writes them into README.md
    python experiments/tables/readme.py --sweep    # first runs the five methods again

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``. The test of this
script fails when one of them is stale.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from circuitbench.results import write_atomically
from circuitbench.results.packing import pack_folder
from circuitbench_leaderboard.formats import markdown_table, without
from circuitbench_leaderboard.render import load_board
from circuitbench_leaderboard.tables import tables
from circuitbench_leaderboard.tables.cells import Table

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PUBLISHED = ROOT / "leaderboard" / "published" / "records"
FEWER = ("auroc", "ndcg", "seconds", "coverage", "version", "commit")
FIVE = Path(__file__).parent / "records" / "five-methods"
SWEEP = (
    "--methods", "random,head-ablation,activation-patching,acdc,rl-ppo",
    "--tasks", "induction,ioi", "--seeds", "0-2",
)  # fmt: skip
_TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(\n<!-- end of table -->)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """Where tables come from, which (all tracks of each), and the columns left out of them."""

    records: Path
    keys: tuple[str, ...]
    left_out: tuple[str, ...]


SOURCES = {
    "five-methods": Source(FIVE, ("overall",), ("seconds", "version", "commit")),
    "hard-and-trained": Source(PUBLISHED, ("tier-hard", "tier-trained"), FEWER),
    "wanted": Source(PUBLISHED, ("wanted",), ()),
    "ablations": Source(PUBLISHED, ("ablations",), ()),
    "edges": Source(
        PUBLISHED,
        ("edges-hard",),
        ("edge_auroc", "edge_r_precision", "edge_mcc", "coverage", "version", "commit"),
    ),
}


def updated(text: str) -> str:
    """``text`` with every table made anew."""
    return _TABLE.sub(lambda found: found[1] + made(SOURCES[found[2]]) + found[3], text)


def made(source: Source) -> str:
    """The tables of a source, one for every track there is."""
    parts = []
    for table in every_table(source.records):
        if any(table.key == key or table.key.startswith(f"{key}-") for key in source.keys):
            minor = (column.key for column in table.columns if column.minor)
            text = markdown_table(without(table, *source.left_out, *minor))
            parts.append(f"{table.title}\n\n{text}")
    return "\n\n".join(parts)


@cache
def every_table(records: Path) -> list[Table]:
    """All tables of a folder of records."""
    return tables(load_board(records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sweep", action="store_true", help="Run the five methods first.")
    if parser.parse_args().sweep:
        with tempfile.TemporaryDirectory() as fresh:
            command = [sys.executable, "-m", "circuitbench", "sweep", *SWEEP, "--out", fresh]
            subprocess.run(command, check=True)
            pack_folder(Path(fresh), FIVE)
    write_atomically(README, updated(README.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
