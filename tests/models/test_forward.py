import pytest
import torch
from oracle_kit import ARCHITECTURES, Hooked, random_transformer

from circuitbench.models.forward import forward


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_reference_computes_what_transformer_lens_computes(name: str) -> None:
    transformer = random_transformer(2, **ARCHITECTURES[name])
    hooked = Hooked(transformer)
    tokens = torch.randint(23, (3, 9), generator=torch.Generator().manual_seed(0))
    found = forward(transformer, tokens)
    mask = torch.ones(hooked.shape)
    torch.testing.assert_close(
        found.logits, hooked.logits(tokens, mask, None), atol=1e-4, rtol=1e-4
    )
    for ours, theirs in zip(found.z, hooked.z(tokens), strict=True):
        torch.testing.assert_close(ours, theirs.view_as(ours), atol=1e-4, rtol=1e-4)
    assert all(torch.allclose(p.sum(-1), torch.ones(())) for p in found.patterns)
    mask[1, 2] = 0
    edited = forward(transformer, tokens, lambda layer, z: z * mask[layer][:, None])
    torch.testing.assert_close(
        edited.logits, hooked.logits(tokens, mask, None), atol=1e-4, rtol=1e-4
    )


def test_the_reference_is_differentiable() -> None:
    transformer = random_transformer(2, d_mlp=8, normalization="layer")
    transformer.W_E.requires_grad_()
    forward(transformer, torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    assert transformer.W_E.grad is not None
    assert transformer.W_E.grad.abs().max() > 0
