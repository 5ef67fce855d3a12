"""Compiled models on NVIDIA GPUs, through the driver that is installed; no toolkit is needed."""
