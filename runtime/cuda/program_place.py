"""Finds the program for GPUs (program_file.py) in a file, without what runs it."""

from __future__ import annotations

import mmap
from pathlib import Path

from bessemer.runtime.artifact import read_sections
from bessemer.runtime.errors import ArtifactError

MAGIC = b"BESSEMER GPU\r\n\x1a\n"
SECTION = ".bessemer"
"""Where a shared library has such a file."""


def is_program_file(path: Path) -> bool:
    """Whether a file is one of these, or a library that has one inside."""
    return program_place(path) is not None


def program_place(path: Path) -> tuple[int, int] | None:
    """Where in a file the program begins, and how long it is; None where there is none."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data) as view,
        ):
            if view[: len(MAGIC)] == MAGIC:
                return 0, len(view)
            parts = [(s.offset, s.size) for s in read_sections(view) if s.name == SECTION]
            return parts[0] if parts else None
    except (OSError, ValueError, ArtifactError):  # mmap refuses an empty file with ValueError
        return None
