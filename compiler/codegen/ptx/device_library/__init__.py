"""Writes a model for GPUs as a C library: its tables, the runtime as C text, and its header."""
