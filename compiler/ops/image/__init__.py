"""Operators that look at places between pixels: resizing, sampling, boxes."""
