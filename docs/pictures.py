"""The pictures of concepts.md, drawn from runs: python docs/pictures.py."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import circuitbench as cb

FOLDER = Path(__file__).parent / "figures"
matplotlib.rcParams |= {"svg.hashsalt": "circuitbench", "svg.fonttype": "none", "font.size": 9}


def main() -> None:
    """Write all of them."""
    task = cb.load_task("ioi")
    model = cb.load_model("planted")
    truth = task.truth(model)
    oracle = cb.Oracle(model, task, task_name="ioi", seed=0, batch_size=16)
    damages = oracle.query(oracle.head_masks())
    grid = damages.task.double().numpy().reshape(oracle.shape)
    save(cb.Discovery(grid, frozenset()).plot(truth=truth), "circuit")
    reward(damages, truth, oracle)
    redundancy(oracle, truth)


def reward(damages: cb.Damages, truth: cb.Circuit, oracle: cb.Oracle) -> None:
    """Task damage against control damage of every head alone."""
    assert damages.control is not None
    true = cb.head_grid(truth.heads, *oracle.shape).ravel()
    figure, axes = canvas(4.6, 3.2)
    x, y = damages.control.numpy(), damages.task.numpy()
    for chosen, label, colour in ((~true, "other heads", "#4575b4"), (true, "circuit", "#e08214")):
        axes.plot(x[chosen], y[chosen], "o", color=colour, markersize=5, alpha=0.8, label=label)
    axes.set(xlabel="control damage (nats/token)", ylabel="task damage (logits)")
    axes.legend(frameon=False)
    save(figure, "reward")


def redundancy(oracle: cb.Oracle, truth: cb.Circuit) -> None:
    """Heads of one role: switched off one by one, and together."""
    pairs = [
        (name, pair)
        for name, role in truth.roles.items()
        for pair in combinations(role.heads, 2)
        if len(role.heads) == 2
    ]
    sets = [heads for _, pair in pairs for heads in ((pair[0],), (pair[1],), pair)]
    masks = torch.from_numpy(np.stack([~cb.head_grid(heads, *oracle.shape) for heads in sets]))
    costs = oracle.query(masks).task.numpy().reshape(-1, 3)
    figure, axes = canvas(6.4, 3.0)
    places = np.arange(len(pairs))
    for i, (label, colour) in enumerate(
        (("one alone", "#91bfdb"), ("the other alone", "#4575b4"), ("both", "#e08214"))
    ):
        axes.bar(places + 0.27 * (i - 1), costs[:, i], 0.25, color=colour, label=label)
    axes.set_xticks(places, [name.replace("_", " ") for name, _ in pairs])
    axes.set_ylabel("task damage (logits)")
    axes.legend(frameon=False)
    save(figure, "redundancy")


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save(figure: Figure, name: str) -> None:
    """As a small SVG without a date, so that it changes only when the runs do."""
    figure.savefig(FOLDER / f"concept-{name}.svg", metadata={"Date": None}, transparent=False)


if __name__ == "__main__":
    main()
