"""Decides whether to pack a matrix that the run computes, if it is multiplied by few rows only.

In a decoder's attention, a few rows are multiplied by the keys. Packing the matrix writes and reads
all of it once more than the product does, which pays only if tiles of rows read the packed panels
often enough. For a few rows, plain loops read the matrix where it lies, once for each row. For some
more rows, tiles read it where it lies, if its rows are contiguous in memory: packing would take 5
to 15 % of the product's time. (A training step of a dense network, batches of 64: 0.96, Zen 4.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.types import f32, f64
from bessemer.compiler.schedule.grouping.views import Source

# Up to this many rows, packing takes longer than it saves if the matrix is small, if it is in the
# second-level cache, and if it is not (measured on Zen 5, for both orders of the matrix).
MOST_ROWS_OF_SMALL, _MOST_ROWS_OF_NEAR, _MOST_ROWS_FROM_MEMORY = 8, 4, 3
_SMALL_BYTES, _NEAR_BYTES = 1 << 15, 1 << 20
# The same by sums along the rows of a transposed matrix (nests/dot_tiles.py): fewer if they are
# short, because each ends with the sum of its lanes. (Zen 5, one thread: 5 rows by 128x10000
# 550 -> 107 us, 16 by 1024x1024 381 -> 202, 24 by 256x1000 78 -> 68, 32 by 512x1024 182 -> 192,
# 8 by 64x1000 9.2 -> 10.6, 24 by 128x1000 37 -> 42.)
_MOST_ROWS_OF_DOTS, _STEPS_OF_ROW = 24, 8
MOST_ROWS_OF_TILES, _FEWEST_BYTES_OF_TILES = 128, 1 << 18


def reads_in_place(
    node: Node, pack_nodes: Iterable[Node] = (), operands: Sequence[Source | None] = ()
) -> bool:
    """Whether a matmul should read a right operand that is not constant where it lies.

    `pack_nodes` lead from memory to the operand, and `operands` say where both operands lie.
    Without packing, what the nodes compute is computed again for every row.
    """
    most = most_rows_in_place(node, pack_nodes, operands)
    rows = rows_of_a_matrix(node) if most else None
    return isinstance(rows, int) and rows <= most


def most_rows_in_place(
    node: Node, pack_nodes: Iterable[Node] = (), operands: Sequence[Source | None] = ()
) -> int:
    """Up to how many rows of each matrix a matmul should read it where it lies; 0 if never. The
    parameters are those of `reads_in_place`."""
    if node.operator.name != "matmul":
        return 0
    left, right = (value.type for value in node.inputs)
    if {left.dtype, right.dtype, node.output.type.dtype} not in ({f32}, {f64}):
        return 0
    if is_computed(pack_nodes):
        return 1
    depth, bytes_ = right.shape[-2], product(right.shape[-2:]) * right.dtype.bytes
    most = _MOST_ROWS_FROM_MEMORY
    if isinstance(bytes_, int) and bytes_ <= _NEAR_BYTES:
        most = MOST_ROWS_OF_SMALL if bytes_ < _SMALL_BYTES else _MOST_ROWS_OF_NEAR
    if right.dtype is f32 and isinstance(depth, int) and run_along_depth(operands):
        most = max(most, min(_MOST_ROWS_OF_DOTS, depth // _STEPS_OF_ROW))
    return most


def run_along_depth(operands: Sequence[Source | None]) -> bool:
    """Whether neighbouring steps of the depth are neighbours in memory in both operands, of which
    the right one is a transposed matrix."""
    strides = [source.strides for source in operands if source is not None]
    return len(strides) == 2 and strides[0][-1] == strides[1][-2] == 1


def tiles_read_in_place(
    node: Node, pack_nodes: Iterable[Node], operands: Sequence[Source | None]
) -> bool:
    """Whether the register tiles of a matmul should read its right operand where it lies.

    `operands` say where both operands lie; `pack_nodes` lead to the right one, which must not be
    computed. A weight's gradient, whose left operand is transposed, is not read in place, because
    its product joins the weight's update (update_in_product.py).
    """
    first, second = operands
    if node.operator.name != "matmul" or first is None or second is None or second.base != 0:
        return False
    if not all(each.operator.is_view and each.inputs for each in pack_nodes):
        return False
    left, right = (value.type for value in node.inputs)
    if {left.dtype, right.dtype, node.output.type.dtype} not in ({f32}, {f64}):
        return False
    if right.shape[:-2] != node.output.type.shape[:-2] or right.rank > 3:
        return False
    rows, (depth, columns) = rows_of_a_matrix(node), right.shape[-2:]
    if not (isinstance(rows, int) and isinstance(depth, int) and isinstance(columns, int)):
        return False
    if rows > MOST_ROWS_OF_TILES or depth * columns * right.dtype.bytes < _FEWEST_BYTES_OF_TILES:
        return False
    step, neighbour = second.strides[-2:]
    is_row_by_row = first.strides[-1] == neighbour == 1
    return is_row_by_row and isinstance(step, int) and step >= columns


def is_computed(pack_nodes: Iterable[Node]) -> bool:
    """Whether the nodes do more than move elements and convert them."""
    return any(not node.operator.is_view and node.operator.name != "cast" for node in pack_nodes)


def rows_of_a_matrix(node: Node) -> Size:
    """The number of rows that are multiplied by each matrix of the right operand. Batches may share
    one."""
    batch = node.output.type.shape[:-2]
    own = node.inputs[1].type.shape[:-2]
    matrices = (1,) * (len(batch) - len(own)) + own
    shared = (size for size, count in zip(batch, matrices, strict=True) if count == 1)
    return node.output.type.shape[-2] * product(shared)


def unless_few(body: loops.Block, rows: Size, few: int) -> loops.Block:
    """The loops, changed so that they run only if there are more than `few` rows."""
    return only_if(dims.minimum(1, dims.floordiv(rows, few + 1)), body)


def only_if(condition: Size, body: loops.Block) -> loops.Block:
    """The loops, changed so that they run only if the condition, 0 or 1, is 1."""
    if condition == 1:
        return body
    return tuple(
        replace(loop, extent=loop.extent * condition) if isinstance(loop, loops.For) else loop
        for loop in body
    )
