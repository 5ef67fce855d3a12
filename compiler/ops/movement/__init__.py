"""Operators that move elements: views, padding, other shapes."""
