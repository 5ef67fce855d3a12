"""The errors of running a model: the caller's arguments, the artifact's file, the run itself."""

from __future__ import annotations


class RunError(Exception):
    """Whatever keeps a compiled model from running; the kinds below say why."""


class InputError(RunError, ValueError):
    """An argument of `run` has the wrong name, dtype, rank, shape or place."""


class ArtifactError(RunError):
    """A file is not an artifact of Bessemer, is damaged, or was built for another machine."""


class ExecutionError(RunError):
    """The compiled code refused; `status` is the C function's status code."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
