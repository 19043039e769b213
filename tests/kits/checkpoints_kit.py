"""Tiny checkpoints of random weights in Hugging Face's format, one per architecture."""

from pathlib import Path
from typing import Any

import torch

from circuitbench.tasks.text.task import CONTROL, FILES

SMALL: dict[str, Any] = dict(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=32,
    pad_token_id=None,
    bos_token_id=0,
    eos_token_id=0,
    attn_implementation="eager",
)
GROUPED = SMALL | dict(num_key_value_heads=2)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
GEMMA = GROUPED | dict(head_dim=6, query_pre_attn_scalar=5, sliding_window=3)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2",
        dict(n_layer=2, n_head=4, n_embd=16, n_positions=32, vocab_size=24)
        | dict(bos_token_id=0, eos_token_id=0, attn_implementation="eager"),
    ),
    "pythia": ("GPTNeoX", SMALL | dict(rotary_pct=0.5)),
    "pythia-sequential": ("GPTNeoX", SMALL | dict(rotary_pct=0.5, use_parallel_residual=False)),
    "llama": ("Llama", GROUPED | dict(head_dim=4)),
    "llama-3.1": ("Llama", GROUPED | dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "mistral": ("Mistral", GROUPED | dict(sliding_window=3, head_dim=4)),
    "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", GROUPED | dict(head_dim=6)),
    "gemma2": ("Gemma2", GEMMA | dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": (
        "Gemma3Text",
        GEMMA | dict(layer_types=["sliding_attention", "full_attention"]),
    ),
    "olmo2": ("Olmo2", GROUPED),
    "phi3": ("Phi3", GROUPED | dict(sliding_window=4)),
}
_HEADS = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}


def module_of(kind: str) -> Any:
    """A model of this architecture with weights large enough to matter, biases too."""
    import transformers

    family, settings = ARCHITECTURES[kind]
    config = getattr(transformers, f"{family}Config")(**settings)
    module = getattr(transformers, _HEADS.get(family, f"{family}ForCausalLM"))(config)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=rng) * 0.4
            parameter.copy_(1 + drawn if "norm" in name and "gemma" not in kind else drawn)
    return module.eval()


def save(kind: str, folder: Path) -> Any:
    """Write a checkpoint; gives the module that it is of."""
    module = module_of(kind)
    module.save_pretrained(folder)
    return module


def save_tokenizer(folder: Path, words: int) -> None:
    """Write a tokenizer of so many words ``w0 w1 ...``."""
    import tokenizers
    import transformers

    vocabulary = {f"w{i}": i for i in range(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="w0").save_pretrained(
        folder
    )


def save_gpt2(folder: Path, layers: int = 2, heads: int = 3) -> None:
    """A small GPT-2 of random weights, with a byte-level BPE trained on the behaviours we ship."""
    import tokenizers
    import transformers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = " ".join(path.read_text() for path in FILES.glob("*.yaml")).split()
    years = [f" {century}" for century in range(11, 20)] + [f"{year:02}" for year in range(100)]
    rare = [f" {word.strip('[],:')}" for word in words] * 30 + years * 60
    made.train_from_iterator([CONTROL.read_text(), *rare], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(fast), n_positions=96, n_embd=8 * heads, n_layer=layers, n_head=heads
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
