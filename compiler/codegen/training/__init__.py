"""What a training library has beside that: steps, state and checkpoints."""
