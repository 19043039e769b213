"""The health gate passes every preset on every task, and fails a truth that is wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from circuitbench.checks.health import Limits, figure, render, validate_task
from circuitbench.core.circuit import Head, Role
from circuitbench.core.errors import InvalidSpec, UnknownName
from circuitbench.models.planted.presets import PRESETS, planted
from circuitbench.plugins import registry
from circuitbench.plugins.behaviours import behaviours
from circuitbench.tasks.planted.induction import Induction
from circuitbench.tasks.planted.ioi import IOI

TASKS = ("induction", "ioi", "docstring", "greater-than", "two-hop")
LEAN: dict[str, Any] = {"prompts": 6, "subsets": 4, "others": 12, "edge_sets": 0}


class WithTruth(IOI):
    """IOI with another truth."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change: Any
        object.__setattr__(self, "change", change)  # the dataclass is frozen

    def truth(self, model: Any) -> Any:
        circuit = super().truth(model)
        return replace(circuit, roles=self.change(dict(circuit.roles)))


@pytest.fixture(scope="module")
def card() -> Any:
    return validate_task("ioi", planted(), IOI(), prompts=6, subsets=4, edge_sets=0)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes_on_every_task(preset: Any) -> None:
    model = registry.load_model(preset)
    lean = LEAN if preset != "planted-large" else LEAN | {"prompts": 3, "subsets": 2, "others": 4}
    for name in TASKS:
        found = validate_task(name, model, registry.load_task(name), **lean)
        assert found.passed, render(found)


def test_only_the_hard_preset_has_limits_of_its_own() -> None:
    assert planted().limits == Limits()
    assert registry.load_model("planted-hard").limits.accuracy < Limits().accuracy
    with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
        Limits.parse({"acuracy": 0.1})


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_truth_holds_under_every_ablation_it_claims(ablation: Any) -> None:
    found = validate_task("induction", planted(), Induction(), ablation=ablation, **LEAN)
    assert found.passed, render(found)


def failed(found: Any) -> Any:
    return {check.name for check in found.checks if not check.passed}


def test_a_truth_that_misses_a_role_fails() -> None:
    task = WithTruth(lambda roles: {k: v for k, v in roles.items() if k != "s_inhibition"})
    found = validate_task("ioi", planted(), task, prompts=6, subsets=4, edge_sets=0)
    assert not found.passed
    assert "strongest other head, alone" in failed(found)
    assert "faithfulness of the truth alone - 1" in failed(found)


def test_stand_ins_outside_the_truth_show_only_while_the_circuit_is_damaged() -> None:
    task = WithTruth(lambda roles: {k: v for k, v in roles.items() if "backup" not in k})
    movers = "groups of the other heads, the circuit damaged"
    found = validate_task("ioi", planted(), task, prompts=6, subsets=4, edge_sets=0)
    assert movers in failed(found)
    assert "random half of the other heads, together" not in failed(found)
    whole = validate_task("ioi", planted(), IOI(), prompts=6, subsets=4, edge_sets=0, others=1)
    assert movers not in failed(whole)


def test_a_truth_with_a_bystander_fails() -> None:
    bystander = planted().construction.heads["noise"][0]
    task = WithTruth(lambda roles: roles | {"bystander": Role((bystander,))})
    assert "weakest truth head in its best context" in failed(
        validate_task("ioi", planted(), task, **LEAN)
    )


def test_a_truth_with_the_wrong_sign_fails() -> None:
    task = WithTruth(
        lambda roles: roles | {"negative_name_mover": replace(roles["negative_name_mover"], sign=1)}
    )
    assert "truth heads against their sign" in failed(validate_task("ioi", planted(), task, **LEAN))


def test_an_ablation_the_truth_does_not_claim_is_refused() -> None:
    class Claims(IOI):
        ablations: tuple[str, ...] = ("zero",)

        def truth(self, model: Any) -> Any:
            return replace(super().truth(model), ablations=self.ablations)

    with pytest.raises(InvalidSpec, match="not claimed under mean ablation; valid: zero"):
        validate_task("ioi", planted(), Claims(), ablation="mean")
    with pytest.raises(InvalidSpec, match="no ablation 'zeros'; did you mean 'zero'"):
        validate_task("ioi", planted(), Claims(), ablation="zeros")
    Claims.ablations = ()
    with pytest.raises(InvalidSpec, match="lists no ablation it was verified under"):
        validate_task("ioi", planted(), Claims())


def test_every_shipped_truth_lists_its_ablations() -> None:
    named = {t.name for t in registry.list_plugins("task")} - set(behaviours())
    tasks = sorted(name for name in named if not name.startswith(("gpt2", "interpbench")))
    for name in tasks:
        task = registry.load_task(name)
        truth: Any = task.truth(registry.load_model(task.default_model))
        assert truth.ablations == ("zero", "mean", "resample"), name


def test_card_is_json_and_text(card: Any) -> None:
    data = json.loads(json.dumps(card.as_dict(), allow_nan=False))
    assert data["passed"] is True
    assert {check["name"] for check in data["checks"]} >= {"accuracy", "control loss / uniform"}
    truth = IOI().truth(planted()).heads
    assert {
        Head(layer, head)
        for layer, row in enumerate(data["truth"])
        for head, x in enumerate(row)
        if x
    } == truth
    text = render(card)
    assert "ioi on planted: passed" in text
    assert "it sleeps while every name mover is awake" in text


def test_figure_shows_effects_beside_the_truth(card: Any, tmp_path: Path) -> None:
    drawing = figure(card)
    drawing.savefig(tmp_path / "card.png")
    assert (tmp_path / "card.png").stat().st_size > 1000
    assert [axes.get_title() for axes in drawing.axes[:2]][1] == "truth"
