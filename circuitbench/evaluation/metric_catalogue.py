"""Our metrics, in the order of the tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from circuitbench.evaluation.against_truth import graded, ranking
from circuitbench.evaluation.against_truth.ranking import TiedRanking
from circuitbench.evaluation.against_truth.selection import Overlap
from circuitbench.evaluation.metric import Better, Metric, Need, Value
from circuitbench.evaluation.outcome import Outcome
from circuitbench.evaluation.without_truth import MEASURED_ABLATIONS


def _of_heads(
    key: str,
    title: str,
    about: str,
    measure: Callable[[TiedRanking], float | None],
    minor: bool = False,
) -> Metric:
    return Metric(
        key,
        title,
        lambda run: None if run.ranking is None else measure(run.ranking),
        about,
        needs=("truth",),
        chance=lambda run: None if run.ranking is None else measure(run.ranking.uninformed()),
        minor=minor,
        on_ranking=measure,
    )


def _of_edges(
    key: str, title: str, about: str, measure: Callable[[TiedRanking], float | None]
) -> Metric:
    return Metric(
        f"edge_{key}",
        title,
        lambda run: None if run.edge_ranking is None else measure(run.edge_ranking),
        about,
        kind="edges",
        needs=("edges",),
        chance=lambda run: (
            None if run.edge_ranking is None else measure(run.edge_ranking.uninformed())
        ),
    )


def _of_edge_set(
    key: str,
    title: str,
    about: str,
    measure: Callable[[Overlap], float | None],
    chance: Callable[[Overlap], float | None],
) -> Metric:
    rule = "of the committed edges; where none are committed, of the R best ranked"
    return Metric(
        f"edge_{key}",
        title,
        lambda run: None if run.edge_overlap is None else measure(run.edge_overlap),
        f"{about} {rule}, R being how many are true.",
        kind="edges",
        needs=("edges",),
        chance=lambda run: None if run.edge_overlap is None else chance(run.edge_overlap),
        minor=key in ("precision", "recall"),
    )


def _pessimistic(run: Outcome) -> float | None:
    ranked = run.edge_ranking
    if ranked is None or ranked.n_relevant == ranked.n_items:
        return None
    return ranking.pessimistic_auroc(ranked)


def _of_core(run: Outcome, of_chance: bool) -> float | None:
    ranked = run.core_ranking
    if ranked is None:
        return None
    return ranking.average_precision(ranked.uninformed() if of_chance else ranked)


def _function_of_edges(ablation: str) -> tuple[Metric, ...]:
    """Faithfulness, CPR and CMD of circuits of edges under an ablation.

    MIB's areas, which are defined under resampling, stand in the tables; all else is minor.
    """
    needs: tuple[Need, ...] = ("measurements",)
    found = [
        Metric(
            f"edge_faithfulness_{ablation}",
            f"Edge faith. {ablation}",
            lambda run: run.measured("edges", "faithfulness", ablation, "value"),
            f"Share of the metric that the committed edges keep under {ablation} ablation.",
            kind="edges",
            better="neither",
            needs=needs,
            minor=True,
        )
    ]
    rules = (
        ("mib", "", "as MIB computes it"),
        ("mib_greedy", "_greedy", "as MIB computes it with the greedy option"),
        ("exact", "_exact", "exact: nothing pruned, from no edge to all"),
    )
    for rule, suffix, words in rules:
        for area, better in (("cpr", "neither"), ("cmd", "lower")):
            what = "faithfulness" if area == "cpr" else "the distance of faithfulness from 1"
            lower = "; lower is better" if area == "cmd" else ""
            found.append(
                Metric(
                    f"edge_{area}{suffix}_{ablation}",
                    f"Edge {area.upper()}{suffix.replace('_', ' ')} {ablation}",
                    partial(_area, rule=rule, ablation=ablation, area=area),
                    f"Area under {what} over numbers of edges, {ablation} ablation, "
                    f"{words}{lower}.",
                    kind="edges",
                    better="lower" if better == "lower" else "neither",
                    needs=needs,
                    minor=rule != "mib" or ablation != "resample",
                )
            )
    return tuple(found)


def _area(run: Outcome, rule: str, ablation: str, area: str) -> float | None:
    return run.measured("edges", rule, ablation, area)


def _auroc(ranked: TiedRanking) -> float | None:
    return ranking.auroc(ranked) if ranked.n_relevant < ranked.n_items else None


def _function(ablation: str) -> tuple[Metric, ...]:
    """Faithfulness, CPR and CMD under an ablation.

    Always together: CPR alone is unbounded and rewards overshooting.
    """
    needs: tuple[Need, ...] = ("measurements",)
    return (
        Metric(
            f"faithfulness_{ablation}",
            f"Faith. {ablation}",
            lambda run: run.measured("faithfulness", ablation, "value"),
            f"Share of the metric that the committed heads keep under {ablation} ablation.",
            kind="function",
            better="neither",
            needs=needs,
        ),
        Metric(
            f"cpr_{ablation}",
            f"CPR {ablation}",
            lambda run: run.measured("mib", ablation, "cpr"),
            f"Area under faithfulness over circuit sizes, {ablation} ablation (MIB).",
            kind="function",
            better="neither",
            needs=needs,
        ),
        Metric(
            f"cmd_{ablation}",
            f"CMD {ablation}",
            lambda run: run.measured("mib", ablation, "cmd"),
            f"Area between faithfulness and 1 over circuit sizes, {ablation} ablation; lower is "
            "better (MIB).",
            kind="function",
            better="lower",
            needs=needs,
        ),
    )


def _needed(run: Outcome) -> float | None:
    """The share of tested heads that Shi et al.'s minimality test does not call unnecessary."""
    tests = run.measurements.get("tests") or {}
    found = tests.get("minimality")
    return None if found is None else 1 - len(found["unnecessary"]) / len(found["heads"])


def _of_the_set(
    key: str, title: str, about: str, path: tuple[str, ...], better: Better = "higher"
) -> Metric:
    """What the committed heads do under the run's own ablation; no value for an empty set."""
    return Metric(
        key,
        title,
        lambda run: run.measured(*path),
        about,
        kind="function",
        better=better,
        needs=("measurements",),
        minor=True,
    )


_SETS: tuple[Metric, ...] = (
    _of_the_set(
        "completeness",
        "Incompl.",
        "How differently circuit and model fare without random parts of the circuit, as a share "
        "of the metric; lower is better (Wang et al.).",
        ("completeness", "relative_mean"),
        "lower",
    ),
    _of_the_set(
        "minimality",
        "Minimality",
        "The most a committed head changes, with or without others, as a share of the metric, "
        "mean over heads (Wang et al.).",
        ("minimality", "relative_mean"),
    ),
    _of_the_set(
        "test_equivalence",
        "Equivalence p",
        "P-value of the test that the circuit beats the model as often as not; a small one speaks "
        "against it (Shi et al.).",
        ("tests", "equivalence", "p_value"),
    ),
    _of_the_set(
        "test_independence",
        "Independence p",
        "P-value of the test that the model without the circuit tells nothing of the model; a "
        "small one speaks against it (Shi et al.).",
        ("tests", "independence", "p_value"),
    ),
    Metric(
        "test_minimality",
        "Needed heads",
        _needed,
        "Share of the tested heads that the minimality test does not call unnecessary (Shi et "
        "al.).",
        kind="function",
        needs=("measurements",),
        minor=True,
    ),
    _of_the_set(
        "test_sufficiency",
        "Sufficiency",
        "Share of random circuits of its size that are further from the model (Shi et al.).",
        ("tests", "sufficiency", "share"),
    ),
    _of_the_set(
        "test_necessity",
        "Necessity",
        "Share of random circuits of its size whose knockout hurts less (Shi et al.).",
        ("tests", "partial_necessity", "share"),
    ),
)


def _cost(
    key: str,
    title: str,
    compute: Value,
    about: str,
    unit: str = "",
    digits: int = 0,
    minor: bool = False,
) -> Metric:
    return Metric(
        key, title, compute, about, "cost", "lower", unit=unit, digits=digits, minor=minor
    )


def _edge_weighted_recall(run: Outcome) -> float | None:
    chosen = run.selected_edges
    if chosen is None:
        return None
    selected = np.array([edge in chosen for edge in run.ranked_edges.items])
    return graded.weighted_recall(selected, run.edge_degrees)


def _passes(run: Outcome) -> float | None:
    forwards, backwards = run.spent("forwards"), run.spent("backwards")
    return None if forwards is None or backwards is None else forwards + 2 * backwards


def _prompt_passes(run: Outcome) -> float | None:
    passes = _passes(run)
    return None if passes is None or run.batch_size is None else passes * run.batch_size


def _mebibytes(run: Outcome) -> float | None:
    peak = run.cost("discovery", "peak_memory_bytes")
    return None if peak is None else peak * 2.0**-20


# Average precision leads: circuits are rare among heads, and unlike AUROC it does not reward
# sorting the many heads that nobody would look at.
OURS: tuple[Metric, ...] = (
    _of_heads(
        "average_precision",
        "AP",
        "Average precision of the head ranking.",
        ranking.average_precision,
    ),
    Metric(
        "group_recall",
        "Roles",
        lambda run: run.group_recall,
        "Share of roles of which enough heads are among the R best ranked.",
        needs=("truth",),
    ),
    Metric(
        "rounded_average_precision",
        "AP, near ties",
        lambda run: run.rounded_average_precision,
        "Average precision with scores rounded to 1e-4 of the largest: what a ranking is worth "
        "without its tie-breaks.",
        needs=("truth",),
        minor=True,
    ),
    _of_heads("auroc", "AUROC", "Area under the ROC curve; chance is 0.5.", _auroc),
    _of_heads(
        "r_precision",
        "R-prec.",
        "Share of true heads among the R best ranked, R being the circuit's size.",
        ranking.r_precision,
        minor=True,
    ),
    Metric(
        "f1",
        "F1",
        lambda run: run.overlap.f1,
        "F1 of the heads the method commits to.",
        needs=("truth",),
        chance=lambda run: run.overlap.chance_f1,
    ),
    Metric(
        "mcc",
        "MCC",
        lambda run: run.overlap.mcc,
        "Matthews correlation of the committed heads.",
        needs=("truth",),
        chance=lambda run: 0.0,
        minor=True,
    ),
    Metric(
        "family_f1",
        "Family F1",
        lambda run: None if run.best_match is None else run.best_match.f1,
        "F1 of the committed heads against the nearest of the truth's minimal sufficient sets.",
        needs=("family",),
        minor=True,
    ),
    Metric(
        "family_average_precision",
        "Family AP",
        lambda run: run.family_average_precision,
        "Average precision against the minimal sufficient set that the ranking fits best.",
        needs=("family",),
        minor=True,
    ),
    Metric(
        "core_average_precision",
        "Core AP",
        lambda run: _of_core(run, of_chance=False),
        "Average precision of the heads in every minimal sufficient set over those in none; heads "
        "in some of them do not count.",
        needs=("family",),
        chance=lambda run: _of_core(run, of_chance=True),
        minor=True,
    ),
    Metric(
        "ndcg",
        "nDCG",
        lambda run: graded.graded_ndcg(run.scores, run.degrees),
        "Discounted cumulative gain of the head ranking, a head's gain being the size of its "
        "contribution; 1 is the best ranking.",
        needs=("degrees",),
        chance=lambda run: graded.graded_ndcg(np.zeros_like(run.scores), run.degrees),
    ),
    Metric(
        "weighted_recall",
        "Wt. recall",
        lambda run: graded.weighted_recall(run.selected, run.degrees),
        "Share of all contributions that the committed heads hold.",
        needs=("degrees",),
        chance=lambda run: float(run.selected.mean()),
        minor=True,
    ),
    Metric(
        "contribution_rank",
        "Contr. rank",
        lambda run: graded.rank_correlation(run.scores, run.degrees),
        "Spearman's correlation of scores with contributions over the true heads.",
        needs=("degrees",),
        chance=lambda run: 0.0,
        minor=True,
    ),
    Metric(
        "area",
        "AP area",
        lambda run: run.area(ranking.average_precision),
        "Area under average precision against log queries: good early is better than good late.",
        needs=("truth",),
        minor=True,
    ),
    _of_edges(
        "average_precision",
        "Edge AP",
        "Average precision of the edge ranking.",
        ranking.average_precision,
    ),
    _of_edges(
        "auroc", "Edge AUROC", "Area under the ROC curve over edges, as in scikit-learn.", _auroc
    ),
    Metric(
        "edge_auroc_pessimistic",
        "Edge AUROC (ACDC)",
        _pessimistic,
        "Area under ACDC's pessimistic staircase below the ROC curve over edges; a tie counts "
        "nothing, and one tie of all edges is worth 0.",
        kind="edges",
        needs=("edges",),
        minor=True,
    ),
    _of_edges(
        "r_precision",
        "Edge R-prec.",
        "Share of true edges among the R best ranked, R being how many are true.",
        ranking.r_precision,
    ),
    _of_edge_set("f1", "Edge F1", "F1", lambda found: found.f1, lambda found: found.chance_f1),
    _of_edge_set("mcc", "Edge MCC", "Matthews correlation", lambda found: found.mcc, lambda _: 0.0),
    _of_edge_set(
        "precision",
        "Edge prec.",
        "Precision",
        lambda found: found.precision,
        lambda found: found.chance_precision,
    ),
    _of_edge_set(
        "recall",
        "Edge recall",
        "Recall",
        lambda found: found.recall,
        lambda found: found.chance_recall,
    ),
    Metric(
        "edge_ndcg",
        "Edge nDCG",
        lambda run: graded.graded_ndcg(run.ranked_edges.values, run.edge_degrees),
        "Discounted cumulative gain of the ranking of all edges, an edge's gain being the size of "
        "its contribution; 1 is the best ranking.",
        kind="edges",
        needs=("edge_degrees",),
        chance=lambda run: graded.graded_ndcg(np.zeros_like(run.edge_degrees), run.edge_degrees),
    ),
    Metric(
        "edge_weighted_recall",
        "Edge wt. recall",
        _edge_weighted_recall,
        "Share of all contributions that the committed edges hold.",
        kind="edges",
        needs=("edge_degrees",),
        minor=True,
    ),
    *(found for ablation in MEASURED_ABLATIONS for found in _function_of_edges(ablation)),
    *(found for ablation in MEASURED_ABLATIONS for found in _function(ablation)),
    *_SETS,
    _cost(
        "queries",
        "Queries",
        lambda run: run.spent("queries"),
        "Oracle queries on the scored model, those of training on it included: a mask is one, a "
        "gradient three.",
    ),
    Metric(
        "queries_to_90",
        "To 90 %",
        lambda run: run.queries_to_target,
        "Queries until 90 % of the circuit's heads were among as many best ranked; none where a "
        "run never got there.",
        kind="cost",
        better="lower",
        unit="queries",
        needs=("truth",),
        digits=0,
        minor=True,
    ),
    _cost(
        "passes",
        "Passes",
        _passes,
        "Forward-equivalents on the scored model, training on it included: passes of one batch, a "
        "backward one counts as two.",
        minor=True,
    ),
    _cost(
        "prompt_passes",
        "Passes x prompts",
        _prompt_passes,
        "Passes times the prompts of a batch: a query with control text is two passes.",
    ),
    _cost(
        "training_queries",
        "Training",
        lambda run: run.cost("training", "queries"),
        "Oracle queries of training: those on the scored model are among the queries.",
        unit="queries",
    ),
    _cost(
        "seconds",
        "Time",
        lambda run: run.spent("method_seconds"),
        "Wall-clock time of the discovery, and of training on the scored model.",
        unit="s",
        digits=1,
    ),
    _cost(
        "memory",
        "Memory",
        _mebibytes,
        "Peak memory of the whole run.",
        unit="MiB",
        minor=True,
    ),
)
