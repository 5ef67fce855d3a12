"""Maxima and means over windows, and their gradients."""
