"""Sweeps on a Ray cluster of several nodes on this machine: driver and node are lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from records_kit import content

from circuitbench.core.errors import InvalidSpec
from circuitbench.core.extras import MissingExtra
from circuitbench.results import read_folder, remove_leftovers, versions
from circuitbench.runs.drive import drive
from circuitbench.runs.launch.on_ray import Ray
from circuitbench.runs.launch.place import Place
from circuitbench.runs.plan import plan
from circuitbench.runs.spec import RunSpec
from circuitbench.runs.state import remove_dead
from circuitbench.runs.sweep import grid, run_all

BASE = RunSpec(batch_size=4, device="cpu", functional="none")
SPECS = grid(BASE, ["random", "head-ablation"], ["reverse", "histogram"], range(6))
# Ray leaves its pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that runs nothing, and two nodes for one run each."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_driver_and_node_are_lost_and_no_run_is(cluster: Any, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1, num_gpus=i) for i in range(2)]
    out = tmp_path / "out"
    # A driver that is killed, after a few records.
    command = [sys.executable, "-m", "circuitbench", "sweep", "--methods", "random,head-ablation"]
    command += ["--tasks", "reverse,histogram", "--seeds", "0-5", "--batch-size", "4"]
    command += ["--device", "cpu", "--functional", "none", "--out", str(out)]
    command += ["--launcher", "ray", "--address", cluster.address]
    driver = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    while not out.is_dir() or len(read_folder(out)[0]) < 4:
        assert driver.poll() is None, driver.stderr and driver.stderr.read()
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait(60) == -signal.SIGKILL
    assert driver.stderr is not None
    driver.stderr.close()
    # It comes back, and a node goes; the other one does the rest.
    remove_leftovers(out)
    remove_dead(out)
    launcher = Ray(cluster.address, out=out)
    try:
        assert launcher.slots == 2
        made = plan(SPECS, out, launcher)
        kept = len(made.kept)
        assert 4 <= kept < len(SPECS) - 4
        ended = 0
        for _ in drive(made, launcher):
            ended += 1
            if ended == 2:
                cluster.remove_node(nodes[0], allow_graceful=False)
        assert ended == len(SPECS) - kept
        # What a share of a GPU makes room for: one node has one, and one core.
        assert (Ray(gpus=0.25).slots, Ray(gpus=1).slots) == (1, 1)
        with pytest.raises(InvalidSpec, match=r"takes 1 cores and 2 GPUs, and no node .* has that"):
            Ray(gpus=2)
    finally:
        launcher.close()
        remove_leftovers(out)
    records, problems = read_folder(out)
    assert problems == []
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []
    here = [content(record) for record, _ in run_all(SPECS, tmp_path / "here")]
    by_id = {found["run_id"]: found for found in map(content, records)}
    assert by_id == {found["run_id"]: found for found in here}


def test_what_cannot_be_reached_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InvalidSpec, match=f"no Ray cluster at {address}: Connection refused"):
            Ray(address)
    with pytest.raises(InvalidSpec, match="auto or host:port, not 'here:there'"):
        Ray("here:there")
    with pytest.raises(InvalidSpec, match="no Ray cluster at auto: Could not find any running"):
        Ray("auto")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpus": 1.5}, "a share up to 1, or whole ones, not 1.5"),
        ({"gpus": -1.0}, "not -1"),
        ({"gpus": float("nan")}, "not nan"),
        ({"workers": 0}, "workers must be 1 or more"),
        ({"threads": 0}, "threads must be 1 or more"),
    ],
)
def test_wrong_shares_are_refused_before_a_cluster_is_looked_for(
    wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidSpec, match=said):
        Ray("127.0.0.1:1", **wrong)


def test_without_the_extra_one_line_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"--launcher ray needs ray: .*circuitbench\[ray\]"):
        Ray()


def test_a_place_says_what_is_wrong_with_its_machine_and_else_does_jobs(tmp_path: Path) -> None:
    place, cwd, ours = Place(1), os.getcwd(), versions()
    try:
        assert "has no folder" in place.ready(str(tmp_path / "none"), [], None, ours)
        said = place.ready(str(tmp_path), [], str(tmp_path / "mark"), ours)
        assert "does not see the records" in said
        (tmp_path / "mark").touch()
        said = place.ready(str(tmp_path), [], str(tmp_path / "mark"), {**ours, "numpy": "1.0"})
        assert f"has numpy {ours['numpy']}, this machine 1.0" in said
        assert place.ready(str(tmp_path), [], str(tmp_path / "mark"), ours) == ""
        job = {"do": "resolve", "specs": [asdict(SPECS[0])]}
        told = json.loads(place.start(json.dumps(job)))
        while told == [] or told[-1][0] == "progress":
            told = json.loads(place.more())
        ((kind, (found,)),) = told
        assert (kind, found["identity"]["method"]) == ("done", "random")
    finally:
        os.chdir(cwd)
        place.close()
