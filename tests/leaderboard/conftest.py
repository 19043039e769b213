from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_kit import (
    EVIL,
    QUOTES,
    TOLD,
)
from synthetic_records import record, rows, store, sweep

from circuitbench_leaderboard import render
from circuitbench_leaderboard.details import FOLDER


@pytest.fixture(scope="module")
def site(tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("page")
    records = sweep(("acdc", "random", "rl-ppo"), seeds=range(2))
    records[0] = records[0].replace(
        command=EVIL,
        truth={**records[0].truth, "source": EVIL},
        hardware={EVIL: EVIL, "__proto__": QUOTES, "quotes": QUOTES},
    )
    records = [r.replace(info={"method": TOLD}) if r.method == "acdc" else r for r in records]
    records += [
        record("head-ablation", "ioi", 0),
        record("head-ablation", "ioi", 1, status="failed", reason=EVIL, discovery={}),
    ]
    path = render(store(records, folder / "results"), "html", folder / "site")
    return Path(path), records


@pytest.fixture(scope="module")
def text(site: Any) -> Any:
    return site[0].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scripts(site: Any) -> Any:
    """File name -> details file."""
    return {p.name: p.read_text() for p in (site[0].parent / FOLDER).iterdir()}


@pytest.fixture(scope="module")
def large() -> Any:
    """As many runs as the published reference run has: 23 methods, 15 tasks, 5 seeds."""
    made = rows(sweep(seeds=range(5)))
    kinds = [run for run in made if run.task == "ioi"][:5]
    return [
        replace(
            kinds[seed],
            method=f"method-number-{m}",
            task=f"task-number-{t}",
            model_name=f"model-number-{t}",
            seed=seed,
            run_id=hashlib.sha256(f"{m} {t} {seed}".encode()).hexdigest()[:16],
            # Numbers of full length, all different.
            values={
                key: value * (1 - 1e-3 * (m + t / 16) / 24)
                for key, value in kinds[seed].values.items()
            },
        )
        for m in range(23)
        for t in range(15)
        for seed in range(5)
    ]
