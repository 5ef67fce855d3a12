"""Writes graphs: checks every node as it is added, and follows integers through shape arithmetic.

A builder knows the *content* of small integer tensors where it can: numbers, or `Size`s such as
`batch * 2`, whether they come from a constant, from `shape_of`, or from arithmetic on these. So a
chain like Shape -> Gather -> Concat -> Reshape becomes one reshape whose attribute is symbolic.
What it cannot know is bound at run time (`bind`), as new symbols.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import floordiv
from typing import Any

import numpy as np

from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.ir.dims import (
    Dim,
    Size,
    is_nonnegative,
    maximum,
    minimum,
    symbol,
    symbol_names,
)
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.op import OPS, Operator
from bessemer.compiler.ir.types import Array, TensorType, boolean, i64, type_of

CONTENT_LIMIT = 1024
"""Tensors with more elements than this are not followed."""

Content = Array  # an array of ints, or of objects that are Sizes


class GraphBuilder:
    """A graph being written; `region` makes one for the body of a control-flow node."""

    def __init__(self, name: str, parent: GraphBuilder | None = None) -> None:
        self.name = name
        self.parent = parent
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.constants: dict[Value, Array] = {}
        self.symbols: list[str] = []
        self.alike: dict[Size, Size] = parent.alike if parent else {}
        """Sizes that may be 1 when the model runs, and to what size all of a group broadcast."""
        self._contents: dict[Value, Content] = {}
        # A region may not run at all: what it has does not count outside.
        self._dimensions: set[Size] = set(parent._dimensions) if parent else set()
        self._producers: dict[Value, Node] = {}
        self._sources: tuple[str, ...] = ()
        self._names: set[str] = parent._names if parent else set()
        self._counts: Counter[str] = parent._counts if parent else Counter()

    # Values

    def input(self, name: str, type: TensorType) -> Value:
        """A graph input; symbols of its shape that are new are bound by it."""
        value = Value(type, name)
        self.inputs.append(value)
        for size in type.shape:
            for found in sorted(symbol_names(size)):
                if found not in self.symbols and self.parent is None:
                    self.symbols.append(found)
                    self._names.add(found)
        return value

    def constant(self, array: Array | int | float | bool | Sequence[Any], name: str = "") -> Value:
        """A weight. Small integer constants have known content."""
        stored = np.asarray(array)
        value = Value(type_of(stored), name)
        self.constants[value] = stored
        if stored.dtype.kind in "iub" and stored.size <= CONTENT_LIMIT:
            self._contents[value] = stored
        return value

    def sizes(self, sizes: Sequence[Size], name: str = "") -> Value:
        """An i64 vector with known content, whatever symbols are in it."""
        if all(isinstance(size, int) for size in sizes):
            return self.constant(np.array(sizes, dtype=np.int64).reshape(len(sizes)), name)
        value = self.apply("sizes", sizes=tuple(sizes))
        self._contents[value] = _objects(sizes)
        return value

    def dimensions(self, sizes: Sequence[Size]) -> Value:
        """`sizes` that a tensor has: comparisons know that they are not negative, even where that
        does not follow from what they are computed from (n // 2 - 1)."""
        self._dimensions.update(size for size in sizes if not is_nonnegative(size))
        return self.sizes(sizes)

    def scalar_size(self, size: Size) -> Value:
        """An i64 scalar with known content."""
        return self.apply("reshape", self.sizes((size,)), shape=())

    def fresh_symbol(self, prefix: str) -> str:
        """A new name for a data-dependent dimension."""
        while (name := f"{prefix}{self._counts[prefix]}") in self._names:
            self._counts[prefix] += 1
        self._names.add(name)
        return name

    # Nodes

    @contextmanager
    def source(self, *names: str) -> Iterator[None]:
        """Nodes added inside come from these nodes of the user's."""
        before = self._sources
        self._sources = names
        yield
        self._sources = before

    def apply(self, operator: str, *inputs: Value, **attributes: Any) -> Value:
        """Adds a node of an operator with one output."""
        return self.apply_many(operator, *inputs, **attributes)[0]

    def apply_many(
        self,
        operator: str,
        *inputs: Value,
        regions: tuple[Graph, ...] = (),
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """Adds a node; raises CompileError, naming the source node, if the inputs do not fit."""
        record = OPS.get(operator)
        if record is None:
            raise InternalError(f"no operator {operator}")
        try:
            types = _infer(record, inputs, attributes, regions)
        except CompileError as error:
            raise CompileError(f"{self._where()}{error}") from None
        outputs = tuple(Value(type) for type in types)
        node = Node(record, inputs, outputs, attributes, regions, self._sources)
        self.nodes.append(node)
        for output in outputs:
            self._producers[output] = node
        self._follow(node)
        return outputs

    def extend(
        self, output: Value, regions: tuple[Graph, ...] = (), **attributes: Any
    ) -> tuple[Value, ...]:
        """Gives the node of an output other attributes and regions, with which it has further
        outputs: these. The outputs that it had stay the same values.
        """
        node = self._producers[output]
        place = next(k for k, other in enumerate(self.nodes) if other is node)
        given = {**node.attributes, **attributes}
        inside = regions or node.regions
        types = _infer(node.operator, node.inputs, given, inside)
        more = tuple(Value(type) for type in types[len(node.outputs) :])
        longer = replace(node, attributes=given, outputs=(*node.outputs, *more), regions=inside)
        self.nodes[place] = longer
        self._producers.update((value, longer) for value in longer.outputs)
        return more

    def _where(self) -> str:
        return f"{', '.join(self._sources)}: " if self._sources else ""

    def producer(self, value: Value) -> Node | None:
        """The node of this builder that computes a value."""
        return self._producers.get(value)

    def include(self, graph: Graph, stands: Mapping[Value, Value]) -> tuple[Value, ...]:
        """Writes a whole graph's nodes, and gives what its outputs are here.

        `stands` has values of this builder for the graph's inputs, and for any of its constants;
        the other constants are taken over. The inputs' symbols are the same here.
        """
        now = dict(stands)
        for value, array in graph.constants.items():
            if value not in now:
                now[value] = self.constant(array, value.name)
        for node in graph.walk():
            for size in (size for value in node.outputs for size in value.type.shape):
                self._names |= symbol_names(size)
        for node in graph.nodes:
            outputs = tuple(Value(value.type, value.name) for value in node.outputs)
            now.update(zip(node.outputs, outputs))
            inputs = tuple(now[value] for value in node.inputs)
            copied = replace(node, inputs=inputs, outputs=outputs)
            self.nodes.append(copied)
            self._producers.update(dict.fromkeys(outputs, copied))
            self._follow(copied)
        return tuple(now[value] for value in graph.outputs)

    # Content

    def content(self, value: Value) -> Content | None:
        """The integers (or Sizes) in a tensor, in its shape, where they are known."""
        return self._contents.get(value)

    def set_content(self, value: Value, content: Content) -> None:
        """Tells the builder what a tensor holds (for regions: an input that is always the same)."""
        self._contents[value] = content

    def known_sizes(self, value: Value) -> tuple[Size, ...] | None:
        """The content of an integer tensor as a flat tuple of Sizes."""
        content = self.content(value)
        if content is None:
            return None
        return tuple(
            item if isinstance(item, Dim) else int(item) for item in content.reshape(-1).tolist()
        )

    def bind(self, value: Value, prefix: str = "d") -> tuple[Size, ...]:
        """The entries of an integer tensor as Sizes: known ones, or new symbols bound at run time.

        A bound entry must not be negative when the model runs.
        """
        known = self.known_sizes(value)
        if known is not None:
            return known
        count = value.type.numel
        flat = value if value.type.rank == 1 else self.apply("reshape", value, shape=(count,))
        if flat.type.dtype != i64:
            flat = self.apply("cast", flat, dtype=i64)
        return self._bound(flat, prefix)

    def name_sizes(self, sizes: Sequence[Size], prefix: str) -> tuple[Size, ...]:
        """New symbols for sizes, which must not be negative when the model runs: for long sums, of
        which products would have hundreds of terms."""
        return self._bound(self.sizes(sizes), prefix)

    def _bound(self, vector: Value, prefix: str) -> tuple[Size, ...]:
        (count,) = vector.type.static_shape
        names = tuple(self.fresh_symbol(prefix) for _ in range(count))
        self.apply_many("bind", vector, symbols=names)
        return tuple(symbol(name) for name in names)

    def _follow(self, node: Node) -> None:
        rule = CONTENT_RULES.get(node.operator.name)
        if rule is None or len(node.outputs) != 1:
            return
        size = node.output.type.numel
        if not isinstance(size, int) or size > CONTENT_LIMIT:
            return
        contents = [self._contents.get(value) for value in node.inputs]
        if any(content is None for content in contents):
            return
        result = rule(contents, node)
        if result is None and self._dimensions and node.operator.name in _COMPARISONS:
            result = rule([self._never_negative(content) for content in contents], node)
        if result is not None:
            self._contents[node.output] = result

    def _never_negative(self, content: Any) -> Any:
        if content.dtype != object:
            return content
        entries = [maximum(e, 0) if e in self._dimensions else e for e in content.reshape(-1)]
        return _objects(entries).reshape(content.shape)

    def finish(self, outputs: Sequence[Value], output_names: Sequence[str] = ()) -> Graph:
        """The graph that has been written."""
        return Graph(
            self.name,
            tuple(self.inputs),
            tuple(outputs),
            tuple(self.nodes),
            dict(self.constants),
            tuple(self.symbols),
            tuple(output_names) or tuple(value.name for value in outputs),
        )


def _infer(
    record: Operator,
    inputs: Sequence[Value],
    attributes: Mapping[str, Any],
    regions: tuple[Graph, ...],
) -> tuple[TensorType, ...]:
    types = [value.type for value in inputs]
    if regions:
        return record.infer_types(types, {**attributes, "regions": regions})
    return record.infer_types(types, attributes)


def _objects(sizes: Sequence[Size]) -> Content:
    result = np.empty(len(sizes), dtype=object)
    result[:] = list(sizes)
    return result


def _by_reference(contents: list[Any], node: Node) -> Content | None:
    """The operator's own definition, on arrays of integers or of Sizes."""
    if any(content.dtype == object for content in contents):
        contents = [content.astype(object) for content in contents]
    if any(
        isinstance(entry, Dim) for value in node.attributes.values() for entry in _entries(value)
    ):
        return None
    try:
        (result,) = node.operator.compute(contents, node.attributes)
    except (TypeError, ValueError, IndexError, ZeroDivisionError, InternalError):
        return None
    return np.asarray(result)


def _entries(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _elementwise(
    function: Callable[[Any, Any], Any],
) -> Callable[[list[Any], Node], Content | None]:
    def rule(contents: list[Any], node: Node) -> Content | None:
        if all(content.dtype != object for content in contents):
            return _by_reference(contents, node)
        left, right = (content.astype(object) for content in contents)
        try:
            return np.asarray(np.frompyfunc(function, 2, 1)(left, right), dtype=object)
        except (TypeError, ZeroDivisionError, InternalError):
            return None

    return rule


def _same(a: Any, b: Any) -> bool:
    """Equality of two sizes, if it is certain either way."""
    if isinstance(a - b, int):
        return bool(a == b)
    if is_nonnegative(a - b - 1) or is_nonnegative(b - a - 1):
        return False
    raise TypeError("not known")


def _less(a: Any, b: Any) -> bool:
    """a < b, if it is certain either way."""
    if is_nonnegative(b - a - 1):
        return True
    if is_nonnegative(a - b):
        return False
    raise TypeError("not known")


def _cast_content(contents: list[Any], node: Node) -> Content | None:
    (content,) = contents
    if content.dtype != object:
        return _by_reference(contents, node)
    if node.attributes["dtype"] is boolean:
        return _elementwise(lambda a, b: not _same(a, b))([content, np.zeros_like(content)], node)
    return content if node.attributes["dtype"].is_integer else None


def _select_content(contents: list[Any], node: Node) -> Content | None:
    condition, then, otherwise = contents
    if condition.dtype == object:
        condition = np.array([bool(c) for c in condition.reshape(-1)]).reshape(condition.shape)
    chosen: Content = np.where(condition, then.astype(object), otherwise.astype(object))
    return chosen


_BY_REFERENCE = (
    "reshape", "transpose", "slice", "concat", "gather", "broadcast_to", "neg", "abs",
    "reduce_sum", "reduce_prod", "full", "iota", "not", "one_hot",
)  # fmt: skip
_COMPARISONS = frozenset({"lt", "ge", "gt", "le", "eq", "ne"})
CONTENT_RULES: dict[str, Callable[[list[Any], Node], Content | None]] = {
    **dict.fromkeys(_BY_REFERENCE, _by_reference),
    "add": _elementwise(lambda a, b: a + b),
    "sub": _elementwise(lambda a, b: a - b),
    "mul": _elementwise(lambda a, b: a * b),
    "trunc_div": _elementwise(floordiv),
    "div": _elementwise(floordiv),
    "mod": _elementwise(lambda a, b: a % b),
    "min": _elementwise(minimum),
    "max": _elementwise(maximum),
    "and": _elementwise(lambda a, b: a and b if isinstance(a, bool) else a & b),
    "or": _elementwise(lambda a, b: a or b if isinstance(a, bool) else a | b),
    "lt": _elementwise(_less),
    "ge": _elementwise(lambda a, b: not _less(a, b)),
    "gt": _elementwise(lambda a, b: _less(b, a)),
    "le": _elementwise(lambda a, b: not _less(b, a)),
    "eq": _elementwise(_same),
    "ne": _elementwise(lambda a, b: not _same(a, b)),
    "cast": _cast_content,
    "select": _select_content,
}  # fmt: skip
"""Operators through which integers are followed, and how."""
