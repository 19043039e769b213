"""Small models with a tokenizer of words, whose behaviour is plain from their weights."""

import re
from typing import Any

import numpy as np
import torch

from circuitbench.models import Model
from circuitbench.models.transformer import LayerWeights, Transformer, TransformerConfig

CARRIED = 64  # features that a copying model carries from one position to the next
N_WORDS = 24


class Words:
    """``w0`` to ``w23`` and longer words of several tokens: ``w1w2`` is two."""

    bos_token_id = 0

    def __len__(self) -> Any:
        return N_WORDS + 1

    def encode(self, text: str) -> Any:
        tokens = []
        for word in text.split():
            known = re.fullmatch(r"(w\d+)+", word)
            parts = re.findall(r"\d+", word) if known else [sum(map(ord, word)) % N_WORDS]
            tokens += [int(part) + 1 for part in parts]
        return tokens


def copying_model(carriers: int, n_heads: int = 64, scale: float = 12.0) -> Any:
    """One layer that says a word that was said; so many heads carry it, each an equal part."""
    rng = np.random.default_rng(0)
    codes = rng.choice([-1.0, 1.0], (N_WORDS + 1, CARRIED))
    codes[0] = 0.0
    W_E = np.hstack([codes, np.zeros_like(codes)])
    W_U = np.vstack([np.zeros_like(codes.T), scale * codes.T / CARRIED])
    values = np.zeros((n_heads, 2 * CARRIED, CARRIED))
    outputs = np.zeros((n_heads, CARRIED, 2 * CARRIED))
    for feature in range(CARRIED):
        head = feature % carriers
        values[head, feature, feature] = outputs[head, feature, CARRIED + feature] = 1.0
    none = torch.zeros(n_heads, 2 * CARRIED, CARRIED)
    layer = LayerWeights(none, none, *(torch.from_numpy(x).float() for x in (values, outputs)))
    config = TransformerConfig(1, n_heads, 2 * CARRIED, CARRIED, N_WORDS + 1, 16, 1.0)
    weights = Transformer(
        config, torch.from_numpy(W_E).float(), torch.from_numpy(W_U).float(), (layer,),
        torch.zeros(16, 2 * CARRIED),
    )  # fmt: skip
    return Model("copying", 1, n_heads, weights, construction=Words())
