"""Sorting, and what is found by comparing elements: extremes, distinct ones, the best of boxes."""
