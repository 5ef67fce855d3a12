"""The table of rules: how each of our operators is written in ONNX."""

from __future__ import annotations

from collections.abc import Callable

from bessemer.compiler.ir.graph import Node
from bessemer.frontends.onnx_writer.emitter import Emitter

Rule = Callable[[Emitter, Node], None]

RULES: dict[str, Rule] = {}
"""By the operator's name. A rule writes nodes and says where the outputs are (`Emitter.store`)."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enters a rule for operators."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter
