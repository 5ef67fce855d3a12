"""Contractions and attention: tiles of sums, by multiply-adds, mma and wgmma."""
