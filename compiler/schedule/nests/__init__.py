"""Loops for everything else: pointwise work, rows, transposes."""
