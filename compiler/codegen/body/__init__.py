"""The function that calls a model's kernels in order."""
