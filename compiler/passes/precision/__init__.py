"""Floats of 16 bits: what is rounded to them, and what is computed in more."""
