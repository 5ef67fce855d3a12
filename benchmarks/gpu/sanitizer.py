"""NVIDIA's compute-sanitizer, where it is found: accesses out of bounds, races, wrong barriers.

What a tool finds ends the worker with an exit code of its own, so that the case that was under way
says so.
"""

from __future__ import annotations

import shutil
from pathlib import Path

TOOLS = ("memcheck", "synccheck", "racecheck")
OPTIONS = ("--error-exitcode=9", "--launch-timeout=60", "--print-limit=3", "--kill=yes")
_PLACES = (
    "/usr/local/cuda/bin/compute-sanitizer",
    "/usr/local/cuda/compute-sanitizer/compute-sanitizer",
)


def find_sanitizer() -> str | None:
    """The program on the path, or of a toolkit."""
    found = shutil.which("compute-sanitizer")
    return found or next((place for place in _PLACES if Path(place).is_file()), None)
