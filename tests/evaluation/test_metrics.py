"""The registry of metrics: values as `evaluate` gives them, directions, third parties' metrics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import Distribution, EntryPoint, EntryPoints
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from synthetic_records import TRUTHS, record

from circuitbench.core.circuit import Circuit, Edge
from circuitbench.core.errors import InvalidPlugin, InvalidSpec, UnknownName
from circuitbench.evaluation import evaluate, metrics
from circuitbench.evaluation.metrics import Metric, metric, of_kind, ranking_metric, values_of
from circuitbench.evaluation.outcome import EXAMPLE, Outcome
from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS
from circuitbench.results.discovery import read_discovery
from circuitbench.results.record import truth_of

NESTED = {
    "average_precision": ("ranking", "average_precision"),
    "auroc": ("ranking", "auroc"),
    "r_precision": ("ranking", "r_precision"),
    "f1": ("selection", "f1"),
    "mcc": ("selection", "mcc"),
    "group_recall": ("role_groups", "top_r", "group_recall"),
    "area": ("efficiency", "area", "average_precision"),
    "queries_to_90": ("efficiency", "queries_to_90"),
    "edge_average_precision": ("edges", "average_precision"),
    "edge_auroc": ("edges", "auroc"),
    "edge_r_precision": ("edges", "r_precision"),
}
EDGES = {"0.1->2.2.q": 2.0, "4.7->logits": 1.0, "embed->0.0.k": 0.5}


def outcome(truth: Circuit, **kwargs: Any) -> Outcome:
    one = record(**kwargs)
    discovery = {**one.discovery, "edges": EDGES}
    return Outcome(discovery, truth_of(truth), one.costs, one.measurements)


@pytest.mark.parametrize("skill", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_evaluate(skill: float, seed: int) -> None:
    edges = frozenset({Edge("0.1", "2.2.q"), Edge("4.0", "logits")})
    truth = Circuit(TRUTHS["ioi"].roles, "invented", "constructed", edges=edges)
    run = outcome(truth, task="ioi", seed=seed, skill=skill)
    values, errors = values_of(run)
    nested = evaluate(read_discovery(run.discovery), truth, run.costs["discovery"]["queries"])
    assert not errors
    for key, path in NESTED.items():
        expected: Any = nested
        for name in path:
            expected = expected[name]
        assert values.get(key) == expected, key
        chance = metric(key).chance
        if chance is not None:
            *above, last = path
            expected = nested
            for name in above:
                expected = expected[name]
            assert chance(run) == pytest.approx(expected["chance"][last]), key
    measure = metric("auroc").on_ranking
    assert measure is not None
    curve = run.curve(measure)
    assert curve[-1] == (run.costs["discovery"]["queries"], values["auroc"])
    assert run.role_recall == {
        name: role["top_r"]["recall"] for name, role in nested["roles"].items()
    }


def test_every_metric_of_ours_has_a_direction_a_heading_and_a_value_for_the_example() -> None:
    values, errors = values_of(EXAMPLE)
    assert values.keys() == metrics.metrics().keys()
    assert not errors
    assert all(m.title and m.about.endswith(".") for m in metrics.metrics().values())
    assert {m.better for m in of_kind("quality")} == {"higher"}
    assert {m.better for m in of_kind("cost")} == {"lower"}
    assert len([m for m in of_kind("function") if not m.minor]) == 3 * len(MEASURED_ABLATIONS)
    assert metric("cmd_zero").better == "lower"


def test_what_a_run_lacks_gives_no_value() -> None:
    values, errors = values_of(Outcome({}, {}, {"discovery": {"queries": 7}}, {}))
    assert values == {"queries": 7}
    assert not errors
    everything = Circuit({}, "invented", "constructed")
    values, errors = values_of(outcome(everything))
    assert not errors
    assert values["f1"] == 0
    assert "average_precision" not in values
    assert "area" not in values


def test_a_misspelt_key_is_an_error_naming_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'auroc'"):
        metric("aurok")
    with pytest.raises(InvalidSpec, match="neither higher nor lower faithfulness_zero is better"):
        ranking_metric("faithfulness_zero")
    with pytest.raises(UnknownName, match=r"did you mean 'discovery\.queries'"):
        EXAMPLE.cost("discovery", "querys")
    with pytest.raises(UnknownName, match=r"did you mean 'mib\.zero'"):
        EXAMPLE.measured("mib", "zerro", "cpr")


def _constant(answer: Any, run: Outcome) -> Any:
    return answer


GOOD = Metric("share_selected", "Share", lambda run: float(run.selected.mean()), "Of heads.")


class FakeDistribution(Distribution):
    def __init__(self, name: str) -> None:
        self._name = name

    def read_text(self, filename: str) -> str | None:
        return f"Metadata-Version: 2.1\nName: {self._name}\nVersion: 3.1\n"

    def locate_file(self, path: Any) -> Any:
        return Path(path)


Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Pretends that distributions register metrics, each ``name=object``."""

    def pretend(**registered: Any) -> None:
        module = ModuleType("other_metrics")
        found = []
        for name, value in registered.items():
            setattr(module, name, value)
            entry = EntryPoint(name, f"other_metrics:{name}", metrics.GROUP)
            vars(entry)["dist"] = FakeDistribution(f"dist-{name}")
            found.append(entry)
        monkeypatch.setitem(sys.modules, "other_metrics", module)
        monkeypatch.setattr(metrics, "entry_points", lambda group: EntryPoints(found))
        metrics._load.cache_clear()

    yield pretend
    metrics._load.cache_clear()


def test_a_third_partys_metric_stands_with_ours(install: Install) -> None:
    install(good=GOOD)
    assert of_kind("quality")[-1].key == "share_selected"
    assert metric("share_selected").origin == "dist-good 3.1"
    assert values_of(EXAMPLE)[0]["share_selected"] == pytest.approx(1 / 3)


def test_two_of_one_key_are_refused_naming_both(install: Install) -> None:
    install(one=GOOD, two=replace(GOOD, title="Other"))
    with pytest.raises(InvalidPlugin, match=r"twice: by dist-one 3\.1 and dist-two 3\.1"):
        metric("auroc")
    install(mine=replace(GOOD, key="auroc"))
    with pytest.raises(InvalidPlugin, match=r"'auroc' .* by circuitbench and dist-mine 3\.1"):
        metric("auroc")


def test_a_metric_that_refers_to_nothing_is_refused_at_once(install: Install) -> None:
    for compute, why in (
        (lambda run: run.cost("discovery", "querys"), "did you mean 'discovery.queries'"),
        (lambda run: run.costs["discovry"], "KeyError"),
        (lambda run: run.scors.mean(), "AttributeError"),
    ):
        install(bad=replace(GOOD, compute=compute))
        with pytest.raises(InvalidPlugin, match=f"refers to something no run has: .*{why}"):
            metric("auroc")
    install(bad=lambda run: 1.0)
    with pytest.raises(InvalidPlugin, match="is a function, not a circuitbench Metric"):
        metric("auroc")


def test_a_metric_that_raises_or_gives_no_number_has_no_value(install: Install) -> None:
    def picky(run: Outcome) -> float | None:
        if run is not EXAMPLE:
            raise ValueError("not\nthis one")
        return 1.0

    install(picky=replace(GOOD, compute=picky))
    other = outcome(TRUTHS["ioi"])
    values, errors = values_of(other)
    assert errors == {"share_selected": "ValueError: not this one"}
    assert "auroc" in values
    answers: list[tuple[Any, str]] = [
        (np.nan, "not a finite number"),
        ("x", "expected a number"),
        (True, "expected a number"),
    ]
    for answer, why in answers:
        install(odd=replace(GOOD, compute=partial(_constant, answer)))
        assert why in values_of(other)[1]["share_selected"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"key": "Not a key"}, "not a metric key"),
        ({"better": "up"}, "unknown better 'up'; valid: higher, lower, neither"),
        ({"kind": "other"}, "unknown kind"),
        ({"needs": ("magic",)}, "unknown need 'magic'"),
        ({"compute": 3}, "cannot be called"),
    ],
)
def test_a_metric_is_checked_when_it_is_made(change: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidPlugin, match=why):
        replace(GOOD, **change)
