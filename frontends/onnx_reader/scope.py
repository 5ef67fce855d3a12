"""Reads the nodes of one graph, subgraph or function body, with its names.

A subgraph sees the names around it. Where it becomes a region of its own, what it takes from
outside is captured: constants are copied (they cost nothing), other values become inputs of the
region.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import onnx

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, TensorType, boolean, i32, i64
from bessemer.frontends.onnx_reader import functions, limits
from bessemer.frontends.onnx_reader.attributes import (
    Given,
    attribute_values,
    resolved_attributes,
)
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import (
    UNREAD,
    Item,
    Known,
    SequenceItem,
    StackedItem,
    TextItem,
    UnreadItem,
)
from bessemer.frontends.onnx_reader.known import known_array
from bessemer.frontends.onnx_reader.model_state import Dequantized, FunctionKey, ModelState
from bessemer.frontends.onnx_reader.operators.repeat import with_repeats
from bessemer.frontends.onnx_reader.registry import RULES, Outputs, Rule
from bessemer.frontends.onnx_reader.schemas import Schema, describing_set, find_schema
from bessemer.frontends.onnx_reader.string_state import ModelStrings
from bessemer.frontends.onnx_reader.strings import on_strings
from bessemer.frontends.onnx_reader.structure import (
    free_names,
    needed_nodes,
    node_label,
    operator_name,
    ordered_nodes,
    subgraphs,
)
from bessemer.frontends.onnx_reader.tensors import array_of_sparse

_MALFORMED = (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError)
"""What a rule may raise if the attributes and shapes of a model contradict each other."""


_NOT_OF_ONNX = frozenset((
    "SimplifiedLayerNormalization", "Affine", "Crop", "ImageScaler", "ParametricSoftplus", "Scale",
    "ScaledTanh",
))  # fmt: skip
"""Operators that ONNX Runtime has put into ONNX's domain, or has kept when ONNX dropped them."""


class UnreadError(Exception):
    """A subgraph gives a value that could not be read; the reason is on the model's list."""


class Scope:
    """Names and what they stand for; `outer` is the scope around a subgraph.

    `source` is the node that all nodes read here come from: in the body of one of ONNX's operators,
    the user knows only the operator's node.
    """

    def __init__(
        self,
        model: ModelState,
        builder: GraphBuilder,
        opsets: Mapping[str, int],
        outer: Scope | None = None,
        given: Given | None = None,
        calls: tuple[FunctionKey, ...] = (),
        source: str = "",
    ) -> None:
        self.model = model
        self.builder = builder
        self.opsets = opsets
        self.outer = outer
        self.given: Given = given or {}
        self.calls = calls
        self.source = source
        self.captured: dict[Value, Value] = {}
        self._names: dict[str, Known] = {}

    # Names

    def define(self, name: str, item: Known) -> None:
        if name:
            self._names[name] = item

    def find(self, name: str) -> Known:
        """What a name stands for here; "" is what is left out."""
        if not name:
            return None
        if name in self._names:
            return self._names[name]
        if self.outer is None:
            raise CompileError(f"nothing defines '{name}'")
        found = self.outer.find(name)
        if self.builder is not self.outer.builder:
            found = self._names[name] = self._import(found)
        return found

    def _import(self, item: Known) -> Known:
        """A value of the outer graph, as one of the region's."""
        if isinstance(item, SequenceItem):
            return SequenceItem(self.capture(value) for value in item)
        if isinstance(item, TextItem):
            return TextItem(self.capture(item.value))
        if isinstance(item, StackedItem):
            return StackedItem(self.capture(item.value))
        return self.capture(item) if isinstance(item, Value) else item

    def capture(self, value: Value) -> Value:
        """The region's own value for one of the graph outside."""
        assert self.outer is not None
        if value in self.captured:
            return self.captured[value]
        outside = self.outer.builder
        if value in outside.constants:
            return self.builder.constant(outside.constants[value], value.name)
        sizes = outside.known_sizes(value)
        if sizes is not None and value.type.dtype in (i32, i64):
            inside = self.builder.sizes(sizes)
            if value.type.dtype == i32:
                inside = self.builder.apply("cast", inside, dtype=i32)
            return self.builder.apply("reshape", inside, shape=value.type.shape)
        known = known_array(outside, value) if value.type == TensorType(boolean, ()) else None
        if known is not None:  # a loop's condition, say, that never changes
            return self.builder.constant(known)
        inside = self.captured[value] = self.builder.input(value.name, value.type)
        return inside

    # Graphs

    def read(self, graph: onnx.GraphProto, inputs: Sequence[Item]) -> list[Item]:
        """Reads a subgraph into this scope's builder; its inputs are given."""
        names = [value.name for value in graph.input]
        if len(names) != len(inputs):
            raise CompileError(f"a subgraph takes {len(names)} inputs, it is given {len(inputs)}")
        for name, item in zip(names, inputs):
            self.define(name, item)
        self.define_initializers(graph)
        outputs = [output.name for output in graph.output]
        self.read_nodes(graph.node, outputs)
        found = [self.find(name) for name in outputs]
        if any(isinstance(item, UnreadItem) for item in found):
            raise UnreadError
        return [item for item in found if not isinstance(item, UnreadItem)]

    def define_initializers(self, graph: onnx.GraphProto) -> None:
        """Makes the graph's weights constants; a problem with one is noted in the model."""
        for tensor in graph.initializer:
            self._define_weight(tensor.name, partial(self.model.array, tensor))
        for sparse in graph.sparse_initializer:
            read = partial(array_of_sparse, sparse, self.model.array)
            self._define_weight(sparse.values.name, read)

    def _define_weight(self, name: str, read: Callable[[str], Array]) -> None:
        if name in self._names:
            return
        try:
            self.define(name, constant_item(self, read(f"initializer '{name}'"), name))
        except UnsupportedError as error:
            self._note(error)
            self.define(name, UNREAD)

    def read_nodes(self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> None:
        """Reads what the outputs need."""
        ordered = with_repeats(ordered_nodes(nodes, self.model.label))
        for node in needed_nodes(ordered, outputs):
            self.read_node(node)

    def read_inline(self, graph: onnx.GraphProto, inputs: Sequence[Item]) -> list[Item]:
        return self._inner(self.builder).read(graph, inputs)

    def new_region(self, name: str) -> Scope:
        return self._inner(GraphBuilder(name, self.builder))

    @property
    def dequantized(self) -> dict[Value, Dequantized]:
        return self.model.dequantized

    @property
    def learns(self) -> bool:
        return self.model.learns

    @property
    def strings(self) -> ModelStrings:
        return self.model.strings

    def choice(self, label: str) -> bool | None:
        return self.model.choices.get(label)

    def _inner(self, builder: GraphBuilder) -> Scope:
        return Scope(self.model, builder, self.opsets, self, self.given, self.calls, self.source)

    # Nodes

    def read_node(self, node: onnx.NodeProto) -> None:
        """Reads one node; what is not supported is noted and its outputs are left unread."""
        label = node_label(node)
        try:
            items = [self.find(name) for name in node.input]
            if any(isinstance(item, UnreadItem) for item in items):
                self._note_unknown(node)
                outputs: Sequence[Known] = [UNREAD] * len(node.output)
            else:
                known = tuple(item for item in items if not isinstance(item, UnreadItem))
                with self.builder.source(self.source or label):
                    outputs = self._outputs(node, known, label)
        except UnsupportedError as error:
            self._note(error)
            outputs = [UNREAD] * len(node.output)
        except UnreadError:
            outputs = [UNREAD] * len(node.output)
        for name, item in zip(node.output, outputs):
            self.define(name, item)

    def _outputs(self, node: onnx.NodeProto, items: tuple[Item, ...], label: str) -> Sequence[Item]:
        try:
            result = self._build(node, items, label)
        except CompileError as error:
            if isinstance(error, UnsupportedError) or label in str(error):
                raise
            raise CompileError(f"{label}: {error}{_types(node, items)}") from None
        except _MALFORMED as error:
            raise CompileError(f"{label}: cannot be read ({error!r})") from error
        outputs = (
            [result]
            if result is None or isinstance(result, (Value, TextItem, SequenceItem, StackedItem))
            else result
        )
        if len(outputs) < len(node.output):
            raise CompileError(f"{label}: gives {len(outputs)} outputs, not {len(node.output)}")
        for output in outputs:
            if isinstance(output, Value):
                limits.check_size(output.type, label)
        return outputs

    def _build(self, node: onnx.NodeProto, items: tuple[Item, ...], label: str) -> Outputs:
        domain = _domain(node)
        if domain not in self.opsets and domain == "":
            raise CompileError(f"{label}: its operator set is not imported by the model")
        opset = self.opsets.get(domain, 1)
        attributes = resolved_attributes(node, self.given, label)
        function = self.model.functions.get((domain, node.op_type, node.overload))
        if function is not None:
            given = functions.call_attributes(function, attributes)
            return self._call(function, items, given, self.source, node.output)
        opset = describing_set(domain, opset, node.op_type)
        schema = find_schema(domain, node.op_type, opset)
        rule = _find_rule(domain, node, schema)
        if schema is not None:
            schema.check_arity(node, label)
        if rule is not None:
            values = attribute_values(
                attributes, schema.record if schema else None, self.model.array, label
            )
            context = NodeContext(self.builder, self, node, label, opset, items, values)
            if any(isinstance(item, TextItem) for item in items):
                return on_strings(context, domain, rule)
            return rule(context)
        body = None
        if schema is not None:
            plain = functions.plain_node(node, attributes)
            body = functions.schema_function(schema.record, opset, plain, items)
        if schema is None or body is None:
            raise _unknown(node, label, opset)
        given = functions.call_attributes(body, attributes, schema.record)
        # A graph that is an attribute (SequenceMap's) may read names that are around the call.
        around = {name for graph in subgraphs(node) for name in free_names(graph)}
        return self._call(body, items, given, self.source or label, node.output, around)

    def _call(
        self,
        function: onnx.FunctionProto,
        items: Sequence[Item],
        given: Given,
        source: str,
        outputs: Sequence[str],
        around: Collection[str] = (),
    ) -> list[Item]:
        """Reads a function's body in place of the call, as far as its named outputs need it. The
        names `around` the call are seen in the body."""
        key = (function.domain, function.name, function.overload)
        name = operator_name(function.domain, function.name)
        if key in self.calls:
            raise CompileError(f"the function {name} calls itself, which ONNX does not allow")
        if len(self.calls) >= limits.NESTING:
            raise CompileError(f"functions call each other more than {limits.NESTING} deep")
        if len(items) > len(function.input):
            raise CompileError(f"the function {name} takes {len(function.input)} inputs")
        functions.check_body(function, around)
        opsets = {**self.opsets, **functions.imported_opsets(function)}
        calls = (*self.calls, key)
        outer = self if around else None
        scope = Scope(self.model, self.builder, opsets, outer, given, calls, source)
        padded = [*items, *[None] * (len(function.input) - len(items))]
        for name, item in zip(function.input, padded):
            scope.define(name, item)
        wanted = [name for name, _ in zip(function.output, outputs)]
        scope.read_nodes(function.node, [name for name, used in zip(wanted, outputs) if used])
        found = [scope.find(name) if used else None for name, used in zip(wanted, outputs)]
        if any(isinstance(item, UnreadItem) for item in found):
            raise UnreadError
        return [item for item in found if not isinstance(item, UnreadItem)]

    # Problems

    def _note(self, error: UnsupportedError) -> None:
        for item in error.items or (str(error),):
            self.model.problems[item] = None

    def _note_unknown(self, node: onnx.NodeProto) -> None:
        """A node that cannot be read for another's sake is still asked for its operator."""
        domain = _domain(node)
        opset = self.opsets.get(domain, 1)
        schema = find_schema(domain, node.op_type, opset)
        is_function = (domain, node.op_type, node.overload) in self.model.functions
        has_body = schema is not None and functions.has_body(schema.record)
        if not is_function and not has_body and _find_rule(domain, node, schema) is None:
            self._note(_unknown(node, node_label(node), opset))
        for graph in subgraphs(node):
            for inner in graph.node:
                self._note_unknown(inner)


def constant_item(scope: Scope, array: Array, name: str) -> Item:
    """A weight of the model, which may be one of strings."""
    if array.dtype == object:
        return TextItem(scope.builder.constant(scope.strings.array(array), name))
    return scope.builder.constant(array, name)


def _types(node: onnx.NodeProto, items: Sequence[Item]) -> str:
    """What goes into a node, a line each."""
    tensors = [(name, item) for name, item in zip(node.input, items) if isinstance(item, Value)]
    return "".join(f"\n  {name} : {value.type}" for name, value in tensors)


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _find_rule(domain: str, node: onnx.NodeProto, schema: Schema | None) -> Rule | None:
    if domain == "" and schema is None:
        return RULES.get((domain, node.op_type)) if node.op_type in _NOT_OF_ONNX else None
    return RULES.get((domain, node.op_type))


_ADVICE = {
    "com.microsoft.nchwc": "; onnxruntime made it for one machine: save the model at the level of"
    " optimization below, ORT_ENABLE_EXTENDED"
}


def _unknown(node: onnx.NodeProto, label: str, opset: int) -> UnsupportedError:
    name = operator_name(node.domain, node.op_type)
    advice = _ADVICE.get(node.domain, "")
    item = f"{label} (opset {opset}): the operator {name} is not supported{advice}"
    return UnsupportedError(item, [item])
