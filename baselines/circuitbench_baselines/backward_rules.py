"""Attribution patching of heads with another backward pass: AtP* and relevance patching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from circuitbench import AblationName, Discovery, Info, Oracle, RuleName, rule_named
from circuitbench_baselines.selection import above


@Info(
    title="AtP*",
    family="Gradient attribution",
    paper="Kramár et al. 2024",
    link="https://arxiv.org/abs/2403.00745",
    needs=("counterfactuals", "gradients", "rules"),
)
@dataclass(frozen=True)
class AtPStar:
    """Attribution patching with the QK fix and GradDrop (Kramár et al. 2024, arXiv 2403.00745).

    Softmax is differentiated by its secant to the counterfactual (rule ``atp-qk``), so that
    saturated attention does not hide what moves a query or a key. One layer at a time passes no
    gradient back, and magnitudes are averaged, ``1 / (L - 1) sum_l |effect without layer l|``, so
    that direct and indirect effects do not cancel (equation 11).

    It departs from the paper in three ways: nodes are heads, so the fix holds wherever the
    backward pass meets a softmax (see :class:`circuitbench.oracle.rules.AtPQK`), instead of for
    queries and keys as nodes; the magnitude is taken of means over prompts; positions are summed.

    Args:
        threshold: commits to heads above this fraction of the clean metric.
    """

    threshold: float = 0.02

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """A gradient for every layer: three queries each."""
        rule, gates = rule_named("atp-qk"), torch.ones(1, *oracle.shape)
        effects = torch.stack(
            [
                oracle.gradient(gates, ablation="resample", rule=rule.dropping(layer))[0]
                for layer in range(oracle.n_layers)
            ]
        ).double()
        scores = effects.abs().sum(0).numpy() / max(1, oracle.n_layers - 1)
        chosen = above(scores, self.threshold * abs(oracle.clean_metric))
        return Discovery(scores, chosen, signed=effects.mean(0).numpy())


@Info(
    title="Relevance patching (RelP)",
    family="Gradient attribution",
    paper="Rezaei Jafari et al. 2025",
    link="https://arxiv.org/abs/2508.21258",
    needs=("counterfactuals", "gradients", "rules"),
)
@dataclass(frozen=True)
class RelP:
    """Attribution patching with coefficients of layer-wise relevance propagation.

    Rezaei Jafari et al. 2025 (arXiv 2508.21258): ``(z_clean - z_counterfactual)`` times what LRP
    passes back instead of a gradient: norms' divisors and the quotient ``f(x) / x`` of
    activations are constants, the factors of a gated MLP get half each. Attention is
    differentiated as it is (``rule="relp-frozen"`` keeps its pattern constant). On heads of
    attention-only models without norms it is attribution patching; the authors see no gain on
    heads either.

    Args:
        rule: ``relp`` or ``relp-frozen``, or any other backward rule.
        ablation: the other end.
        absolute: rank by magnitude.
        threshold: commits to heads above this fraction of the clean metric.
    """

    rule: RuleName = "relp"
    ablation: AblationName = "resample"
    absolute: bool = False
    threshold: float = 0.02

    def discover(self, oracle: Oracle, rng: np.random.Generator) -> Discovery:
        """One gradient: three queries."""
        gates = torch.ones(1, *oracle.shape)
        slopes = oracle.gradient(gates, ablation=self.ablation, rule=self.rule)[0]
        effects = slopes.double().numpy()
        scores = np.abs(effects) if self.absolute else effects
        return Discovery(scores, above(scores, self.threshold * abs(oracle.clean_metric)))
