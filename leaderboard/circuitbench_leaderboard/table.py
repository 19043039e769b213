"""The tables of the board, free of any output format: overall, per task, per role, per cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from circuitbench.evaluation.metrics import DEFAULT, Metric, metric, of_kind
from circuitbench.evaluation.statistics import disjoint_groups
from circuitbench.results import Problem
from circuitbench.results.run_row import RunRow
from circuitbench_leaderboard.entries import (
    Entry,
    TaskOnModel,
    all_tasks,
    external_entries,
    gather,
)
from circuitbench_leaderboard.groups import (
    NO_TRAINING,
    TRACKS,
    UNTIERED,
    tier_of,
    tiers_in_order,
)
from circuitbench_leaderboard.protocol import (
    NEARLY_PERFECT,
    Shift,
    between_tiers,
    demands,
    said,
    shift,
)
from circuitbench_leaderboard.sources import (
    ablation_of,
    choose_source,
    main_ablation,
    short_commit,
    source_of,
)
from circuitbench_leaderboard.standing import (
    PLACED_BY,
    Estimate,
    Mark,
    Ranking,
    Standing,
    estimates,
    main_metrics,
    ranking,
    value_of,
)

# Steps of about half a decade: where discovery budgets of methods differ visibly.
LEVELS = tuple(step * 10**power for power in range(7) for step in (1, 3))

UNTOLD = "cmd_resample"
"""What ranks runs on tasks whose circuit nobody knows: how far from the model, over all sizes."""

LEGEND = (
    "best: highest mean; tied: cannot be told from the best by sign-flip tests on what was drawn "
    "(plantings, else tasks, else prompts; Holm-corrected, 5 %); untested: differs from the best "
    "in too little for that test; no mark: told apart"
)
TOO_FEW = "best: highest mean; too few runs for a test to tell entries apart"

TIE_BREAKS = 0.01
"""Average precision that a ranking owes to differences below 1e-4 of its largest score."""


@dataclass(frozen=True)
class Column:
    """A column: ``key`` in data formats, ``label`` as a heading, ``about`` as an explanation.

    A ``minor`` one is left out where room is scarce.
    """

    key: str
    label: str
    about: str = ""
    numeric: bool = False
    minor: bool = False


@dataclass(frozen=True)
class Field:
    """One value: ``text`` as shown, ``raw`` as data (None: there is none)."""

    text: str
    raw: str | float | None
    interval: tuple[float, float] | None = None
    mark: Mark = ""


@dataclass(frozen=True)
class Row:
    """One line, with the runs it stands on."""

    fields: tuple[Field, ...]
    runs: tuple[RunRow, ...]


@dataclass(frozen=True)
class Table:
    """A table: ``key`` in file names, ``title`` and ``note`` above and below it.

    ``task`` is set where all of it is about one task on a model.
    """

    key: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    task: TaskOnModel | None = None


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


def tables(shown: Board) -> list[Table]:
    """All tables: overall, what the board should do, per task, per cost level, function, edges,
    other ablations, without truth, of other versions, external, roles by task.

    Where there are several tracks, what compares methods has a table for each.
    """
    roles = [_roles(task, within) for task, within in shown.by_task.items()]
    apart = [*_levels(shown), *_function(shown), *_edges(shown)]
    made = [*_overalls(shown), *_wanted(shown), _tasks(shown), *apart, *_ablations(shown)]
    made += [_untold(shown), _elsewhere(shown), _external(shown)]
    made += [table for of_task in roles for table in of_task]
    return [table for table in made if table.columns and (table.rows or shown.entries)]


def by_track(table: Table, standings: Sequence[Standing]) -> list[Table]:
    """A table whose rows are those of ``standings``, split by their tracks.

    The first keeps its name; marks are within tracks already.
    """
    found = list(dict.fromkeys(s.entry.track for s in standings))
    if len(found) < 2:
        return [table]
    pairs = list(zip(table.rows, standings, strict=True))
    return [
        replace(
            table,
            key=f"{table.key}-{short_track(track)}" if i else table.key,
            title=f"{table.title}: {track}",
            rows=tuple(row for row, standing in pairs if standing.entry.track == track),
        )
        for i, track in enumerate(found)
    ]


_RANK = Column("rank", "#", "Place by the mean; incomplete methods have none.", numeric=True)
_METHOD = Column("method", "Method", "With what tells its settings apart, where they differ.")
_TRACK = Column("track", "Track", "What the method learned on; places are within a track.")
_FAMILY = Column("family", "Family", "The kind of method.", minor=True)
_COVERAGE = Column("coverage", "Runs", "Finished runs of those the comparison rests on.")
_VERSION = Column("version", "Version", "circuitbench's, of all runs in the row.")
_COMMIT = Column("commit", "Commit", "Of circuitbench's source.")
_PROVENANCE = (_COVERAGE, _VERSION, _COMMIT)
_PLACE = (Column("task", "Task"), Column("model", "Model"))


def _overalls(shown: Board) -> list[Table]:
    """A table per track over everything, then one per track and tier."""
    tracks = list(dict.fromkeys(s.entry.track for s in shown.overall.standings)) or [NO_TRAINING]
    made = []
    for tier, within in ((None, shown.overall), *shown.by_tier.items()):
        for i, track in enumerate(tracks):
            found = _overall(shown, within, track)
            where = f"Tier {tier}" if tier else "Overall"
            title = f"{where}: {track}" if len(tracks) > 1 else where
            parts = [(tier and f"tier-{tier}") or "overall", *([short_track(track)] if i else [])]
            note = found.note
            if tier == "hard" and (line := predicts(shown, track)):
                note += " " + line
            made.append(replace(found, key="-".join(parts), title=title, note=note))
    return [table for i, table in enumerate(made) if table.rows or i == 0]


def short_track(track: str) -> str:
    """A track as it stands in file names."""
    return next(key for key, words in TRACKS.items() if words == track)


def _wanted(shown: Board) -> list[Table]:
    """What a board should be able to do, and whether this one does; of each track that ranks."""
    columns = (Column("wanted", "Wanted"), Column("found", "Found"), Column("met", "So"))
    words = {True: "yes", False: "no", None: "–"}
    note = (
        "A board that is of use tells methods apart on circuits that are hard to find, and its "
        "ranking there predicts that on models nobody built. Reported either way."
    )
    tracks = list(dict.fromkeys(s.entry.track for s in shown.overall.standings))
    made = []
    for i, track in enumerate(tracks):
        rows = tuple(
            Row((_text(d.wanted), _text(d.found), _text(words[d.met])), ())
            for d in demands(shown.by_tier, track)
        )
        key = f"wanted-{short_track(track)}" if i else "wanted"
        title = "What the board should do" + (f": {track}" if len(tracks) > 1 else "")
        made.append(Table(key, title, note, columns if rows else (), rows))
    return made


def _ablations(shown: Board) -> list[Table]:
    """How rankings move under other ablations, per tier and track."""
    made = []
    tracks = list(dict.fromkeys(entry.track for entry in shown.entries))
    ours = entries_by_tier(shown.entries)
    for kind, entries in shown.ablated.items():
        theirs = entries_by_tier(entries)
        for tier in (tier for tier in ours if tier in theirs):
            for track in tracks:
                found = shift(kind, tier, track, ours[tier], theirs[tier], shown.by)
                if found is not None:
                    made.append(_ablation(shown, found, several=len(tracks) > 1))
    return made


def _ablation(shown: Board, found: Shift, several: bool) -> Table:
    title, was = shown.by.title, shown.ablation or "the board's"
    columns = (
        _METHOD,
        Column("before", f"{title}, {was}", numeric=True),
        Column("after", f"{title}, {found.ablation}", numeric=True),
        Column("place_before", f"#, {was}", numeric=True),
        Column("place_after", f"#, {found.ablation}", numeric=True),
        Column("moved", "Moved", "Places won; below 0, lost.", numeric=True),
    )
    digits = shown.by.digits
    rows = tuple(
        Row(
            (
                _text(m.entry.label),
                _plain(m.before, digits),
                _plain(m.after, digits),
                _plain(m.place_before, 0),
                _plain(m.place_after, 0),
                _moved(m.place_before - m.place_after),
            ),
            m.entry.runs,
        )
        for m in found.moved
    )
    most = [m for m in found.moved if m.place_before != m.place_after][:3]
    note = (
        f"The same {count(found.grid.size, 'run')} under {was} and {found.ablation} ablation, "
        "asked and scored; who moves most stands first. "
    )
    if found.transfer is not None:
        note += f"Spearman's correlation of the two rankings: {said(found.transfer)}. "
    if most:
        moves = (f"{m.entry.label} from {m.place_before} to {m.place_after}" for m in most)
        note += f"Moved most: {'; '.join(moves)}."
    else:
        note += "Nobody moved."
    key = f"ablation-{found.ablation}-{found.tier}"
    heading = f"Tier {found.tier} under {found.ablation} ablation"
    if several:
        key, heading = f"{key}-{short_track(found.track)}", f"{heading}: {found.track}"
    return Table(key, heading, note, columns, rows)


def predicts(shown: Board, track: str, ours: str = "hard", theirs: str = "trained") -> str:
    """Whether the ranking on one tier predicts that on another, in a line; empty if unknown."""
    sides = [shown.by_tier.get(tier) for tier in (ours, theirs)]
    if sides[0] is None or sides[1] is None:
        return ""
    found = between_tiers(sides[0], sides[1], track)
    if found is None:
        return ""
    return f"The ranking on {ours} against that on {theirs}: Spearman {said(found)}."


def told_apart(within: Ranking, track: str) -> str:
    """How far a table separates the entries of a track, in a sentence; empty without intervals."""
    key = within.by.key
    found = [
        (s.estimates[key], s.entry.label, s.estimates.get("rounded_average_precision"))
        for s in within.standings
        if s.rank is not None and s.entry.track == track
    ]
    known = [e for e, _, _ in found if e is not None]
    spans = [e.interval for e in known if e.interval is not None]
    if len(spans) < 2:
        return ""
    line = f" {count(disjoint_groups(spans), 'group')} told apart by disjoint 95 % intervals."
    if key == DEFAULT:
        perfect = sum(e.mean >= NEARLY_PERFECT for e in known)
        line += f" {count(perfect, 'method')} at {within.by.title} {NEARLY_PERFECT} or more."
        frail = [label for e, label, r in found if e and r and e.mean - r.mean > TIE_BREAKS]
        if frail:
            line += f" Lose more than {TIE_BREAKS} when near ties are ties: {', '.join(frail)}."
    return line


def _overall(shown: Board, within: Ranking, track: str) -> Table:
    by = shown.by
    measures = (by, *(m for m in main_metrics() if m != by))
    iqm = Column(
        "iqm", f"{by.title} IQM", f"Interquartile mean of {by.title}.", numeric=True, minor=True
    )
    heads = [_column(m) for m in measures]
    columns = (_RANK, _METHOD, _FAMILY, heads[0], iqm, *heads[1:], *_PROVENANCE)

    def row(standing: Standing) -> Row:
        main = standing.estimates[by.key]
        numbers = [_number(standing.estimates[m.key], m.digits) for m in measures]
        middle = _plain(None if main is None else main.iqm, by.digits)
        fields = (*_who(standing), numbers[0], middle, *numbers[1:], *_provenance(standing))
        return Row(fields, standing.runs)

    grid = within.grid
    usual = value_of(metric(DEFAULT))
    told = by.key != UNTOLD or any(entry.values(usual) for entry in shown.entries)
    note = "" if told else "Nobody knows the circuit of these tasks: what needs none is compared. "
    note += (
        f"Means over {count(len(grid.tasks), 'task')} (each on a model) x "
        f"{count(len(grid.seeds), 'seed')}, ranked by {_ranked_by(by)}{_spans(within)}; "
        f"{_legend(within)}. A method that lacks a run of the grid is shown with its "
        "coverage and not ranked; the tables per task compare it where it has all runs."
    )
    standings = [standing for standing in within.standings if standing.entry.track == track]
    complete = sum(standing.rank is not None for standing in standings)
    if complete < len(standings):
        note += (
            f" {complete} of {count(len(standings), 'method')} have all of these runs; "
            "--tasks and --seeds narrow the comparison to what more of them share."
        )
    note += told_apart(within, track)
    return Table("overall", "Overall", note, columns, tuple(map(row, standings)))


def _tasks(shown: Board) -> Table:
    by = shown.by
    measures = (by, *(m for m in main_metrics() if m != by))
    heads = [_column(m) for m in measures]
    columns = (*_PLACE, _TRACK, _RANK, _METHOD, _FAMILY, *heads, *_PROVENANCE)
    rows = [
        Row(
            (
                *(_text(part) for part in (*task, standing.entry.track)),
                *_who(standing),
                *(_number(standing.estimates[m.key], m.digits) for m in measures),
                *_provenance(standing),
            ),
            standing.runs,
        )
        for task, within in shown.by_task.items()
        for standing in within.standings
    ]
    legends = sorted({_spans(within) + "; " + _legend(within) for within in shown.by_task.values()})
    note = f"Means over seeds for each task on a model, ranked by {_ranked_by(by)}"
    note += f"{' or '.join(legends)}."
    return Table("tasks", "Per task", note, columns, tuple(rows))


def _levels(shown: Board) -> list[Table]:
    def at(run: RunRow, level: int) -> float | None:
        reached = [v for queries, v in run.curves.get(shown.by.key, ()) if queries <= level]
        return reached[-1] if reached else None

    entries = [s.entry for s in shown.overall.standings]
    found = {
        level: estimates(
            entries,
            partial(at, level=level),
            shown.overall.grid,
            f"level {level}",
            sign=shown.by.sign,
        )
        for level in LEVELS
    }
    useful = [level for level in LEVELS if any(found[level])]
    # Beyond the level where nothing changes any more there is nothing to read.
    while len(useful) > 1 and _means(found[useful[-1]]) == _means(found[useful[-2]]):
        useful.pop()
    columns = (
        _METHOD,
        *(
            Column(f"q{level}", f"{level:,}", f"After {level:,} discovery queries.", numeric=True)
            for level in useful
        ),
        Column("training", "Training", "Oracle queries of training beforehand.", numeric=True),
        *_PROVENANCE,
    )
    training = metric("training_queries")
    rows = tuple(
        _row(
            standing,
            *(_number(found[level][i], shown.by.digits) for level in useful),
            _number(standing.estimates["training_queries"], training.digits),
        )
        for i, standing in enumerate(shown.overall.standings)
    )
    note = (
        f"{shown.by.title} of the best ranking a method could have given after that many discovery "
        "queries, mean over the same runs as the overall table; none where it had no ranking yet. "
        f"Training is not among the queries; {_legend(shown.overall)}."
    )
    table = Table("costs", "Per cost level (discovery queries)", note, columns, rows)
    return by_track(table, shown.overall.standings)


def _function(shown: Board) -> list[Table]:
    entries = [s.entry for s in shown.overall.standings]
    found: dict[Metric, list[Estimate | None]] = {}
    for measure in of_kind("function"):
        column = estimates(
            entries, value_of(measure), shown.overall.grid, measure.key, sign=measure.sign
        )
        if any(column):
            found[measure] = column
    rows = tuple(
        _row(standing, *(_number(found[m][i], m.digits) for m in found))
        for i, standing in enumerate(shown.overall.standings)
    )
    note = (
        "What needs no truth, mean over the same runs as the overall table: faithfulness of the "
        "committed heads (1 = the whole metric kept), and the areas of MIB (Mueller et al. 2025) "
        "over circuit sizes, CPR never without CMD. For CMD lower is better; it alone is marked."
    )
    columns = (_METHOD, *map(_column, found), *_PROVENANCE) if found else ()
    table = Table("function", "Function", note, columns, rows)
    return by_track(table, shown.overall.standings)


def _edges(shown: Board) -> list[Table]:
    main, *others = of_kind("edges")
    within = ranking([e for e in shown.entries if e.values(value_of(main))], main)
    entries = [s.entry for s in within.standings]
    found = {m: estimates(entries, value_of(m), within.grid, m.key, sign=m.sign) for m in others}
    others = [m for m in others if any(found[m])]
    queries = metric("queries")
    rows = tuple(
        _row(
            standing,
            _number(standing.estimates[main.key], main.digits),
            *(_number(found[m][i], m.digits) for m in others),
            _number(standing.estimates[queries.key], queries.digits),
        )
        for i, standing in enumerate(within.standings)
    )
    columns = (_METHOD, *map(_column, (main, *others)), _column(queries), *_PROVENANCE)
    note = (
        f"Ranking of all edges, mean over {count(len(within.grid.tasks), 'task')} whose truth "
        f"names edges x {count(len(within.grid.seeds), 'seed')}; methods that score edges; "
        "where no edges are committed, sets are the R best ranked, R being how many are true; "
        "CPR and CMD as MIB computes them (Mueller et al. 2025), CPR never without CMD; "
        f"{_legend(within)}."
    )
    table = Table("edges", "Edges", note, columns if rows else (), rows)
    return by_track(table, within.standings)


def _untold(shown: Board) -> Table:
    """Tasks without a truth: what can be said all the same."""
    by, queries = metric(UNTOLD), metric("queries")
    measures = (by, *(m for m in of_kind("function") if m != by))
    rows = []
    for task in all_tasks(list(shown.untold)):
        within = ranking(shown.untold, by, task)
        entries = [s.entry for s in within.standings]
        found = [estimates(entries, value_of(m), within.grid, m.key, sign=m.sign) for m in measures]
        for i, standing in enumerate(within.standings):
            numbers = [
                _number(column[i], m.digits) for m, column in zip(measures, found, strict=True)
            ]
            cost = _number(standing.estimates[queries.key], queries.digits)
            who = (_text(standing.entry.track), *_who(standing))
            fields = (*map(_text, task), *who, *numbers, cost, *_provenance(standing))
            rows.append(Row(fields, standing.runs))
    columns = (
        *_PLACE, _TRACK, _RANK, _METHOD, _FAMILY, *map(_column, (*measures, queries)), *_PROVENANCE
    )  # fmt: skip
    note = (
        "Nobody knows the circuit of these tasks, so nothing here says whether the right heads "
        f"were found: only what the model keeps of its behaviour with them. Ranked by {by.title} "
        "(the smaller, the nearer the model over all circuit sizes); means over seeds."
    )
    return Table(
        "untold", "Tasks without a known circuit", note, columns if rows else (), tuple(rows)
    )


def on_the_grid(shown: Board, entry: Entry, measure: Metric) -> Estimate | None:
    """What an entry of another version has over the runs that the board's ranking rests on."""
    grid, key = shown.overall.grid, measure.key
    return estimates([entry], value_of(measure), grid, key, sign=0)[0]


def _elsewhere(shown: Board) -> Table:
    """Runs of other versions: shown, not ranked."""
    measures = (shown.by, metric("queries"))
    grid = shown.overall.grid
    rows = []
    for entry in shown.elsewhere:
        done = grid.covered(entry.values(value_of(shown.by)))
        place = Standing(entry, None, done, grid.size, {}, entry.runs)
        numbers = (_number(on_the_grid(shown, entry, m), m.digits) for m in measures)
        rows.append(_row(place, *numbers))
    columns = (_METHOD, *map(_column, measures), *_PROVENANCE)
    note = (
        f"The board is of {shown.source}. These runs are of other versions or commits, so they "
        "are not ranked with it; means over the runs that its ranking rests on, if all are there."
    )
    return Table(
        "elsewhere", "Of other versions, not ranked", note, columns if rows else (), tuple(rows)
    )


def _external(shown: Board) -> Table:
    runs = [run for entry in shown.external for run in entry.runs if run.status == "done"]
    shown_kinds = (*of_kind("quality"), *of_kind("edges"))
    measures = [m for m in shown_kinds if any(m.key in r.values for r in runs)]
    file = Column("file", "File", "The circuit file that was read.")
    columns = (_METHOD, *_PLACE, file, *map(_column, measures), _VERSION, _COMMIT)

    def row(run: RunRow) -> Row:
        words = (run.method, run.task, run.model_name, str(run.spec["external"].get("file", "")))
        numbers = (_plain(run.values.get(m.key), m.digits) for m in measures)
        version = str(run.versions.get("circuitbench") or "unknown")
        fields = (*map(_text, words), *numbers, _text(version), _text(short_commit(run)))
        return Row(fields, (run,))

    note = (
        "Circuits that other tools found, read from their files (circuitbench import) and held "
        "against the truth here. What they cost is not known, so they are not ranked with the "
        "methods. A head counts by the largest absolute score of its edges unless the file scores "
        "heads; a file that names no set of edges or heads has F1 0."
    )
    rows = tuple(map(row, runs))
    return Table("external", "Circuits found elsewhere", note, columns if rows else (), rows)


def role_recalls(within: Ranking) -> dict[str, list[Estimate | None]]:
    """Per role, each standing's mean recall of its heads among the R best ranked."""

    def recall(run: RunRow, name: str) -> float | None:
        return run.roles.get(name)

    entries = [s.entry for s in within.standings]
    names = {name for s in within.standings for run in s.runs for name in run.roles}
    return {
        name: estimates(entries, partial(recall, name=name), within.grid, f"role {name}")
        for name in sorted(names)
    }


def _roles(task: TaskOnModel, within: Ranking) -> list[Table]:
    found = role_recalls(within)
    names = list(found)
    rows = tuple(
        _row(standing, *(_number(found[name][i]) for name in names))
        for i, standing in enumerate(within.standings)
    )
    columns = (
        _METHOD,
        *(Column(name, name, f"Recall of the heads of {name}.", numeric=True) for name in names),
        *_PROVENANCE,
    )
    note = (
        "Share of each role's heads among the R best ranked, R being the circuit's size; mean over "
        f"seeds; {_legend(within)}."
    )
    key = f"roles-{task.task}-{task.model}"
    table = Table(key, f"Per role: {task}", note, columns if names else (), rows, task)
    return by_track(table, within.standings)


def _column(metric: Metric) -> Column:
    label = f"{metric.title} ({metric.unit})" if metric.unit else metric.title
    return Column(metric.key, label, metric.about, numeric=True, minor=metric.minor)


def _legend(ranked: Ranking) -> str:
    return LEGEND if ranked.tested else TOO_FEW


def _ranked_by(by: Metric) -> str:
    return f"{by.title} (near ties count as ties)" if by.key in PLACED_BY else by.title


def _spans(ranked: Ranking) -> str:
    if len(ranked.grid.seeds) < 2:
        return ""
    return ", with 95 % bootstrap interval over plantings, tasks and prompts"


def count(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _who(standing: Standing) -> tuple[Field, ...]:
    rank = standing.rank
    place = Field("–" if rank is None else f"{rank}{'=' * standing.shared}", rank)
    return place, _text(standing.entry.label), _text(standing.entry.family)


def _row(standing: Standing, *numbers: Field) -> Row:
    fields = (_text(standing.entry.label), *numbers, *_provenance(standing))
    return Row(fields, standing.runs)


def _provenance(standing: Standing) -> tuple[Field, ...]:
    versions = {str(run.versions.get("circuitbench") or "unknown") for run in standing.runs}
    commits = {short_commit(run) for run in standing.runs}
    coverage = f"{standing.done}/{standing.expected}"
    return _text(coverage), _text(", ".join(sorted(versions))), _text(", ".join(sorted(commits)))


def _text(text: str) -> Field:
    return Field(text, text)


def _plain(value: float | None, digits: int) -> Field:
    return Field("–", None) if value is None else Field(f"{value:,.{digits}f}", value)


def _number(estimate: Estimate | None, digits: int = 3) -> Field:
    if estimate is None:
        return Field("–", None)
    text = f"{estimate.mean:,.{digits}f}"
    if estimate.interval is not None:
        low, high = estimate.interval
        text += f" ({low:.{digits}f}–{high:.{digits}f})"
    return Field(text, estimate.mean, estimate.interval, estimate.mark)


def _moved(places: int) -> Field:
    return Field(f"{places:+d}" if places else "0", places)


def _means(found: Sequence[Any]) -> list[float | None]:
    return [None if e is None else e.mean for e in found]
