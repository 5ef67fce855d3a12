"""Loop nests of all other groups: pointwise work, reductions of rows, transposes."""
