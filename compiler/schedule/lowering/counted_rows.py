"""Products of which only the run knows how many rows each matrix is multiplied by.

Few rows are multiplied by the matrix where it lies, by plain loops, because packing it would take
longer than that. A launch of its own does so; those that pack the matrix and multiply by what is
packed then do nothing. (Zen 5, one thread, transposed: 1 row by 1000x512 76 -> 24 us, 5 rows by
10000x128 373 -> 110, 1 row by each of 32 of 1000x128 1516 -> 351; of 128x1000, all sizes free,
590 -> 221.)
"""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.schedule.grouping.few_rows import (
    is_computed,
    most_rows_in_place,
    only_if,
    rows_of_a_matrix,
    run_along_depth,
)
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.grouping.groups import Group, Grouping
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering, flat_buffers
from bessemer.compiler.schedule.lowering.tile_job import TileJob
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import flatten_loads


@dataclass(frozen=True, eq=False)
class FewRows:
    """The launch that computes a product if the run finds `are_few` to be 1, and not 0."""

    launch: Launch
    are_few: Size


def few_rows_product(
    group: Group, job: TileJob, grouping: Grouping, lowering: Lowering
) -> FewRows | None:
    """None unless the run decides whether a group's product has few rows, and would better read its
    right operand where it lies if it has.

    A matrix that is not transposed is packed if its columns are known, which makes whole panels (1
    row by each of 32 of 128x1000: packed 501 us, in place 803). One alone may be a weight, whose
    update joins its product in training (update_in_product.py); small_products.py has others.
    """
    anchor = group.anchor
    assert anchor is not None
    if job.right in lowering.constants or not lowering.vectorize or is_computed(job.pack_nodes):
        return None
    operands = grouping.own_sources(anchor)
    most = most_rows_in_place(anchor, job.pack_nodes, operands)
    is_free = job.matrices != 1 and not isinstance(job.draft.columns, int)
    if not most or not (is_free or run_along_depth(operands)):
        return None
    rows = rows_of_a_matrix(anchor)
    if isinstance(rows, int):
        return None
    views = grouping.views(anchor.inputs[0]).values()
    fusion = Fusion.of([*views, *job.pack_nodes, *job.nodes], lowering.constants)
    symbols = index_symbols(group.core.type.shape)
    index = as_index(symbols, group.core.type.shape)
    element = flatten_loads(fusion.element(group.core, index))
    nest = lowering.nest(Piece(job.out.buffer, job.out.offset(index), element, symbols))
    are_few = 1 - dims.minimum(1, dims.floordiv(rows, most + 1))
    made = Computation(only_if(are_few, nest.body), nest.operations)
    outputs = {job.out.value: job.out.buffer}
    return FewRows(lowering.launch(job.nodes, flat_buffers(fusion), outputs, made), are_few)
