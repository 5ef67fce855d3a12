"""Passes over the graph: one function and one file each."""
