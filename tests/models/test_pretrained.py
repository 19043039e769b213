import os
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_kit import random_transformer, transformer_of

from circuitbench.core.errors import InvalidSpec, ModelUnavailable
from circuitbench.models import pretrained
from circuitbench.models.checkpoints.files import FOLDER_VARIABLE
from circuitbench.models.checkpoints.tokenizers import tokenizer_of
from circuitbench.models.forward import forward
from circuitbench.models.transformer import Transformer


@pytest.fixture(scope="module")
def weights(tmp_path_factory: Any) -> Any:
    """A folder with a tiny GPT-2 of random weights in Hugging Face's layout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    root = tmp_path_factory.mktemp("weights")
    config = GPT2Config(
        n_layer=2,
        n_head=3,
        n_embd=12,
        n_positions=16,
        vocab_size=20,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.3)
    model.save_pretrained(root / "gpt2")
    return root


@pytest.fixture
def found(weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(weights))


def logits(
    transformer: Transformer, tokens: torch.Tensor, off: tuple[int, int] | None = None
) -> torch.Tensor:
    """Of the reference forward pass, with one head's output set to zero."""

    def zero(layer: int, z: torch.Tensor) -> torch.Tensor:
        kept = torch.ones(z.shape[2])
        if off is not None and off[0] == layer:
            kept[off[1]] = 0
        return z * kept[:, None]

    return forward(transformer, tokens, zero).logits


def test_raw_weights_compute_what_hugging_face_computes(weights: Any, found: Any) -> None:
    from transformers import GPT2LMHeadModel

    model = pretrained.gpt2("raw")
    assert (model.name, model.n_layers, model.n_heads) == ("gpt2@raw", 2, 3)
    tokens = torch.arange(20).view(2, 10)
    with torch.no_grad():
        theirs = GPT2LMHeadModel.from_pretrained(weights / "gpt2")(tokens).logits
    torch.testing.assert_close(logits(transformer_of(model), tokens), theirs, atol=1e-4, rtol=1e-4)


def test_folding_keeps_the_predictions_but_changes_zero_ablation(found: Any) -> None:
    raw, folded = pretrained.gpt2("raw"), pretrained.gpt2()
    assert (raw.provenance["processing"], folded.provenance["processing"]) == ("raw", "folded")
    assert raw.provenance["weights"] == folded.provenance["weights"]
    tokens = torch.arange(20).view(2, 10)

    def log_p(model: Any, off: Any = None) -> Any:
        return logits(model.transformer, tokens, off).log_softmax(-1)

    torch.testing.assert_close(log_p(raw), log_p(folded), atol=1e-4, rtol=1e-4)
    assert (log_p(raw, (0, 1)) - log_p(folded, (0, 1))).abs().max() > 1e-2


def test_folding_is_what_transformer_lens_folds(weights: Any, found: Any) -> None:
    """The same predictions with a head ablated, which folding changes."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(weights / "gpt2"), device="cpu")
    bridge.enable_compatibility_mode()

    def off(z: torch.Tensor, hook: object) -> torch.Tensor:
        z = z.clone()
        z.view(*z.shape[:2], 3, -1)[:, :, 1] = 0
        return z

    tokens = torch.arange(20).view(2, 10)
    theirs = bridge.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", off)])
    ours = logits(transformer_of(pretrained.gpt2()), tokens, (0, 1))
    torch.testing.assert_close(
        ours.log_softmax(-1), theirs.detach().log_softmax(-1), atol=1e-4, rtol=1e-4
    )


def test_transformer_lens_is_not_given_what_it_has_no_place_for() -> None:
    with pytest.raises(InvalidSpec, match="knows neither parallel blocks"):
        pretrained.to_transformer_lens(random_transformer(parallel=True))


def test_missing_weights_say_where_to_put_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ModelUnavailable, match="no gpt2 in CIRCUITBENCH_WEIGHTS"):
        pretrained.gpt2()
    monkeypatch.delenv(FOLDER_VARIABLE)
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(ModelUnavailable, match="hf download gpt2"):
        pretrained.gpt2()


@pytest.mark.parametrize("broken", ["no weights", "truncated weights"])
def test_broken_weights_are_one_clear_line(
    weights: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: Any
) -> None:
    (tmp_path / "gpt2").mkdir()
    source = weights / "gpt2"
    (tmp_path / "gpt2/config.json").write_bytes((source / "config.json").read_bytes())
    if broken == "truncated weights":
        content = (source / "model.safetensors").read_bytes()
        (tmp_path / "gpt2/model.safetensors").write_bytes(content[: len(content) // 2])
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ModelUnavailable) as caught:
        pretrained.gpt2()
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_processing_is_refused(found: Any) -> None:
    with pytest.raises(InvalidSpec, match="did you mean 'folded'"):
        pretrained.gpt2("fold")


def test_no_tokenizer_is_better_than_a_wrong_one(found: Any) -> None:
    assert pretrained.gpt2().construction is None


def test_a_real_tokenizer_is_found() -> None:
    folders = [os.environ.get("CIRCUITBENCH_DATA"), Path(__file__).parents[3] / "shared/data"]
    folder = next((Path(f) for f in folders if f and (Path(f) / "gpt2-tokenizer").is_dir()), None)
    if folder is None:
        pytest.skip("no gpt2-tokenizer in $CIRCUITBENCH_DATA or ../shared/data")
    tokenizer = tokenizer_of(folder / "gpt2-tokenizer", "gpt2", 50257)
    assert tokenizer is not None
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.decode([15496, 995]) == "Hello world"
    with pytest.raises(ModelUnavailable, match="has 50257 tokens, the model 20"):
        tokenizer_of(folder / "gpt2-tokenizer", "gpt2", 20)
