"""`bessemer cache`: what the compile cache holds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from bessemer.compiler.errors import CompileError
from bessemer.compiler.known_files import forget_files
from bessemer.compiler.options import cache_folder
from bessemer.frontends.cli import arguments
from bessemer.frontends.cli.output import format_bytes, print_json, write
from bessemer.runtime.whole_file import is_unfinished


def command(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all entries.")] = False,
    as_json: arguments.AsJson = False,
) -> None:
    """Show the folder, number of entries and size of the compile cache, or empty it.

    BESSEMER_CACHE_DIR chooses the folder; set to nothing, it turns the cache off.
    """
    folder = cache_folder()
    entries, size = contents(folder)
    if clear:
        _remove(folder)
    if as_json:
        print_json(
            {
                "folder": str(folder) if folder else None,
                "entries": entries,
                "bytes": size,
                "cleared": clear,
            }
        )
    elif folder is None:
        write("The cache is off (BESSEMER_CACHE_DIR is set to nothing, or there is no home).")
    else:
        text = f"{entries} entries, {format_bytes(size)}"
        write(f"{folder}: {'removed ' if clear else ''}{text}")


def contents(folder: Path | None) -> tuple[int, int]:
    """How many models a cache holds, and their bytes."""
    entries = _entries(folder)
    files = [file for entry in entries for file in entry.rglob("*") if file.is_file()]
    return len(entries), sum(file.stat().st_size for file in files)


def _entries(folder: Path | None) -> list[Path]:
    """Only what the cache has made: a folder with a manifest, or what a crash has left of one."""
    if folder is None or not os.path.isdir(folder):
        return []
    return [
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and ((entry / "manifest.json").exists() or is_unfinished(entry))
    ]


def _remove(folder: Path | None) -> None:
    if folder is not None:
        forget_files(folder)
    for entry in _entries(folder):
        try:
            shutil.rmtree(entry)
        except OSError as error:
            raise CompileError(f"Cannot remove {entry}: {error.strerror}") from None
