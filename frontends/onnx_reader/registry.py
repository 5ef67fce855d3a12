"""The reader's rules: for each ONNX operator a function that builds it out of our operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar, Union

from bessemer.compiler.errors import InternalError
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item

Outputs: TypeAlias = Union[Item, Sequence[Item]]
Rule: TypeAlias = Callable[[NodeContext], Outputs]
_R = TypeVar("_R", bound=Rule)

RULES: dict[tuple[str, str], Rule] = {}


def rule(*operators: str, domain: str = "") -> Callable[[_R], _R]:
    """Registers a rule for operators of a domain, in all their versions."""

    def decorate(function: _R) -> _R:
        for operator in operators:
            if (domain, operator) in RULES:
                raise InternalError(f"two rules for {domain}::{operator}")
            RULES[domain, operator] = function
        return function

    return decorate
