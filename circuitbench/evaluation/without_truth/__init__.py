"""Measurements that need the model but no truth: faithfulness, tests, stability."""
