"""What both languages mean, in NumPy."""
