"""Reads an ONNX model as a graph: the entry of the ONNX reader.

The file is loaded and checked, its inputs get types (signature.py), and its nodes are read one by
one (scope.py), each by the rule of its operator (operators/). Reading may find that two sizes must
be equal, or that a rank depends on the data; then the model is read once more with that knowledge.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import defs

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, TensorType, type_of
from bessemer.frontends.onnx_reader import families
from bessemer.frontends.onnx_reader.assumptions import Assumptions
from bessemer.frontends.onnx_reader.broadcast_inputs import (
    bind_common_size,
    broadcast_input,
    with_broadcast_inputs,
)
from bessemer.frontends.onnx_reader.equal_sizes import MustChooseError, SizesMustAgree
from bessemer.frontends.onnx_reader.external import ExternalFiles
from bessemer.frontends.onnx_reader.items import (
    UNREAD,
    Known,
    Recipe,
    SequenceItem,
    StackedItem,
    TextItem,
)
from bessemer.frontends.onnx_reader.loader import LoadedModel, Source, load_model
from bessemer.frontends.onnx_reader.model_state import ModelState, function_table, opset_table
from bessemer.frontends.onnx_reader.scope import Scope
from bessemer.frontends.onnx_reader.signature import (
    DimensionNames,
    check_default,
    dims_of_values,
    input_type,
)
from bessemer.frontends.onnx_reader.string_inputs import with_strings
from bessemer.frontends.onnx_reader.structure import check_graph

_READINGS = 1000
"""How often a model may be read again because something about it was found out."""


def read_onnx(
    source: Source,
    *,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Array | None] | None = None,
    mapped: bool = False,
    broadcasts: bool = True,
    learns: bool = False,
) -> Graph:
    """Reads a model: a path, its bytes, or a ModelProto (which is not changed).

    `dims` fixes symbolic dimensions, by their name in the file or ours (`input_dim0` where they
    have none). `values` makes constants of inputs, which then are not inputs any more; an input
    that has an initializer is a constant unless its value is None. With `mapped` the graph's
    weights may stay in the file, which nobody may change then. With `broadcasts` an input may be 1
    where it broadcasts; without, it is as long as what it meets. With `learns` nodes read the
    floats that may be trained as they are in the file.
    Raises CompileError for a model that is damaged or wrong, and UnsupportedError, listing
    everything at once, for one that Bessemer cannot compile.
    """
    loaded = load_model(source, detach_weights=True, mapped=mapped)
    families.check_registered()
    check_graph(loaded.proto.graph, loaded.label)
    _warn_of_newer_versions(loaded)
    state = ModelState(
        loaded.label,
        opset_table(list(loaded.proto.opset_import), loaded.label),
        function_table(list(loaded.proto.functions), loaded.label),
        ExternalFiles(loaded.folder, {}),
        learns,
        {id(tensor): raw for tensor, raw in loaded.detached_weights},
    )
    try:
        return _Reading(loaded, state, dims or {}, values or {}, broadcasts).graph()
    except UnsupportedError:
        raise
    except CompileError as error:
        raise CompileError(_labelled(loaded.label, str(error))) from error.__cause__


@dataclass(frozen=True, eq=False)
class _Reading:
    """A model that is read again and again, each time knowing more of it.

    What is found on the way: input dimensions that are one and the same; and choices that ranks
    depend on (an If whose branches give different ones, a Squeeze of all axes of size 1). One
    option is tried, then the other: what comes after, or the output's declared rank, rarely accepts
    both.
    """

    loaded: LoadedModel
    state: ModelState
    dims: Mapping[str, int]
    values: Mapping[str, Array | None]
    broadcasts: bool

    def graph(self, ones: Collection[str] = ()) -> Graph:
        """The graph of the first reading without contradictions. The dimensions `ones` are known to
        be 1 from the start, whatever they meet."""
        merged: dict[str, Size] = dict.fromkeys(ones, 1)
        broadcast: dict[str, Size] = {}
        untried: list[str] = []
        choices = self.state.choices
        for _ in range(_READINGS):
            try:
                graph = self._read(Assumptions(merged))
                # What is made of strings before the run has the shape that is said here.
                if not self.broadcasts or (graph.strings is not None and graph.strings.steps):
                    return graph
                return self._with_broadcasts(graph, merged, broadcast, ones)
            except SizesMustAgree as found:
                merged[found.name] = found.size
                if found.by_broadcast:
                    broadcast[found.name] = found.size
            except MustChooseError as choice:
                choices[choice.label] = choice.first
                untried.append(choice.label)
            except CompileError:
                if not untried:
                    raise
                label = untried.pop()
                choices[label] = not choices[label]
        raise CompileError(
            f"{self.loaded.label}: after {_READINGS} readings it is still not known which sizes are"
            " equal; fix symbolic dimensions with dims"
        )

    def _with_broadcasts(
        self,
        graph: Graph,
        merged: dict[str, Size],
        broadcast: dict[str, Size],
        ones: Collection[str],
    ) -> Graph:
        """The graph with inputs that may broadcast; as it is if that contradicts itself."""
        try:
            return with_broadcast_inputs(self._read, merged, broadcast) or graph
        except SizesMustAgree as found:
            with suppress(CompileError):
                return self.graph({*ones, found.name})
            return graph

    def _read(self, assumptions: Assumptions) -> Graph:
        return _read_graph(self.loaded, self.state, self.dims, self.values, assumptions)


def _labelled(label: str, message: str) -> str:
    return message if message.startswith(label) else f"{label}: {message}"


def _warn_of_newer_versions(loaded: LoadedModel) -> None:
    known = defs.onnx_opset_version()
    for entry in loaded.proto.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > known:
            warnings.warn(
                f"{loaded.label}: opset {entry.version} is newer than the installed onnx package"
                f" knows ({known}); trying with what is known",
                stacklevel=3,
            )
    if loaded.proto.ir_version > onnx.IR_VERSION:
        warnings.warn(
            f"{loaded.label}: IR version {loaded.proto.ir_version} is newer than the installed onnx"
            f" package knows ({onnx.IR_VERSION}); trying",
            stacklevel=3,
        )


def _read_graph(
    loaded: LoadedModel,
    state: ModelState,
    dims: Mapping[str, int],
    values: Mapping[str, Array | None],
    assumptions: Assumptions,
) -> Graph:
    state.problems.clear()
    graph = loaded.proto.graph
    builder = GraphBuilder(graph.name or "model")
    builder.alike.update(assumptions.alike)
    for name, parts in assumptions.common.items():
        bind_common_size(builder, name, parts)
    scope = Scope(state, builder, state.opsets)
    known = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in values}
    inputs = [value for value in graph.input if value.name not in known]
    for value in graph.input:
        if value.name in known:
            check_default(value, known[value.name])
    fixed = {**dims, **dims_of_values(inputs, values, loaded.label)}
    names = DimensionNames(fixed, assumptions.merged, assumptions.broadcasting)
    state.strings.begin(names, [value.name for value in inputs])
    for value in inputs:
        _define_input(scope, value, names, values)
    declared = list(builder.inputs)
    names.check_fixed(loaded.label, dims)
    scope.define_initializers(graph)
    scope.read_nodes(graph.node, [output.name for output in graph.output])
    outputs: list[tuple[str, Value | TextItem]] = []
    for output in graph.output:
        outputs += _tensors_of(output, scope.find(output.name), state)
    if state.problems:
        raise _all_problems(loaded.label, list(state.problems))
    found = {name: item.value if isinstance(item, TextItem) else item for name, item in outputs}
    if state.choices:
        _check_declared_ranks(graph, found)
    made = builder.finish(list(found.values()), list(found))
    texts = [place for place, (_, item) in enumerate(outputs) if isinstance(item, TextItem)]
    return with_strings(made, state.strings, declared, texts)


def _tensors_of(
    output: onnx.ValueInfoProto, item: Known, state: ModelState
) -> list[tuple[str, Value | TextItem]]:
    """An output of the model as the graph's, with their names: `y`; of a sequence `y[0]`, `y[1]`
    and so on; none of an absent optional."""
    if isinstance(item, (Value, TextItem)):
        return [(output.name, item)]
    if isinstance(item, SequenceItem):
        return [(f"{output.name}[{place}]", value) for place, value in enumerate(item)]
    if isinstance(item, StackedItem):
        what = "is a sequence whose length is known when the model runs"
        state.problems[f"output '{output.name}': {what}"] = None
    if item is None and output.type.WhichOneof("value") != "optional_type":
        what = "is an absent optional, not a tensor"
        state.problems[f"output '{output.name}': {what}"] = None
    return []


def _check_declared_ranks(graph: onnx.GraphProto, outputs: Mapping[str, Value]) -> None:
    """Raises CompileError where choices have led to other ranks than the model declares."""
    for declared in graph.output:
        tensor, value = declared.type.tensor_type, outputs.get(declared.name)
        if value is None or not tensor.HasField("shape"):
            continue
        if len(tensor.shape.dim) != value.type.rank:
            raise CompileError(
                f"output '{declared.name}' is {value.type}, not of its declared rank"
            )


def _define_input(
    scope: Scope,
    value: onnx.ValueInfoProto,
    names: DimensionNames,
    values: Mapping[str, Array | None],
) -> None:
    try:
        type = input_type(value, names)
    except UnsupportedError as error:
        scope.define(value.name, UNREAD)
        for item in error.items:
            scope.model.problems[item] = None
        return
    is_text = value.type.tensor_type.elem_type == onnx.TensorProto.STRING
    given = values.get(value.name)
    if given is None:
        own = input_type(value, names.without_broadcasting())
        found = scope.builder.input(value.name, own)
        if own != type:
            found = broadcast_input(scope.builder, found, type.shape)
        scope.define(value.name, TextItem(found, Recipe(value.name)) if is_text else found)
        if is_text:
            scope.strings.texts_in.add(value.name)
        return
    array = np.asarray(given)
    if is_text:
        array = scope.strings.array(array)
    _check_value(value.name, array, type)
    made = scope.builder.constant(array, value.name)
    scope.define(value.name, TextItem(made) if is_text else made)


def _check_value(name: str, array: Array, type: TensorType) -> None:
    fits = array.dtype == type.dtype.numpy and array.ndim == type.rank
    for size, actual in zip(type.shape, array.shape):
        fits = fits and (not isinstance(size, int) or size == actual)
    if not fits:
        raise CompileError(f"the value given for input '{name}' is {type_of(array)}, not {type}")


def _all_problems(label: str, problems: list[str]) -> UnsupportedError:
    listed = "\n".join(f"  - {problem}" for problem in problems)
    count = "1 thing is" if len(problems) == 1 else f"{len(problems)} things are"
    text = f"{label}: {count} not supported (`bessemer list-ops` lists the operators that are):"
    return UnsupportedError(f"{text}\n{listed}", problems)
