"""Kernels of the loop language as PTX for NVIDIA GPUs."""
