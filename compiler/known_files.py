"""What is known about the content of files, kept beside the compile cache, so that they need not be
read again.

A file counts as unchanged if its device, inode, size and times of last change are the same, as in
version control systems. Nothing is kept of a file that was changed only a moment ago: it could be
changed once more without getting another time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

KNOWN_FILES = "known_files"
"""The folder of what is known, in the cache's."""
_NAMES = "[0-9a-f]" * 64 + ".json*"
"""The files in it, also unfinished ones. The cache's folder may be one that others use."""
_SETTLED = 3.0
"""Seconds without a change: more than the ticks of a file system's clock."""
_MOST = 1000
"""Files that are kept in mind; those that came first are forgotten."""


def known_of_file(
    folder: Path | None, path: Path, what: str, find: Callable[[], list[str]]
) -> list[str]:
    """What `find` says of a file, or has said before; `what` names it.

    A folder that is None, or cannot be written, keeps nothing. Raises what `find` raises, and
    OSError where there is no such file.
    """
    place = folder / KNOWN_FILES / _name(path, what) if folder else None
    if place is not None:
        with suppress(OSError, ValueError):
            known = json.loads(place.read_text())
            if known and isinstance(known, list) and all(isinstance(one, str) for one in known):
                return known
    found = find()
    # Named again: what was changed while it was read is another file.
    if place is not None and _is_settled(path) and place.name == _name(path, what):
        _keep(place, json.dumps(found))
    return found


def forget_files(folder: Path) -> None:
    """Removes all that is kept in the cache's folder."""
    with suppress(OSError):
        for kept in (folder / KNOWN_FILES).glob(_NAMES):
            kept.unlink()
        (folder / KNOWN_FILES).rmdir()


def _name(path: Path, what: str) -> str:
    status = path.stat()
    times = status.st_mtime_ns, status.st_ctime_ns
    facts = repr((what, status.st_dev, status.st_ino, status.st_size, times))
    return f"{hashlib.sha256(facts.encode()).hexdigest()}.json"


def _is_settled(path: Path) -> bool:
    status = path.stat()
    return time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED


def _keep(place: Path, text: str) -> None:
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(
            "w", dir=place.parent, prefix=place.name, delete=False
        ) as file:
            file.write(text)
        os.replace(file.name, place)
        kept = sorted(place.parent.glob(_NAMES), key=lambda one: one.stat().st_mtime)
        for oldest in kept[:-_MOST]:
            oldest.unlink()
