"""Turns the nodes of a group into one expression: element rules, applied inside one another."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Buffer, Expression, Index, Load
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.ravel import broadcast_index
from bessemer.compiler.ir.types import Array, bf16, f32
from bessemer.compiler.schedule.nests.partial_sums import is_longer

AFFINE_VIEWS = frozenset({"transpose", "reshape", "slice", "broadcast_to", "windows"})


class Fusion:
    """Expressions for the values of one kernel, and the buffers that they read.

    `inlined` are the nodes computed on the spot. Everything else is a buffer, named in the order of
    first use, or a literal if it is a constant of one element. `given` overrides single values (the
    accumulator of a contraction).
    """

    def __init__(
        self,
        inlined: Mapping[Value, Node],
        constants: Mapping[Value, Array],
        given: Mapping[Value, Callable[[Index], Expression]] | None = None,
        buffers: dict[Value, Buffer] | None = None,
    ) -> None:
        self._inlined = inlined
        self._constants = constants
        self._given = dict(given or {})
        self.buffers: dict[Value, Buffer] = {} if buffers is None else buffers
        self._known: dict[tuple[Value, Index], Expression] = {}

    @staticmethod
    def of(nodes: Iterable[Node], constants: Mapping[Value, Array]) -> Fusion:
        """A kernel that computes these nodes on the spot."""
        return Fusion({node.output: node for node in nodes}, constants)

    def given(self, given: Mapping[Value, Callable[[Index], Expression]]) -> Fusion:
        """The same kernel with single values overridden; it adds to the same buffers."""
        return Fusion(self._inlined, self._constants, given, self.buffers)

    def copy(self, buffers: dict[Value, Buffer] | None = None) -> Fusion:
        """The same kernel with other buffers, or with the same ones in a dict of its own."""
        kept = dict(self.buffers) if buffers is None else buffers
        return Fusion(self._inlined, self._constants, self._given, kept)

    def element(self, value: Value, index: Index) -> Expression:
        """The element of a value at an index."""
        key = (value, index)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._compute(value, index)
        return found

    def operand(self, value: Value) -> Operand:
        """A value as element rules see it."""
        return Operand(value.type, lambda index: self.element(value, index))

    def buffer(self, value: Value) -> Buffer:
        """The buffer parameter that a value is read from."""
        found = self.buffers.get(value)
        if found is None:
            name = f"in{len(self.buffers)}"
            found = self.buffers[value] = Buffer(name, value.type.dtype, value.type.shape)
        return found

    def _compute(self, value: Value, index: Index) -> Expression:
        if value in self._given:
            return self._given[value](index)
        node = self._inlined.get(value)
        if node is not None:
            return self._apply(node, index)
        array = self._constants.get(value)
        if array is not None and array.size == 1:
            return expr.constant(array.reshape(-1)[0].item(), value.type.dtype)
        return expr.load(self.buffer(value), broadcast_index(index, value.type.shape))

    def _apply(self, node: Node, index: Index) -> Expression:
        rule = node.operator.element
        if rule is None:
            raise InternalError(f"{node.operator} has no element rule")
        operands = [self.operand(value) for value in node.inputs]
        result = rule(*operands, index=index, **node.attributes)
        if not isinstance(result, Expression):
            raise InternalError(f"the element rule of {node.operator} gave {type(result).__name__}")
        if result.dtype != node.output.type.dtype:
            wanted = node.output.type.dtype
            raise InternalError(
                f"the element rule of {node.operator} gave {result.dtype}, not {wanted}"
            )
        return result


def index_symbols(shape: tuple[Size, ...], prefix: str = "axis") -> tuple[Symbol, ...]:
    """One symbol an axis. No KernelBuilder makes such names: none of its loops captures one."""
    return tuple(Symbol(f"{prefix}{axis}", size) for axis, size in enumerate(shape))


def as_index(symbols: tuple[Symbol, ...], shape: tuple[Size, ...]) -> Index:
    """The symbols as an index; 0 on axes of size 1."""
    return broadcast_index(tuple(map(atom, symbols)), shape)


def view_chain(
    value: Value, producers: Mapping[Value, Node], materialized: Container[Value] = ()
) -> dict[Value, Node]:
    """The views between a value and the memory behind it; `materialized` values are memory."""
    chain: dict[Value, Node] = {}
    while (
        value not in materialized
        and (node := producers.get(value)) is not None
        and node.operator.is_view
        and node.inputs
    ):
        chain[value] = node
        value = node.inputs[0]
    return chain


@dataclass(frozen=True, eq=False)
class Source:
    """The memory that a value is seen in, through views: the element at an index lies at
    base + index . strides of another value, which `buffer` stands for."""

    value: Value
    buffer: Buffer
    base: Size
    strides: tuple[Size, ...]


def source_of(value: Value, views: Mapping[Value, Node]) -> Source | None:
    """Where a value lies, seen through `views`; None where that is not linear in the index."""
    fusion = Fusion(views, {})
    symbols = index_symbols(value.type.shape)
    element = fusion.element(value, as_index(symbols, value.type.shape))
    strides = affine_strides(element, symbols) if isinstance(element, Load) else None
    if strides is None or not isinstance(element, Load):
        return None
    offset = element.buffer.offset(element.indices)
    base = dims.substitute(offset, dict.fromkeys(symbols, 0))
    ((memory, buffer),) = fusion.buffers.items()
    return Source(memory, buffer, base, strides)


def is_affine_operand(value: Value, producers: Mapping[Value, Node]) -> bool:
    """Whether a value is memory seen through views that keep its index arithmetic linear."""
    views = view_chain(value, producers)
    if any(node.operator.name not in AFFINE_VIEWS for node in views.values()):
        return False
    return source_of(value, views) is not None


def samples_channels(node: Node) -> bool:
    """Whether a node looks for places in an image that has enough channels for vectors: where a
    place is, is asked once for all of them, if they are neighbours in memory."""
    looks = node.operator.name in ("grid_sample", "deform_columns")
    return looks and is_longer(node.inputs[0].type.shape[-1], 7)


def has_neighbours_last(value: Value, producers: Mapping[Value, Node]) -> bool:
    """Whether the last axis of a value, memory seen through views, has steps of one element."""
    source = source_of(value, view_chain(value, producers))
    return source is not None and source.strides[-1] == 1


def parts_pairs(node: Node, producers: Mapping[Value, Node]) -> bool:
    """Whether a product of bfloat16 has a left operand whose neighbours along the depth transposes
    have moved apart: it is put in order first, in less time than their products take one by one."""
    if node.operator.name != "matmul" or node.inputs[0].type.dtype is not bf16:
        return False
    left = producers.get(node.inputs[0])
    is_transpose = left is not None and left.operator.name == "transpose"
    return is_transpose and not has_neighbours_last(node.inputs[0], producers)


def is_widening(node: Node) -> bool:
    """Whether a node makes f32 of a 16-bit float: that costs nothing where it is read."""
    if node.operator.name != "cast" or node.output.type.dtype is not f32:
        return False
    source = node.inputs[0].type.dtype
    return source.is_float and source.bits == 16


def affine_strides(load: Load, symbols: tuple[Symbol, ...]) -> tuple[Size, ...] | None:
    """The distance in elements between neighbours along each symbol, None if not linear."""
    if load.guard is not None:
        return None
    offset = load.buffer.offset(load.indices)
    if walk_expr.index_expressions(offset):
        return None
    strides: list[Size] = []
    for symbol in symbols:
        stride = dims.coefficient_of(offset, symbol)
        if stride is None or any(s in dims.atoms(stride) for s in symbols):
            return None
        strides.append(stride)
    return tuple(strides)
