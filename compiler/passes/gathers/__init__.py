"""Reads at computed indices: gathers, lookup tables, and images that are resized."""
