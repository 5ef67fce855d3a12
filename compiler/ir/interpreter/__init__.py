"""Runs both languages in NumPy; this defines what they mean."""
