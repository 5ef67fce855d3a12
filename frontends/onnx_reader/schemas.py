"""ONNX's own description of its operators, by version."""

from __future__ import annotations

from collections.abc import Mapping
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


_STEPS = {"state_window": 0, "channels_last": 0, "dilation": 1, "ndim": 1}
ADOPTED = {("com.microsoft", "CausalConvWithState"): 27, ("", "LayerNormalization"): 17}
"""Operators that ONNX took over as they were, and with which set: models that onnxruntime has
optimized have them in earlier sets too. Those of com.microsoft have got further attributes since,
which mean nothing while they are as in `_STEPS`."""


def adopted(
    domain: str, opset: int, operator: str, attributes: Mapping[str, onnx.AttributeProto]
) -> tuple[str, int]:
    """The domain and set that describe an operator; its own as a rule."""
    known = ADOPTED.get((domain, operator))
    if known is None or any(attributes[k].i != v for k, v in _STEPS.items() if k in attributes):
        return domain, opset
    return "", max(known, opset) if domain == "" else known


@lru_cache(maxsize=4096)
def find_schema(domain: str, operator: str, opset: int) -> Schema | None:
    """The operator as it is in an operator set; None where ONNX does not know it.

    Of a set newer than the onnx package knows, the newest known version is taken.
    """
    try:
        return Schema(defs.get_schema(operator, opset, domain))
    except defs.SchemaError:
        return None
