"""Reads numbers of bytes as people write them, such as 512M."""

from __future__ import annotations

import re

from bessemer.compiler.errors import CompileError
from bessemer.frontends.given_sizes import is_number

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}


def byte_count(given: int | str) -> int:
    """512, "512K", "1.5G" or "200 MiB" as bytes; K, M and G are powers of 1024. Raises CompileError
    for anything else."""
    size = 0
    if isinstance(given, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", given, re.IGNORECASE)
        size = int(float(found[1]) * (1 << _UNITS[found[2].upper()])) if found else 0
    elif is_number(given) and not isinstance(given, bool) and given % 1 == 0:
        size = int(given)  # 1.5e9 is one, too, and so are NumPy's
    if size <= 0:
        raise CompileError(f"memory = {given!r} is not a number of bytes, such as 512M or 1.5G.")
    return size
