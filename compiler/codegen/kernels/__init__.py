"""Kernels to LLVM IR, on processors."""
