"""Turns the nodes of a group into one expression, by substituting element rules into one another.

A `Fusion` is asked for an element of a value. If a node of the group computes the value, the answer
is that node's rule, which in turn asks for elements of the node's inputs. Otherwise the answer is a
load from a buffer, and the buffer becomes an input of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.expr import Buffer, Expression, Index
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.ravel import broadcast_index
from bessemer.compiler.ir.types import Array


class Fusion:
    """Gives the elements of a kernel's values as expressions, and collects the buffers that these
    read.

    `inlined` are the nodes that are computed where their output is needed. Everything else is a
    buffer, numbered in the order of first use, or a literal if it is a constant of one element.
    `given` overrides single values (the sum of a contraction).
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
        """A fusion in which these nodes are computed where their outputs are needed."""
        return Fusion({node.output: node for node in nodes}, constants)

    def given(self, given: Mapping[Value, Callable[[Index], Expression]]) -> Fusion:
        """The same fusion with single values overridden; it adds to the same buffers."""
        return Fusion(self._inlined, self._constants, given, self.buffers)

    def copy(self, buffers: dict[Value, Buffer] | None = None) -> Fusion:
        """The same fusion with other buffers, or with the same ones in a dict of its own."""
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
        """A value in the form in which element rules see it."""
        return Operand(value.type, lambda index: self.element(value, index))

    def buffer(self, value: Value) -> Buffer:
        """The buffer parameter from which a value is read."""
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
    """One symbol per axis. A KernelBuilder makes no such names, so none of its loops captures
    one."""
    return tuple(Symbol(f"{prefix}{axis}", size) for axis, size in enumerate(shape))


def as_index(symbols: tuple[Symbol, ...], shape: tuple[Size, ...]) -> Index:
    """The symbols as an index; 0 on axes of size 1."""
    return broadcast_index(tuple(map(atom, symbols)), shape)
