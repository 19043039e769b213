"""The frozen policy against every method that does not learn, on the hard tier of a board.

    python experiments/tables/frozen_policy.py leaderboard/published/records

Per behaviour: mean average precision over the tier's plantings (presets x seeds) with the 95 %
percentile bootstrap interval over them; the policy's against the best rival's, and on how many of
the same plantings it is better or worse. Rivals have all the queries they ask, be they more than
the policy's. This resamples plantings alone: the board's own intervals resample presets too.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from circuitbench.evaluation.metrics import DEFAULT
from circuitbench_leaderboard.groups import NO_TRAINING
from circuitbench_leaderboard.render import load_board

CONTROL = "descriptor-forest"


def interval(values: np.ndarray) -> str:
    """``0.980 [0.960, 0.990]`` of ``values [plantings]``."""
    low = high = float(values.mean())
    if len(values) > 1 and np.ptp(values) > 0:
        found = stats.bootstrap((values,), np.mean, method="percentile", rng=0)
        low, high = found.confidence_interval
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def show(records: Path, method: str) -> None:
    """Print the table of ``method`` against those without training."""
    shown = load_board(records, tier="hard")
    precision: dict[tuple[str, str], dict[tuple[str, int], float]] = defaultdict(dict)
    rivals = set()
    for entry in shown.entries:
        if entry.track == NO_TRAINING:
            rivals.add(entry.label)
        for run in entry.runs:
            if run.status == "done":
                planting = (run.model_name, run.seed)
                precision[run.task, entry.label][planting] = run.values[DEFAULT]
    print(f"| task | plantings | {method} | best without training | better, worse | {CONTROL} |")
    print("|---|---|---|---|---|---|")
    for task in sorted({task for task, _ in precision}):
        ours = precision[task, method]
        where = sorted(ours)
        if not where:
            continue
        of = {
            name: np.array([found[p] for p in where])
            for (on, name), found in precision.items()
            if on == task and found.keys() >= ours.keys()
        }
        best = max(rivals & of.keys(), key=lambda name: of[name].mean())
        ahead = of[method] - of[best]
        control = interval(of[CONTROL]) if CONTROL in of else "–"
        print(
            f"| {task} | {len(where)} | {interval(of[method])} | {best} {interval(of[best])} | "
            f"{(ahead > 1e-9).sum()}, {(ahead < -1e-9).sum()} | {control} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("--method", default="rl-edges")
    told = parser.parse_args()
    show(told.records, told.method)
