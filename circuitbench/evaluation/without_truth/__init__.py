"""Measurements that need the model but no truth: faithfulness, tests, stability."""

MEASURED_ABLATIONS = ("zero", "mean", "resample")
"""The kinds of ablation under which faithfulness and the MIB areas are measured and shown."""
