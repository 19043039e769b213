import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from oracle_kit import transformer_of

from circuitbench.checks.contracts import check_task
from circuitbench.checks.health import render, validate_task
from circuitbench.core.errors import InvalidSpec, ModelUnavailable
from circuitbench.models.forward import forward
from circuitbench.models.trained import load as trained
from circuitbench.models.trained.algorithms import repeated_symbols
from circuitbench.models.trained.load import ALGORITHMS, INDUCTION, NAMES
from circuitbench.models.trained.prompts import induction_prompts
from circuitbench.models.trained.skipgrams import SkipGrams
from circuitbench.models.trained.training import induction, siit
from circuitbench.models.trained.training.exhaustive import (
    attention_scores,
    effects,
    faithfulness,
    members,
    search,
    subset_table,
)
from circuitbench.models.trained.training.network import REPLACEMENTS, detached, initial, keep
from circuitbench.models.trained.training.reports import siit_report, text_loss
from circuitbench.models.weight_names import parameters
from circuitbench.oracle import Oracle
from circuitbench.oracle.ablations import ABLATIONS
from circuitbench.plugins.registry import load_model, load_task

MODELS = {name: load_model(name) for name in NAMES}


def oracle_of(name: str, **options: Any) -> Any:
    return Oracle(MODELS[name], load_task(name), task_name=name, seed=11, batch_size=64, **options)


def grid_of(heads: Any, shape: Any) -> Any:
    grid = torch.zeros(shape, dtype=torch.bool)
    for layer, head in heads:
        grid[layer, head] = True
    return grid


@pytest.mark.parametrize("name", NAMES)
def test_trained_models_do_their_task_and_speak_their_language(name: str) -> None:
    task, model = load_task(name), MODELS[name]
    assert task.default_model == name
    check_task(task, model)
    oracle = oracle_of(name)
    assert oracle.batch.accuracy >= 0.98
    assert oracle.clean_control < 0.65 * np.log(transformer_of(model).config.d_vocab)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_siit_heads_matter_and_no_other_head_does(name: str) -> None:
    truth: Any = load_task(name).truth(MODELS[name])
    oracle = oracle_of(name)
    inside = grid_of(truth.heads, oracle.shape)
    assert truth.heads == frozenset(ALGORITHMS[name].nodes.values())
    subsets = torch.from_numpy(np.random.default_rng(1).random((16, *oracle.shape)) < 0.5)
    for ablation in REPLACEMENTS:
        alone = oracle.query(oracle.head_masks(), ablation=ablation, control=False).task
        alone = alone.view(oracle.shape) / oracle.clean_metric
        assert alone[inside].min() > 0.3, ablation
        assert alone[~inside].abs().max() < 0.03, ablation
        kept = oracle.query(subsets | inside, ablation=ablation, control=False).task
        assert (kept / oracle.clean_metric).abs().max() < 0.06, ablation


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ablation", REPLACEMENTS)
def test_the_health_gate_passes(name: str, ablation: Any) -> None:
    card = validate_task(
        name, MODELS[name], load_task(name), ablation=ablation, prompts=24, subsets=6
    )
    assert card.passed, render(card)


def test_edges_are_the_algorithms_where_the_weights_follow_them() -> None:
    assert {str(e) for e in ALGORITHMS["siit-induction"].edges} == {
        "embed->0.1.v",
        "embed->2.2.q",
        "embed->2.2.v",
        "0.1->2.2.k",
        "2.2->logits",
    }
    for name in NAMES:
        truth: Any = load_task(name).truth(MODELS[name])
        if name in ("siit-induction", "siit-two-hop"):
            assert truth.edges == ALGORITHMS[name].edges
            assert truth.edge_ablations == ("mean", "resample")
        else:
            assert truth.edges is None
            assert any("no true edges" in spot for spot in truth.blind_spots)


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_no_fewer_edges_of_siit_induction_suffice(ablation: Any) -> None:
    edges = oracle_of("siit-induction").edges
    true = sorted(ALGORITHMS["siit-induction"].edges)
    others = [edge for edge in edges.edges if edge not in true]
    kept = [[e for i, e in enumerate(true) if k >> i & 1] for k in range(32)]
    masks = [edges.without([*others, *(e for e in true if e not in some)]) for some in kept]
    lost = edges.query(torch.stack(masks), ablation=ablation).task
    faithful = 1 - lost / lost[0]
    assert faithful[-1] > 0.95
    assert faithful[:-1].max() < 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_interchanges_give_the_answers_of_the_algorithm(name: str) -> None:
    report = siit_report(
        transformer_of(MODELS[name]),
        ALGORITHMS[name],
        trained.language(name),
        seed=7,
        contexts=4,
    )
    assert min(report["interchange_accuracy"].values()) > 0.97
    assert report["strict_answers_changed"] < 0.01


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small_and_reports_belong_to_them(name: str) -> None:
    report = json.loads((trained.folder() / f"{name}.json").read_text())
    assert MODELS[name].construction.report == report
    assert report["training"]["cpu_seconds"] < 2 * 15 * 60
    assert report["accuracy"] >= 0.98
    total = sum(path.stat().st_size for path in trained.folder().iterdir())
    assert total <= 3 * 1024**2


def test_the_subset_table_is_what_ablating_each_subset_gives() -> None:
    model = MODELS[INDUCTION]
    prompts = induction_prompts(16, np.random.default_rng(0))
    table = subset_table(transformer_of(model), prompts, "zero")
    for index in np.random.default_rng(1).integers(table.size, size=12):
        mask = grid_of(members(int(index), 8), (2, 8))
        logits, _, _ = forward(transformer_of(model), prompts.tokens, keep(mask))
        wanted = float(prompts.metric(logits).mean())
        assert table.ravel()[index] == pytest.approx(wanted, abs=1e-3)


def test_search_finds_a_planted_set_and_effects_are_those_of_its_heads() -> None:
    # Faithful if and only if heads 0.1 and 1.0 are both kept; 1.1 adds a little.
    rows, columns = np.indices((4, 4))
    table = ((rows & 2) > 0) * ((columns & 1) > 0) + 0.03 * ((columns & 2) > 0)
    found = search(table, tolerances=(0.05, 0.01))
    assert found["0.05"] == {"size": 2, "number_of_that_size": 1, "heads": ["0.1", "1.0"]}
    assert found["0.01"]["heads"] == ["0.1", "1.0", "1.1"]
    seen = effects(table)
    assert seen["0.1"]["greatest"] == pytest.approx(1 / 1.03, abs=1e-3)
    assert set(seen["0.0"].values()) == {0.0}
    assert seen["1.1"]["alone"] == pytest.approx(0.03 / 1.03, abs=1e-3)
    assert faithfulness(table)[-1] == 1


def test_the_truth_of_trained_induction_is_what_the_search_found() -> None:
    model = MODELS[INDUCTION]
    truth: Any = load_task(INDUCTION).truth(model)
    report = model.construction.report
    found = report["search"]["zero"][str(report["tolerance"])]
    assert sorted(map(str, truth.heads)) == sorted(found["heads"])
    scores = report["previous_token_score"], report["prefix_matching_score"]
    for role, score in zip(("previous-token", "induction"), scores, strict=True):
        for head in truth.roles[role].heads:
            assert score[str(head)] > 0.3
    oracle = oracle_of(INDUCTION)
    only = grid_of(truth.heads, oracle.shape)
    left = 1 - float(oracle.query(only[None], control=False).task[0]) / oracle.clean_metric
    assert left > 1 - report["tolerance"] - 0.05


def test_attention_scores_of_a_perfect_induction_head() -> None:
    tokens = torch.tensor([[0, 5, 6, 7, 5, 6, 7]])
    target = torch.tensor([0, 0, 1, 2, 2, 3, 4])
    pattern = torch.nn.functional.one_hot(target, 7).float()[None, None]
    previous, matching = attention_scores(tokens, [pattern])
    assert matching == {"0.0": 1.0}
    assert previous["0.0"] == pytest.approx(0.5)


def test_counterfactual_answers_are_those_of_the_reordered_stretch() -> None:
    model, task = MODELS[INDUCTION], load_task(INDUCTION)
    prompts = task.prompts(model, 64, np.random.default_rng(3))
    assert prompts.tokens.shape == (64, 24)
    for row in range(64):
        for tokens, column in ((prompts.tokens[row], 0), (prompts.counterfactual[row], 1)):
            for position, ids in zip(prompts.positions[row], prompts.token_ids[row], strict=True):
                seen = (tokens[:position] == tokens[position]).nonzero().max()
                assert tokens[seen + 1] == ids[column]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_swapping_the_last_node_gives_the_other_answer_and_none_changes_nothing(
    name: str,
) -> None:
    algorithm = ALGORITHMS[name]
    pairs = algorithm.draw(64, np.random.default_rng(5))
    last = list(algorithm.nodes)[-1]
    everywhere = torch.ones(64, dtype=torch.bool)
    own, other = (algorithm.values(x)[last] for x in (pairs.tokens, pairs.counterfactual))
    swapped = algorithm.values(pairs.tokens, pairs.counterfactual, {last: everywhere})[last]
    same = algorithm.values(pairs.tokens, pairs.counterfactual, {last: ~everywhere})[last]
    assert torch.equal(swapped, other)
    assert torch.equal(same, own)
    assert not torch.equal(own, other)


def test_algorithms_on_prompts_written_by_hand() -> None:
    induct, ioi, hop = (cast("Any", algorithm) for algorithm in ALGORITHMS.values())
    tokens = torch.tensor([[0, 3, 4, 5, 3, 4, 9]])
    assert induct.values(tokens)["induction"][0, 1:].tolist() == [13, 13, 13, 4, 5, 13]
    names = torch.tensor([[0, 7, 2, 7, 5, 7, 7, 5, 7, 7]])
    assert ioi.values(names)["mover"][0, -1] == 2
    chain = torch.tensor([[0, 8, 9, 1, 2, 5, 6, 2, 3, 1]])
    values = hop.values(chain)
    assert values["first"][0, 0] == 2
    assert values["second"][0, -1] == 3
    # With the counterfactual's keys, 1 stands before 9 and nothing follows that.
    other = torch.tensor([[0, 1, 9, 8, 2, 5, 6, 2, 3, 1]])
    swap_keys = {"key": torch.tensor([True])}
    assert hop.values(chain, other, swap_keys)["second"][0, -1] == hop.none


def test_repeated_symbols_repeat_with_their_period() -> None:
    tokens, filler, period = repeated_symbols(50, 24, 31, np.random.default_rng(0))
    for row, start, width in zip(tokens.tolist(), filler.tolist(), period.tolist(), strict=True):
        stretch = row[1 + start :]
        assert len(stretch) >= 2 * width
        assert stretch[width:] == stretch[:-width]
        assert len(set(row[: 1 + start + width])) == 1 + start + width


def test_training_is_reproducible_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [induction.train(seed=3, steps=12, batch=8) for _ in range(2)]
    for a, b in zip(*(parameters(m).values() for m in runs), strict=True):
        assert torch.equal(a, b)
    algorithm, text = ALGORITHMS["siit-two-hop"], SkipGrams.draw(4, np.random.default_rng(0))
    shape = siit.config(algorithm, text, n_layers=4)
    fresh = detached(initial(shape, np.random.default_rng(0)))
    made = siit.train(algorithm, text, shape, steps=40, batch=16, log=39)
    words = text.text(64, shape.n_ctx, algorithm.n_symbols + 2, np.random.default_rng(5))
    assert text_loss(made, words) < 0.95 * text_loss(fresh, words)
    assert "interchange" in capsys.readouterr().out


def test_what_cannot_be_loaded_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"circuitbench.models.trained.training siit-ioi"):
        trained.load("siit-ioi", tmp_path)
    (tmp_path / "siit-ioi.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelUnavailable, match="cannot read the weights"):
        trained.load("siit-ioi", tmp_path)
    with pytest.raises(InvalidSpec, match="takes no variant"):
        load_model("siit-ioi@3")
    with pytest.raises(InvalidSpec, match="runs on the model siit-ioi, not on siit-two-hop"):
        load_task("siit-ioi").prompts(MODELS["siit-two-hop"], 2, np.random.default_rng(0))


def test_weights_survive_saving(tmp_path: Path) -> None:
    model = transformer_of(MODELS["siit-induction"])
    trained.save("siit-induction", model, tmp_path)
    again = trained.load("siit-induction", tmp_path)
    assert again.config == model.config
    for key, value in parameters(model).items():
        assert torch.equal(parameters(again)[key], value)


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_training_replaces_heads_as_the_oracle_does(name: str) -> None:
    z = torch.randn(5, 6, 4, 3, generator=torch.Generator().manual_seed(0))

    class Given:
        def __init__(self) -> None:
            self.fitted: dict[str, list[torch.Tensor]] = {}
            self.lengths: torch.Tensor | None = None

        def heads(self, text: str, everywhere: bool = True, n: int | None = None) -> Any:
            assert text == "counterfactual"
            return [z]

        def alone(self, layer: int, n: int) -> Any:
            raise AssertionError("nothing is fitted here")

    given = ABLATIONS[name].heads("task", Given())
    want = torch.zeros_like(z) if given is None else given[0].expand_as(z)
    assert torch.equal(REPLACEMENTS[name](z), want)
