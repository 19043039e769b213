"""Between the counterfactual and the prompt: where edge gradients are taken, as objects."""

from __future__ import annotations

from dataclasses import dataclass

from circuitbench.core.errors import InvalidSpec


@dataclass(frozen=True)
class Straight:
    """Points where senders put out ``ablated + alpha * (clean - ablated)``, all else computed.

    With the embedding alone these are EAP-IG's interpolated inputs (Hanna et al. 2024, arXiv
    2403.17806): ``alpha = 0`` is the run on the counterfactual (under resample ablation), 1 the
    run on the prompt. With another sender, or several, only their own activations are moved
    (EAP-IG activations, integrated gradients as Marks et al. 2024, arXiv 2403.19647, take them).

    Args:
        alphas: one per point, each in [0, 1].
        senders: ``embed``, heads ``"3.1"``, MLPs ``"m3"``, see :class:`Graph`.
    """

    alphas: tuple[float, ...] = (1.0,)
    senders: tuple[str, ...] = ("embed",)

    def __post_init__(self) -> None:
        if not self.alphas or not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise InvalidSpec(f"a path needs alphas in [0, 1], not {self.alphas}")
        if not self.senders:
            raise InvalidSpec("a path needs at least one sender that moves")

    @property
    def n_points(self) -> int:
        """How many points there are."""
        return len(self.alphas)

    @property
    def passes(self) -> int:
        """Forward passes with a backward pass that it takes."""
        return len(self.alphas)


@dataclass(frozen=True)
class GradPath:
    """Points that go from the prompt towards the counterfactual's answer: EAP-GP's path.

    Zhang et al. 2025 (arXiv 2502.06852): from the prompt's embedding ``x_0``, every step goes one
    unit down the slope of the squared distance between the outputs there and on the
    counterfactual: ``x_(j+1) = x_j - g / |g|``, where ``g`` is the derivative by ``x_j`` of
    ``|G(x_j) - G(counterfactual)|^2``. The points are ``x_1 .. x_k``. It takes a backward pass
    per step to find them.

    The paper states a path for the activation of every node. Here there is one, of the embedding,
    from which all else is computed, which is what the paper's reported cost (about five times
    EAP-IG's) allows. The output ``G`` is the logits at the metric's positions, the norm that of
    one prompt.

    Args:
        steps: k, 5 in the paper.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidSpec(f"a path needs at least one step, not {self.steps}")

    @property
    def n_points(self) -> int:
        """How many points there are."""
        return self.steps

    @property
    def passes(self) -> int:
        """Forward passes with a backward pass that it takes."""
        return 2 * self.steps


Path = Straight | GradPath
CLEAN = Straight()
