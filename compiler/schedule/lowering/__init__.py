"""From groups of nodes to launches of kernels."""
