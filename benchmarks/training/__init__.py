"""Training measured against torch: steps, memory, loss curves, digits learned."""
