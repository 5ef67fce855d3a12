"""An ONNX graph being written: nodes, constants, names, and where each of our values is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bessemer.compiler.errors import InternalError, UnsupportedError
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import Array, DType, TensorType, i64
from bessemer.frontends.onnx_writer.storage import Order, Stored, identity, inverse, plain

ONNX_TYPES = {
    "f16": onnx.TensorProto.FLOAT16,
    "bf16": onnx.TensorProto.BFLOAT16,
    "f32": onnx.TensorProto.FLOAT,
    "f64": onnx.TensorProto.DOUBLE,
    "i8": onnx.TensorProto.INT8,
    "i16": onnx.TensorProto.INT16,
    "i32": onnx.TensorProto.INT32,
    "i64": onnx.TensorProto.INT64,
    "u8": onnx.TensorProto.UINT8,
    "u16": onnx.TensorProto.UINT16,
    "u32": onnx.TensorProto.UINT32,
    "u64": onnx.TensorProto.UINT64,
    "bool": onnx.TensorProto.BOOL,
}


@dataclass(eq=False)
class Model:
    """What all graphs of one model share: names, and constants, which lie in the main graph."""

    names: set[str] = field(default_factory=set)
    arrays: dict[str, Array] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    """Which of our constants a rearranged one comes from."""

    def unique(self, wanted: str) -> str:
        """A name that nothing has yet."""
        name, count = wanted, 1
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name

    def constant(self, array: Array, wanted: str, origin: str = "") -> str:
        """A constant; equal small ones are one, unless they have an origin."""
        if not origin and array.size <= 16:
            for name, known in self.arrays.items():
                same_type = known.dtype == array.dtype and known.shape == array.shape
                if name not in self.origins and same_type and known.tobytes() == array.tobytes():
                    return name
        name = self.unique(wanted)
        self.arrays[name] = array
        if origin:
            self.origins[name] = origin
        return name


class Emitter:
    """One graph of the model: the main one, or the body of an If or a Loop."""

    def __init__(self, graph: Graph, model: Model, outer: Emitter | None = None) -> None:
        self.graph = graph
        self.model = model
        self.outer = outer
        self.nodes: list[onnx.NodeProto] = []
        self.users = graph.users()
        self.producers = graph.producers()
        self.done: set[Node] = set()
        """Nodes that have been written together with an earlier one."""
        self.sizes_known: dict[Size, str] = {}
        self.symbols: dict[str, tuple[str, int]] = {}
        """Where a symbol is: a tensor, and which of its axes."""
        self._stored: dict[Value, Stored] = {}
        self._whole: dict[tuple[str, Order, tuple[Size, ...]], str] = {}
        self._path = ""
        for value, array in graph.constants.items():
            name = value.name or "constant"
            held = model.constant(array, name, value.name)
            self._stored[value] = plain(held, value.type.shape)

    # Nodes

    @contextmanager
    def path(self, node: Node) -> Iterator[None]:
        """Names of what is written inside begin with the user's node."""
        before, self._path = self._path, node.sources[0] if node.sources else ""
        yield
        self._path = before

    def emit(
        self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any
    ) -> tuple[str, ...]:
        """Writes a node and gives its outputs' names; attributes that are None are left out."""
        wanted = f"{self._path}.{kind}".lstrip(".").lower()
        names = tuple(self.model.unique(wanted) for _ in range(outputs))
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **given))
        return names

    def one(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Writes a node with one output."""
        return self.emit(kind, inputs, **attributes)[0]

    def constant(self, array: Array, wanted: str = "constant") -> str:
        """A constant's name."""
        return self.model.constant(array, wanted)

    def integers(self, numbers: Sequence[int]) -> str:
        """A constant vector of i64."""
        return self.constant(np.array(numbers, dtype=np.int64).reshape(len(numbers)), "sizes")

    def number(self, number: float | int | bool, dtype: DType) -> str:
        """A constant scalar."""
        return self.constant(np.asarray(number).astype(dtype.numpy), "number")

    def cast(self, name: str, dtype: DType) -> str:
        """A tensor in another element type."""
        return self.one("Cast", name, to=ONNX_TYPES[dtype.name])

    # Values

    def store(self, value: Value, name: str, order: Order | None = None) -> None:
        """Says which tensor a value is; it may have its axes in another order."""
        chosen = order or identity(value.type.rank)
        shape = tuple(value.type.shape[axis] for axis in inverse(chosen))
        self.put(value, Stored(name, shape, chosen))

    def put(self, value: Value, stored: Stored) -> None:
        """Says where a value is."""
        self._stored[value] = stored

    def stored(self, value: Value) -> Stored:
        """Where a value is."""
        if value not in self._stored:
            raise InternalError(f"{value.type} {value.name!r} is read before it is written")
        return self._stored[value]

    def name_of(self, value: Value) -> str:
        """A tensor that is the value as it stands."""
        return self.ordered(value, identity(value.type.rank))

    def ordered(self, value: Value, order: Sequence[int]) -> str:
        """A tensor that is the value with its axes in another order, nothing left to broadcast."""
        stored = self.stored(value)
        if not stored.is_whole(value):
            stored = self._expanded(value, stored)
        return self.transposed(stored.reordered(order))

    def _expanded(self, value: Value, stored: Stored) -> Stored:
        shape = value.type.shape
        key = (stored.name, stored.order, shape)
        if key not in self._whole:
            name = self.transposed(stored)
            self._whole[key] = self.one("Expand", name, self.sizes(shape))
        return plain(self._whole[key], shape)

    def transposed(self, stored: Stored) -> str:
        """A tensor with its axes in the order that they are seen in."""
        if stored.order == identity(len(stored.order)):
            return stored.name
        key = (stored.name, stored.order, ())
        if key not in self._whole:
            array = self.model.arrays.get(stored.name)
            if array is not None:
                self._whole[key] = self.rearranged(stored.name, np.transpose(array, stored.order))
            else:
                self._whole[key] = self.one("Transpose", stored.name, perm=list(stored.order))
        return self._whole[key]

    def rearranged(self, name: str, array: Array) -> str:
        """A constant with the elements of another one, rearranged."""
        origin = self.model.origins.get(name, "")
        return self.model.constant(np.ascontiguousarray(array), origin or name, origin)

    def reshaped(self, name: str, shape: Sequence[Size]) -> str:
        """A tensor under another shape."""
        array = self.model.arrays.get(name)
        if array is not None and all(isinstance(size, int) for size in shape):
            return self.rearranged(name, array.reshape([int(str(size)) for size in shape]))
        return self.one("Reshape", name, self.sizes(shape))

    def frame(self, values: Sequence[Value]) -> tuple[list[str], Order]:
        """Tensors for values of one rank with one common order of axes, and that order.

        Nothing is transposed if they are all stored in the same order.
        """
        held = [self.stored(value) for value in values]
        whole = all(stored.is_whole(value) for stored, value in zip(held, values))
        if whole and len({stored.order for stored in held}) == 1:
            return [stored.name for stored in held], held[0].order
        return [self.name_of(value) for value in values], identity(values[0].type.rank)

    # Sizes: see sizes.py, which fills them in

    def sizes(self, sizes: Sequence[Size]) -> str:
        """A vector of i64 that holds these sizes when the model runs."""
        if all(isinstance(size, int) for size in sizes):
            return self.integers([size for size in sizes if isinstance(size, int)])
        pieces = [self.size(size) for size in sizes]
        return pieces[0] if len(pieces) == 1 else self.one("Concat", *pieces, axis=0)

    def size(self, size: Size) -> str:
        """A vector of one i64 that holds this size when the model runs."""
        raise NotImplementedError

    def array_of(self, value: Value) -> Array | None:
        """The numbers of a constant."""
        return self.graph.constants.get(value)

    def type_info(self, name: str, type: TensorType) -> onnx.ValueInfoProto:
        """What the model says about an input or output."""
        shape = [size if isinstance(size, int) else str(size) for size in type.shape]
        return helper.make_tensor_value_info(name, ONNX_TYPES[type.dtype.name], shape)


def unsupported(node: Node, why: str) -> UnsupportedError:
    """An error that names the user's node."""
    where = f"{node.sources[0]}: " if node.sources else ""
    return UnsupportedError(f"{where}{node.operator}: {why}")


def ints(node: Node, attribute: str) -> list[int]:
    """An attribute that must hold numbers: CompileError if a symbol is in it."""
    entries = node.attributes[attribute]
    if not all(isinstance(entry, int) for entry in entries):
        raise unsupported(node, f"ONNX wants numbers as {attribute}, not {entries}.")
    return [int(entry) for entry in entries]


__all__ = ["ONNX_TYPES", "Emitter", "Mapping", "Model", "i64", "ints", "product", "unsupported"]
