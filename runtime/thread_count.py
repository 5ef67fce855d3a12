"""How many threads a caller may ask for."""

from __future__ import annotations

import operator
from typing import Any

MOST_THREADS = 1024
NO_THREAD_COUNT = f"is not a number of threads from 1 to {MOST_THREADS}; 0 means all processors."
"""Behind what was given, in the error."""


def is_thread_count(given: Any) -> bool:
    """Whether it is a whole number, which may be one of NumPy's, that a context can have."""
    try:
        return 0 <= operator.index(given) <= MOST_THREADS
    except TypeError:
        return False
