"""A model for GPUs as a C library: its tables, the runtime's C text, its header."""
