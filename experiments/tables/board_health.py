"""Health cards of the tasks on a board, as its page shows them (``leaderboard --health``).

    python experiments/tables/board_health.py RECORDS FOLDER

Where a planting changes with the seed, the card is of the planting whose circuit the page shows.
Cards that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from circuitbench import load_model, load_task
from circuitbench.checks.health import validate_task
from circuitbench.results import write_atomically
from circuitbench_leaderboard.cards import shown_runs
from circuitbench_leaderboard.render import load_board


def make(records: Path, folder: Path) -> None:
    """Write a card per task and model that are not there yet."""
    for run in shown_runs(load_board(records)).values():
        path = folder / f"{run.task}-{run.model_name}.json".replace(":", "-")
        if run.truthless or path.exists():
            continue
        task = load_task(run.task)
        card = validate_task(run.task, load_model(run.model_name), task)
        write_atomically(path, json.dumps(card.as_dict(), indent=1) + "\n")
        print(f"{path.stem}: {'passes' if card.passed else 'does NOT pass'} the gate")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("folder", type=Path)
    told = parser.parse_args()
    make(told.records, told.folder)
