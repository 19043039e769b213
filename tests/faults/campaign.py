"""Many of each fault, with figures for docs/sweeps.md.

python tests/faults/campaign.py                 # all of them: minutes
python tests/faults/campaign.py worker driver   # some
"""

from __future__ import annotations

import argparse
import errno
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

KITS = Path(__file__).parents[1] / "kits"
sys.path.insert(0, str(KITS))

import faulty_sweeps as faulty  # noqa: E402
import mischief  # noqa: E402
import rogues  # noqa: E402

WHAT = ("long", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "unreadable", "ValueError")
ANSWERS = (
    *("nothing", "shape", "objects", "nan", "nan-info", "object-info", "cycle", "deep", "digits"),
    *("surrogate", "huge", "trace"),
)
SPEAKS = ("noise", "json", "length", "question", "attribute", "forged")
STRANGE = [
    *(("rogue-raises", {"what": what}, "failed") for what in WHAT),
    *(("rogue-ends", {"how": how}, "failed") for how in ("exit", "kill", "thread")),
    ("rogue-ends", {"how": "hang"}, "timeout"),
    *(("rogue-eats", {"where": where}, "failed") for where in ("here", "child")),
    *(("rogue-answers", {"what": what}, "failed") for what in ANSWERS),
    *(("rogue-speaks", {"what": what}, "failed") for what in SPEAKS),
    *(("rogue-does", {"what": what}, status) for what, status in mischief.ENDINGS.items()),
    ("rogue-prints", {}, "done"),
    ("rogue-changes", {}, "done"),
    ("rogue-spies", {}, "done"),
    ("rogue-kills", {}, "failed"),
    ("rogue-misnamed", {}, "failed"),
    ("rogue-exits-at-import", {}, "failed"),
]


@contextmanager
def plug_ins(folder: Path) -> Iterator[None]:
    """Rogues, installed as strangers' packages."""
    rogues.install(folder)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def strange(out: Path) -> faulty.Count:
    """Every plug-in that misbehaves."""
    (out / "packages").mkdir()
    with plug_ins(out / "packages"):
        return faulty.misbehaving(out, STRANGE, 8)


FAULTS: dict[str, Callable[[Path], faulty.Count]] = {
    "worker": lambda out: faulty.workers_killed(out, times=50, runs=8),
    "driver": lambda out: faulty.driver_ended(out, signal.SIGKILL, times=5, runs=40),
    "interrupt": lambda out: faulty.driver_ended(out, signal.SIGINT, times=3, runs=24),
    "terminate": lambda out: faulty.driver_ended(out, signal.SIGTERM, times=3, runs=24),
    "full": lambda out: faulty.disk_full(out, 8),
    "no-space": lambda out: faulty.folder_fails(out, errno.ENOSPC, 8, setattr),
    "read-only": lambda out: faulty.folder_fails(out, errno.EROFS, 8, setattr),
    "damage": lambda out: faulty.damaged(out, flips=3_000),
    "writers": lambda out: faulty.many_writers(out, writers=16, times=25),
    "clock": lambda out: faulty.clock_jumps(out, 16, setattr),
    "device": lambda out: faulty.memory_of_the_device(out, 12, setattr),
    "plug-ins": strange,
}


def main() -> None:
    """Print a line of the table for each fault; the exit status is 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    chosen = parser.parse_args().faults or list(FAULTS)
    if unknown := set(chosen) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    counts = []
    print("| fault | injected | runs | lost | stray files |\n| --- | ---: | ---: | ---: | ---: |")
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            counts.append(FAULTS[name](Path(folder)))
        print(counts[-1].line(), flush=True)
    sys.exit(any(count.lost or count.stray for count in counts))


if __name__ == "__main__":
    main()
