"""What a question is answered with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from circuitbench.core.errors import InvalidSpec


@dataclass(frozen=True)
class Damages:
    """What masks cost the model, float32 on the CPU.

    Args:
        task: ``[n_masks]`` clean minus ablated task metric (logit units).
        control: ``[n_masks]`` ablated minus clean control loss (nats/token), or None.
        weight: of the control damage in the reward.
        per_prompt_task, per_prompt_control: ``[n_masks, batch]`` of the same, if asked for.
        kl: ``[n_masks]`` KL(clean || ablated) of the next-token distribution at the metric's
            positions (nats), if asked for.
    """

    task: Tensor
    control: Tensor | None
    weight: float
    per_prompt_task: Tensor | None = None
    per_prompt_control: Tensor | None = None
    kl: Tensor | None = None

    @property
    def reward(self) -> Tensor:
        """Contrastive reward ``[n_masks]``: task damage minus weighted control damage."""
        if self.weight == 0:
            return self.task
        if self.control is None:
            raise InvalidSpec("no reward without control damage; ask with control=True and noising")
        return self.task - self.weight * self.control
