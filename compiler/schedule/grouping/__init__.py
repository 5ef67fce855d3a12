"""Which nodes are computed together, and where their results lie."""
