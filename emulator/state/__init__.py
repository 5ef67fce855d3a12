"""What a running kernel has: registers, memories, and what is under way."""
