"""Writes what a training library has in addition to a model: steps, state and checkpoints."""
