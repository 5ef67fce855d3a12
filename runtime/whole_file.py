"""Files and folders that appear whole or not at all, also where a process is killed.

They are made beside their place, under a name that begins with a dot and ends with .part, and
renamed. Who makes one holds a lock on it; one whose lock is free was left by a process that was
killed, and is removed when the same file is written the next time.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` in the end, unless there is an error.

    The contents are on the disk before they have the name. Raises OSError.
    """
    with _claimed(path, is_folder=False) as (part, handle):
        yield part
        os.fsync(handle)
        part.replace(path)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, which is removed in the end. Raises OSError."""
    with _claimed(path, is_folder=True) as (part, _):
        yield part


@contextmanager
def _claimed(path: Path, is_folder: bool) -> Iterator[tuple[Path, int]]:
    remove_abandoned(path.parent, path.name)
    part, handle = _made(path, is_folder)
    try:
        yield part, handle
    finally:
        _remove(part)
        os.close(handle)


def _made(path: Path, is_folder: bool) -> tuple[Path, int]:
    """A new file or folder, locked."""
    while True:
        part = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.part")
        flags = os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
        if is_folder:
            part.mkdir()
        # Another process may find it before it is locked, and remove it.
        try:
            handle = os.open(part, flags, 0o666)
        except FileNotFoundError:
            if not is_folder:
                raise
            continue
        with suppress(OSError):  # there are file systems without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if part.exists():
            return part, handle
        os.close(handle)


def is_unfinished(path: Path) -> bool:
    """Whether this is a file or folder that is being made, or was left by a killed process."""
    return path.name.startswith(".") and path.suffix == ".part"


def remove_abandoned(folder: Path, name: str = "") -> None:
    """Removes what killed processes have left in a folder: of all files, or of one."""
    of_whom = glob.escape(name) if name else "*"
    for found in glob.glob(f".{of_whom}.*.part", root_dir=folder):
        part = folder / found
        with suppress(OSError):
            handle = os.open(part, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(part)
            finally:
                os.close(handle)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)
