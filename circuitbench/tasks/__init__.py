"""One file per behaviour: prompts, metric, counterfactuals, truth."""

from circuitbench.tasks.base import Prompts, Task

__all__ = ["Prompts", "Task"]
