"""Writes what an artifact has besides its kernels, as LLVM IR: contexts, threads, weights, the C
API."""
