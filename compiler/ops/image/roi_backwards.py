"""What roi_align_gradient and max_roi_pool_gradient share: images are worked on side by side, each
with its boxes one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.types import DType, TensorType, f32, f64
from bessemer.compiler.ops.check import require


def require_cotangent(
    name: str, x: TensorType, boxes: TensorType, dy: TensorType, shape: tuple[int, int]
) -> None:
    """Raises CompileError unless dy is of the type of such a pool's result."""
    wanted = x.with_shape((boxes.shape[0], *shape, x.shape[3]))
    require(dy == wanted, f"{name} of {x} and {boxes} wants a cotangent {wanted}, not {dy}.")


@contextmanager
def each_image(builder: KernelBuilder, dx: Buffer, total: Buffer) -> Iterator[Size]:
    """A loop over images, in which zeros are in `total` before and what it has is in dx after."""
    with builder.loop(dx.shape[0], "parallel") as image:
        with (
            builder.loop(dx.shape[1]) as row,
            builder.loop(dx.shape[2]) as column,
            builder.loop(dx.shape[3], "vector", lanes=0) as channel,
        ):
            builder.store(total, (image, row, column, channel), 0)
        yield image
        if total is dx:
            return
        with (
            builder.loop(dx.shape[1]) as row,
            builder.loop(dx.shape[2]) as column,
            builder.loop(dx.shape[3], "vector", lanes=0) as channel,
        ):
            place = (image, row, column, channel)
            builder.store(dx, place, total[place])


def working_type(x: Buffer) -> DType:
    """The type of the arithmetic: at least f32."""
    return f64 if x.dtype is f64 else f32


def sums_of(builder: KernelBuilder, dx: Buffer) -> Buffer:
    """Where sums are kept: dx, unless it is too coarse."""
    return dx if dx.dtype == working_type(dx) else builder.scratch(working_type(dx), dx.shape)
