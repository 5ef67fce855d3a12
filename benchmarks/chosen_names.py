"""Which names the option `--only` asks for: the same for all benchmarks.

Standard library only, for benchmarks.gpu runs where no more is installed than the compiler needs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

MOST_NAMES = 20
"""How many names an error lists if none is like those asked for."""


def chosen(section: str, names: Iterable[str], only: Sequence[str]) -> list[str]:
    """Those of the names that a pattern in `only`, with * and ?, matches; without patterns all.

    A note says so where there are none.
    """
    every = list(names)
    found = [name for name in every if any(fnmatchcase(name, pattern) for pattern in only or "*")]
    if not found:
        asked = f" like {' or '.join(only)}" if every else ""
        print(f"{section}: there is nothing{asked}{_abbreviated(every)}", file=sys.stderr)
    return found


def _abbreviated(names: Sequence[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"; there are {', '.join(names[:MOST_NAMES])}{rest}"
