"""What a question is answered with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from circuitbench.core.display import Displayed, Sheet
from circuitbench.core.errors import InvalidSpec

SHOWN = 10  # masks in a table


@dataclass(frozen=True)
class Damages(Displayed):
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

    def sheet(self) -> Sheet:
        """The masks that cost most, by task damage."""
        columns = {"task (logits)": self.task}
        if self.control is not None:
            columns |= {"control (nats/token)": self.control, "reward": self.reward}
        if self.kl is not None:
            columns["KL (nats)"] = self.kl
        first = self.task.argsort(descending=True, stable=True)[:SHOWN].tolist()
        rows = [(str(i), *(f"{float(x[i]):.4g}" for x in columns.values())) for i in first]
        total = len(self.task)
        note = "" if total <= SHOWN else f"The {SHOWN} of {total} masks that cost the task most."
        return Sheet("Damages", rows, ("mask", *columns), note=note)
