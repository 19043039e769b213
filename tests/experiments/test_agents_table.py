"""The table of agents on redundant circuits, its runs played by numbers made up here."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
from scripts import load_script


def test_the_share_of_ppo_is_paired_by_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agents = load_script("agents")
    reached = {
        "head-ablation": [0.1, 0.3],
        "imitation alone": [0.8, 0.6],
        "rl-knockout": [0.9, 0.7],
    }

    def score(job: Any, model: str, prompts: int, budget: int) -> Any:
        assert (model, prompts, budget) == ("planted-easy", 4, 144)
        return agents.Score(reached[job.label][job.seed], 1.0, 10, 2.0)

    monkeypatch.setattr(agents, "score", score)
    monkeypatch.setattr(agents, "load_model", lambda name: Namespace(n_layers=12, n_heads=12))
    agents.redundant(
        Namespace(
            model="planted-easy",
            tasks=["ioi"],
            prompts=4,
            agents=["imitation alone", "rl-knockout"],
            seeds=2,
            workers=1,
        )
    )
    rows = capsys.readouterr().out.splitlines()[3:]
    assert rows == [
        "| ioi | head-ablation | 0.200 | 0.100 | 1.00 | +0.000 ± 0.000 | 10 | 2 |",
        "| ioi | imitation alone | 0.700 | 0.600 | 1.00 | +0.500 ± 2.541 | 10 | 2 |",
        "| ioi | rl-knockout | 0.800 | 0.700 | 1.00 | +0.600 ± 2.541 | 10 | 2 |",
        "| ioi | *PPO's share* | +0.100 ± 0.000 | | | | | |",
    ]
