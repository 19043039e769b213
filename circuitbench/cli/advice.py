"""How the examination of a plug-in reads: what was checked, what is broken, what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitbench.checks.contracts import Finding
    from circuitbench.checks.plugin import Report

WIDTH = 96
MARKS = {"kept": "ok", "broken": "BROKEN", "unsaid": "note", "unknown": "-"}


def lines(report: Report, traceback: bool = False) -> Iterator[str]:
    """The report line by line; with ``traceback`` also where a promise broke."""
    yield f"{report.what} {report.name}: {' and '.join(report.origins)}"
    for finding in report.findings:
        yield from _finding(finding, traceback)
    broken, total = len(report.broken), len(report.findings)
    if not broken:
        yield f"All {total} promises are kept."
        return
    unknown = sum(finding.standing == "unknown" for finding in report.findings)
    later = f"; {unknown} could not be looked at yet" if unknown else ""
    yield f"{broken} of {total} promises broken{later}."
    if not traceback:
        yield f"See where: circuitbench check {report.name} --kind {report.what} --traceback"


def _finding(finding: Finding, traceback: bool) -> Iterator[str]:
    yield f"  {MARKS[finding.standing]:<7} {finding.name}: {finding.says}"
    if finding.standing == "unknown":
        yield f"          not looked at: first mend {finding.message!r}"
    elif finding.standing != "kept":
        yield from _folded("found", finding.message)
        yield from _folded("do", finding.advice)
    if traceback and finding.traceback:
        yield textwrap.indent(finding.traceback.rstrip(), " " * 12)


def _folded(label: str, text: str) -> list[str]:
    start = f"          {label + ':':<7}"
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
