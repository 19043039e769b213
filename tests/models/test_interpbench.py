"""Cases of InterpBench: read as they lie in a folder, and hostile files refused."""

import json
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interpbench_kit import settings, write_case, write_prompts
from oracle_kit import random_transformer, transformer_of

from circuitbench.checks.contracts import check_task
from circuitbench.core.errors import InvalidSpec, ModelUnavailable
from circuitbench.models.forward import forward
from circuitbench.oracle import Oracle
from circuitbench.plugins.registry import load_model, load_task


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_case(tmp_path / "11")


def test_a_case_computes_what_its_weights_say(case: Path) -> None:
    model = load_model(f"interpbench:{case}")
    tokens = torch.arange(12)[None]
    expected = forward(
        random_transformer(n_layers=2, d_mlp=12, activation="gelu", causal=False), tokens
    ).logits
    logits = forward(transformer_of(model), tokens).logits
    torch.testing.assert_close(logits[..., :7], expected[..., :7])
    assert (logits[..., 7:] < -1000).all()  # it can't say these
    assert model.name.startswith("interpbench:11@raw,weights=")
    assert str(case.parent) not in json.dumps(dict(model.provenance))
    assert model.provenance["training"] == {"lr": 0.01}


def test_its_edges_are_the_truth(case: Path) -> None:
    model = load_model(f"interpbench:{case}")
    circuit: Any = load_task("interpbench").truth(model)
    assert {str(edge) for edge in circuit.edges or ()} == {
        "embed->0.1.q",
        "embed->m0",
        "0.1->1.2.v",
        "m0->1.2.q",
        "m0->1.2.k",
        "m0->1.2.v",
        "1.2->logits",
    }
    assert {str(head) for head in circuit.heads} == {"0.1", "1.2"}
    assert circuit.mlps == (0,)


def test_prompts_come_from_a_file(case: Path) -> None:
    task, model = load_task("interpbench"), load_model(f"interpbench:{case}")
    with pytest.raises(InvalidSpec, match=r"case 11 has no prompts.jsonl: InterpBench makes"):
        task.prompts(model, 2, np.random.default_rng(0))
    write_prompts(case)
    check_task(task, model)
    oracle = Oracle(model, task, task_name="interpbench", seed=0, batch_size=4)
    masks = oracle.head_masks()
    damages = oracle.query(masks, per_prompt=True).per_prompt_task
    prompts = oracle.batch.source.prompts

    def off(layer: int, z: torch.Tensor) -> torch.Tensor:
        return z * masks[5][layer].float()[:, None]

    intact, cut = (prompts.metric(forward(transformer_of(model), prompts.tokens, edit).logits)
                   for edit in (None, off))  # fmt: skip
    assert damages is not None
    torch.testing.assert_close(damages[5], intact - cut, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", r"line 1 needs clean, corrupted, answer, wrong as token ids \('clean'\)"),
        ('{"clean": [1], "corrupted": [99], "answer": 1, "wrong": 2}', "does not read"),
        ('{"clean": [1], "corrupted": [2], "answer": 1, "wrong": 9}', r"cannot say \(0 to 6\)"),
        ('{"clean": [1], "corrupted": [2, 3], "answer": 1, "wrong": 2}', "must be equally long"),
        ("", "line 1 needs"),
    ],
)
def test_bad_prompts_are_named(line: str, message: str, case: Path) -> None:
    (case / "prompts.jsonl").write_text(line + "\n")
    model = load_model(f"interpbench:{case}")
    with pytest.raises(InvalidSpec, match=message):
        load_task("interpbench").prompts(model, 2, np.random.default_rng(0))


def test_a_config_may_be_an_object_of_a_class_that_is_gone(case: Path, monkeypatch: Any) -> None:
    name = "transformer_lens.HookedTransformerConfig"
    module = types.ModuleType(name)
    cls = type("HookedTransformerConfig", (), {"__module__": name})
    module.HookedTransformerConfig = cls  # type: ignore[attr-defined]
    config = cls()
    vars(config).update(settings())
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, name, module)
        (case / "ll_model_cfg.pkl").write_bytes(pickle.dumps(config))
    assert load_model(f"interpbench:{case}").n_layers == 2


class Hostile:
    """Pickled, it runs a command when it is read."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


@pytest.mark.parametrize("file", ["ll_model.pth", "ll_model_cfg.pkl", "edges.pkl"])
@pytest.mark.parametrize("call", [os.system, eval, __import__, getattr], ids=lambda c: c.__name__)
def test_code_in_a_pickle_is_never_run(file: str, call: Any, case: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    arguments = {
        os.system: (f"touch {trap}",),
        eval: (f"open({str(trap)!r}, 'w')",),
        __import__: ("this",),
        getattr: (os, "system"),
    }[call]
    if call is getattr:
        arguments = ("text", "upper")
    hostile = Hostile(call, *arguments)
    if file == "ll_model.pth":
        torch.save({"embed.W_E": hostile}, case / file)
    else:
        (case / file).write_bytes(pickle.dumps({"n_layers": hostile}))
    with pytest.raises(ModelUnavailable, match=r"refuse") as caught:
        load_model(f"interpbench:{case}")
    assert len(str(caught.value).splitlines()) == 1
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # protocol 0
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02ctorch.serialization\nload\nX\x01\x00\x00\x00x\x85R.",
        b"\x80\x02ctorch\n__dict__\n.",
        b"\x80\x02X\x01\x00\x00\x00xQ.",  # storage elsewhere
        b"\x80\x02cbuiltins\nset.attr\n.",
        b"not a pickle",
        b"",
    ],
)
def test_hand_made_pickles_are_refused(content: bytes, case: Path) -> None:
    (case / "edges.pkl").write_bytes(content)
    with pytest.raises(ModelUnavailable, match=r"edges.pkl is (a pickle that asks|no pickle)"):
        load_model(f"interpbench:{case}")


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("hook_embed", "blocks.0.hook_nothing[0]")], "'blocks.0.hook_nothing"),
        ([("hook_mebed", "blocks.0.hook_mlp_in")], "'hook_mebed', which is no hook"),
        (
            [("blocks.1.hook_mlp_out", "blocks.0.hook_mlp_in")],
            "has m1->m0, which the model has not",
        ),
        ([("hook_embed",)], "which is no pair of hooks"),
        ({"a": 1}, "holds no list of pairs"),
    ],
)
def test_edges_that_are_none_are_named(edges: Any, message: str, case: Path) -> None:
    (case / "edges.pkl").write_bytes(pickle.dumps(edges))
    with pytest.raises(ModelUnavailable, match=message):
        load_model(f"interpbench:{case}")


def test_what_a_case_lacks_is_named(case: Path) -> None:
    changed = settings() | {"positional_embedding_type": "shortformer"}
    (case / "ll_model_cfg.pkl").write_bytes(pickle.dumps(changed))
    with pytest.raises(ModelUnavailable, match="of 11 has shortformer positions"):
        load_model(f"interpbench:{case}")
    (case / "edges.pkl").unlink()
    with pytest.raises(ModelUnavailable, match=r"has no edges.pkl, so it holds no case"):
        load_model(f"interpbench:{case}")
