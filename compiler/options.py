"""What a user may choose, and the only reader of environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bessemer.compiler.errors import CompileError

Precision = Literal["float32", "strict"]
PRECISIONS: tuple[Precision, ...] = ("float32", "strict")


@dataclass(frozen=True)
class Options:
    """How to compile.

    `target` names a machine (see targets), "" is this one. `threads` is the default number of a
    model loaded in this process, 0 all processors that it may use. `optimize`: 0 unfused plain
    scalar loops, 1 unfused vector loops, 2 everything. `precision`: "float32" is at most the error
    of float32 arithmetic, "strict" is float32 arithmetic only. `dump` is a folder for the text of
    every step, `verify` checks the graph after each.
    """

    target: str = ""
    threads: int = 0
    precision: Precision = "float32"
    optimize: int = 2
    dump: Path | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        if self.optimize not in (0, 1, 2):
            raise CompileError(f"optimize={self.optimize} is not 0, 1 or 2.")
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise CompileError(f"precision={self.precision!r} is not one of {known}.")
        if self.threads < 0:
            raise CompileError(f"threads={self.threads} is negative; 0 means all processors.")


def dump_folder() -> Path | None:
    """Where BESSEMER_DUMP wants the text of every step."""
    name = os.environ.get("BESSEMER_DUMP", "")
    return Path(name) if name else None


def cache_folder() -> Path | None:
    """Where compiled models are kept: BESSEMER_CACHE_DIR, else the user's cache folder; None if
    BESSEMER_CACHE_DIR is set to nothing, which turns the cache off."""
    name = os.environ.get("BESSEMER_CACHE_DIR")
    if name is not None:
        return Path(name) if name else None
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "bessemer"
