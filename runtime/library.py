"""Opens an artifact's shared library: finds the model and checks that it fits this machine."""

from __future__ import annotations

import ctypes
import mmap
import platform
from pathlib import Path

from bessemer.runtime.artifact import DYNAMIC_SYMBOL_TABLE, elf_machine, read_symbols
from bessemer.runtime.errors import ArtifactError
from bessemer.runtime.native import NativeModel, bind

# A prefix is a model's when the library has all of these.
_MARKS = ("_abi", "_create", "_destroy", "_metadata", "_run", "_workspace_bytes")
_TRAINING_MARKS = ("_abi", "_train_step", "_evaluate", "_predict")


def open_library(path: Path, name: str = "") -> NativeModel:
    """The functions of the model in this library; `name` is its prefix where there are several.

    Raises ArtifactError where the file is missing, damaged, of another machine or holds no such
    model.
    """
    names = _defined(path)
    prefix = _choose(path, _prefixes(names, _MARKS), _prefixes(names, _TRAINING_MARKS), name)
    try:
        library = ctypes.CDLL(_name_of(path.resolve()))
    except OSError as error:
        raise ArtifactError(f"Cannot load {path}: {error}") from None

    def address_of(function: str) -> int:
        try:
            found = library[f"{prefix}_{function}"]
        except AttributeError:
            return 0
        return ctypes.cast(found, ctypes.c_void_p).value or 0

    return bind(address_of, library)


_FILES: dict[Path, list[tuple[int, int]]] = {}
"""The files that were loaded from each path, by device and number, oldest first."""


def _name_of(path: Path) -> str:
    """An absolute path for the dynamic loader, which takes equal names for one file: a file that
    has replaced another since that was loaded gets another name."""
    about = path.stat()
    seen = _FILES.setdefault(path, [])
    if (about.st_dev, about.st_ino) not in seen:
        seen.append((about.st_dev, about.st_ino))
    dots = "./" * seen.index((about.st_dev, about.st_ino))
    return f"{path.parent}/{dots}{path.name}"


def _defined(path: Path) -> set[str]:
    """The names that the library defines."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data) as view,
        ):
            machine = elf_machine(view)
            symbols = list(read_symbols(view, DYNAMIC_SYMBOL_TABLE))
    except FileNotFoundError:
        raise ArtifactError(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:  # mmap refuses an empty file with ValueError
        raise ArtifactError(f"Cannot read {path}: {error}") from None
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    if machine != platform.machine():
        raise ArtifactError(f"{path} is for {machine}, this machine is {platform.machine()}.")
    return {symbol.name for symbol in symbols if symbol.is_defined}


def _prefixes(names: set[str], marks: tuple[str, ...]) -> list[str]:
    candidates = {name.removesuffix(marks[0]) for name in names if name.endswith(marks[0])}
    return sorted(part for part in candidates if all(part + mark in names for mark in marks))


def _choose(path: Path, prefixes: list[str], trainings: list[str], name: str) -> str:
    if trainings and not prefixes:
        raise ArtifactError(
            f"{path} trains '{trainings[0]}': it is for C programs. Its weights are in its "
            "checkpoints, which Trainer.restore reads."
        )
    if not prefixes:
        raise ArtifactError(
            f"{path} holds no model compiled by Bessemer; those in .so files can be loaded."
        )
    if name and name not in prefixes:
        raise ArtifactError(f"{path} holds no model '{name}'; it has {', '.join(prefixes)}.")
    if not name and len(prefixes) > 1:
        raise ArtifactError(f"{path} holds several models, name one: {', '.join(prefixes)}.")
    return name or prefixes[0]
