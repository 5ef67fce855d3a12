"""Quantized networks: products of integers, and where values become integers and floats."""
