"""scatter_nd where many updates go to few rows: those of a row are combined one after the other.

    updates by row                              a counting sort of their numbers
    for every row, for some vectors of it
      sums = x[row]                             in registers
        += updates[number]                      in the order of the updates
      out[row] = sums

Going through the updates as they come would read and write a row of the output for each of them,
and caches would have lost it since.
"""

from __future__ import annotations

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder, Local
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, checked, constant, index_value
from bessemer.compiler.ir.types import i64

_VECTORS = 8
"""Whose sums are in registers at once."""


def is_worth_sorting(rows: Size, updates: Size) -> bool:
    """Whether there are at least as many updates as rows."""
    return isinstance(rows, int) and isinstance(updates, int) and 0 < rows <= updates


def combine_by_row(
    builder: KernelBuilder,
    x: Buffer,
    indices: Buffer,
    updates: Buffer,
    out: Buffer,
    reduction: str,
    share: int,
) -> None:
    """out [R, C] = x with updates [N, C] combined at rows indices [N, 1]; `share` columns are a
    thread's at once."""
    (rows, width), (count, _) = x.shape, updates.shape
    shares = dims.ceildiv(width, share)
    ends = builder.scratch(i64, (shares, rows))
    order = builder.scratch(i64, (shares, count))
    with builder.loop(shares, "parallel") as part:
        _sort(builder, indices, part, ends, order)
        first, columns = part * share, dims.minimum(share, width - part * share)
        begin = builder.define(constant(0, i64), "begin")
        with builder.loop(rows) as row:
            end = builder.define(ends[part, row], "end")
            with builder.loop(columns, "vector", lanes=0, interleave=_VECTORS) as column:
                total = builder.define(x[row, first + column], "sum")
                with builder.loop(end.index - begin.index) as near:
                    number = builder.define(order[part, begin.index + near], "update")
                    total.accumulate(reduction, updates[number.index, first + column])
                builder.store(out, (row, first + column), total.value)
            begin.set(end.value)


def _sort(builder: KernelBuilder, indices: Buffer, part: Size, ends: Buffer, order: Buffer) -> None:
    """The numbers of the updates by row, in their order, and where each row's end."""
    rows = ends.shape[1]

    def place(update: Size) -> Local:
        return builder.define(index_value(checked(indices[update, 0], rows)), "place")

    with builder.loop(rows) as row:
        builder.store(ends, (part, row), 0)
    with builder.loop(order.shape[1]) as update:
        at = (part, place(update).index)
        builder.store(ends, at, ends[at] + 1)
    before = builder.define(constant(0, i64), "before")
    with builder.loop(rows) as row:
        count = builder.define(ends[part, row], "count")
        builder.store(ends, (part, row), before.value)
        before.accumulate("add", count.value)
    with builder.loop(order.shape[1]) as update:
        row_place = (part, place(update).index)
        at_local = builder.define(ends[row_place], "at")
        builder.store(order, (part, at_local.index), index_value(update))
        builder.store(ends, row_place, at_local.value + 1)
