"""Checks that graphs and kernels are valid."""
