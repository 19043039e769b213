"""The tasks on GPT-2: real tokenizer and text where they are, random weights in GPT-2's shape."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuitbench.checks.contracts import check_task
from circuitbench.core.circuit import Head
from circuitbench.core.errors import InvalidSpec
from circuitbench.models import Model
from circuitbench.models.checkpoints.tokenizers import tokenizer_of
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig
from circuitbench.oracle import Oracle
from circuitbench.tasks.gpt2 import DATA_VARIABLE, GPT2IOI, GPT2GreaterThan, GPT2Induction

TASKS = (GPT2Induction(), GPT2IOI(), GPT2GreaterThan())
FOLDERS = (os.environ.get(DATA_VARIABLE), Path(__file__).parents[3] / "shared/data")


class Letters:
    """A tokenizer of single characters."""

    bos_token_id = 0

    def __len__(self) -> Any:
        return 128

    def encode(self, text: str) -> Any:
        return [ord(letter) % 128 for letter in text]


def model_with(tokenizer: Any, name: str = "gpt2@folded", d_vocab: Any = 50257, n: int = 12) -> Any:
    rng = np.random.default_rng(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.from_numpy(0.3 * rng.standard_normal(size)).float()

    layers = tuple(
        LayerWeights(draw(n, 8, 2), draw(n, 8, 2), draw(n, 8, 2), draw(n, 2, 8)) for _ in range(n)
    )
    config = TransformerConfig(n, n, 8, 2, d_vocab, 64, 1.0)
    weights = Transformer(config, draw(d_vocab, 8), draw(8, d_vocab), layers, draw(64, 8))
    return Model(name, n, n, weights, construction=tokenizer)


@pytest.fixture(scope="module")
def data() -> Any:
    for folder in FOLDERS:
        if folder and (Path(folder) / "gpt2-tokenizer").is_dir():
            return Path(folder)
    pytest.skip("no gpt2-tokenizer in $CIRCUITBENCH_DATA or ../shared/data")


@pytest.fixture(scope="module")
def gpt2(data: Any) -> Any:
    return model_with(tokenizer_of(data / "gpt2-tokenizer", "gpt2", 50257))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_they_keep_the_contract_with_the_real_tokenizer(
    task: Any, gpt2: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(data))
    check_task(task, gpt2)
    oracle = Oracle(gpt2, task, task_name=task.name, seed=0, batch_size=4)
    assert torch.isfinite(oracle.query(oracle.head_masks()[:3]).reward).all()


def test_ioi_asks_for_the_name_said_once(gpt2: Any) -> None:
    prompts = GPT2IOI().prompts(gpt2, 40, np.random.default_rng(0))
    assert prompts.tokens.shape == (40, 15)
    for row, other, (answer, subject) in zip(
        prompts.tokens.tolist(),
        prompts.counterfactual.tolist(),
        prompts.token_ids[:, 0].tolist(),
        strict=True,
    ):
        assert (row.count(answer), row.count(subject)) == (1, 2)
        assert (other.count(answer), other.count(subject)) == (1, 1)
        text = gpt2.construction.decode(row[1:])
        assert text.endswith(" to")
        assert gpt2.construction.decode([answer]) in text


def test_greater_than_weighs_the_years_above(gpt2: Any) -> None:
    prompts = GPT2GreaterThan().prompts(gpt2, 20, np.random.default_rng(0))
    endings = [int(gpt2.construction.decode([x])) for x in prompts.token_ids[0, 0].tolist()]
    for row, other, weights in zip(
        prompts.tokens, prompts.counterfactual, prompts.weights[:, 0], strict=True
    ):
        text = gpt2.construction.decode(row[1:].tolist())
        year = int(text.split(" year ")[1].split()[0][2:])
        above = torch.tensor(endings) > year
        assert (weights[above] > 0).all()
        assert (weights[~above] < 0).all()
        torch.testing.assert_close(weights[above].sum(), -weights[~above].sum())
        assert "01 to" in gpt2.construction.decode(other[1:].tolist())


def test_induction_needs_no_words() -> None:
    prompts = GPT2Induction().prompts(model_with(Letters()), 10, np.random.default_rng(0))
    tokens, other = prompts.tokens, prompts.counterfactual
    assert (tokens[:, 1] == tokens[:, -1]).all()
    assert (other[:, 1] != tokens[:, 1]).all()
    assert (prompts.token_ids[:, 0, 0] == tokens[:, 2]).all()
    assert torch.equal(tokens[:, 2:], other[:, 2:])


def test_truths_are_the_papers() -> None:
    model = model_with(Letters())
    assert len(GPT2IOI().truth(model).heads) == 26
    assert len(GPT2GreaterThan().truth(model).heads) == 9
    assert Head(5, 5) in GPT2Induction().truth(model).heads
    for task in TASKS:
        assert task.truth(model).kind in ("literature", "ambiguous")
        assert task.truth(model).ablations == ("zero", "mean", "resample")
        with pytest.raises(InvalidSpec, match="is known in gpt2, not in tiny"):
            task.truth(model_with(Letters(), "tiny"))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_model_without_tokenizer_is_refused(task: Any) -> None:
    with pytest.raises(InvalidSpec, match="with its tokenizer, not on gpt2@raw"):
        task.prompts(model_with(None, "gpt2@raw"), 2, np.random.default_rng(0))


def test_a_tokenizer_or_text_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng, model = np.random.default_rng(0), model_with(Letters())
    with pytest.raises(InvalidSpec, match="to be one token"):
        GPT2IOI().prompts(model, 2, rng)
    with pytest.raises(InvalidSpec, match="does not split the years"):
        GPT2GreaterThan().prompts(model, 2, rng)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(InvalidSpec, match=f"set {DATA_VARIABLE} to a folder"):
        GPT2IOI().control(model, 2, rng)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(InvalidSpec, match="no control text at"):
        GPT2IOI().control(model, 2, rng)
    file = tmp_path / "wikitext-2-raw" / "wiki.test.raw"
    file.parent.mkdir()
    file.write_text("short")
    with pytest.raises(InvalidSpec, match="more than 60 are needed"):
        GPT2IOI().control(model, 2, rng)
    file.write_text("a longer text\n" * 9)
    assert GPT2IOI().control(model, 3, rng).shape == (3, 60)
