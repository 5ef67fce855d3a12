"""Training: losses, optimizers, and the loop around one compiled step."""
