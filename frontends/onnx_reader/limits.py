"""Limits on a model's size and depth: models are untrusted files, and reading one must stay cheap.

The numbers are far above any network known, and far below what hurts.
"""

from __future__ import annotations

import math

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Dim, Size
from bessemer.compiler.ir.types import TensorType

FILE_BYTES = (1 << 31) - 1  # protobuf's own limit
NODES = 1_000_000
NESTING = 24
"""Subgraphs in subgraphs, and calls of functions in functions."""
NAME_LENGTH = 4096
RANK = 64
TENSOR_BYTES = 1 << 46
PARTS = 4096
"""Outputs of a split, elements of a sequence, entries of a vector of sizes."""


def check_size(type: TensorType, where: str) -> None:
    """Raises CompileError for a tensor larger than any machine's memory."""
    if type.rank > RANK:
        raise CompileError(f"{where}: has {type.rank} dimensions, more than {RANK}")
    known = math.prod(_least(size) for size in type.shape)
    if known * type.dtype.bytes > TENSOR_BYTES:
        raise CompileError(f"{where}: is {type}, {too_large(known * type.dtype.bytes)}")


def _least(size: Size) -> int:
    """What a size is at least where the tensor has elements: 1024 for 1024 * n."""
    return math.gcd(*size.terms.values()) if isinstance(size, Dim) else max(size, 1)


def too_large(size: int) -> str:
    """Says of a number of bytes that no machine has so many."""
    return f"which takes {size >> 40:,} TiB, more than the {TENSOR_BYTES >> 40} that are allowed"
