"""Scores of discoveries, and statistics over scores."""

from circuitbench.evaluation.against_truth.evaluate import evaluate

__all__ = ["evaluate"]
