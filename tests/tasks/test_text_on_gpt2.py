"""Behaviours that ship with us on a tiny GPT-2 in the real format, with a tokenizer of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints_kit import save_gpt2

from circuitbench.cli import main
from circuitbench.models.checkpoints.files import FOLDER_VARIABLE
from circuitbench.models.pretrained import load_pretrained
from circuitbench.plugins.behaviours import behaviours
from circuitbench.plugins.registry import load_task
from circuitbench.results import read_folder

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``gpt2/``: random weights, and a byte-level BPE trained on what we ship."""
    folder = tmp_path_factory.mktemp("weights")
    save_gpt2(folder / "gpt2")
    return folder


@pytest.fixture(scope="module")
def tiny(weights: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(weights))
        return load_pretrained("gpt2")


@pytest.mark.parametrize("name", sorted(behaviours()))
def test_what_ships_can_be_asked(name: str, tiny: Any) -> None:
    task = load_task(name)
    prompts = task.prompts(tiny, 24, np.random.default_rng(0))
    again = task.prompts(tiny, 24, np.random.default_rng(0))
    assert torch.equal(prompts.tokens, again.tokens)
    decode = tiny.construction.decode
    bos = tiny.construction.bos_token_id
    lengths = prompts.lengths
    ends = [prompts.tokens.shape[1]] * 24 if lengths is None else lengths.tolist()
    for i, end in enumerate(ends):
        row, other = prompts.tokens[i, :end].tolist(), prompts.counterfactual[i, :end].tolist()
        assert row[0] == other[0] == bos
        assert int(prompts.positions[i, 0]) == end - 1
        assert row != other
        assert len(decode(row)) > 10
    control = task.control(tiny, 4, np.random.default_rng(0))
    assert control.shape == (4, 60)
    assert (control[:, 0] == bos).all()
    assert task.truth(tiny) is None  # 2 x 3 heads are nobody's circuit


def test_ioi_in_words(tiny: Any) -> None:
    prompts = load_task("mechrl-ioi").prompts(tiny, 24, np.random.default_rng(1))
    decode = tiny.construction.decode
    for i, (answer, wrong) in enumerate(prompts.token_ids[:, 0].tolist()):
        text = decode(prompts.tokens[i, 1:].tolist())
        assert text.count(decode([answer])) == 1
        assert text.count(decode([wrong])) == 2
        assert prompts.spans is not None
        start, end = prompts.spans["S2"][i].tolist()
        assert decode(prompts.tokens[i, start:end].tolist()) == decode([wrong])


def test_it_runs_from_start_to_record(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(weights))
    arguments = ["run", "--task", "ioi-wang", "--method", "edge-attribution-patching"]
    arguments += ["--batch-size", "6", "--out", str(tmp_path)]
    assert main(arguments) == 0
    (record,) = read_folder(tmp_path)[0]
    assert record.status == "done"
    assert record.truth == {}
    assert record.info["task"]["paper"] == "Wang et al. 2022"
    assert "faithfulness" in record.measurements
