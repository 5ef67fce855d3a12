"""Compiles kernels of the loop language to PTX for NVIDIA GPUs."""
