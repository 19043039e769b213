"""MechRL's second version: the protocol, what its tables say, and what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuitbench import Circuit, Discovery, Edge, Head, Role
from circuitbench.cli import main
from circuitbench.core.edges import graph_of
from circuitbench_experiments.mechrl_edges import protocol
from circuitbench_experiments.mechrl_edges.arms import Arm, arms
from circuitbench_experiments.mechrl_edges.circuits import (
    COMMITTED,
    WHOLE,
    among,
    circuits_of,
    smallest,
)
from circuitbench_experiments.mechrl_edges.cost import amortised, paid_back, passes
from circuitbench_experiments.mechrl_edges.recovery import recovery
from circuitbench_experiments.mechrl_edges.report import markdown
from circuitbench_experiments.mechrl_edges.settings import (
    BEST,
    FROZEN,
    WARM,
    Edges,
    on_model,
    quick,
)
from circuitbench_experiments.mechrl_edges.table import duels, lines, paybacks
from circuitbench_experiments.mechrl_edges.targets import GROUPS, model_of, targets, training_models
from circuitbench_experiments.published.figures import paper

TINY = [
    "--model=planted-easy-4x9",
    "--set=train_tasks=[induction]",
    "--set=held_out_tasks=[two-hop]",
    "--set=sizes=[5x8]",
    "--set=train_plantings=1",
    "--set=prompts=4",
    "--set=head_prompts=4",
    "--set=acdc_thresholds=[0.1]",
    "--set=policy=descriptor-forest",  # one that learns at once
    "--set=presets=[]",
]


def test_costs_are_exact() -> None:
    assert passes({"forwards": 7, "backwards": 5, "queries": 15}) == 17
    assert amortised(1_000, 50, 10) == 150
    assert paid_back(1_000, 50, 60) == 100  # 1,000 + 100 * 50 = 100 * 60
    assert paid_back(1_001, 50, 60) == 101
    assert paid_back(1_000, 60, 60) is None
    assert paid_back(1_000, 61, 60) is None
    assert paid_back(0, 61, 60) == 0


def test_the_smallest_faithful_circuit_may_come_before_larger_unfaithful_ones() -> None:
    assert smallest([0.2, 0.9, 0.4, 1.0], 0.8) == 1
    assert smallest([0.2, 0.3, 0.4, 1.0], 0.8) == 3  # the whole model


def test_circuits_of_a_ranking_are_lean_cuts() -> None:
    graph = graph_of(2, 2, mlps=False)
    path = [Edge.parse(x) for x in ("embed->0.0.v", "0.0->1.1.v", "1.1->logits", "embed->logits")]
    dangling = Edge.parse("0.1->1.0.q")
    scores = {edge: 5.0 - i for i, edge in enumerate([*path, dangling])}
    grid = np.zeros((2, 2))
    found = circuits_of(
        Discovery(grid, frozenset(), scores, selected_edges=frozenset(path[:3])), graph
    )
    assert [(c.name, c.size) for c in found] == [
        (COMMITTED, 3),
        ("5 edges", 4),  # the fifth dangles
        (WHOLE, len(graph.edges)),
    ]


def test_heads_stand_for_all_edges_among_them() -> None:
    graph = graph_of(2, 2, mlps=False)
    kept = {str(graph.edges[i]) for i in np.flatnonzero(among([Head(0, 0), Head(1, 1)], graph))}
    assert kept == {
        *(f"embed->0.0.{x}" for x in "qkv"),
        *(f"{sender}->1.1.{x}" for sender in ("embed", "0.0") for x in "qkv"),
        *("embed->logits", "0.0->logits", "1.1->logits"),
    }
    scores = np.array([[4.0, 1.0], [2.0, 3.0]])
    found = circuits_of(Discovery(scores, frozenset({Head(0, 0), Head(1, 1)})), graph)
    by_name = {c.name: c for c in found}
    assert by_name["2 heads"].size == by_name[COMMITTED].size == 12
    assert not by_name["2 heads"].mask[graph.edges.index(Edge.parse("1.0->logits"))]
    with_mlps = graph_of(1, 2, mlps=True)
    assert among([], with_mlps).sum() == 3  # embed, m0 and the logits


def test_recovery_of_edges_and_heads() -> None:
    graph = graph_of(2, 2, mlps=False)
    true = [Edge.parse(x) for x in ("embed->0.0.v", "0.0->1.1.v", "1.1->logits")]
    truth = Circuit(
        {"a": Role((Head(0, 0), Head(1, 1)))}, "by hand", "constructed", edges=frozenset(true)
    )
    scores = np.array([[4.0, 1.0], [2.0, 3.0]])
    wrong = Edge.parse("embed->logits")
    answer = Discovery(
        scores,
        frozenset({Head(0, 0)}),
        {true[0]: 3.0, wrong: 2.0, true[1]: 1.0},
        selected_edges=frozenset({true[0], wrong}),
    )
    found = recovery(answer, truth, graph)
    assert found["head_ap"] == 1.0
    assert (found["head_precision"], found["head_recall"]) == (1.0, 0.5)
    assert (found["edge_precision"], found["edge_recall"]) == pytest.approx((1 / 2, 1 / 3))
    assert (1 + 2 / 3) / 3 < found["edge_ap"] < 1  # two of three, the last among the unlisted
    heads = recovery(Discovery(scores, frozenset({Head(0, 0), Head(1, 1)})), truth, graph)
    assert "edge_ap" not in heads
    assert (heads["edge_precision"], heads["edge_recall"]) == (3 / 12, 1.0)
    nothing = recovery(Discovery(scores, frozenset()), truth)
    assert (nothing["head_precision"], nothing["head_f1"]) == (0.0, 0.0)
    assert recovery(answer, None, graph) == {}


def cell(arm: str, seed: int, **figures: Any) -> dict[str, Any]:
    usual = {
        "group": GROUPS[2],
        "task": "ioi",
        "place": "ioi",
        "model": f"planted-hard@{seed}",
        "learning": "frozen" if arm == FROZEN else "none",
        "method": "policy" if arm == FROZEN else arm,
        "failed": "",
        "n_edges": 1_000,
        "choosing_passes": 0,
        "choosing_queries": 0,
        "training_passes": 0,
        "training_queries": 0,
    }
    return {**usual, "arm": arm, "seed": seed, **figures}


def test_tables_average_and_pay_back() -> None:
    cells = [
        cell(FROZEN, 0, size=10, passes=100, queries=90, edge_ap=0.5),
        cell(FROZEN, 1, size=1_000, passes=100, queries=90, edge_ap=1.0, choosing_passes=300),
        cell("eap-ig", 0, size=10, passes=20, queries=15),
        cell("eap-ig", 1, size=10, passes=20, queries=15, edge_ap=0.3),
        cell("acdc-edges", 0, size=10, passes=1_200, queries=15),
        cell("acdc-edges", 1, failed="it broke"),
        cell("exact", 0, size=10, passes=1_200, queries=15),
        cell("exact", 1, size=10, passes=1_200, queries=15),
    ]
    training = [{"key": "policy", "passes": 8_000}, {"key": "policy", "passes": 12_000}]
    results = {"cells": cells, "training": training, "contest": []}
    by_arm = {line.arm: line for line in lines(results)}
    policy = by_arm[FROZEN].estimates
    assert policy["size"].mean == pytest.approx(100)  # geometric
    assert policy["edge_ap"].mean == pytest.approx(0.75)
    assert (policy["edge_ap"].low, policy["edge_ap"].high) == (0.5, 1.0)
    assert policy["asked"].mean == pytest.approx(250)  # 100 and 400
    assert "edge_ap" not in by_arm["eap-ig"].estimates  # a mean over some runs is none
    assert by_arm["acdc-edges"].failed == ("it broke",)
    assert by_arm["acdc-edges"].estimates == {}
    (back,) = paybacks(results, list(by_arm.values()))
    assert back.training == 10_000
    assert back.shared == pytest.approx({10: 1_250, 100: 350, 1_000: 260})
    assert back.against == {"eap-ig": None, "exact": 11}


def test_a_contest_is_won_above_all_rivals() -> None:
    def round_of(arm: str, *values: float) -> list[dict[str, Any]]:
        return [cell(arm, seed, head_ap=value) for seed, value in enumerate(values)]

    contest = [*round_of(FROZEN, 0.8, 0.9), *round_of("acdc", 0.6, 0.7), *round_of("a", 0.1, 0.2)]
    (duel,) = duels({"contest": contest})
    assert duel.reached
    assert [name for name, _ in duel.rivals] == ["acdc", "a"]
    (duel,) = duels({"contest": [*contest, *round_of("best", 0.75, 0.85)]})
    assert not duel.reached
    broken = [{**x, "failed": "no"} if x["seed"] else x for x in round_of("best", 0.99, 0.0)]
    (duel,) = duels({"contest": [*contest, *broken]})
    assert duel.reached
    assert duel.failed == (("best", "no"),)


def test_one_thing_is_new_at_a_time() -> None:
    settings = Edges(seeds=(3,), train_plantings=2, sizes=("10x10",))
    found = targets(settings, 3, training_models(settings))
    assert {t.group for t in found} == set(GROUPS)
    by_group = {g: [t for t in found if t.group == g] for g in GROUPS}
    assert {t.model for t in by_group[GROUPS[0]]} == {"planted-hard@102"}
    assert {t.model for t in by_group[GROUPS[1]]} == {"planted-hard@102"}
    assert not {t.task for t in by_group[GROUPS[1]]} & set(settings.train_tasks)
    (fresh,) = {t.model for t in by_group[GROUPS[2]]}
    assert int(fresh.partition("@")[2]) >= 200
    assert {t.model for t in by_group[GROUPS[3]]} == {fresh.replace("@", "-10x10@")}
    sized = model_of("planted-easy-4x9@1")
    assert (sized.n_layers, sized.n_heads, sized.name) == (4, 9, "planted-easy-4x9@1")
    others = Edges(**on_model("gpt2"), seeds=(0,))
    assert {t.group for t in targets(others, 0, ["gpt2"])} == set(GROUPS[:2])


def test_the_papers_table_is_of_arms_and_tasks_that_exist() -> None:
    said = paper("mechrl-edges")
    text = Edges(**on_model("gpt2"))
    assert set(said.columns) <= {*text.train_tasks, *text.held_out_tasks}
    known = [arm.name for arm in arms(Edges())]
    for figure in said.figures:
        assert any(str(figure.ours).startswith(f"{name} ") for name in known), figure
    assert ("ACDC, 0.003 nats: edges", "acdc-edges 0.003 committed", "ioi-wang", 359.0) in (
        said.figures
    )
    assert set(quick("gpt2")) < set(quick("planted-hard"))


def test_arms_take_hyperparameters_by_method() -> None:
    settings = Edges(
        arms=("acdc-edges", "eap-ig-kl"),
        acdc_thresholds=(0.1, 0.2),
        hyperparameters={"acdc-edges": {"prefilter": 5}},
    )
    one, other, kl = arms(settings)
    assert (one.name, other.name) == ("acdc-edges 0.1", "acdc-edges 0.2")
    assert one.hyperparameters == {"threshold": 0.1, "prefilter": 5}
    assert len({one.key, other.key, Arm(one.name, one.method).key}) == 3
    assert vars(kl.make(77)) | {"of": "kl", "listed": 77} == vars(kl.make(77))


@pytest.mark.slow
def test_the_whole_experiment(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    chosen = f"--set=arms=[{FROZEN}, acdc-edges, random-edges]"
    command = ["reproduce", "mechrl", "--paper", "v2", *TINY, "--seeds=2", f"--out={tmp_path}"]
    assert main([*command, chosen]) == 0
    shown = capsys.readouterr().out
    for group in GROUPS:
        assert f"### {group[0].upper()}{group[1:]}" in shown
    assert "paid back after" in shown
    assert "second version (arXiv 2605.26343v2), one policy on edges of GPT-2 small" in shown
    assert "Published figures; here: not asked of planted-easy-4x9@2." in shown
    assert "| policy, best of 16: edges | 1123 | 464 | 725 | 628 | 411 | 469 |" in shown
    for name in ("size-against-faithfulness.png", "recovery-against-passes.png", "published.md"):
        assert (tmp_path / name).stat().st_size
    results = json.loads((tmp_path / "results.json").read_text())
    cells = results["cells"]
    assert len(cells) == 4 * 3
    assert not any(x["failed"] for x in cells)
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [row["arm"] for row in rows] == [x["arm"] for x in cells]
    for x in cells:
        assert 0.5 <= x["tau"] <= 0.98
        if x["arm"] == "random-edges":
            assert x["size"] > 1_000
        if x["arm"].startswith("acdc"):
            assert x["size"] < x["n_edges"]
            assert x["edge_f1"] > 0.3
    same = {(x["seed"], x["group"], x["task"]): x["tau"] for x in cells}
    assert len(same) == 4
    spent = [c for c in results["training"] if c["key"].startswith("descriptor-forest")]
    assert [c["seed"] for c in spent] == [2]
    assert spent[0]["passes"] > 36

    def forbidden(*args: Any) -> None:
        raise AssertionError("a finished arm must not run again")

    monkeypatch.setattr(protocol.Lab, "_measure", forbidden)
    monkeypatch.setattr(protocol.Lab, "trained", forbidden)
    assert main([*command, chosen]) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert main([*command, chosen, "--set=prompts=6"]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_on_a_stand_in_for_gpt2(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("transformers")
    from checkpoints_kit import save_gpt2

    save_gpt2(tmp_path / "tiny")
    command = ["reproduce", "mechrl", "--paper", "v2", "--model", f"hf:{tmp_path / 'tiny'}"]
    command += ["--quick", "--seeds=0", "--set=prompts=2", "--set=arms=[eap-ig]"]
    command += ["--set=train_tasks=[ioi-wang]", "--set=held_out_tasks=[acronyms]"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "### Training tasks and plantings" in shown
    assert "### Held-out tasks" in shown
    assert "### Held-out sizes" not in shown
    # Random weights do no task: cutting every edge changes next to nothing.
    assert shown.count("left out, faithfulness is not defined") == 2
    assert "ioi-wang, acronyms: cannot be compared. This model is a stand-in: layers 2" in shown
    (found,) = json.loads((tmp_path / "out/published.json").read_text())
    rows = {(row["ours"], row["column"]): row for row in found["rows"]}
    assert rows["eap-ig 200 edges", "ioi-wang"]["verdict"] == "not measured"
    assert rows["eap-ig 200 edges", "gendered-pronoun"]["verdict"].startswith("not asked of")


SMALL_POLICY = {
    "pruning.candidates": 30,
    "pruning.attributions": ("eap-ig",),
    "pruning.probes": (),
    "pruning.steps": 4,
    "training.n_envs": 2,
    "scorer.epochs": 2,
    "imitation.epochs": 1,
    "ppo.n_steps": 4,
    "ppo.minibatch": 4,
    "ppo.epochs": 1,
    "network.width": 8,
    "network.layers": 1,
    "network.heads": 2,
}


def test_the_policy_takes_part_frozen_warm_and_at_its_best(tmp_path: Path) -> None:
    settings = Edges(
        model="planted-easy-4x9",
        train_tasks=("induction",),
        held_out_tasks=(),
        sizes=(),
        seeds=(0,),
        train_plantings=1,
        prompts=2,
        presets=(),
        arms=(FROZEN, BEST, WARM),
        policy_batches=1,
        policy_steps=8,
        warm_steps=8,
        hyperparameters={"rl-edges": SMALL_POLICY},
    )
    found = protocol.reproduce(settings, tmp_path)
    cells = {(x["group"], x["arm"]): x for x in found["cells"]}
    assert len(cells) == 2 * 3
    assert not any(x["failed"] for x in cells.values())
    (training,) = found["training"]  # one serves all three
    assert training["passes"] > 0
    for group in (GROUPS[0], GROUPS[2]):
        frozen, best, warm = (cells[group, arm] for arm in (FROZEN, BEST, WARM))
        assert frozen["training_passes"] == best["training_passes"] == 0
        assert warm["training_passes"] > 8
        assert best["queries"] > 0
        assert warm["passes"] <= frozen["passes"] + 8
        assert frozen["tau"] == warm["tau"]


def test_the_contest_of_heads(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from circuitbench_experiments.mechrl_edges import contest

    monkeypatch.setattr(contest, "model_of", lambda name: model_of("planted-easy-4x9@7"))
    command = ["reproduce", "mechrl", "--paper", "v2", *TINY, "--seeds=0", f"--out={tmp_path}"]
    command += ["--set=presets=[planted-easy]", "--set=head_tasks=[induction]"]
    command += ["--set=held_out_tasks=[]", "--set=sizes=[]", "--set=head_queries=51"]
    command += ["--set=rivals=[random, head-ablation, eap-ig-activations]", "--set=arms=[]"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "51 queries each on planted-easy" in shown
    assert "| induction | 1.00 | head-ablation 1.00" in shown
    assert "No answer: eap-ig-activations (" in shown
    assert "NOT reached: the frozen policy's average precision" in shown
    assert "reached on 0 of 1 tasks" in shown


def test_an_arm_that_gives_no_answer_is_named(tmp_path: Path) -> None:
    results = {
        "settings": {"seeds": [0]},
        "targets": [
            {"group": GROUPS[2], "place": "ioi", "failed": ""}
            | {"tau": 0.5, "true_edges": 17, "n_edges": 1_000}
        ],
        "cells": [cell("acdc-edges", 0, failed="thresholds must be positive")],
        "training": [],
        "contest": [],
    }
    said = markdown(results)
    assert "ioi: tau 0.50, 17 true edges of 1,000." in said
    assert "| acdc-edges | no answer: thresholds must be positive |" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--paper", "v3"], "unknown version of the paper 'v3'"),
        (["--paper=v2", "--set", "arms=[acdc]"], "unknown arm 'acdc'"),
        (["--paper=v2", "--set", "policy=acdc"], "acdc does not learn"),
        (["--paper=v2", "--set", "policy=rl-edge"], "unknown method 'rl-edge'"),
        (["--paper=v2", "--set", "rivals=[rl-ppo]"], "unknown method that does not learn 'rl-ppo'"),
        (["--paper=v2", "--set", "sizes=[big]"], "a size is layers x heads, e.g. 10x10"),
        (["--paper=v2", "--model", "planted-hart"], "unknown planted preset 'planted-hart'"),
        (["--paper=v2", "--set", "held_out_tasks=[ioi]"], "the held-out tasks none of them"),
        (["--paper=v2", "--set", "held_out_tasks=[iou]"], "unknown task 'iou'"),
        (["--paper=v2", "--set", "eap-ig-inputs.stepz=3"], "stepz"),
        (["--paper=v2", "--set", "promps=3"], "unknown setting of mechrl --paper v2 'promps'"),
        (["--paper=v2", "--seeds", "x"], "seeds must look like"),
        (["--paper=v1", "--seeds", "1,2"], "seeds of v1 are counted from 0"),
    ],
)
def test_wrong_requests_are_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "mechrl", *words]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
