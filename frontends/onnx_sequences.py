"""Sequences and optionals as inputs and outputs of an ONNX model, in tensors.

A compiled model takes and gives tensors. Where a caller's sequence is at hand its length is known:
the model is then rewritten for it, with an input for each of its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array


def kind_of(type: onnx.TypeProto) -> str:
    """tensor_type, sequence_type ..., that of the element of an optional; empty if unknown."""
    kind = type.WhichOneof("value")
    return kind_of(type.optional_type.elem_type) if kind == "optional_type" else kind or ""


def tensor_names(name: str, count: int) -> list[str]:
    """The names of a sequence's tensors."""
    return [f"{name}[{number}]" for number in range(count)]


def flat_inputs(given: Mapping[str, Array | list[Array] | None]) -> dict[str, Array]:
    """The tensors by the names that `in_tensors` gives them."""
    arrays: dict[str, Array] = {}
    for name, item in given.items():
        if isinstance(item, list):
            arrays.update(zip(tensor_names(name, len(item)), item))
        elif item is not None:
            arrays[name] = item
    return arrays


def in_tensors(
    model: onnx.ModelProto, given: Mapping[str, Array | list[Array] | None]
) -> onnx.ModelProto:
    """The model with tensors for inputs; itself if they are. `given` says how long sequences are,
    and which optionals are absent."""
    if all(value.type.WhichOneof("value") == "tensor_type" for value in model.graph.input):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    inputs, nodes = [], []
    for value in model.graph.input:
        item = given.get(value.name)
        if value.name in given and item is None:
            element = value.type.optional_type.elem_type
            nodes.append(helper.make_node("Optional", [], [value.name], type=element))
        elif isinstance(item, list):
            names = tensor_names(value.name, len(item))
            inputs += [_declared(name, array) for name, array in zip(names, item)]
            operator = "SequenceConstruct" if item else "SequenceEmpty"
            nodes.append(helper.make_node(operator, names, [value.name]))
        elif item is not None and value.type.WhichOneof("value") != "tensor_type":
            inputs.append(_declared(value.name, item))
        else:
            inputs.append(value)
    del changed.graph.input[:]
    changed.graph.input.extend(inputs)
    nodes += list(changed.graph.node)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def _declared(name: str, array: Array) -> onnx.ValueInfoProto:
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, code, [None] * array.ndim)


def type_of_item(item: Array | list[Array]) -> onnx.TypeProto:
    """The ONNX type of an input; CompileError for an empty list, which does not tell its type."""
    if isinstance(item, list):
        if not item:
            raise CompileError("the type of an empty list is not known")
        element = helper.make_tensor_type_proto(_code(item[0]), None)
        return helper.make_sequence_type_proto(element)
    return helper.make_tensor_type_proto(_code(item), item.shape)


def _code(array: Array) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def outputs_in_order(
    declared: Sequence[onnx.ValueInfoProto], found: Mapping[str, Array]
) -> tuple[Any, ...]:
    """The model's outputs as it declares them: arrays, lists of them, None for absent optionals."""
    return tuple(_output(value, found) for value in declared)


def _output(value: onnx.ValueInfoProto, found: Mapping[str, Array]) -> Array | list[Array] | None:
    if value.name in found:
        return found[value.name]
    if kind_of(value.type) == "tensor_type":
        return None
    parts: list[Array] = []
    while (name := f"{value.name}[{len(parts)}]") in found:
        parts.append(found[name])
    return parts
