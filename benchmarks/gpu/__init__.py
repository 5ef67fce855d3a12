"""Everything about GPUs that a device is needed for, in one command: `python -m benchmarks.gpu`."""
