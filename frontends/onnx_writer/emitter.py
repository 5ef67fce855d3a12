"""An ONNX graph being written: its nodes, and where in it each of our values is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import (
    Atom,
    FloorDiv,
    Max,
    Min,
    Mod,
    Size,
    Symbol,
    as_atom,
    coefficient_of,
    is_nonnegative,
    symbol,
)
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import Array, DType
from bessemer.frontends.onnx_writer.compositions import find_compositions
from bessemer.frontends.onnx_writer.model_parts import ONNX_TYPES, ModelParts, name_of_source
from bessemer.frontends.onnx_writer.storage import Order, Stored, identity, inverse, plain


class Emitter:
    """One graph of the model: the main one, or the body of an If or a Loop inside `outer`."""

    def __init__(self, graph: Graph, parts: ModelParts, outer: Emitter | None = None) -> None:
        self.graph = graph
        self.parts = parts
        self.outer = outer
        self.nodes: list[onnx.NodeProto] = []
        self.users = graph.users()
        self.producers = graph.producers()
        self.compositions = find_compositions(graph)
        self.done: set[Node] = set()
        """Nodes that were written together with an earlier one."""
        self._stored: dict[Value, Stored] = {}
        self._made: dict[object, str] = {}
        """What was made to have it once: transposes and expansions by what they show, sizes."""
        self._symbols: dict[str, tuple[str, int, Size]] = {}
        self._path = ""
        for value, array in graph.constants.items():
            held = parts.parameter(array, value.name or "constant")
            self._stored[value] = plain(held, value.type.shape)

    # Nodes

    @contextmanager
    def path(self, node: Node) -> Iterator[None]:
        """Names of what is written inside begin with the user's node."""
        before, self._path = self._path, name_of_source(node)
        try:
            yield
        finally:
            self._path = before

    def emit(
        self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any
    ) -> tuple[str, ...]:
        """Writes a node and gives its outputs' names; attributes that are None are left out."""
        wanted = f"{self._path}.{kind.lower()}".lstrip(".")
        names = tuple(self.parts.unique(wanted) for _ in range(outputs))
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **given))
        return names

    def one(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Writes a node with one output."""
        return self.emit(kind, inputs, **attributes)[0]

    def constant(self, array: Array, wanted: str = "constant") -> str:
        """A constant's name."""
        return self.parts.constant(array, wanted)

    def integers(self, numbers: Sequence[int]) -> str:
        """A constant vector of i64."""
        return self.constant(np.array(numbers, dtype=np.int64).reshape(len(numbers)), "sizes")

    def floats(self, numbers: Sequence[float]) -> str:
        """A constant vector of f32."""
        return self.constant(np.array(numbers, dtype=np.float32), "numbers")

    def number(self, number: float | int | bool, dtype: DType) -> str:
        """A constant scalar."""
        with np.errstate(over="ignore"):
            return self.constant(np.asarray(number).astype(dtype.numpy), "number")

    def cast(self, name: str, dtype: DType) -> str:
        """A tensor in another element type."""
        return self.one("Cast", name, to=ONNX_TYPES[dtype.name])

    # Values

    def store(self, value: Value, name: str, order: Order | None = None) -> None:
        """Says which tensor a value is; its axes may be in another order, see storage.py."""
        chosen = identity(value.type.rank) if order is None else order
        shape = tuple(value.type.shape[axis] for axis in inverse(chosen))
        self.put(value, Stored(name, shape, chosen))

    def put(self, value: Value, stored: Stored) -> None:
        """Says where a value is."""
        self._stored[value] = stored

    def is_stored(self, value: Value) -> bool:
        """Whether a value's tensor is known."""
        return value in self._stored

    def stored(self, value: Value) -> Stored:
        """Where a value is."""
        if value not in self._stored:
            raise InternalError(f"{value.type} {value.name!r} is read before it is written")
        return self._stored[value]

    def array_of(self, value: Value) -> Array | None:
        """The numbers of a constant of ours."""
        return self.graph.constants.get(value)

    def name_of(self, value: Value) -> str:
        """A tensor that is the value as it stands."""
        return self.ordered(value, identity(value.type.rank))

    def ordered(self, value: Value, order: Sequence[int]) -> str:
        """A tensor that is the value with its axes in another order, nothing left to broadcast."""
        stored = self.stored(value)
        if not stored.is_whole(value):
            key = ("expanded", stored, value.type.shape)
            if key not in self._made:
                seen = self.transposed(stored)
                self._made[key] = self.one("Expand", seen, self.sizes(value.type.shape))
            stored = plain(self._made[key], value.type.shape)
        return self.transposed(stored.reordered(order))

    def transposed(self, stored: Stored) -> str:
        """A tensor with its axes in the order that they are seen in."""
        if stored.order == identity(len(stored.order)):
            return stored.name
        if stored not in self._made:
            array = self.parts.arrays.get(stored.name)
            if array is not None:
                self._made[stored] = self._rearranged(
                    stored.name, np.transpose(array, stored.order)
                )
            else:
                self._made[stored] = self.one("Transpose", stored.name, perm=list(stored.order))
        return self._made[stored]

    def reshaped(self, name: str, shape: Sequence[Size]) -> str:
        """A tensor under another shape."""
        array = self.parts.arrays.get(name)
        static = [size for size in shape if isinstance(size, int)]
        if array is not None and len(static) == len(shape):
            return self._rearranged(name, array.reshape(static))
        return self.one("Reshape", name, self.sizes(shape), allowzero=1 if 0 in static else None)

    def _rearranged(self, name: str, array: Array) -> str:
        """A constant with the elements of another one; it may take over its name."""
        if name in self.parts.origins:
            return self.parts.parameter(array, self.parts.origins[name])
        return self.parts.constant(array, name)

    def frame(self, values: Sequence[Value]) -> tuple[list[str], Order]:
        """Tensors for values of one rank with one common order of axes, and that order.

        Nothing is transposed if they are all stored in the same order.
        """
        held = [self.stored(value) for value in values]
        whole = all(stored.is_whole(value) for stored, value in zip(held, values))
        if whole and len({stored.order for stored in held}) == 1:
            return [stored.name for stored in held], held[0].order
        return [self.name_of(value) for value in values], identity(values[0].type.rank)

    # Sizes

    def define(self, name: str, vector: str, place: int | None = None) -> None:
        """A symbol is an entry of a vector of i64, the only one if no place is given."""
        if place is not None:
            vector = self.one("Gather", vector, self.integers([place]), axis=0)
        self._made[Symbol(name)] = vector

    def define_by_shape(self, name: str, shape: Sequence[Size]) -> None:
        """Symbols without a value get theirs from a tensor's shape, if it is ever asked for."""
        for axis, size in enumerate(shape):
            leaf = as_atom(size)
            if isinstance(leaf, Symbol) and self._place_of(leaf.name) is None:
                self._symbols[leaf.name] = (name, axis, size)
        for axis, size in enumerate(shape):
            for found in self.graph.symbols:
                factor = coefficient_of(size, Symbol(found))
                known = self._place_of(found) is not None
                if not known and isinstance(factor, int) and factor > 0:
                    self._symbols[found] = (name, axis, size)

    def _place_of(self, name: str) -> tuple[str, int, Size] | None:
        found = self._symbols.get(name)
        return found or (self.outer._place_of(name) if self.outer else None)

    def sizes(self, sizes: Sequence[Size]) -> str:
        """A vector of i64 that holds these sizes when the model runs."""
        if all(isinstance(size, int) for size in sizes):
            return self.integers([size for size in sizes if isinstance(size, int)])
        key = ("sizes", tuple(sizes))
        if key not in self._made:
            pieces = [self.size(size) for size in sizes]
            self._made[key] = pieces[0] if len(pieces) == 1 else self.one("Concat", *pieces, axis=0)
        return self._made[key]

    def size(self, size: Size) -> str:
        """A vector of one i64 that holds this size when the model runs."""
        if isinstance(size, int):
            return self.integers([size])
        known = self._known(size)
        if known is not None:
            return known
        total = ""
        for monomial, coefficient in size.terms.items():
            term = "" if coefficient == 1 and monomial else self.integers([coefficient])
            for factor, power in monomial:
                for _ in range(power):
                    term = self._joined("Mul", term, self._atom(factor))
            total = self._joined("Add", total, term)
        self._made[size] = total
        return total

    def _joined(self, kind: str, left: str, right: str) -> str:
        return self.one(kind, left, right) if left else right

    def _known(self, key: object) -> str | None:
        return self._made.get(key) or (self.outer._known(key) if self.outer else None)

    def _atom(self, factor: Atom) -> str:
        known = self._known(factor)
        if known is None:
            known = self._made[factor] = self._new_atom(factor)
        return known

    def _new_atom(self, factor: Atom) -> str:
        match factor:
            case Symbol(name, _):
                return self._symbol(name)
            case FloorDiv(numerator, denominator):
                above, below = self.size(numerator), self.size(denominator)
                if not is_nonnegative(numerator):  # Div cuts towards zero
                    above = self.one("Sub", above, self.one("Mod", above, below))
                return self.one("Div", above, below)
            case Mod(numerator, denominator):
                return self.one("Mod", self.size(numerator), self.size(denominator))
            case Min(left, right):
                return self.one("Min", self.size(left), self.size(right))
            case Max(left, right):
                return self.one("Max", self.size(left), self.size(right))
            case _:
                raise InternalError(f"{factor} in a shape has no value in ONNX")

    def _symbol(self, name: str) -> str:
        place = self._place_of(name)
        if place is None:
            raise InternalError(f"nothing gives the dimension {name} a value")
        tensor, axis, size = place
        found = self.one("Shape", tensor, start=axis, end=axis + 1)
        factor = coefficient_of(size, Symbol(name))
        if factor is None or not isinstance(factor, int):
            raise InternalError(f"the dimension {name} cannot be told from {size}")
        rest = size - factor * symbol(name)
        if rest != 0:
            found = self.one("Sub", found, self.size(rest))
        return found if factor == 1 else self.one("Div", found, self.integers([factor]))
