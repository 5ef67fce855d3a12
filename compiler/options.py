"""What a user may choose, and the only reader of environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bessemer.compiler.errors import CompileError
from bessemer.runtime.thread_count import NO_THREAD_COUNT, is_thread_count

Precision = Literal["float32", "strict", "bfloat16", "tf32"]
PRECISIONS: tuple[Precision, ...] = ("float32", "strict", "bfloat16", "tf32")


Choice = Mapping[str, int]
"""What was chosen for a kernel, such as {"vectors": 2, "height": 14}; what is not named is left to
the model of the machine."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """Choices by the kernels' signatures, in place of those that the machine's model would make.

    `explore` lists what else could be chosen: for the tuner.
    """

    choices: Mapping[str, Choice] = field(default_factory=dict)
    explore: bool = False

    def __repr__(self) -> str:
        """The choices in one order: part of the compile cache's key."""
        return repr(sorted((name, sorted(one.items())) for name, one in self.choices.items()))


@dataclass(frozen=True)
class Options:
    """How to compile.

    `target` names a machine (see targets), "" is this one. `threads` is the default number of a
    model loaded in this process, 0 all processors that it may use. `optimize`: 0 unfused plain
    scalar loops, 1 unfused vector loops, 2 everything. `precision`: "float32" is at most the error
    of float32 arithmetic, "strict" is float32 arithmetic only, "bfloat16" rounds what matrix
    products and convolutions multiply to bfloat16, "tf32" (GPUs only) to 10 bits behind the
    point. `dump` is a folder for the text of every step, `verify` checks the graph after each.
    `profile` makes a run take the time of every kernel. `tuning` has choices that have been
    measured. `memory` is the most bytes that the arena may take, 0 as many as are fast; `sizes` are
    what symbols are taken for where that is planned. `grow_in_place` gives inputs that outputs
    continue arrays with room for more.
    """

    target: str = ""
    threads: int = 0
    precision: Precision = "float32"
    optimize: int = 2
    dump: Path | None = None
    verify: bool = False
    profile: bool = False
    tuning: Tuning = field(default_factory=Tuning)
    memory: int = 0
    sizes: tuple[tuple[str, int], ...] = ()
    grow_in_place: bool = False

    def __post_init__(self) -> None:
        if self.optimize not in (0, 1, 2):
            raise CompileError(f"optimize={self.optimize!r} is not 0, 1 or 2.")
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise CompileError(f"precision={self.precision!r} is not one of {known}.")
        if self.memory < 0:
            raise CompileError(f"memory={self.memory} is negative; 0 means no budget.")
        if not isinstance(self.target, str):
            raise CompileError(f"target={self.target!r} is not the name of a machine.")
        if not is_thread_count(self.threads):
            raise CompileError(f"threads={self.threads!r} {NO_THREAD_COUNT}")


def dump_folder() -> Path | None:
    """Where BESSEMER_DUMP wants the text of every step."""
    name = os.environ.get("BESSEMER_DUMP", "")
    return Path(name) if name else None


def cache_folder() -> Path | None:
    """Where compiled models are kept: BESSEMER_CACHE_DIR, else the user's cache folder; None if
    BESSEMER_CACHE_DIR is set to nothing, which turns the cache off, or where the user has no home.
    """
    name = os.environ.get("BESSEMER_CACHE_DIR")
    if name is not None:
        return Path(name) if name else None
    root = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "bessemer"
    except RuntimeError:  # neither HOME nor an entry for this user
        return None


def cache_limit() -> int:
    """The bytes that the compile cache may take: BESSEMER_CACHE_MIB in MiB, else 2 GiB."""
    text = os.environ.get("BESSEMER_CACHE_MIB", "2048")
    if not text.isdecimal():
        raise CompileError(f"BESSEMER_CACHE_MIB={text!r} is not a number of MiB.")
    return int(text) << 20
