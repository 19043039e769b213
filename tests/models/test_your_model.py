"""Models from plain state dicts, and the folders they are saved in."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_kit import ARCHITECTURES, random_transformer, transformer_of

import circuitbench as cb
from circuitbench.models.checkpoints.plain import shapes
from circuitbench.models.forward import forward
from circuitbench.models.transformer import TransformerConfig
from circuitbench.models.weight_names import parameters


@pytest.fixture
def given() -> tuple[dict[str, Any], TransformerConfig]:
    transformer = random_transformer(d_mlp=20, normalization="layer")
    return dict(parameters(transformer)), transformer.config


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_heads_may_be_apart_or_side_by_side(kind: str) -> None:
    transformer = random_transformer(**ARCHITECTURES[kind])
    apart = parameters(transformer)
    together: dict[str, Any] = {}
    for key, tensor in apart.items():
        part = key.rpartition(".")[2]
        if part in ("W_Q", "W_K", "W_V"):
            tensor = tensor.transpose(0, 1).flatten(1)  # [d_model, n_heads * d_head]
        elif part in ("W_O", "b_Q", "b_K", "b_V"):
            tensor = tensor.flatten(0, 1)
        together[key] = tensor.numpy()  # arrays do, too
    tokens = torch.arange(12)[None]
    for weights in (apart, together):
        model = cb.from_weights(weights, vars(transformer.config))
        torch.testing.assert_close(
            forward(transformer_of(model), tokens).logits, forward(transformer, tokens).logits
        )
    assert set(apart) <= set(shapes(transformer.config))


def test_rotary_halves_are_turned_into_pairs() -> None:
    """As Hugging Face's layout of the same model would be."""
    transformer = random_transformer(**ARCHITECTURES["llama"])
    halves = torch.tensor([0, 2, 1, 3])  # where each dimension of a pair stands in halves
    weights = parameters(transformer)
    moved = {
        k: t[..., halves] if k.endswith(("W_Q", "W_K", "b_Q", "b_K")) else t
        for k, t in weights.items()
    }
    tokens = torch.arange(12)[None]
    expected = forward(transformer, tokens).logits
    model = cb.from_weights(moved, transformer.config, rotary="halves")
    torch.testing.assert_close(forward(transformer_of(model), tokens).logits, expected)
    with pytest.raises(cb.InvalidSpec, match=r"other logits .* from position 1 on"):
        cb.from_weights(moved, transformer.config, forward=lambda x: forward(transformer, x).logits)


def test_your_forward_is_compared(given: Any) -> None:
    weights, config = given
    theirs = random_transformer(d_mlp=20, normalization="layer")
    model = cb.from_weights(weights, config, forward=lambda x: forward(theirs, x).logits)
    assert model.provenance["compared"] is True
    square = weights["layers.0.W_Q"].transpose(0, 1).flatten(1).T  # as nn.Linear keeps it
    with pytest.raises(cb.InvalidSpec, match="from position 1 on: look at positions and attention"):
        cb.from_weights(
            weights | {"layers.0.W_Q": square}, config, forward=lambda x: forward(theirs, x).logits
        )
    with pytest.raises(cb.InvalidSpec, match="from the first position on"):
        cb.from_weights(weights, config, forward=lambda x: 2 * forward(theirs, x).logits)
    with pytest.raises(cb.InvalidSpec, match=r"must give logits \[2, 12, 23\], not \[2, 23\]"):
        cb.from_weights(weights, config, forward=lambda x: forward(theirs, x).logits[:, -1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_E": None}, r"my-model has no weight W_E, which should be \[23, 16\]"),
        (
            {"W_U": torch.zeros(23, 16)},
            r"W_U of my-model has shape \[23, 16\]; expected \[16, 23\]",
        ),
        ({"layers.1.W_in": torch.zeros(20, 16)}, r"layers.1.W_in .*\[16, 20\] \(transposed\?\)"),
        ({"layers.1.W_O": torch.zeros(3, 16)}, r"expected \[4, 4, 16\] or \[16, 16\]"),
        ({"layers.0.b_Q": torch.full((4, 4), torch.nan)}, "layers.0.b_Q of my-model holds NaN"),
        ({"layers.0.W_q": torch.zeros(1)}, "unknown weight 'layers.0.W_q'; did you mean"),
        ({"layers.0.W_Q": "text"}, "layers.0.W_Q of my-model is no tensor of numbers: str"),
    ],
)
def test_what_is_wrong_with_weights_is_named(change: Any, message: str, given: Any) -> None:
    weights, config = given
    weights = {k: v for k, v in (weights | change).items() if v is not None}
    with pytest.raises(cb.CircuitBenchError, match=message) as caught:
        cb.from_weights(weights, config)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_wrong_with_a_config_or_a_vocabulary_is_named(given: Any) -> None:
    weights, config = given
    with pytest.raises(cb.UnknownName, match="did you mean 'n_heads'"):
        cb.from_weights(weights, vars(config) | {"n_head": 3})
    with pytest.raises(cb.InvalidSpec, match="lacks 'd_vocab'"):
        cb.from_weights(weights, {k: v for k, v in vars(config).items() if k != "d_vocab"})
    with pytest.raises(cb.InvalidSpec, match="my-model has 23 tokens, its tokenizer 30"):
        cb.from_weights(weights, config, words=[f"w{i}" for i in range(30)])
    with pytest.raises(cb.InvalidSpec, match="each of them once"):
        cb.from_weights(weights, config, words=["a", "a"])


def test_a_model_survives_its_folder(given: Any, tmp_path: Path) -> None:
    weights, config = given
    words = [f"w{i}" for i in range(23)]
    cb.from_weights(weights, config, words=words).save(tmp_path / "mine")
    model = cb.load_model(f"folder:{tmp_path / 'mine'}")
    assert model.name.startswith("folder:mine@raw,weights=")
    assert str(tmp_path) not in str((tmp_path / "mine/config.json").read_text())
    assert transformer_of(model).config == config
    back = parameters(transformer_of(model))
    assert all(torch.equal(back[key], tensor) for key, tensor in weights.items())
    assert model.construction.encode("w3 w0") == [3, 0]
    assert model.construction.decode([3, 0]) == "w3 w0"
    with pytest.raises(cb.InvalidSpec, match="no word 'w99'"):
        model.construction.encode("w99")
    with pytest.raises(cb.InvalidSpec, match="is not empty"):
        model.save(tmp_path / "mine")
    folded = cb.load_model(f"folder:{tmp_path / 'mine'}@folded")
    tokens = torch.arange(12)[None]
    ours, theirs = (forward(transformer_of(m), tokens).logits for m in (folded, model))
    torch.testing.assert_close(ours.log_softmax(-1), theirs.log_softmax(-1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json of mine cannot be read"),
        ('{"model_type": "gpt2"}', "it is a Hugging Face checkpoint, hf: reads it"),
        ('{"format": "circuitbench", "config": {"heads": 2}}', "does not describe a model"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(
    content: str, message: str, given: Any, tmp_path: Path
) -> None:
    weights, config = given
    cb.from_weights(weights, config).save(tmp_path / "mine")
    (tmp_path / "mine/config.json").write_text(content)
    with pytest.raises(cb.ModelUnavailable, match=message) as caught:
        cb.load_model(f"folder:{tmp_path / 'mine'}")
    assert len(str(caught.value).splitlines()) == 1


class TheirModel(torch.nn.Module):
    """What the example of docs/your-model.md was trained as: pre-norm, attention only."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pos = torch.nn.Embedding(24, 32), torch.nn.Embedding(16, 32)
        self.norm, self.head = torch.nn.LayerNorm(32), torch.nn.Linear(32, 24, bias=False)
        parts = [
            torch.nn.ModuleDict(
                {
                    "norm": torch.nn.LayerNorm(32),
                    "qkv": torch.nn.Linear(32, 96, bias=False),
                    "out": torch.nn.Linear(32, 32),
                }
            )
            for _ in range(2)
        ]
        self.blocks = torch.nn.ModuleList(parts)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.pos.weight[: tokens.shape[1]]
        for block in self.blocks:
            parts: Any = block
            qkv = parts["qkv"](parts["norm"](x)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
            q, k, v = qkv
            z = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + parts["out"](z.transpose(1, 2).flatten(2))
        logits: torch.Tensor = self.head(self.norm(x))
        return logits


def test_the_example_of_the_docs_works(tmp_path: Path, monkeypatch: Any) -> None:
    page = (Path(__file__).parents[2] / "docs/your-model.md").read_text()
    example = page.partition("```python\n")[2].partition("```")[0]
    assert len(example.splitlines()) < 30
    torch.manual_seed(0)
    theirs = TheirModel()
    monkeypatch.chdir(tmp_path)
    torch.save(theirs.state_dict(), "model.pt")
    exec(compile(example, "docs/your-model.md", "exec"), {"my_forward": theirs})
    model = cb.load_model("folder:mine")
    assert model.provenance["compared"] is True
    tokens = torch.arange(16)[None]
    torch.testing.assert_close(
        forward(transformer_of(model), tokens).logits, theirs(tokens).detach(), atol=1e-4, rtol=1e-4
    )
    assert model.construction.encode("bos w0") == [0, 1]
