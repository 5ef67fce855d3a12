"""Loads and runs compiled models; needs only the standard library and NumPy."""
