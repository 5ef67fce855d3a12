"""How large and deep a model may be: a model is a stranger's file, and reading it must stay cheap.

The numbers are far above any network known, and far below what hurts.
"""

FILE_BYTES = (1 << 31) - 1  # protobuf's own limit
NODES = 1_000_000
NESTING = 32
"""Subgraphs in subgraphs, and calls of functions in functions."""
NAME_LENGTH = 4096
RANK = 64
TENSOR_BYTES = 1 << 46
