"""Packs the right operand of a contraction, at compile time if it is constant, and otherwise by a
launch of its own, which also computes the pointwise work before it."""

from __future__ import annotations

from functools import partial

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, atom
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import TensorType
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.contraction.packing import pack, packed_element, packed_shape
from bessemer.compiler.schedule.grouping.few_rows import only_if
from bessemer.compiler.schedule.grouping.fuse import Fusion, index_symbols
from bessemer.compiler.schedule.lowering.blocked_packing import (
    blocked_packing,
    blocked_packing_of_free_depth,
)
from bessemer.compiler.schedule.lowering.lowering import (
    Computation,
    Lowering,
    PackedRows,
    flat_buffers,
)
from bessemer.compiler.schedule.lowering.pixel_runs import by_pixel_runs
from bessemer.compiler.schedule.lowering.tile_job import TileJob
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import flat, flatten_loads
from bessemer.compiler.schedule.nests.streaming_stores import with_streaming_stores


def packed_operand(
    job: TileJob,
    anchor: Node,
    draft: Contraction,
    panel: int,
    lowering: Lowering,
    needed: Size = 1,
) -> tuple[Value, list[Launch]]:
    """The packed right operand, and the launch that packs it, unless it is constant or packed
    already. The launch does nothing if `needed` is 0, and not 1."""
    if job.right in lowering.constants:
        return _packed_constant(job, panel, draft, lowering), []
    shape = packed_shape(job.matrices, draft.depth_steps, draft.columns, panel, draft.group)
    key = (job.right, shape, *job.key, draft.run, needed)
    found = lowering.prepared.packs.get(key)
    if found is not None:
        return found, []
    packed = lowering.prepared.packs[key] = Value(TensorType(job.right.type.dtype, shape))
    return packed, [_pack_launch(job, anchor, packed, draft, lowering, needed)]


def _packed_constant(
    job: TileJob, panel: int, contraction: Contraction, lowering: Lowering
) -> Value:
    """The packed weight as a constant of the program, which is made once for each weight."""
    matrices, columns = dims.number(job.matrices), dims.number(contraction.columns)
    group, depth = contraction.group, dims.number(job.right.type.numel) // (matrices * columns)
    run = contraction.run if isinstance(contraction.run, int) else depth
    run = depth if run % group == 0 else run
    steps = depth // run * -(-run // group)
    shape = packed_shape(matrices, steps, columns, panel, group)
    return lowering.arrange(
        job.right,
        (panel, *job.key, group, run),
        TensorType(job.right.type.dtype, shape),
        lambda array: pack(job.form.right_matrices(array), panel, group, run),
    )


def _pack_launch(
    job: TileJob,
    anchor: Node,
    packed: Value,
    contraction: Contraction,
    lowering: Lowering,
    needed: Size,
) -> Launch:
    """The launch that packs the right operand when the model runs."""
    fusion = Fusion.of(job.pack_nodes, lowering.constants)
    symbols = index_symbols(packed.type.shape)
    full = tuple(atom(symbol) for symbol in symbols)
    index = (0 if packed.type.shape[0] == 1 else full[0], *full[1:])
    element = partial(job.right_element, fusion)
    value = packed_element(element, index, contraction.columns, contraction.group, contraction.run)
    value = flatten_loads(value)
    if lowering.vectorize and contraction.group == 1:
        value = by_pixel_runs(value, symbols[3])
    out = Buffer("out0", packed.type.dtype, packed.type.shape)
    piece = Piece(flat(out), out.offset(index), value, symbols)
    nest = None
    if lowering.vectorize:
        nest = blocked_packing_of_free_depth(piece, lowering.target.lanes)
    nest = nest or lowering.nest(blocked_packing(piece))
    body = only_if(needed, with_streaming_stores(nest.body, flat(out), lowering.target))
    launch = lowering.launch(
        [*job.pack_nodes, anchor],
        flat_buffers(fusion),
        {packed: flat(out)},
        Computation(body, nest.operations, name="pack"),
    )
    first = _first_packed_row(job, packed)
    if anchor.operator.name == "matmul" and contraction.group == 1 and first is not None:
        (source,) = fusion.buffers
        lowering.origins.packs[launch] = PackedRows(source, first)
    return launch


def _first_packed_row(job: TileJob, packed: Value) -> int | None:
    """Where the rows begin that are packed; None unless the pack moves whole rows of a matrix, and
    adds no zeros."""
    first: Size = 0
    for node in job.pack_nodes:
        if node.operator.name == "slice":
            across = node.inputs[0].type.shape[1:]
            if across != node.output.type.shape[1:] or {*node.attributes["steps"]} != {1}:
                return None
            first += node.attributes["starts"][0] * dims.product(across)
        elif node.operator.name != "reshape":
            return None
    columns = job.right.type.shape[-1]
    if not isinstance(first, int) or not isinstance(columns, int) or not columns:
        return None
    if first % columns:
        return None
    return first // columns if packed.type.numel == job.right.type.numel else None
