"""``python -m circuitbench.models.trained.training NAME``: train a model of the zoo and measure it.

Writes ``weights/NAME.safetensors`` and ``weights/NAME.json`` (of puzzles ``NAME@SEED``); with
``--measure`` the weights stay and only the report is made again. One thread, so that the same seed
gives the same weights.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click
import torch

from circuitbench.models.trained.load import (
    ALGORITHMS,
    INDUCTION,
    NAMES,
    folder,
    language,
    load,
    save,
    training_command,
)
from circuitbench.models.trained.puzzles import PUZZLES
from circuitbench.models.trained.training import induction, puzzle, siit
from circuitbench.models.trained.training.reports import (
    family_report,
    induction_report,
    siit_report,
)

SIIT: dict[str, tuple[int, dict[str, Any]]] = {
    "siit-induction": (3, {"steps": 2500}),
    "siit-ioi": (4, {"steps": 11000, "silence": True}),
    "siit-two-hop": (4, {"steps": 3000}),
}
"""Layers and how to train."""
PUZZLED: dict[str, dict[str, Any]] = {
    "trained-induction-18": {"steps": 2000, "dropout": 0.15},
    "trained-two-hop": {"steps": 3500},
    "trained-ioi": {"steps": 2000, "sparsity": 1.6e-2},
    "trained-brackets": {"steps": 2000, "dropout": 0.15},
}
"""How to train on puzzles."""
HEALTH = {
    "siit-ioi": {"tolerance": 0.03, "damaged": 0.12},
    "siit-two-hop": {"stability": 0.4},
}
"""Limits of their own: strictness is trained, not built, so the other heads of ``siit-ioi`` still
move the metric a little; without ``silence``, what a missing node leads to varies with the prompt.
"""

EDGE_ABLATIONS = {name: ["mean", "resample"] for name in ("siit-induction", "siit-two-hop")}
"""Models whose weights follow their algorithm along its edges too, and under which ablations."""
NO_EDGES = {
    "siit-ioi": "no true edges are stated: strictness is about heads, and what the heads tell each "
    "other runs along more edges than the algorithm's; even all between its heads keep less than "
    ".95",
    "trained-induction": "no true edges are stated: the circuit is gradual, and all edges between "
    "its heads keep less than .95 of the metric",
}
"""Why the others have none (figures: ``experiments/tables/trained_edges.py``)."""


@click.command()
@click.argument("name", type=click.Choice([*NAMES, *PUZZLES]))
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", type=int, help="Training steps; by default those of the shipped weights.")
@click.option("--measure", is_flag=True, help="Keep the weights, measure them again.")
def main(name: str, seed: int, steps: int | None, measure: bool) -> None:
    """Train NAME and write its weights and report into the package."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    stem = f"{name}@{seed}" if name in PUZZLES else name
    path, text = folder() / f"{stem}.json", language(name)
    if measure:
        training = json.loads(path.read_text())["training"]
    else:
        start = time.process_time()
        more: dict[str, Any] = {} if steps is None else {"steps": steps}
        if name == INDUCTION:
            more = {"steps": 4000} | more
            weights = induction.train(seed, **more)
        elif name in PUZZLES:
            more = PUZZLED[name] | more
            weights = puzzle.train(PUZZLES[name], text, seed, **more)
        else:
            layers, usual = SIIT[name]
            more = usual | more
            shape = siit.config(ALGORITHMS[name], text, layers)
            weights = siit.train(ALGORITHMS[name], text, shape, seed, **more)
        folder().mkdir(exist_ok=True)
        save(stem, weights, folder())
        training = {
            "command": training_command(stem),
            "seed": seed,
            **more,
            "cpu_seconds": round(time.process_time() - start),
            "torch": torch.__version__,
        }
    model = load(stem)
    if name == INDUCTION:
        report = induction_report(model, text)
    elif name in PUZZLES:
        report = family_report(model, PUZZLES[name], text)
    else:
        report = siit_report(model, ALGORITHMS[name], text)
    if name in HEALTH:
        report["health"] = HEALTH[name]
    if name in EDGE_ABLATIONS:
        report["edge_ablations"] = EDGE_ABLATIONS[name]
    if name in NO_EDGES:
        report["blind_spots"].append(NO_EDGES[name])
    path.write_text(json.dumps({"training": training, **report}, indent=1) + "\n")
    print(f"wrote {path}")


main()
