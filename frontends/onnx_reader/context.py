"""What a rule sees of the ONNX node that it builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import onnx

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, DType, TensorType
from bessemer.frontends.onnx_reader import known, limits
from bessemer.frontends.onnx_reader.equal_sizes import broadcast_together
from bessemer.frontends.onnx_reader.items import Item, Known, SequenceItem, StackedItem, TextItem
from bessemer.frontends.onnx_reader.model_state import Dequantized
from bessemer.frontends.onnx_reader.sizes import sizes_of
from bessemer.frontends.onnx_reader.string_state import ModelStrings
from bessemer.frontends.onnx_reader.tensors import DTYPE_OF, element_name


class Subgraphs(Protocol):
    """How rules of control-flow operators read what is in their attributes."""

    def read_inline(self, graph: onnx.GraphProto, inputs: Sequence[Item]) -> list[Item]:
        """Reads a subgraph into the graph at hand; its outputs."""

    def new_region(self, name: str) -> Region:
        """An empty region."""

    @property
    def dequantized(self) -> dict[Value, Dequantized]:
        """Values that are made of constants of few bits, and those."""

    @property
    def learns(self) -> bool:
        """Whether the model's floats may be trained."""

    @property
    def strings(self) -> ModelStrings:
        """The model's table of strings, and the steps that make some before a run."""

    def find(self, name: str) -> Known:
        """What a name stands for at this place of the model."""

    def choice(self, label: str) -> bool | None:
        """What this reading takes for granted about a node (see equal_sizes.MustChooseError)."""


class Region(Subgraphs, Protocol):
    """The body of a control-flow node being read, into a graph of its own."""

    @property
    def builder(self) -> GraphBuilder: ...

    @property
    def captured(self) -> Mapping[Value, Value]:
        """Values of the graph outside, and the region's inputs that stand for them."""

    def read(self, graph: onnx.GraphProto, inputs: Sequence[Item]) -> list[Item]:
        """Reads a subgraph whose inputs are values of the region; its outputs."""

    def capture(self, value: Value) -> Value:
        """The region's own value for one of the graph outside."""


@dataclass(frozen=True, eq=False)
class NodeContext:
    """A node with its inputs found and its attributes read, defaults included.

    `items` are the inputs, None for those left out; `opset` is the version of the node's domain
    that the model asks for, `label` how messages name the node.
    """

    builder: GraphBuilder
    subgraphs: Subgraphs
    node: onnx.NodeProto
    label: str
    opset: int
    items: tuple[Item, ...]
    attributes: Mapping[str, Any]

    # Inputs

    def __len__(self) -> int:
        return len(self.items)

    def item(self, position: int) -> Item:
        """An input that may be a sequence or absent."""
        return self.items[position] if position < len(self.items) else None

    def optional(self, position: int) -> Value | None:
        """A tensor input that may be absent."""
        found = self.item(position)
        if isinstance(found, (SequenceItem, StackedItem)):
            self.wrong(f"input {position} is a sequence, a tensor is wanted")
        if isinstance(found, TextItem):
            self.unsupported(f"input {position} holds strings")
        return found

    def input(self, position: int) -> Value:
        """A tensor input that must be there."""
        found = self.optional(position)
        if found is None:
            self.wrong(f"input {position} is missing")
        return found

    def text_at(self, position: int) -> TextItem | None:
        """An input that holds strings; None where it holds anything else."""
        found = self.item(position)
        return found if isinstance(found, TextItem) else None

    def sequence(self, position: int) -> SequenceItem:
        """An input that is a sequence."""
        found = self.item(position)
        if isinstance(found, StackedItem):
            self.unsupported("a sequence whose length is known when the model runs")
        if not isinstance(found, SequenceItem):
            self.wrong(f"input {position} is not a sequence")
        return found

    def tensors(self) -> list[Value]:
        """All inputs, every one a tensor."""
        return [self.input(position) for position in range(len(self.items))]

    def values(self, items: Sequence[Item]) -> list[Value]:
        """What goes into or comes out of a region, which has tensors only."""
        values = [item for item in items if isinstance(item, Value)]
        if len(values) != len(items):
            what = "strings" if any(isinstance(item, TextItem) for item in items) else "sequences"
            self.unsupported(f"{what} or optionals that are chosen when the model runs")
        return values

    def array(self, position: int) -> Array | None:
        """The elements of an input, where they are known already; None where absent or not."""
        value = self.optional(position)
        return None if value is None else known.known_array(self.builder, value)

    def constant_array(self, position: int, what: str) -> Array:
        """The elements of an input that has to be known; otherwise the node is not supported."""
        array = self.array(position)
        if array is None:
            self.unsupported(f"{what} that is not a constant")
        return array

    def integers_at(self, position: int, what: str) -> tuple[int, ...]:
        """An input's elements as integers that have to be known."""
        return tuple(int(entry) for entry in self.constant_array(position, what).reshape(-1))

    def length_at(self, position: int) -> int:
        """The number of elements of an input that has to be a short vector."""
        type = self.input(position).type
        if type.rank != 1 or not isinstance(type.shape[0], int) or type.shape[0] > limits.PARTS:
            self.unsupported(f"input {position} is {type}, a vector of known length is wanted")
        return type.shape[0]

    def known_sizes(self, position: int) -> tuple[Size, ...] | None:
        """An input's elements as sizes, None where they are not known."""
        return known.known_sizes(self.builder, self.input(position))

    def sizes(self, position: int) -> tuple[Size, ...]:
        """An input's elements as sizes; bound at run time where they are not known."""
        return self.sizes_in(self.input(position))

    def sizes_in(self, value: Value, signed: bool = False) -> tuple[Size, ...]:
        """A tensor's elements as sizes; bound at run time where they are not known, and then not
        below 0 unless `signed`."""
        count = value.type.numel
        if not isinstance(count, int) or count > limits.PARTS or not value.type.dtype.is_integer:
            self.unsupported(f"sizes in a tensor {value.type}")
        return sizes_of(self.builder, value, self.symbol_prefix(), signed)

    def lengths(self, sizes: Sequence[Size]) -> Sequence[Size]:
        """Sizes that a model gives in numbers, none of them below 0."""
        for size in sizes:
            if isinstance(size, int) and size < 0:
                self.wrong(f"the size {size} is negative")
        return sizes

    def symbol_prefix(self) -> str:
        """What symbols made for this node are called."""
        return f"{self.node.op_type.lower()}_"

    # Attributes

    def has(self, name: str) -> bool:
        return name in self.attributes

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self._attribute(name, default, int))

    def number(self, name: str, default: float | None = None) -> float:
        return float(self._attribute(name, default, float))

    def text(self, name: str, default: str | None = None) -> str:
        return str(self._attribute(name, default, str))

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        return tuple(self._attribute(name, default, list))

    def numbers(self, name: str, default: Sequence[float] | None = None) -> tuple[float, ...]:
        return tuple(self._attribute(name, default, list))

    def texts(self, name: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        return tuple(self._attribute(name, default, list))

    def _attribute(self, name: str, default: Any, kind: type) -> Any:
        found = self.attributes.get(name, default)
        if found is None:
            self.wrong(f"the attribute {name} is missing")
        kinds: tuple[type, ...] = {float: (int, float), list: (list, tuple, range)}.get(
            kind, (kind,)
        )
        if not isinstance(found, kinds):
            self.wrong(f"the attribute {name} is {found!r}")
        return found

    def graph(self, name: str) -> onnx.GraphProto:
        """An attribute that has to be a graph."""
        found = self.attributes.get(name)
        if not isinstance(found, onnx.GraphProto):
            self.wrong(f"the attribute {name} has to be a graph")
        return found

    def dtype(self, name: str, default: DType | None = None) -> DType:
        """The element type that an attribute names by ONNX's number."""
        if name not in self.attributes and default is not None:
            return default
        code = self.integer(name)
        found = DTYPE_OF.get(code)
        if found is None:
            self.unsupported(f"{name} = {element_name(code)}: this element type is not supported")
        return found

    def axis(self, rank: int, axis: int | None = None, name: str = "axis") -> int:
        """An axis counted from 0; the attribute's unless given."""
        number = self.integer(name) if axis is None else axis
        if not -rank <= number < rank:
            self.wrong(f"{name} {number} is not among the {rank} axes")
        return number % rank

    def axes(self, rank: int, axes: Sequence[int]) -> tuple[int, ...]:
        """Axes counted from 0, each once, sorted."""
        found = sorted(self.axis(rank, int(axis), "axes") for axis in axes)
        if len(set(found)) != len(found):
            self.wrong(f"axes {list(axes)} name an axis twice")
        return tuple(found)

    def axes_given(self) -> tuple[int, ...] | None:
        """Axes that old versions have as an attribute and new ones as input 1; None for neither."""
        if "axes" in self.attributes:
            return self.integers("axes")
        return None if self.optional(1) is None else self.integers_at(1, "axes")

    # Building

    def apply(self, operator: str, *inputs: Value, **attributes: Any) -> Value:
        return self.builder.apply(operator, *inputs, **attributes)

    def elementwise(self, operator: str, *inputs: Value) -> Value:
        """A pointwise operator on inputs that broadcast together."""
        return self.builder.apply(operator, *broadcast_together(self.builder, inputs))

    def full(self, type: TensorType, value: float | int | bool) -> Value:
        """A tensor full of one number."""
        return self.builder.apply("full", shape=type.shape, value=value, dtype=type.dtype)

    def like(self, value: Value, number: float | int | bool) -> Value:
        """A tensor full of one number, of another's type."""
        return self.full(value.type, number)

    def cast(self, value: Value, dtype: DType) -> Value:
        return value if value.type.dtype == dtype else self.apply("cast", value, dtype=dtype)

    def reshape(self, value: Value, shape: Sequence[Size]) -> Value:
        if value.type.shape == tuple(shape):
            return value
        return self.apply("reshape", value, shape=tuple(shape))

    def transpose(self, value: Value, permutation: Sequence[int]) -> Value:
        if tuple(permutation) == tuple(range(value.type.rank)):
            return value
        return self.apply("transpose", value, permutation=tuple(permutation))

    def strings(self, texts: Array | Sequence[str], name: str = "") -> TextItem:
        """A constant of strings."""
        places = self.subgraphs.strings.array(texts)
        return TextItem(self.builder.constant(places, name))

    # Refusals

    def unsupported(self, what: str) -> NoReturn:
        """Ends the rule: this use of the operator is valid, but not supported."""
        item = f"{self.label} (opset {self.opset}): {what}"
        raise UnsupportedError(item, [item])

    def wrong(self, what: str) -> NoReturn:
        """Ends the rule: the model is wrong."""
        raise CompileError(what)
