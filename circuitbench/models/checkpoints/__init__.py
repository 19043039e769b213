"""Models that others trained: checkpoints, state dicts, saved folders, InterpBench cases."""
