"""Convolutions with algorithms of their own: depthwise convolutions, and Winograd's method."""
