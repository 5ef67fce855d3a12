"""Sums, extremes and running totals along axes."""
