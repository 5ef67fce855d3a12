"""ONNX attributes as Python values, with defaults from the operator's schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
from onnx import AttributeProto, defs

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.tensors import array_of_sparse

ReadTensor = Callable[[onnx.TensorProto, str], Array]
Given = Mapping[str, AttributeProto]
"""The attributes of a function call, for the references inside the function's body."""


def resolved_attributes(
    node: onnx.NodeProto, given: Given, label: str
) -> dict[str, AttributeProto]:
    """The node's attributes, references to a function's attributes replaced by their values.

    A reference to an attribute that the call leaves out leaves the node's attribute out.
    """
    found: dict[str, AttributeProto] = {}
    for attribute in node.attribute:
        if attribute.name in found:
            raise CompileError(f"{label}: has the attribute {attribute.name} twice")
        if not attribute.ref_attr_name:
            found[attribute.name] = attribute
        elif attribute.ref_attr_name in given:
            copy = AttributeProto()
            copy.CopyFrom(given[attribute.ref_attr_name])
            copy.name = attribute.name
            found[attribute.name] = copy
    return found


def attribute_values(
    attributes: Mapping[str, AttributeProto],
    schema: defs.OpSchema | None,
    read_tensor: ReadTensor,
    label: str,
) -> dict[str, Any]:
    """All attributes as Python values: those of the node and the schema's defaults."""
    values: dict[str, Any] = {}
    if schema is not None:
        _check_attributes(attributes, schema, label)
        for name, declared in schema.attributes.items():
            if declared.default_value.type != AttributeProto.UNDEFINED:
                values[name] = attribute_value(declared.default_value, read_tensor, label)
    for name, attribute in attributes.items():
        values[name] = attribute_value(attribute, read_tensor, label)
    return values


def _check_attributes(
    attributes: Mapping[str, AttributeProto], schema: defs.OpSchema, label: str
) -> None:
    for name, attribute in attributes.items():
        declared = schema.attributes.get(name)
        if declared is None:
            raise CompileError(f"{label}: {schema.name} has no attribute called '{name}'")
        # A model of IR version 2 may leave the type out.
        if attribute.type not in (AttributeProto.UNDEFINED, _code(declared)):
            wanted = AttributeProto.AttributeType.Name(_code(declared))
            raise CompileError(f"{label}: the attribute '{name}' has to be of type {wanted}")
    for name, declared in schema.attributes.items():
        if declared.required and name not in attributes:
            raise CompileError(f"{label}: the attribute '{name}' is missing")


def _code(declared: defs.OpSchema.Attribute) -> int:
    """The schema's attribute type, by AttributeProto's number."""
    return int(declared.type.value)  # type: ignore[attr-defined]


def attribute_value(attribute: AttributeProto, read_tensor: ReadTensor, label: str) -> Any:
    """One attribute as int, float, str, array, graph, or a list of these."""
    where = f"{label}: attribute '{attribute.name}'"
    match _kind(attribute):
        case AttributeProto.FLOAT:
            return attribute.f
        case AttributeProto.INT:
            return attribute.i
        case AttributeProto.STRING:
            return _text(attribute.s, where)
        case AttributeProto.TENSOR:
            return read_tensor(attribute.t, where)
        case AttributeProto.SPARSE_TENSOR:
            return array_of_sparse(attribute.sparse_tensor, read_tensor, where)
        case AttributeProto.GRAPH:
            return attribute.g
        case AttributeProto.FLOATS:
            return list(attribute.floats)
        case AttributeProto.INTS:
            return list(attribute.ints)
        case AttributeProto.STRINGS:
            return [_text(entry, where) for entry in attribute.strings]
        case AttributeProto.GRAPHS:
            return list(attribute.graphs)
        case _:
            return attribute  # types: for a rule to refuse by name


def _kind(attribute: AttributeProto) -> int:
    if attribute.type != AttributeProto.UNDEFINED:
        return attribute.type
    singles = (
        ("f", AttributeProto.FLOAT),
        ("i", AttributeProto.INT),
        ("s", AttributeProto.STRING),
        ("t", AttributeProto.TENSOR),
        ("g", AttributeProto.GRAPH),
    )
    for name, kind in singles:
        if attribute.HasField(name):
            return kind
    lists = (
        ("floats", AttributeProto.FLOATS),
        ("ints", AttributeProto.INTS),
        ("strings", AttributeProto.STRINGS),
    )
    for name, kind in lists:
        if len(getattr(attribute, name)):
            return kind
    return AttributeProto.UNDEFINED


def _text(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise CompileError(f"{where}: is not UTF-8 text") from None
