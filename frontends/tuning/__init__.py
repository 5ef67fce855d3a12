"""The tuner: other forms of a model's kernels, measured where they will run, and kept in files."""
