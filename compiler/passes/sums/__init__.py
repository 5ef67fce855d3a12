"""Sums over many elements: in parts that threads share, or fused with the kernel that computes the
elements."""
