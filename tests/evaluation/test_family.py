import numpy as np
import pytest

from circuitbench.core.circuit import Circuit, Head, Role, head_grid
from circuitbench.core.discovery import Discovery
from circuitbench.core.errors import InvalidSpec
from circuitbench.evaluation.against_truth.evaluate import evaluate
from circuitbench.evaluation.against_truth.family import (
    best_average_precision,
    best_match,
    core_ranking,
)
from circuitbench.evaluation.metrics import metric, values_of
from circuitbench.evaluation.outcome import Outcome, read_truth
from circuitbench.results.record import truth_of

A, B, C, D = Head(0, 0), Head(0, 1), Head(1, 0), Head(1, 1)


def family_of(*sets: set[Head]) -> Circuit:
    family = tuple(frozenset(heads) for heads in sets)
    heads = frozenset().union(*family)
    return Circuit(
        {"any": Role(tuple(heads))}, "made up", "trained", family=family, faithfulness=0.9
    )


def values(truth: Circuit, scores: list[list[float]], selected: set[Head]) -> dict[str, float]:
    discovery = {"scores": scores, "selected": [str(h) for h in selected], "edges": None}
    return values_of(Outcome(discovery, truth_of(truth), {}, {}))[0]


def test_core_and_optional_heads() -> None:
    truth = family_of({A, B}, {A, C})
    assert sorted(truth.core) == [A]
    assert sorted(truth.optional) == [B, C]
    assert sorted(truth.heads) == [A, B, C]
    alone = Circuit({"any": Role((A, B))}, "made up", "trained")
    assert sorted(alone.core) == [A, B]
    assert not alone.optional


@pytest.mark.parametrize(
    ("family", "message"),
    [(({A},), "must be those of the family"), (({A, B}, {A}), "not minimal")],
)
def test_a_family_fits_its_roles_and_is_minimal(family: tuple[set[Head]], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        Circuit(
            {"any": Role((A, B))},
            "made up",
            "trained",
            family=tuple(map(frozenset, family)),
        )


def test_one_whole_set_is_a_perfect_match_and_half_of_the_union_is_not() -> None:
    truth = family_of({A, B}, {C, D})
    one, mixed = head_grid([A, B], 2, 3), head_grid([A, C], 2, 3)
    assert best_match(one, truth.family).f1 == 1.0
    assert best_match(mixed, truth.family).f1 == 0.5
    scores = np.array([[3.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert best_average_precision(scores, truth.family) == 1.0


def test_optional_heads_do_not_count_for_the_core() -> None:
    truth = family_of({A, B}, {A, C})
    # B and C are above A, D and another below: neither right nor wrong
    scores = np.array([[2.0, 3.0, 0.0], [4.0, 1.0, 0.0]])
    ranked = core_ranking(scores, truth)
    assert ranked is not None
    assert (ranked.n_items, ranked.n_relevant) == (4, 1)
    assert core_ranking(scores, family_of({A}, {B})) is None


def test_metrics_of_a_family_by_hand() -> None:
    truth = family_of({A, B}, {A, C})
    # best first: D, A, B, C
    scores = [[3.0, 2.0, 0.0], [1.0, 4.0, 0.0]]
    found = values(truth, scores, {A, B, D})
    assert found["family_f1"] == pytest.approx(2 * 2 / (3 + 2))
    assert found["family_average_precision"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["core_average_precision"] == pytest.approx(1 / 2)
    assert found["average_precision"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)
    unknown = values(family_of({A}, {B}), scores, {A})
    assert unknown["family_f1"] == 1.0
    assert "core_average_precision" not in unknown


def test_without_a_family_its_metrics_have_no_value() -> None:
    found = values(Circuit({"any": Role((A,))}, "made up", "trained"), [[1.0, 0.0]], {A})
    assert found["f1"] == 1.0
    assert not any(key.startswith(("family", "core")) for key in found)


def test_evaluate_says_what_is_not_identifiable() -> None:
    answer = Discovery(np.array([[3.0, 2.0], [1.0, 0.0]]), frozenset({A, B}))
    found = evaluate(answer, family_of({A}, {B}))["family"]
    assert found["n_sets"] == 2
    assert found["contains"] is True
    assert found["best_match"]["recall"] == 1.0
    assert found["core"] == {"size": 0, "average_precision": None}
    assert "not identifiable" in found["undefined"]["core"]
    assert evaluate(answer, Circuit({"any": Role((A,))}, "x", "trained"))["family"] is None


def test_a_record_keeps_the_family() -> None:
    truth = family_of({A, B}, {A, C})
    stored = truth_of(truth)
    assert stored["family"] == [["0.0", "0.1"], ["0.0", "1.0"]]
    again = read_truth(stored)
    assert (set(again.family), again.faithfulness) == (set(truth.family), 0.9)
    assert "family" not in truth_of(Circuit({"any": Role((A,))}, "x", "trained"))


def test_chance_of_the_core_is_that_of_a_tie() -> None:
    truth = family_of({A, B}, {A, C})
    run = Outcome({"scores": [[1.0, 1.0], [1.0, 1.0]], "selected": []}, truth_of(truth), {}, {})
    found = metric("core_average_precision")
    assert found.chance is not None
    assert found.of(run) == pytest.approx(found.chance(run))
