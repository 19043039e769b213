"""Everything a leaderboard shows: entries, their rankings, and what is not ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from circuitbench.evaluation.metrics import DEFAULT, Metric, metric
from circuitbench.results import Problem
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.entries import Entry, TaskOnModel, all_tasks, external_entries, gather
from circuitbench_leaderboard.groups import UNTIERED, tier_of, tiers_in_order
from circuitbench_leaderboard.sources import ablation_of, choose_source, main_ablation, source_of
from circuitbench_leaderboard.standing import Ranking, ranking

UNTOLD = "cmd_resample"
"""What ranks runs on tasks whose circuit nobody knows: how far from the model, over all sizes."""


@dataclass(frozen=True)
class Board:
    """Everything a leaderboard shows.

    ``by_task`` holds the ranking on each task and model, ``unfinished`` the runs that failed,
    timed out or were skipped, ``problems`` the files that were left out. ``external`` are the
    circuits found elsewhere, by name: nobody knows what they cost, so they are ranked nowhere.
    ``untold`` are the runs on tasks whose circuit nobody knows, where ``by`` needs a truth.
    ``source`` is the version and commit that all ranked runs are of ("": any), ``elsewhere`` the
    runs of others: they are marked and not ranked. ``ablation`` is that of most runs; those under
    others are ``ablated``, by ablation: another ablation asks another question, so they are
    compared with the board's, not ranked among them.
    """

    by: Metric
    entries: tuple[Entry, ...]
    overall: Ranking
    by_task: dict[TaskOnModel, Ranking]
    unfinished: tuple[RunRow, ...]
    problems: tuple[Problem, ...]
    external: tuple[Entry, ...] = ()
    untold: tuple[Entry, ...] = ()
    source: str = ""
    elsewhere: tuple[Entry, ...] = ()
    by_tier: Mapping[str, Ranking] = field(default_factory=dict)
    ablation: str = ""
    ablated: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)

    @property
    def beside(self) -> tuple[Entry, ...]:
        """The entries that are shown and not ranked: of other ablations, then of other versions."""
        return (*(entry for others in self.ablated.values() for entry in others), *self.elsewhere)

    @property
    def everyone(self) -> tuple[Entry, ...]:
        """The entries that may be ranked, then those beside them."""
        return (*self.entries, *self.beside)

    @property
    def runs(self) -> list[RunRow]:
        """All runs on the board."""
        return [run for entry in self.everyone for run in entry.runs]


def board(
    runs: Sequence[RunRow],
    problems: Sequence[Problem] = (),
    by: Metric | None = None,
    intervals: bool = False,
    commit: str | None = None,
) -> Board:
    """Rank all runs by one metric (average precision), over all tasks and on each.

    Ranked are runs of one version and commit; ``commit`` chooses which
    (:func:`circuitbench_leaderboard.sources.choose_source`).

    ``intervals`` asks for those of all quality metrics, not that of ``by`` alone. Where nobody
    knows the circuit of any task, the default ranks by :data:`UNTOLD` instead.
    """
    ours = [run for run in runs if not run.external]
    finished = [run for run in ours if run.status == "done"]
    if by is None or by.key == DEFAULT:
        none_known = bool(finished) and all(run.truthless for run in finished)
        by = metric(UNTOLD if none_known else DEFAULT)
    source = choose_source(ours, commit)
    there = [run for run in ours if source in ("", source_of(run))]
    others = sorted({found for run in ours if (found := source_of(run)) != source and source})
    elsewhere = [e for other in others for e in gather(r for r in ours if source_of(r) == other)]
    untold = [run for run in there if run.truthless and "truth" in by.needs]
    told = [run for run in there if not (run.truthless and "truth" in by.needs)]
    ablation = main_ablation(told)
    entries = gather(run for run in told if ablation_of(run) == ablation)
    kinds = sorted({ablation_of(run) for run in told} - {ablation})
    return Board(
        by,
        tuple(entries),
        ranking(entries, by, intervals=intervals),
        {task: ranking(entries, by, task, intervals) for task in all_tasks(entries)},
        tuple(run for entry in entries for run in entry.runs if run.status != "done"),
        tuple(problems),
        external_entries(run for run in runs if run.external),
        tuple(gather(untold)),
        source,
        tuple(elsewhere),
        by_tier(entries, by, intervals),
        ablation,
        {kind: tuple(gather(r for r in told if ablation_of(r) == kind)) for kind in kinds},
    )


def by_tier(entries: Sequence[Entry], by: Metric, intervals: bool) -> dict[str, Ranking]:
    """The ranking on each tier that any run belongs to, from easy to hard."""
    found = entries_by_tier(entries)
    return {tier: ranking(own, by, intervals=intervals) for tier, own in found.items()}


def entries_by_tier(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries with their runs on each tier alone, from easy to hard."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        runs: dict[str, list[RunRow]] = {}
        for run in entry.runs:
            runs.setdefault(tier_of(run), []).append(run)
        for tier, own in runs.items():
            found.setdefault(tier, []).append(replace(entry, runs=tuple(own)))
    return {tier: found[tier] for tier in tiers_in_order(found) if tier != UNTIERED}
