"""Writes mathematical functions on vectors as LLVM IR."""
