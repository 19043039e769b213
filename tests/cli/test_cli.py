"""The command line as a user meets it: what it prints, writes and refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuitbench.cli.commands import cli, main
from circuitbench.results import read_folder, read_record, write_record


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run a command line in an empty folder; returns status, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Any:
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def results(tmp_path_factory: Any) -> Any:
    """Three finished runs."""
    folder = tmp_path_factory.mktemp("results")
    words = ["sweep", "--methods", "random", "--tasks", "induction,ioi", "--seeds", "0,1"]
    assert main([*words, "--batch-size", "4", "--out", str(folder)]) == 0
    return folder


def refused(answer: Any, *parts: Any) -> Any:
    """Exit status 2, one line on standard error holding the parts, no traceback."""
    status, out, err = answer
    assert status == 2, (status, out, err)
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in err
    for part in parts:
        assert part in last
    return True


def test_run_writes_one_record_and_prints_the_summary(call: Any, tmp_path: Path) -> None:
    status, out, err = call("run", "--method", "head-ablation", "--task", "ioi", "--batch-size", 8)
    assert status == 0, err
    for word in ("found heads", "AUROC", "average precision", "F1", "queries", "seconds"):
        assert word in out
    (path,) = (tmp_path / "results").glob("*.json")
    record = read_record(path)
    assert record.status == "done"
    assert record.costs["discovery"]["queries"] == 144
    assert record.spec["hyperparameters"]["score"] == "reward"
    assert str(path.name) in out


def test_the_recorded_command_repeats_the_run(call: Any, tmp_path: Path) -> None:
    import shlex

    words = ("run", "--method", "acdc", "--batch-size", 8, "--seed", 5, "--set", "objective=metric")
    assert call(*words, "--out", "a")[0] == 0
    (first,), _ = read_folder(tmp_path / "a")
    command = shlex.split(first.command)
    assert command[0] == "circuitbench"
    assert call(*command[1:], "--out", "b")[0] == 0
    (second,), _ = read_folder(tmp_path / "b")
    assert second.run_id == first.run_id
    assert second.measurements == first.measurements
    assert second.discovery == first.discovery


def test_the_command_line_outranks_the_file_and_the_file_the_defaults(
    call: Any, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(
        "method: random\ntask: ioi\nseed: 4\nbatch_size: 4\nout: here\n"
        "hyperparameters: {share: 0.5}\n"
    )
    assert call("run", "--config", "run.yaml", "--seed", 6, "--set", "share=0.25")[0] == 0
    (record,), _ = read_folder(tmp_path / "here")
    assert (record.method, record.task, record.seed) == ("random", "ioi", 6)
    assert record.spec["hyperparameters"]["share"] == 0.25
    assert record.spec["weight"] == 1.0
    assert len(record.discovery["selected"]) == 36


def test_unknown_names_suggest_the_nearest(call: Any) -> None:
    assert refused(call("run", "--method", "rlppo"), "'rlppo'", "did you mean 'rl-ppo'")
    assert refused(call("run", "--method", "random", "--task", "iio"), "did you mean 'ioi'")
    assert refused(call("run", "--method", "random", "--model", "plantd"), "did you mean 'planted")
    assert refused(call("rum"), "did you mean 'run'")
    assert refused(call("run", "--methd", "random"), "did you mean '--method'")
    assert refused(call("list", "method"), "did you mean 'methods'")
    assert refused(
        call("run", "--method", "acdc", "--set", "treshold=1"), "did you mean 'threshold'"
    )


def test_bad_values_are_refused_before_anything_runs(call: Any, tmp_path: Path) -> None:
    quick = ("run", "--method", "random")
    assert refused(call(*quick, "--budget", -3), "budget", "-3")
    assert refused(call(*quick, "--budget", 0), "budget", "at least one query")
    assert refused(call(*quick, "--budget", "few"), "budget", "few")
    assert refused(call(*quick, "--device", "tpu"), "device", "tpu")
    assert refused(call(*quick, "--set", "share"), "key=value")
    assert refused(call(*quick, "--set", "share=much"), "share", "much")
    assert refused(call(*quick, "--model", "planted@zero"), "zero")
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none_is_an_error_not_a_fallback(call: Any) -> None:
    assert refused(call("run", "--method", "random", "--device", "cuda"), "cuda", "valid here")


def test_malformed_yaml_is_named(call: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("method: [random\n")
    assert refused(call("run", "--config", "bad.yaml"), "bad.yaml", "not valid YAML")
    assert refused(call("run", "--config", "absent.yaml"), "absent.yaml")
    (tmp_path / "key.yaml").write_text("methode: random\n")
    assert refused(call("run", "--config", "key.yaml"), "key.yaml", "did you mean 'method'")


def test_an_unwritable_folder_is_named_before_the_run(call: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert refused(call("run", "--method", "random", "--out", "file/results"), "file")


def test_a_folder_that_fails_after_the_run_loses_nothing(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuge = tmp_path / "refuge"
    refuge.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(refuge))

    def full_disk(record: Any, folder: Path) -> Any:
        if "refuge" not in str(folder):
            from circuitbench.core.errors import InvalidSpec

            raise InvalidSpec(f"cannot write to {folder}: No space left on device")
        return write_record(record, folder)

    monkeypatch.setattr("circuitbench.runs.once.write_record", full_disk)
    answer = call("run", "--method", "random", "--batch-size", 4, "--out", "out")
    assert refused(answer, "No space left", "the record was saved to")
    (path,) = refuge.rglob("*.json")
    assert read_record(path).status == "done"


def test_a_run_that_fails_exits_1_and_is_recorded(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuitbench_baselines.random import RandomRanking

    def explode(self: Any, oracle: Any, rng: np.random.Generator) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(RandomRanking, "discover", explode)
    status, _, err = call("run", "--method", "random", "--batch-size", 4, "--in-process")
    assert status == 1
    assert "ZeroDivisionError: by zero" in err
    assert "Traceback" not in err
    (record,), _ = read_folder(tmp_path / "results")
    assert (record.status, record.stage, record.discovery) == ("failed", "discovering", {})
    assert "failed while discovering: ZeroDivisionError: by zero" in err
    assert record.path is not None
    status, out, _ = call("show", record.path)
    assert status == 0
    assert "failed while discovering: ZeroDivisionError: by zero" in out
    assert "in explode" in out  # the traceback


@pytest.mark.parametrize("way", ["option", "environment"])
@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_plug_in_authors_see_what_was_raised(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, verb: str
) -> None:
    from circuitbench.core.errors import RunFailed
    from circuitbench_baselines.random import RandomRanking

    def explode(self: Any, oracle: Any, rng: np.random.Generator) -> None:
        raise RunFailed("mine") from KeyError("cause")

    monkeypatch.setattr(RandomRanking, "discover", explode)
    words = [verb, "--method" if verb == "run" else "--methods", "random", "--batch-size", 4]
    if way == "environment":
        monkeypatch.setenv("CIRCUITBENCH_DEBUG", "1")
    else:
        words.append("--raise")
    with pytest.raises(RunFailed, match="mine") as caught:
        call(*words)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.traceback[-1].name == "explode"
    (record,), _ = read_folder(tmp_path / "results")
    assert record.stage == "discovering"


def test_a_wrong_request_stays_one_line_under_raise(call: Any) -> None:
    assert refused(call("run", "--raise", "--methd", "random"), "did you mean '--method'")
    assert refused(call("run", "--raise", "--budget", 0), "at least one query")


def test_a_budget_is_kept(call: Any, tmp_path: Path) -> None:
    words = ("run", "--method", "head-ablation", "--budget", 10, "--batch-size", 4)
    assert call(*words)[0] == 0
    (record,), _ = read_folder(tmp_path / "results")
    assert record.costs["discovery"]["queries"] == 10


@pytest.mark.slow
def test_a_sweep_is_resumed_not_repeated(call: Any, results: Any) -> None:
    before = {path: path.read_bytes() for path in results.glob("*.json")}
    words = ("sweep", "--methods", "random", "--tasks", "induction,ioi", "--seeds", "0-2")
    status, _, err = call(*words, "--batch-size", 4, "--out", results)
    assert status == 0
    assert "6 runs: 4 done before, 2 to do" in err
    assert "[6/6]" in err
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list(results.glob("*.json"))) == 6
    assert refused(call("sweep", "--seeds", "a"), "0-4")
    assert refused(call("sweep", "--methods", "random,acdx"), "did you mean 'acdc'")


def test_show_and_list_speak_json(call: Any, results: Any) -> None:
    path = next(results.glob("*.json"))
    status, out, _ = call("show", path)
    assert status == 0
    assert "repeat with: circuitbench run" in out
    assert "wrongly found" in out
    status, out, _ = call("show", path, "--json")
    assert json.loads(out)["run_id"] in path.name
    for kind in ("methods", "tasks", "models"):
        status, out, _ = call("list", kind, "--json")
        assert status == 0
        assert {"name", "target", "origin", "title", "family"} <= set(json.loads(out)[0])
        assert json.loads(out)[0]["name"] in call("list", kind)[1]


def test_a_folder_is_packed_and_its_runs_are_shown(call: Any, results: Any, tmp_path: Path) -> None:
    n_runs = len(list(results.glob("*.json")))
    status, out, err = call("archive", results, "--out", tmp_path / "packed")
    assert status == 0, err
    assert f"{n_runs} records in 1 archive in" in out
    (archive,) = (tmp_path / "packed").iterdir()
    assert archive.name == "random.zip"
    path = next(results.glob("*.json"))
    by_path = call("show", archive / path.name)
    run_id = path.stem.rpartition("_")[2]
    by_id = call("show", run_id[:8], "--results", tmp_path / "packed")
    assert by_path == by_id == call("show", path)
    assert call("validate", tmp_path / "packed")[1].endswith(
        f"packed: {n_runs} valid records, 0 problems\n"
    )
    assert refused(call("show", "0", "--results", tmp_path / "none"), "none")
    assert refused(call("show", "xyz", "--results", tmp_path / "packed"), "'xyz'")
    assert refused(call("archive", tmp_path / "none"), "no such results folder")
    archive.write_bytes(archive.read_bytes()[:300])
    status, out, _ = call("validate", tmp_path / "packed")
    assert status == 1
    assert "random.zip: truncated or damaged archive" in out


def test_the_leaderboard_reads_what_run_wrote(call: Any, results: Any) -> None:
    for format_ in ("markdown", "csv"):
        status, out, err = call("leaderboard", results, "--format", format_)
        assert status == 0, err
        assert "random" in out
    status, out, _ = call("leaderboard", results, "--format", "json")
    assert status == 0
    json.loads(out)
    assert refused(call("leaderboard", results, "--format", "markdwn"), "did you mean 'markdown'")


def test_corrupt_records_are_named_and_left_out(call: Any, results: Any, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(results, folder)
    paths = sorted(folder.glob("*.json"))
    paths[0].write_text(paths[0].read_text()[:200])
    status, out, err = call("leaderboard", folder)
    assert status == 0
    assert paths[0].name in err
    assert "random" in out
    assert refused(call("show", paths[0]), paths[0].name, "truncated")
    assert refused(call("show", folder / "none.json"), "none.json")
    assert refused(call("leaderboard", tmp_path / "nowhere"), "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(call("leaderboard", empty), "empty")


@pytest.mark.parametrize("verb", sorted(cli.commands))
def test_every_verb_has_help_with_an_example(call: Any, verb: Any) -> None:
    status, out, _ = call(verb, "--help")
    assert status == 0
    assert f"circuitbench {verb}" in out.split("Example:")[1]


@pytest.mark.slow
def test_it_runs_as_a_program_and_survives_a_closed_pipe(results: Any) -> None:
    environment = {**os.environ, "COLUMNS": "200"}
    program = [sys.executable, "-m", "circuitbench"]
    done = subprocess.run(
        f"{' '.join(program)} show {next(results.glob('*.json'))} --json | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.stdout.strip() == "{"
    assert done.stderr == ""
    done = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("circuitbench, version ")


@pytest.mark.slow
def test_validate_task_reports_pairs_of_heads_that_stand_in_for_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        main(
            ["validate-task", "docstring", "--model", "planted-redundant", "--pairs", "--no-sparse"]
        )
        == 0
    )
    assert "| argument_reader | 1 | +1.00 |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_batch_may_be_larger_than_a_learners_pool_of_prompts(call: Any) -> None:
    assign = ("training.pool=4", "training.total_steps=64", "training.n_envs=2")
    options = [word for value in assign for word in ("--set", value)]
    more = ["--batch-size", "8", "--functional", "none", "--budget", "400"]
    assert call("run", *options, *more)[0] == 0


def test_without_a_verb_it_prints_its_help(call: Any) -> None:
    status, out, _ = call()
    assert status == 0
    assert "Commands:" in out


def test_validate_refuses_what_holds_no_records(call: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    refused(call("validate", "empty"), "no records in empty")
    refused(call("validate", "file"), "file is a file, not a folder of records")


def test_stability_prints_agreement_over_prompts_and_seeds(call: Any) -> None:
    words = ["--method", "attribution-patching", "--task", "reverse", "--batch-size", 4]
    status, out, err = call("stability", *words, "--resamples", 3, "--repetitions", 2)
    assert status == 0, err
    found = json.loads(out)
    assert found["spec"]["method"] == "attribution-patching"
    # It draws nothing itself, so on the same prompts it agrees with itself.
    assert found["seeds"]["jaccard"] == 1
    low, high = found["prompts"]["jaccard_interval"]
    assert 0 <= low <= found["prompts"]["jaccard"] <= high <= 1
    assert found["prompts"]["answers"][0]["jaccard"] == 1  # the unperturbed one
    assert found["prompts"]["metrics"]["average_precision"]["mean"] > 0.5
    assert [answer["name"] for answer in found["ablation"]["answers"]] == [
        "zero",
        "mean",
        "resample",
    ]
    assert "hyperparameters" in found
    assert "no list of templates" in found["undefined"]["templates"]


def test_stability_has_no_option_it_would_ignore(call: Any) -> None:
    assert refused(call("stability", "--functional", "full"), "--functional")
    assert refused(call("stability", "--resamples", 1), "--resamples")
    words = ["--method", "random", "--task", "reverse", "--perturb", "promts"]
    assert refused(call("stability", *words), "did you mean 'prompts'")
