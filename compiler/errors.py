"""The errors of the compiler: `CompileError` for the user's mistake, `InternalError` for ours."""

from __future__ import annotations

from collections.abc import Sequence


class CompileError(Exception):
    """The model, an option or the machine does not allow this: says what, where and what to do."""


class UnsupportedError(CompileError):
    """Something valid that Bessemer cannot compile; `items` lists every such thing of a model."""

    def __init__(self, message: str, items: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.items = tuple(items)


class InternalError(Exception):
    """A broken promise between two parts of the compiler: a bug, to be reported."""
