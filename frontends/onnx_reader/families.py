"""All families of operators: importing this module registers their rules."""

from __future__ import annotations

from bessemer.compiler.errors import InternalError
from bessemer.frontends.onnx_reader.registry import RULES


def check_registered() -> None:
    """The rules are there."""
    if not RULES:
        raise InternalError("no rules for ONNX operators are registered")
