"""Describes matrix products and convolutions as contractions: their axes, and where the elements of
their operands and results are."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.expr import Index
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.ir.types import Array
from bessemer.compiler.schedule.contraction.contraction import (
    DepthAxis,
    RowAxis,
    depth_order,
    memory_order,
)


@dataclass(frozen=True, eq=False)
class Axes:
    """A contraction's axes, and the number of matrices that its right operand holds."""

    rows: tuple[RowAxis, ...]
    depth: tuple[DepthAxis, ...]
    columns: Size
    matrices: Size


class ProductForm:
    """A matmul: [..., m, k] x [..., k, n], whose batch axes are broadcast. `strides` are the steps
    in memory along the axes of the left operand.

    `output_index` is the index of an element of the anchor's output, `right_index` that of an
    element of its right operand. `right_matrices` gives a constant right operand as [matrices...,
    depth, columns].
    """

    def __init__(self, node: Node, strides: tuple[Size, ...]) -> None:
        self.left, self.right = (value.type.shape for value in node.inputs)
        self.out = node.output.type.shape
        self.batch = len(self.out) - 2
        self.axes = self._axes(strides)

    def _axes(self, strides: tuple[Size, ...]) -> Axes:
        left = (0,) * (self.batch - len(self.left) + 2) + tuple(
            0 if size == 1 else stride for size, stride in zip(self.left[:-2], strides[:-2])
        )
        rows = [
            RowAxis(size, a, b)
            for size, a, b in zip(self.out[:-2], left, self._matrix_strides(), strict=True)
        ]
        rows.append(RowAxis(self.out[-2], strides[-2]))
        depth = (DepthAxis(self.left[-1], strides[-1]),)
        return Axes(tuple(rows), depth, self.out[-1], product(self.right[:-2]))

    def _matrix_strides(self) -> tuple[Size, ...]:
        strides: list[Size] = []
        step: Size = 1
        for size in reversed(self.right[:-2]):
            strides.append(0 if size == 1 else step)
            step = step * size
        return (0,) * (self.batch - len(self.right) + 2) + tuple(reversed(strides))

    def output_index(self, rows: tuple[Size, ...], column: Size) -> Index:
        return (*rows, column)

    def right_index(self, matrix: Size, k: Size, column: Size) -> Index:
        return (*unravel(matrix, self.right[:-2]), k, column)

    def right_matrices(self, array: Array) -> Array:
        return array

    @property
    def key(self) -> tuple[object, ...]:
        """What the order of the packed right operand depends on."""
        return ()


class ConvolutionForm:
    """A conv of an input that needs no padding, with the same methods as ProductForm. Groups are
    the outermost axis of the rows.

    Rows and sums go through the input in the order of its memory. In the gradient of a weight, for
    example, samples take the place of channels and channels that of samples: then a tile's rows are
    neighbouring channels, and a sum takes all pixels of one sample first.
    """

    def __init__(self, node: Node, strides: tuple[Size, ...]) -> None:
        self.w, out = node.inputs[1].type.shape, node.output.type.shape
        self.groups: int = node.attributes["groups"]
        steps, dilations = node.attributes["strides"], node.attributes["dilations"]
        rows = [RowAxis(out[0], strides[0])]
        rows += [
            RowAxis(size, step * stride)
            for size, step, stride in zip(out[1:-1], steps, strides[1:-1], strict=True)
        ]
        depth = [
            DepthAxis(size, dilation * stride)
            for size, dilation, stride in zip(self.w[:-2], dilations, strides[1:-1], strict=True)
        ]
        depth.append(DepthAxis(self.w[-2], strides[-1]))
        self.row_order = memory_order(rows)
        self.depth_order = depth_order(depth, node.inputs[0].type.dtype)
        rows = [rows[place] for place in self.row_order]
        if self.groups > 1:
            rows.insert(0, RowAxis(self.groups, self.w[-2] * strides[-1], 1))
        self.axes = Axes(
            rows=tuple(rows),
            depth=tuple(depth[place] for place in self.depth_order),
            columns=self.w[-1] // self.groups,
            matrices=self.groups,
        )

    def output_index(self, rows: tuple[Size, ...], column: Size) -> Index:
        group = rows[: -len(self.row_order)]
        index: list[Size] = [0] * len(self.row_order)
        for place, row in zip(self.row_order, rows[len(group) :], strict=True):
            index[place] = row
        if not group:
            return (*index, column)
        return (*index, group[0] * (self.w[-1] // self.groups) + column)

    def right_index(self, matrix: Size, k: Size, column: Size) -> Index:
        index: list[Size] = [0] * len(self.depth_order)
        rest = k
        for place in reversed(self.depth_order):
            index[place] = rest % self.w[place]
            rest = rest // self.w[place]
        return (*index, matrix * (self.w[-1] // self.groups) + column)

    def right_matrices(self, array: Array) -> Array:
        columns = array.shape[-1] // self.groups
        ordered = array.transpose(*self.depth_order, array.ndim - 1)
        grouped = ordered.reshape(-1, self.groups, columns)
        return grouped.transpose(1, 0, 2)

    @property
    def key(self) -> tuple[object, ...]:
        return (self.groups, self.depth_order)


Form = ProductForm | ConvolutionForm
