"""Prompts of unequal length in one batch give what each length gives alone."""

from typing import Any

import numpy as np
import pytest
import torch
from oracle_kit import ARCHITECTURES, random_transformer
from torch import Tensor

from circuitbench.models import Model
from circuitbench.oracle import Oracle
from circuitbench.oracle.ablations import ABLATIONS
from circuitbench.tasks.base import Prompts, filled_up

WEIGHTS = random_transformer(n_layers=2, n_heads=3, d_vocab=25, **ARCHITECTURES["gpt2"])
MODEL = Model("small", 2, 3, WEIGHTS)
LENGTHS = (5, 8, 5, 6, 8, 5)


class Mixed:
    """Random prompts of several lengths, or those of one length alone."""

    default_model = "small"

    def __init__(self, only: int | None = None) -> None:
        self.only = only

    def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
        draws = np.random.default_rng(7)
        rows, others = (
            [[0, *draws.integers(1, 24, length - 1)] for length in LENGTHS] for _ in range(2)
        )
        tokens, lengths = filled_up(rows)
        assert lengths is not None
        made = Prompts(
            tokens=tokens,
            counterfactual=filled_up(others)[0],
            positions=lengths[:, None] - torch.tensor([[1, 2]]),
            token_ids=torch.from_numpy(draws.integers(1, 24, (len(rows), 2, 3))),
            weights=torch.from_numpy(draws.standard_normal((len(rows), 2, 3))).float(),
            choices=torch.arange(1, 24),
            lengths=lengths,
            spans={"first": torch.tensor([[1, 2]]).expand(len(rows), 2)},
        )
        if self.only is None:
            return made
        part = made.take(lengths == self.only)
        return Prompts(
            part.tokens[:, : self.only],
            part.counterfactual[:, : self.only],
            part.positions,
            part.token_ids,
            part.weights,
            part.choices,
        )

    def control(self, model: Model, n: int, rng: np.random.Generator) -> Tensor:
        spans = np.random.default_rng(3).integers(1, 24, (n, 7))
        spans[:, 0] = 0
        return torch.from_numpy(spans)

    def truth(self, model: Model) -> None:
        return None


def oracle(only: int | None = None) -> Oracle:
    n = len(LENGTHS) if only is None else LENGTHS.count(only)
    return Oracle(MODEL, Mixed(only), task_name="mixed", seed=0, batch_size=n)


def rows(length: int) -> list[int]:
    return [i for i, x in enumerate(LENGTHS) if x == length]


@pytest.mark.parametrize("ablation", [name for name in ABLATIONS if name != "optimal"])
@pytest.mark.parametrize("length", sorted(set(LENGTHS)))
def test_a_batch_gives_what_each_length_gives_alone(ablation: str, length: int) -> None:
    together, alone = oracle(), oracle(length)
    masks = torch.rand(9, 2, 3, generator=torch.Generator().manual_seed(0)) < 0.5

    def asked(of: Oracle) -> Any:
        return of.query(masks, ablation=ablation, per_prompt=True, kl=True).per_prompt_task

    torch.testing.assert_close(asked(together)[:, rows(length)], asked(alone))
    edges = torch.rand(4, len(together.edges.edges), generator=torch.Generator().manual_seed(1))

    def cut(of: Oracle) -> Any:
        return of.edges.query(edges < 0.5, ablation=ablation, per_prompt=True).per_prompt_task

    torch.testing.assert_close(cut(together)[:, rows(length)], cut(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_means_are_over_prompts(ablation: str) -> None:
    together = oracle()
    parts = {length: oracle(length) for length in set(LENGTHS)}
    mask = torch.full((1, 2, 3), 0.3)
    share = {length: LENGTHS.count(length) / len(LENGTHS) for length in parts}
    expected = sum(share[x] * parts[x].gradient(mask, ablation=ablation) for x in parts)
    torch.testing.assert_close(together.gradient(mask, ablation=ablation), expected)
    off = torch.zeros(1, 2, 3, dtype=torch.bool)

    def divergence(of: Oracle) -> Any:
        return of.query(off, ablation=ablation, kl=True).kl

    torch.testing.assert_close(
        divergence(together), sum(share[x] * divergence(parts[x]) for x in parts)
    )
    assert together.clean_metric == pytest.approx(
        sum(share[x] * parts[x].clean_metric for x in parts), abs=1e-6
    )
    assert together.batch.accuracy == pytest.approx(
        sum(share[x] * parts[x].batch.accuracy for x in parts)
    )


def test_what_fills_a_row_up_changes_nothing_and_costs_nothing() -> None:
    class Otherwise(Mixed):
        def prompts(self, model: Model, n: int, rng: np.random.Generator) -> Prompts:
            made = super().prompts(model, n, rng)
            assert made.lengths is not None
            behind = torch.arange(made.tokens.shape[1]) >= made.lengths[:, None]
            return Prompts(
                **{
                    **vars(made),
                    "tokens": made.tokens.masked_fill(behind, 9),
                    "counterfactual": made.counterfactual.masked_fill(behind, 11),
                }
            )

    first = oracle()
    other = Oracle(MODEL, Otherwise(), task_name="mixed", seed=0, batch_size=len(LENGTHS))
    masks = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    for ablation in ABLATIONS:
        found, again = (one.query(masks, ablation=ablation, kl=True) for one in (first, other))
        torch.testing.assert_close(found.task, again.task)
        torch.testing.assert_close(found.kl, again.kl)
    fresh = oracle()
    before = fresh.meter.tokens
    fresh.query(masks[:1], control=False)
    assert fresh.meter.tokens - before == sum(LENGTHS)


def test_parts_and_places_are_checked() -> None:
    made = Mixed().prompts(MODEL, 6, np.random.default_rng(0))
    part = made.take(torch.tensor([1, 3]))
    assert part.lengths is not None
    assert part.lengths.tolist() == [8, 6]
    assert part.spans is not None
    assert part.spans["first"].shape == (2, 2)
    assert made.n_tokens() == sum(LENGTHS)
    wrong = {**vars(made), "positions": made.positions + 1}
    with pytest.raises(Exception, match="positions points outside"):
        Prompts(**wrong)
    with pytest.raises(Exception, match="lengths must be"):
        Prompts(**{**vars(made), "lengths": torch.tensor([3])})
    with pytest.raises(Exception, match="spans"):
        Prompts(**{**vars(made), "spans": {"x": torch.zeros(2, 2)}})
