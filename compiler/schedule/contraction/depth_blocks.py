"""The loop over the depth blocks of a long sum: parts of its depth that are each added up from 0.

A depth of one axis is cut into blocks of a given length, the last of which may be shorter. Of
several axes, a block is one step of the outermost, or as many as come to about that length: of two
samples of many pixels, one step would be two products, and their sum would be added to a long one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Expression, binary, index_value
from bessemer.compiler.schedule.contraction.contraction import Contraction, DepthAxis, steps_of
from bessemer.compiler.schedule.contraction.tile import DepthBlock


def free_depth_blocks(depth: Sequence[DepthAxis], length: int | None) -> Size | None:
    """The number of depth blocks of a symbolic depth."""
    run, *others = depth
    if others or isinstance(run.extent, int) or length is None:
        return None
    return dims.ceildiv(run.extent, length)


def depth_blocks(
    builder: KernelBuilder, contraction: Contraction, depth: Sequence[DepthAxis], length: int
) -> Iterator[tuple[DepthBlock, Size]]:
    """Opens the loop. Yields the current depth block, and the distance in `a` from it to the next;
    `length` is in products."""
    group, first = contraction.group, contraction.first_step
    run, *others = depth
    if others:
        yield from _outer_blocks(builder, first, depth, group, length)
        return
    free = free_depth_blocks(depth, length)
    is_all: Expression | None = None if free is None else binary("eq", index_value(free), 1)
    with builder.loop(dims.ceildiv(run.extent, length)) as step:
        begin = step * length
        extent = builder.local(dims.minimum(length, run.extent - begin))
        axis = DepthAxis(extent, run.a_stride)
        steps = dims.ceildiv(extent, group)
        at = first + step * (length // group)
        yield (
            DepthBlock((axis,), begin * run.a_stride, at, steps, is_all=is_all),
            length * run.a_stride,
        )


def _outer_blocks(
    builder: KernelBuilder, first: Size, depth: Sequence[DepthAxis], group: int, length: int
) -> Iterator[tuple[DepthBlock, Size]]:
    """Those of several axes."""
    run, *others = depth
    steps = steps_of(depth, group)
    together = _together(run, steps * group, length)
    with builder.loop(dims.ceildiv(run.extent, together)) as block:
        at = block * together
        begin, ahead = first + at * steps, run.a_stride * together
        if together == 1:
            yield DepthBlock(tuple(others), at * run.a_stride, begin, steps, (run, at)), ahead
            return
        extent = builder.local(dims.minimum(together, run.extent - at))
        axes = (replace(run, extent=extent), *others)
        yield DepthBlock(axes, at * run.a_stride, begin, extent * steps), ahead


def _together(run: DepthAxis, inner: Size, length: int) -> int:
    """How many steps of the outermost axis are one depth block. Those that may see padding only
    stay apart: a block is left out as a whole."""
    if run.image is not None or not isinstance(run.extent, int) or not isinstance(inner, int):
        return 1
    count = dims.ceildiv(run.extent, max(1, length // max(inner, 1)))
    return dims.number(dims.ceildiv(run.extent, count))
