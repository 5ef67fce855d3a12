"""Writes a graph as an ONNX model: every operator by its rule, then names, constants and shapes."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import external_data_helper, helper

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.graph import Graph
from bessemer.frontends.onnx_writer import (  # noqa: F401  (each enters its rules)
    rules_contract,
    rules_control,
    rules_index,
    rules_move,
    rules_pointwise,
    rules_recurrent,
    rules_reduce,
    rules_trees,
    rules_vision,
)
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import ModelParts, type_info
from bessemer.frontends.onnx_writer.names import names_read, rename, without_unused
from bessemer.frontends.onnx_writer.storage import plain
from bessemer.frontends.onnx_writer.walk import write_nodes
from bessemer.runtime.whole_file import folder_beside

OPSET = 20
ML_OPSET = 3
LARGEST_FILE = 2**31 - 2**24
"""In bytes: a protobuf cannot be larger. The constants of such a model get a file of their own."""


def write_onnx(graph: Graph, path: str | Path | None = None) -> onnx.ModelProto:
    """The graph as an ONNX model, also written to a file if a path is given.

    Symbols in shapes become named dimensions. The file appears whole or not at all; weights of
    2 GiB or more go to a file beside it, with `.data` behind its name.
    Raises UnsupportedError, with every node concerned, for what ONNX has no operators for.
    """
    if graph.strings is not None:
        raise UnsupportedError(f"{graph.name} takes or gives strings: such models are not written.")
    parts = ModelParts(names={value.name for value in graph.inputs} | set(graph.output_names))
    emitter = Emitter(graph, parts)
    for value in graph.inputs:
        emitter.put(value, plain(value.name, value.type.shape))
        emitter.define_by_shape(value.name, value.type.shape)
    write_nodes(emitter)
    if parts.problems:
        listing = "\n  ".join(parts.problems)
        raise UnsupportedError(f"ONNX has no operators for this:\n  {listing}", parts.problems)
    model = _model(emitter)
    if path is not None:
        _save(model, Path(path))
    return model


def _model(emitter: Emitter) -> onnx.ModelProto:
    graph, parts = emitter.graph, emitter.parts
    _name_outputs(emitter)
    nodes = without_unused(emitter.nodes, graph.output_names)
    used = {name for node in nodes for name in names_read(node)}
    renamed = _own_names(parts, used)
    rename(nodes, renamed)
    tensors = parts.tensors(used)
    for tensor in tensors:
        tensor.name = renamed.get(tensor.name, tensor.name)
    written = helper.make_graph(
        nodes,
        graph.name or "graph",
        [type_info(value.name, value.type) for value in graph.inputs],
        [
            type_info(name, value.type)
            for name, value in zip(graph.output_names, graph.outputs, strict=True)
        ],
        tensors,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == "ai.onnx.ml" for node in nodes):
        opsets.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
    return helper.make_model(
        written,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="bessemer",
    )


def _name_outputs(emitter: Emitter) -> None:
    """Gives the tensors that are outputs the outputs' names."""
    graph = emitter.graph
    made = {name for node in emitter.nodes for name in node.output}
    renamed: dict[str, str] = {}
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        tensor = emitter.name_of(value)
        made.update(emitter.nodes[-1].output if emitter.nodes else ())
        if tensor in made and tensor not in renamed:
            renamed[tensor] = name
        else:
            emitter.nodes.append(helper.make_node("Identity", [tensor], [name], name=name))
    rename(emitter.nodes, renamed)


def _own_names(parts: ModelParts, used: set[str]) -> dict[str, str]:
    """Parameters that are used in one arrangement only have the user's name for them."""
    arrangements: dict[str, list[str]] = {}
    for name, origin in parts.origins.items():
        if name in used:
            arrangements.setdefault(origin, []).append(name)
    return {
        names[0]: origin
        for origin, names in arrangements.items()
        if len(names) == 1 and names[0] != origin and origin not in used
    }


def _save(model: onnx.ModelProto, path: Path) -> None:
    data = f"{path.name}.data"
    try:
        with folder_beside(path) as folder:
            if model.ByteSize() > LARGEST_FILE:
                external_data_helper.convert_model_to_external_data(model, location=data)
            onnx.save_model(model, folder / path.name)
            for name in (data, path.name):
                if (folder / name).exists():
                    (folder / name).replace(path.with_name(name))
    except OSError as error:
        raise CompileError(f"Cannot write {path}: {error.strerror}") from None
