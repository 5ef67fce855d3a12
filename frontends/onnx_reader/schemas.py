"""ONNX's own description of its operators, by version."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import onnx
from onnx import defs

from bessemer.compiler.errors import CompileError


@dataclass(frozen=True, eq=False)
class Schema:
    """One version of an operator."""

    record: defs.OpSchema

    def check_arity(self, node: onnx.NodeProto, label: str) -> None:
        """Raises CompileError for too few or too many inputs or outputs."""
        record = self.record
        if not record.min_input <= len(node.input) <= record.max_input:
            raise CompileError(
                f"{label}: has {len(node.input)} inputs, {node.op_type} takes"
                f" {_count(record.min_input, record.max_input)}"
            )
        if len(node.output) > record.max_output:
            raise CompileError(
                f"{label}: has {len(node.output)} outputs, {node.op_type} gives"
                f" {_count(record.min_output, record.max_output)}"
            )
        for position, formal in enumerate(record.inputs[: record.min_input]):
            single = formal.option == defs.OpSchema.FormalParameterOption.Single
            if single and not node.input[position]:
                raise CompileError(f"{label}: the input {formal.name} is missing")


def _count(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


ADOPTED = {("", "LayerNormalization"): 17}
"""Operators that ONNX took over as they were, and with which set: models that onnxruntime has
optimized have them in earlier sets too."""


def describing_set(domain: str, opset: int, operator: str) -> int:
    """The operator set that describes an operator; the model's own as a rule."""
    return max(ADOPTED.get((domain, operator), opset), opset)


@lru_cache(maxsize=4096)
def find_schema(domain: str, operator: str, opset: int) -> Schema | None:
    """The operator as it is in an operator set; None where ONNX does not know it.

    Of a set newer than the onnx package knows, the newest known version is taken.
    """
    try:
        return Schema(defs.get_schema(operator, opset, domain))
    except defs.SchemaError:
        return None
