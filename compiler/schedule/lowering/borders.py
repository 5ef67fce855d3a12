"""Fills the border of a padded value, whose inside is written by the kernel of the value that is
padded."""

from __future__ import annotations

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.expr import constant
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.schedule.grouping.destinations import Destination


def lower_border(pad: Node, out: Destination) -> Block:
    """The body of the kernel: each run of border elements that are neighbours in memory is a vector
    loop."""
    return _Border(pad, out).write()


def border_elements(pad: Node) -> Size:
    """The number of elements in the border."""
    return pad.output.type.numel - pad.inputs[0].type.numel


class _Border:
    def __init__(self, pad: Node, out: Destination) -> None:
        self.out = out
        self.inside = pad.inputs[0].type.shape
        self.shape = pad.output.type.shape
        self.low, self.high = pad.attributes["low"], pad.attributes["high"]
        self.value = constant(pad.attributes["value"], pad.output.type.dtype)
        padded = [axis for axis, (a, b) in enumerate(zip(self.low, self.high)) if a != 0 or b != 0]
        self.last = max(padded, default=-1)
        self.builder = KernelBuilder()

    def write(self) -> Block:
        """The whole border."""
        self._axis(0, ())
        return self.builder.block()

    def _axis(self, axis: int, before: tuple[Size, ...]) -> None:
        """Writes the border at both ends of an axis, and, inside of the axis, that of the axes
        after it."""
        if axis > self.last:
            return
        low, inside = self.low[axis], self.inside[axis]
        self._fill(axis, before, 0, low)
        self._fill(axis, before, low + inside, self.high[axis])
        if axis < self.last:
            with self.builder.loop(inside) as index:
                self._axis(axis + 1, (*before, low + index))

    def _fill(self, axis: int, before: tuple[Size, ...], first: Size, count: Size) -> None:
        """Fills `count` places along an axis from `first` on, with all of the axes after it."""
        if count == 0:
            return
        after = len(self.shape) - axis - 1
        if self.out.value.type.shape[axis + 1 :] == self.shape[axis + 1 :]:
            start = self.out.offset((*before, first, *(0,) * after))
            with self.builder.loop(count * product(self.shape[axis + 1 :]), "vector", 0) as index:
                self.builder.store(self.out.buffer, (start + index,), self.value)
            return
        # Here the padded value is a slice of another value, so its rows do not follow each other.
        with self.builder.loop(count) as index:
            self._rows((*before, first + index))

    def _rows(self, before: tuple[Size, ...]) -> None:
        axis = len(before)
        if axis == len(self.shape):
            self.builder.store(self.out.buffer, (self.out.offset(before),), self.value)
            return
        with self.builder.loop(self.shape[axis]) as index:
            self._rows((*before, index))
