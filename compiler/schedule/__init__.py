"""From fusion groups to kernels: how the loops of each are arranged."""
