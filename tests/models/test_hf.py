"""``hf:``: every architecture against Hugging Face's own forward pass, and honest refusals."""

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints_kit import ARCHITECTURES, module_of, save, save_tokenizer
from oracle_kit import RandomTask, transformer_of

from circuitbench.core.errors import InvalidSpec, ModelUnavailable, UnknownName
from circuitbench.models.base import Model
from circuitbench.models.checkpoints.hooked import HookedCheckpoint
from circuitbench.models.forward import forward
from circuitbench.oracle import Oracle
from circuitbench.oracle.engine.hooks import HookEngine
from circuitbench.plugins.registry import load_model

ABLATIONS = ("zero", "mean", "resample")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> Path:
    """A folder with one checkpoint per architecture."""
    root: Path = tmp_path_factory.mktemp("checkpoints")
    for kind in ARCHITECTURES:
        save(kind, root / kind)
    return root


def oracle_of(model: Model, engine: Any = None) -> Oracle:
    return Oracle(model, RandomTask(vocab=24), task_name="t", seed=0, batch_size=4, engine=engine)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_computes_what_hugging_face_computes(kind: str, folders: Path) -> None:
    """Logits, ablations of heads, and gradients by the mask, to 1e-4."""
    module = module_of(kind)
    model = load_model(f"hf:{folders / kind}")
    tokens = torch.arange(20).view(2, 10)
    with torch.no_grad():
        theirs = module(tokens).logits
    torch.testing.assert_close(
        forward(transformer_of(model), tokens).logits, theirs, atol=1e-4, rtol=1e-4
    )
    slow = oracle_of(model, HookEngine(HookedCheckpoint(module), 2, 4))
    fast = oracle_of(model)
    rng = torch.Generator().manual_seed(1)
    masks = torch.cat([fast.head_masks()[:3], torch.rand(5, 2, 4, generator=rng) < 0.5])
    soft = torch.rand(1, 2, 4, generator=rng)
    for ablation in ABLATIONS:
        ours, hooked = (
            o.query(masks, ablation=ablation, kl=True, per_prompt=True) for o in (fast, slow)
        )
        for name in ("per_prompt_task", "per_prompt_control", "kl"):
            torch.testing.assert_close(
                getattr(ours, name), getattr(hooked, name), atol=1e-4, rtol=1e-4
            )
        slopes = [o.gradient(soft, ablation=ablation, of="reward") for o in (fast, slow)]
        torch.testing.assert_close(*slopes, atol=1e-4, rtol=1e-4)
    restored = [o.query(masks, direction="denoising").task for o in (fast, slow)]
    torch.testing.assert_close(*restored, atol=1e-4, rtol=1e-4)
    assert fast.batch.accuracy == slow.batch.accuracy


@pytest.fixture
def llama(folders: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be changed."""
    return Path(shutil.copytree(folders / "llama", tmp_path / "my llama"))


def test_a_name_states_what_was_loaded_and_no_path(llama: Path, monkeypatch: Any) -> None:
    model = load_model(f"hf:{llama}@folded")
    assert model.name.startswith("hf:my-llama@folded,weights=")
    assert str(llama.parent) not in json.dumps(dict(model.provenance))
    monkeypatch.chdir(llama.parent)
    assert load_model(model.name).name == model.name  # though the folder is called "my llama"
    other = llama.rename(llama.parent / "my-llama")
    monkeypatch.setenv("CIRCUITBENCH_WEIGHTS", str(other.parent))
    assert load_model(model.name).name == model.name  # as the record's command asks for it
    config = json.loads((other / "config.json").read_text()) | {"rms_norm_eps": 1e-3}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnavailable, match=r"my-llama holds other weights: .*, not the"):
        load_model(model.name)


def test_the_hub_cache_is_read_by_branch_and_by_commit(llama: Path, monkeypatch: Any) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef" * 2 + "01234567"
    hub = llama.parent / "hub"
    repository = hub / "models--some-org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    shutil.copytree(llama, repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(hub), raising=False)
    model = load_model("hf:some-org/tiny")
    assert model.name == "hf:some-org/tiny@raw,revision=0123456789ab"
    assert load_model(model.name).name == model.name
    assert model.provenance["revision"] == commit
    with pytest.raises(ModelUnavailable, match="hf download some-org/tiny --revision v2"):
        load_model("hf:some-org/tiny,revision=v2")
    with pytest.raises(ModelUnavailable, match="'hf download some-org/other'"):
        load_model("hf:some-org/other")


def test_folding_keeps_predictions(folders: Path) -> None:
    tokens = torch.arange(20).view(2, 10)
    for kind in ("pythia", "qwen2", "gemma2", "olmo2"):
        raw, folded = (
            forward(transformer_of(load_model(f"hf:{folders / kind}@{p}")), tokens).logits
            for p in ("raw", "folded")
        )
        torch.testing.assert_close(
            raw.log_softmax(-1), folded.log_softmax(-1), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("kind", ["llama", "gemma2", "pythia", "olmo2"])
def test_bfloat16_weights_are_computed_with_in_float32(kind: str, folders: Path) -> None:
    """Kept in half the memory, they give what the same rounded weights give in float32."""
    slim = load_model(f"hf:{folders / kind},dtype=bfloat16")
    assert slim.name.split(",")[1] == "dtype=bfloat16"
    assert slim.provenance["dtype"] == "bfloat16"
    weights = transformer_of(slim)
    assert weights.is_slim
    assert weights.layers[0].W_O.dtype == torch.bfloat16
    wide = Model("wide", 2, 4, _widened(weights))
    masks = oracle_of(wide).head_masks()
    ours, theirs = (oracle_of(model).query(masks, kl=True) for model in (slim, wide))
    torch.testing.assert_close(ours.reward, theirs.reward, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.kl, theirs.kl, atol=1e-4, rtol=1e-4)
    slopes = [oracle_of(model).gradient(masks[:1].float()) for model in (slim, wide)]
    torch.testing.assert_close(*slopes, atol=1e-4, rtol=1e-4)
    with pytest.raises(InvalidSpec, match="folded in float32 only"):
        load_model(f"hf:{folders / kind}@folded,dtype=bfloat16")


def _widened(weights: Any) -> Any:
    from dataclasses import replace

    def wide(part: Any) -> dict[str, Any]:
        return {k: t.float() for k, t in vars(part).items() if isinstance(t, torch.Tensor)}

    layers = tuple(replace(layer, **wide(layer)) for layer in weights.layers)
    return replace(weights, **wide(weights), layers=layers)


def test_what_no_reader_knows_goes_through_hooks_and_says_why(tmp_path: Path) -> None:
    import transformers
    from checkpoints_kit import SMALL

    settings = SMALL | dict(num_key_value_heads=4)
    module = transformers.StableLmForCausalLM(transformers.StableLmConfig(**settings))
    module.eval().save_pretrained(tmp_path / "stable")
    model = load_model(f"hf:{tmp_path / 'stable'}")
    assert model.transformer is None
    with pytest.warns(UserWarning, match=r"'stablelm' has no reader \(there are.*through hooks"):
        oracle = oracle_of(model)
    assert torch.isfinite(oracle.query(oracle.head_masks()).reward).all()
    with pytest.raises(InvalidSpec, match="run by hooks"):
        _ = oracle.edges
    with pytest.raises(InvalidSpec, match="hooks, which fold no weights"):
        load_model(f"hf:{tmp_path / 'stable'}@folded")


def test_a_weight_that_no_reader_uses_is_not_ignored(llama: Path) -> None:
    from safetensors.torch import load_file, save_file

    content = load_file(llama / "model.safetensors")
    content["model.layers.0.self_attn.sinks"] = torch.zeros(4)
    save_file(content, llama / "model.safetensors", {"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(f"hf:{llama}")
    assert model.transformer is None
    assert "sinks (1 in all)" in model.hooked_because


def test_a_fault_of_a_reader_is_not_an_unknown_architecture(llama: Path, monkeypatch: Any) -> None:
    from circuitbench.models.checkpoints import readers

    def faulty(checkpoint: Any) -> Any:
        raise KeyError("oops")

    monkeypatch.setitem(readers.READERS, "llama", faulty)
    with pytest.raises(ModelUnavailable, match=r"reader of llama failed on .*a fault of circuitb"):
        load_model(f"hf:{llama}")


def _break(folder: Path, how: str) -> str:
    """Damage a checkpoint; gives what the error must say."""
    from safetensors.torch import load_file, save_file

    weights, config = folder / "model.safetensors", folder / "config.json"
    content = load_file(weights)
    key = "model.layers.1.mlp.up_proj.weight"
    if how == "no folder":
        shutil.rmtree(folder)
        return "no folder"
    if how == "no config":
        config.unlink()
        return "has no config.json"
    if how == "no weights":
        weights.unlink()
        return r"no weights \(\*.safetensors\)"
    if how == "a pickle":
        weights.unlink()
        torch.save(content, folder / "pytorch_model.bin")
        return "pytorch_model.bin, a pickle"
    if how == "a pickle in disguise":
        torch.save(content, weights)
        return "model.safetensors of my-llama is no safetensors file"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
        return "model.safetensors of my-llama is no safetensors file"
    if how == "wrong shape":
        content[key] = torch.zeros(3, 3)
        save_file(content, weights)
        return rf"{key} of my-llama has shape \[3, 3\]; expected \[20, 16\]"
    if how == "missing weight":
        del content[key]
        save_file(content, weights)
        return f"my-llama has no weight {key}"
    if how == "NaN":
        content[key][0, 0] = torch.nan
        save_file(content, weights)
        return f"{key} of my-llama holds NaN or infinity"
    if how == "tokenizer of another model":
        save_tokenizer(folder, 5)
        return "has 5 tokens, the model 24"
    if how == "remote code":
        raw = json.loads(config.read_text()) | {"model_type": "mine"}
        raw["auto_map"] = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
        config.write_text(json.dumps(raw))
        (folder / "mine.py").write_text("raise SystemExit('remote code ran')")
        return "transformers cannot read the config of my-llama"
    raise AssertionError(how)


BROKEN = (
    "no folder",
    "no config",
    "no weights",
    "a pickle",
    "a pickle in disguise",
    "truncated",
    "wrong shape",
    "missing weight",
    "NaN",
    "tokenizer of another model",
    "remote code",
)


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_checkpoint_is_one_clear_line(how: str, llama: Path) -> None:
    expected = _break(llama, how)
    with pytest.raises(ModelUnavailable, match=expected) as caught:
        load_model(f"hf:{llama}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("how", ["no folder", "a pickle in disguise", "NaN", "wrong shape"])
def test_the_command_line_prints_that_line(how: str, llama: Path, capsys: Any) -> None:
    from circuitbench.cli import main

    expected = _break(llama, how)
    assert main(["run", "--method", "random", "--task", "ioi", "--model", f"hf:{llama}"]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in printed
    assert re.search(expected, printed)


def test_a_tokenizer_comes_with_the_checkpoint_or_not_at_all(llama: Path) -> None:
    assert load_model(f"hf:{llama}").construction is None
    save_tokenizer(llama, 24)
    tokenizer = load_model(f"hf:{llama}").construction
    assert tokenizer.encode("w3 w7") == [3, 7]
    assert (tokenizer.bos_token_id, len(tokenizer)) == (0, 24)


def test_what_cannot_be_asked_for_is_refused(folders: Path) -> None:
    with pytest.raises(InvalidSpec, match="did you mean 'folded'"):
        load_model("hf:x@fold")
    with pytest.raises(UnknownName, match="did you mean 'revision'"):
        load_model("hf:x,revison=3")
    with pytest.raises(InvalidSpec, match="no dtype 'float16'"):
        load_model("hf:x,dtype=float16")
    with pytest.raises(InvalidSpec, match="hf: needs a name or folder"):
        load_model("hf:")
    with pytest.raises(ModelUnavailable, match="neither a folder nor a name on the hub"):
        load_model("hf:a/b/c d")


def test_memory_is_stated_before_it_is_taken(monkeypatch: Any) -> None:
    from circuitbench.models.checkpoints import memory

    monkeypatch.setattr(memory, "free_memory", lambda: 20 << 30)
    with pytest.warns(memory.LargeModel, match=r"1.00 billion parameters, 1.86 GiB as bfloat16"):
        memory.check_memory("m", 10**9, torch.bfloat16)
    with pytest.raises(ModelUnavailable, match=r"59.60 GiB are needed.*dtype=bfloat16 halves it"):
        memory.check_memory("m", 8 * 10**9, torch.float32)


def test_backward_rules_hold_where_they_are_known(folders: Path) -> None:
    """No rule changes a value; one of its own for attention does not know a soft cap."""
    soft = torch.full((1, 2, 4), 0.5)
    for kind in ("qwen3", "olmo2", "pythia", "mistral"):
        oracle = oracle_of(load_model(f"hf:{folders / kind}"))
        exact, relp = (oracle.gradient(soft, rule=rule) for rule in ("exact", "relp"))
        assert torch.isfinite(relp).all()
        assert not torch.allclose(exact, relp)
    capped = oracle_of(load_model(f"hf:{folders / 'gemma2'}"))
    with pytest.raises(InvalidSpec, match="gim does not know soft-capped attention"):
        capped.gradient(soft, rule="gim")


def test_edges_are_right_or_refused_with_the_reason(folders: Path) -> None:
    """With all of a head's edges cut, an edge mask says what a head mask says."""
    for kind in ("gpt2", "llama", "llama-3.1", "qwen2", "pythia-sequential"):
        oracle = oracle_of(load_model(f"hf:{folders / kind}"))
        cut = oracle.edges.without(e for e in oracle.edges.edges if e.sender == "0.1")
        head = oracle.query(oracle.head_masks()[1:2], control=False).task
        torch.testing.assert_close(oracle.edges.query(cut[None]).task, head, atol=1e-4, rtol=1e-4)
    reasons = {
        "pythia": "do not hear their own layer's heads",
        "mistral": "has windows",
        "qwen3": "queries and keys are normalised",
        "gemma2": "a norm after attention",
        "olmo2": "a norm after attention",
    }
    for kind, reason in reasons.items():
        with pytest.raises(InvalidSpec, match=f"no edges are known of hf:{kind}@raw.*{reason}"):
            _ = oracle_of(load_model(f"hf:{folders / kind}")).edges
