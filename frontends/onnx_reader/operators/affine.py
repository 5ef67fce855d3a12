"""AffineGrid: where to sample an image that is to be turned, moved and scaled."""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ops.composite.composite import binary
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import with_size
from bessemer.frontends.onnx_reader.registry import rule


@rule("AffineGrid")
def read_affine_grid(context: NodeContext) -> Value:
    """grid[n, z, y, x, k] = theta[n, k, :] . (x, y, z, 1), coordinates from -1 to 1."""
    b, theta, size = context.builder, context.input(0), context.sizes(1)
    batch, spatial = size[0], size[2:]
    count = len(spatial)
    if theta.type.rank != 3 or count not in (2, 3):
        context.wrong(f"theta is {theta.type} and size has {len(size)} numbers, 4 or 5 are wanted")
    for axis, wanted in enumerate((batch, count, count + 1)):
        theta = with_size(b, theta, axis, wanted)
    dtype, batch = theta.type.dtype, theta.type.shape[0]
    if dtype.bits < 32:
        theta = context.cast(theta, f32)
    shape = (batch, *spatial, count)

    def column(number: int) -> Value:
        """A column of the matrices, before the axes of space."""
        block = (batch, count, 1)
        part = context.apply("slice", theta, starts=(0, 0, number), shape=block, steps=(1, 1, 1))
        return context.reshape(part, (batch, *(1,) * count, count))

    grid = context.apply("broadcast_to", column(count), shape=shape)
    for number in range(count):
        along = _coordinates(context, theta, shape, count - number)
        grid = binary(b, "add", binary(b, "mul", along, column(number)), grid)
    return context.cast(grid, dtype)


def _coordinates(context: NodeContext, theta: Value, shape: tuple[Size, ...], axis: int) -> Value:
    """Of the pixels' middles along an axis; with aligned corners the first is -1, the last 1."""
    b, dtype = context.builder, theta.type.dtype
    aligned = bool(context.integer("align_corners"))
    # One pixel alone is at -1, as in onnx's evaluator.
    intervals = dims.maximum(shape[axis] - 1, 1) if aligned else shape[axis]
    place = context.apply("iota", shape=shape, axis=axis, dtype=dtype)
    size = context.cast(b.scalar_size(intervals), dtype)
    place = binary(b, "mul", place, 2.0)
    place = place if aligned else binary(b, "add", place, 1.0)
    return binary(b, "sub", binary(b, "div", place, size), 1.0)
