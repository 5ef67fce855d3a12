"""Sums over many elements: in parts that threads share, or where their elements are made."""
