"""The results in words and files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuitbench.results import write_atomically
from circuitbench_experiments.folder import write_json
from circuitbench_experiments.mechrl.report import Estimate
from circuitbench_experiments.mechrl_edges.cost import DISCOVERIES, amortised
from circuitbench_experiments.mechrl_edges.plots import recovery_against_passes, size_against_faith
from circuitbench_experiments.mechrl_edges.table import (
    RECOVERY,
    SIZE,
    Duel,
    Line,
    Payback,
    duels,
    flat,
    lines,
    paybacks,
)
from circuitbench_experiments.mechrl_edges.targets import GROUPS

WANTED = 3  # tasks of five, on which the policy is to be above all rivals


def markdown(results: Mapping[str, Any]) -> str:
    """Tables, training cost, payback and verdicts."""
    out = io.StringIO()
    table = lines(results)
    for group in (g for g in GROUPS if any(aim["group"] == g for aim in results["targets"])):
        here = [line for line in table if line.group == group]
        print(f"### {group[0].upper()}{group[1:]}\n\n{_asked(results, group)}\n", file=out)
        if here:
            print(_table(here, SIZE), file=out)
        if any(set(RECOVERY) & set(line.estimates) for line in here):
            print(_table(here, RECOVERY), file=out)
    if table:
        print(_reading(results), file=out)
        print("### Training, and when it is paid back\n", file=out)
        print(_training(results, paybacks(results, table)), file=out)
    if results["contest"]:
        print(_contest(results, duels(results)), file=out)
    return out.getvalue()


def _asked(results: Mapping[str, Any], group: str) -> str:
    aims = [aim for aim in results["targets"] if aim["group"] == group]
    by_place: dict[str, list[Mapping[str, Any]]] = {}
    for aim in aims:
        by_place.setdefault(aim["place"], []).append(aim)
    said = []
    for place, found in by_place.items():
        reasons = dict.fromkeys(aim["failed"] for aim in found if aim["failed"])
        if reasons:
            said.append(f"{place}: left out, {'; '.join(reasons)}")
            continue
        taus = [aim["tau"] for aim in found]
        span = (
            f"{min(taus):.2f}"
            if max(taus) - min(taus) < 0.005
            else (f"{min(taus):.2f} to {max(taus):.2f}")
        )
        true = sorted({aim["true_edges"] for aim in found if aim["true_edges"] is not None})
        known = f", {'/'.join(map(str, true))} true edges" if true else ""
        said.append(f"{place}: tau {span}{known} of {found[0]['n_edges']:,}")
    return "; ".join(said) + "."


def _table(table: Sequence[Line], columns: Mapping[str, str]) -> str:
    rows = [f"| arm | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for line in table:
        cells = [_cell(line.estimates.get(figure)) for figure in columns]
        if line.failed:
            cells[0] = f"no answer: {'; '.join(line.failed)}"
        rows.append(f"| {line.arm} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    shown = ".2f" if estimate.mean < 10 else ",.0f"
    mean, low, high = (format(x, shown) for x in (estimate.mean, estimate.low, estimate.high))
    return mean if low == high else f"{mean} [{low}, {high}]"


def _reading(results: Mapping[str, Any]) -> str:
    seeds = len(results["settings"]["seeds"])
    return (
        f"Means over {seeds} seeds and all tasks of a group with 95 % intervals; of sizes "
        "geometric ones. Edges at tau: the smallest circuit of the arm whose "
        "faithfulness is tau or more on the prompts for choosing; the whole model where there is "
        "none (`of them a circuit` is the share of runs where there is one). Faithfulness is that "
        "circuit's on the prompts for judging. Queries and passes include those for choosing, and "
        "of the warm policy its short training; a backward pass is two passes. Precision, recall "
        "and F1 are of the set that an arm commits to by itself.\n"
    )


def _training(results: Mapping[str, Any], found: Sequence[Payback]) -> str:
    out = []
    costs: dict[str, list[Mapping[str, Any]]] = {}
    for cost in results["training"]:
        costs.setdefault(cost["key"], []).append(cost)
    for key, runs in costs.items():
        method, n = key.rpartition("-")[0], len(runs)
        queries, passes = (sum(run[k] for run in runs) / n for k in ("queries", "passes"))
        out.append(
            f"- {method}: {queries:,.0f} queries, {passes:,.0f} passes per training "
            f"({sum(run['seconds'] for run in runs) / n:,.0f} s)."
        )
    out += [
        "",
        "| group | arm | per discovery | with training, over 10 | over 100 | over 1,000 "
        "| paid back after |",
        "|---" * 7 + "|",
    ]
    for back in found:
        shared = " | ".join(f"{passes:,.0f}" for passes in back.shared.values())
        never = [arm for arm, n in back.against.items() if n is None]
        said = [f"{n:,} ({arm})" for arm, n in back.against.items() if n is not None]
        said += [f"never ({', '.join(never)})"] if never else []
        out.append(
            f"| {back.group} | {back.arm} | {back.discovery:,.0f} | {shared} | {', '.join(said)} |"
        )
    return "\n".join(out) + (
        "\n\nIn passes. Paid back: the discoveries after which training and discoveries together "
        "cost no more than the other arm's discoveries; what they find is in the tables above.\n"
    )


def _contest(results: Mapping[str, Any], found: Sequence[Duel]) -> str:
    settings = results["settings"]
    rivals = max(len(duel.rivals) for duel in found)
    out = [
        "### Heads at equal queries\n",
        f"{settings['head_queries']} queries each on {', '.join(settings['presets'])}, planted "
        f"anew for each of {len(settings['seeds'])} seeds; {rivals} methods that do not learn. "
        "Average precision.\n",
        "| task | policy, frozen | best rival | next | reached |",
        "|---|---|---|---|---|",
    ]
    for duel in found:
        best = [f"{name} {_cell(e)}" for name, e in duel.rivals[:2]]
        cells = [duel.task, _cell(duel.policy), *best, *[""] * (2 - len(best))]
        out.append(f"| {' | '.join(cells)} | {'yes' if duel.reached else 'no'} |")
    failed = {name: reason for duel in found for name, reason in duel.failed}
    if failed:
        out += ["", "No answer: " + "; ".join(f"{k} ({v})" for k, v in failed.items()) + "."]
    reached = sum(duel.reached for duel in found)
    costs = results["contest_training"]
    queries, passes = (sum(c[k] for c in costs) / max(1, len(costs)) for k in ("queries", "passes"))
    spread = ", ".join(f"{amortised(queries, 0, n):,.0f}" for n in DISCOVERIES)
    out += [
        "",
        f"The policy's training is not in these queries: it took {queries:,.0f}, {passes:,.0f} "
        f"passes. Over {', '.join(f'{n:,}' for n in DISCOVERIES)} discoveries that is {spread} "
        "queries each. Where all ask as many, a training is paid back by what is found, never by "
        "cost.",
        "",
        f"- {'reached' if reached >= WANTED else 'NOT reached'}: the frozen policy's average "
        f"precision of heads above every method that does not learn, intervals apart, on at least "
        f"{WANTED} of 5 tasks (reached on {reached} of {len(found)} tasks)",
    ]
    return "\n".join(out) + "\n"


def write_report(results: Mapping[str, Any], out: Path) -> list[Path]:
    """``results.md``, ``.json``, ``.csv`` and the figures into ``out``; gives their paths."""
    paths = [out / f"results.{ending}" for ending in ("md", "json", "csv")]
    write_atomically(paths[0], markdown(results))
    write_json(paths[1], results)
    write_atomically(paths[2], flat(results))
    if not all(cell["failed"] for cell in results["cells"]):
        figures = {
            "size-against-faithfulness": size_against_faith(results),
            "recovery-against-passes": recovery_against_passes(results),
        }
        for name, figure in figures.items():
            path = out / f"{name}.png"
            figure.savefig(path, dpi=150, facecolor="white")
            paths.append(path)
    return paths
