"""Writes kernels of tiles, for contractions and attention, by multiply-adds, mma and wgmma."""
