"""Every verdict on a case made for it: a word that was said is said again, by one head or by 64."""

from pathlib import Path
from typing import Any

import pytest
from small_models import N_WORDS, copying_model

from circuitbench.checks import sparsity
from circuitbench.checks.health import validate_task
from circuitbench.checks.health_card import render
from circuitbench.tasks.text.task import read_task

SAID = f"""
title: Say it again
templates: ["{{word}} {{word}} {{G}}"]
words: {{words: {" ".join(f"w{i}" for i in range(N_WORDS))}}}
slots: {{A: words, B: words, F: words, X: words, Y: words}}
"""
CAUSE = 'clean: {word: "{A}", G: "{F}"}\ncorrupted: {word: "{B}", G: "{F}"}\n'
BESIDE = 'clean: {word: "{A}", G: "{X}"}\ncorrupted: {word: "{A}", G: "{Y}"}\n'
RIGHT, WRONG = 'answer: "{A}"\nwrong: "{B}"\n', 'answer: "{B}"\nwrong: "{A}"\n'


@pytest.mark.parametrize(
    ("carriers", "text", "verdict"),
    [
        (1, SAID + CAUSE + RIGHT, "healthy"),
        (64, SAID + CAUSE + RIGHT, "diffuse"),
        (1, SAID + BESIDE + RIGHT, "weak counterfactual"),
        (1, SAID + CAUSE + WRONG, "model doesn't do it"),
    ],
)
def test_every_verdict(carriers: int, text: str, verdict: str, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(text)
    task, model = read_task(str(path)), copying_model(carriers)
    found = sparsity.measure("again", model, task)
    assert found.verdict == verdict
    assert found.edges_needed == 24  # of 257, as 3,000 of 32,491
    assert max(found.edges) == 24
    said = sparsity.render(found)
    assert f"Sparse circuit: {verdict}" in said
    assert sparsity.ADVICE[found.verdict][1:] in said
    assert "MechRL" in said
    if verdict == "healthy":
        assert found.edges[24] > 0.99
        assert found.heads[5] > 0.99
        assert found.unchanged == ()
    if verdict == "diffuse":
        assert found.edges[24] < sparsity.ENOUGH
        assert found.heads[5] < found.heads[40]
    if verdict == "weak counterfactual":
        assert found.unchanged == tuple(range(found.prompts))
        assert f"in {found.prompts} of {found.prompts} prompts: 1, 2, 3, 4, 5 and more" in said


def test_a_task_without_truth_has_a_card(tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(SAID + CAUSE + RIGHT + "limits: {accuracy: 0.5, control: 5}\n")
    task: Any = read_task(str(path)).with_control(_control(tmp_path))
    card = validate_task("again", copying_model(1), task, prompts=8)
    assert "Truth: none is known." in render(card)
    assert not any("truth" in check.name for check in card.checks)
    assert card.passed, render(card)


def _control(folder: Path) -> Path:
    path = folder / "words.txt"
    path.write_text(" ".join(f"w{i % N_WORDS}" for i in range(200)))
    return path
