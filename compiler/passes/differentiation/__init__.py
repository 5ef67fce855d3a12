"""Gradients: the graph of a loss, with what its parameters get from it."""
