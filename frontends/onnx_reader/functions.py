"""Operators that are made of others: the model's own functions, and ONNX's function bodies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, defs

from bessemer.compiler.ir.graph import Value
from bessemer.frontends.onnx_reader.items import Item, SequenceItem, StackedItem, TextItem
from bessemer.frontends.onnx_reader.model_state import opset_table
from bessemer.frontends.onnx_reader.structure import check_graph, check_name, operator_name
from bessemer.frontends.onnx_reader.tensors import CODE_OF


def has_body(schema: defs.OpSchema) -> bool:
    """Whether ONNX says what the operator is made of."""
    record: Any = schema  # onnx's stubs lack these members
    return bool(record.has_function or record.has_context_dependent_function)


def schema_function(
    schema: defs.OpSchema, opset: int, node: onnx.NodeProto, items: Sequence[Item]
) -> onnx.FunctionProto | None:
    """The operator's body in ONNX's own operators, None where it has none."""
    record: Any = schema
    version = _version(record.function_opset_versions, opset)
    if version is not None:
        return _parsed(record.get_function_with_opset_version(version))
    version = _version(record.context_dependent_function_opset_versions, opset)
    if version is not None:
        types = [_type_of(item).SerializeToString() for item in items]
        return _parsed(
            record.get_context_dependent_function_with_opset_version(
                version, node.SerializeToString(), types
            )
        )
    return None


def _version(versions: Sequence[int], opset: int) -> int | None:
    """The newest body that the operator set may use; else the oldest there is."""
    usable = [version for version in versions if version <= opset]
    return max(usable) if usable else min(versions, default=None)


def _parsed(body: onnx.FunctionProto | bytes | None) -> onnx.FunctionProto | None:
    return onnx.FunctionProto.FromString(body) if isinstance(body, bytes) and body else body or None


def _type_of(item: Item) -> onnx.TypeProto:
    result = onnx.TypeProto()
    match item:
        case Value():
            tensor = result.tensor_type
            tensor.elem_type = CODE_OF[item.type.dtype]
            tensor.shape.SetInParent()
            for size in item.type.shape:
                dim = tensor.shape.dim.add()
                if isinstance(size, int):
                    dim.dim_value = size
                else:
                    dim.dim_param = str(size)
        case TextItem():
            result.CopyFrom(_type_of(item.value))
            result.tensor_type.elem_type = onnx.TensorProto.STRING
        case SequenceItem():
            if item:
                result.sequence_type.elem_type.CopyFrom(_type_of(item[0]))
        case StackedItem():
            element = Value(item.value.type.with_shape(item.value.type.shape[1:]))
            result.sequence_type.elem_type.CopyFrom(_type_of(element))
        case None:
            pass
    return result


def plain_node(node: onnx.NodeProto, attributes: Mapping[str, AttributeProto]) -> onnx.NodeProto:
    """The node with its attributes resolved."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    copy.attribute.extend(attributes.values())
    return copy


def call_attributes(
    function: onnx.FunctionProto,
    attributes: Mapping[str, AttributeProto],
    schema: defs.OpSchema | None = None,
) -> dict[str, AttributeProto]:
    """The attributes that a body may refer to: defaults, and what the call says."""
    given = {attribute.name: attribute for attribute in function.attribute_proto}
    for name, declared in schema.attributes.items() if schema is not None else ():
        if declared.default_value.type != AttributeProto.UNDEFINED:
            given[name] = declared.default_value
    given.update(attributes)
    return given


def imported_opsets(function: onnx.FunctionProto) -> dict[str, int]:
    """The operator sets that a function's body is written in."""
    return opset_table(list(function.opset_import), f"the function {function.name}")


def check_body(function: onnx.FunctionProto, around: Collection[str] = ()) -> None:
    """The checks of a graph, for a function's body that sees the names `around` the call; raises
    CompileError."""
    graph = onnx.GraphProto()
    for text in (*function.input, *function.output):
        check_name(text, f"the function {function.name}")
    graph.node.extend(function.node)
    for name in dict.fromkeys((*function.input, *around)):
        graph.input.add().name = name
    # An output may be one that this form of the operator does not compute: then it is absent.
    computed = {name for node in function.node for name in node.output} | set(function.input)
    for name in function.output:
        if name in computed:
            graph.output.add().name = name
    check_graph(graph, f"the function {operator_name(function.domain, function.name)}")
