"""Scores of discoveries, and statistics over scores."""

from circuitbench.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
