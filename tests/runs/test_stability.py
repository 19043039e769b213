"""A method asked again under perturbations that have names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from circuitbench.core.errors import UnknownName
from circuitbench.runs.prepare import prepare
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.stability import measure_stability

SPEC = RunSpec(method="acdc", task="reverse", batch_size=4, device="cpu")
ALL = ("prompts", "seeds", "templates", "hyperparameters", "ablation")
TASK = """
title: Who was given it
templates:
  - "word0 {A} word1 {B} word2 {S}"
  - "{B} word3 {A} word4 word5 {S}"
words:
  names: name0 name1 name2 name3 name4 name5
slots: {A: names, B: names, C: names}
clean: {S: "{B}"}
corrupted: {S: "{C}"}
answer: "{A}"
wrong: "{B}"
choices: names
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return measure_stability(prepare(SPEC), 3, 2, perturb=ALL)


def names(group: dict[str, Any]) -> list[str]:
    return [answer["name"] for answer in group["answers"]]


def test_every_perturbation_is_named_and_held_against_the_unperturbed_answer(found: Any) -> None:
    assert names(found["prompts"]) == ["batch 0", "batch 1", "batch 2"]
    assert names(found["seeds"]) == ["seed 0", "seed 1"]
    assert names(found["ablation"]) == ["zero", "mean", "resample"]
    assert {"threshold=0.025", "threshold=0.1"} <= set(names(found["hyperparameters"]))
    for group, unperturbed in (("prompts", "batch 0"), ("seeds", "seed 0"), ("ablation", "zero")):
        own = {answer["name"]: answer for answer in found[group]["answers"]}[unperturbed]
        assert (own["jaccard"], own["rank_correlation"]) == (1, pytest.approx(1))


def test_metrics_of_the_answers_have_a_spread(found: Any) -> None:
    for group in ("prompts", "ablation", "hyperparameters"):
        spreads = found[group]["metrics"]
        assert set(spreads) == {"size", "faithfulness", "f1", "average_precision"}
        low, high = spreads["f1"]["interval"]
        assert 0 <= spreads["f1"]["least"] <= low <= high <= spreads["f1"]["most"] <= 1


def test_what_cannot_be_asked_has_a_reason(found: Any) -> None:
    assert "templates" not in found
    assert "no list of templates" in found["undefined"]["templates"]
    with pytest.raises(UnknownName, match="did you mean 'prompts'"):
        measure_stability(prepare(SPEC), 2, 2, perturb=("promts",))


def test_each_template_of_a_file_is_asked_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("who.yaml").write_text(TASK)
    spec = RunSpec(
        method="attribution-patching",
        task="who.yaml",
        model="planted-easy",
        batch_size=4,
        device="cpu",
    )
    found = measure_stability(prepare(spec), 2, 2, perturb=("templates",))
    assert names(found["templates"]) == [
        "word0 {A} word1 {B} word2 {S}",
        "{B} word3 {A} word4 word5 {S}",
    ]
    assert set(found["templates"]["metrics"]) == {"size", "faithfulness"}  # nobody knows a truth
