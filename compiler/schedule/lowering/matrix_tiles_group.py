"""Lowers a group around a contraction to launches on a matrix unit, where that is faster.

split the left operand into parts        float32 only; once for all that read it
pack the right operand                   at compile time if it is a constant
multiply, with the rest of the group as the epilogue
"""

from __future__ import annotations

from dataclasses import replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import TensorType, bf16, f32
from bessemer.compiler.ir.walk_expr import reductions_of
from bessemer.compiler.schedule.grouping.fuse import Fusion
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering, flat_buffers
from bessemer.compiler.schedule.lowering.tile_job import BASE, TileJob
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles import lower_on_tiles
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_layout import (
    BlockReader,
    PartsLayout,
    Split,
    parts_layout,
)
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import (
    BYTES,
    HALF,
    SPLIT,
    TileForm,
    pack,
    pack_body,
    packed_shape,
)
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_plan import (
    PACK_NUMBER,
    SPLIT_NUMBER,
    STORE_PARTS,
    MatrixTiling,
    is_faster,
    plan_tiles,
)
from bessemer.compiler.schedule.nests.nests import flat, flatten_loads


def lower_on_matrix_unit(
    job: TileJob, lowering: Lowering, left: float = 1.0
) -> list[Launch] | None:
    """The launches, or None if the target has no matrix unit or another way is faster. The vector
    unit would take the time of the fraction `left` of all products, because it leaves out those of
    padding or uses Winograd's method."""
    target = lowering.target
    form = _form(job, lowering.precision) if target.has_tiles else None
    if form is None:
        return None
    blocks = parts_layout(job.draft, job.left.type.shape, job.base, form)
    layout = blocks if form.parts > 1 else PartsLayout(job.left.type.numel, form)
    tiling = _tiling(job, layout, lowering)
    if tiling is None:
        return None
    split = STORE_PARTS if job.is_made and layout.is_whole else SPLIT_NUMBER
    is_constant = job.right in lowering.constants
    pays = is_faster(tiling, job.draft, split, 0 if is_constant else PACK_NUMBER, left)
    if not lowering.choices.tiles(job.nodes[0], job.draft, is_constant, pays):
        return None
    launches: list[Launch] = []
    right = _packed(job, layout, tiling, lowering, launches)
    if right is None:
        return None
    if form.parts > 1:
        operand = _split(job, layout, lowering, launches)
        return [*launches, _multiply(job, layout, tiling, operand, right, lowering)]
    launch = _multiply(job, layout, tiling, job.left, right, lowering)
    _note_blocks(job, blocks, launch, right, lowering)
    return [*launches, launch]


def _tiling(job: TileJob, layout: PartsLayout, lowering: Lowering) -> MatrixTiling | None:
    """The tiling that reads the left operand in this layout."""
    draft = layout.contraction(job.draft)
    return plan_tiles(draft, layout.form, lowering.target, layout.part_stride)


def _multiply(
    job: TileJob,
    layout: PartsLayout,
    tiling: MatrixTiling,
    left: Value,
    right: Value,
    lowering: Lowering,
) -> Launch:
    """The launch that multiplies: the left operand in this layout, the right one packed."""
    inputs = Fusion.of(job.nodes, lowering.constants)
    a, b = flat(inputs.buffer(left)), flat(inputs.buffer(right))
    draft = layout.contraction(job.draft)
    contraction = replace(draft, a=a, b=b, epilogue=job.epilogue(inputs))
    body = lower_on_tiles(contraction, tiling, lowering.target)
    return lowering.launch(
        job.nodes,
        flat_buffers(inputs),
        {job.out.value: job.out.buffer},
        Computation(body, tiling.operations(), arguments={BASE: layout.base(job.base)}),
    )


def _note_blocks(
    job: TileJob, layout: PartsLayout, launch: Launch, right: Value, lowering: Lowering
) -> None:
    """Notes how the launch would read its left operand by blocks of channels, if that differs. The
    order of the depth, and so the packed right operand, is the same."""
    if layout.blocks < 2 or not layout.is_whole:
        return
    tiling = _tiling(job, layout, lowering)
    assert tiling is not None
    lowering.origins.block_readers[launch] = BlockReader(
        job.left,
        layout,
        lambda left: _multiply(job, layout, tiling, left, right, lowering),
    )


def _form(job: TileJob, precision: str) -> TileForm | None:
    """How the matrix unit can multiply these operands; None if it cannot."""
    draft, left, right = job.draft, job.draft.a.dtype, job.right.type.dtype
    if (draft.dtype, left, right) == (f32, f32, f32):
        return None if precision == "strict" else SPLIT
    for form in (HALF, *BYTES):
        if (draft.dtype, left, right) == (form.sum, form.left, form.right):
            return form
    return None


def _packed(
    job: TileJob,
    layout: PartsLayout,
    tiling: MatrixTiling,
    lowering: Lowering,
    launches: list[Launch],
) -> Value | None:
    """The packed right operand; None if it cannot be packed. If a launch is needed for it, that is
    added to `launches`."""
    form, runs, columns = tiling.form, tiling.runs, job.draft.columns
    shape = packed_shape(form, runs, job.matrices, columns, tiling.panel)
    type = TensorType(form.right, shape)
    if job.right in lowering.constants:
        return lowering.arrange(
            job.right,
            (form, runs, layout.channels, tiling.panel, *job.key),
            type,
            lambda a: pack(layout.arrange(job.form.right_matrices(a)), form, runs, tiling.panel),
        )
    packed = Value(type)
    inputs = Fusion.of(job.pack_nodes, lowering.constants)
    out = Buffer("out0", form.right, shape)

    def element(matrix: Size, k: Size, column: Size) -> Expression:
        return flatten_loads(job.right_element(inputs, matrix, k, column))

    arranged = layout.element(element)
    probe = arranged(0, dims.symbol("k"), dims.symbol("column"))
    if reductions_of(probe):
        return None
    body, operations = pack_body(arranged, form, runs, out, columns, lowering.target.lanes(f32))
    nodes = [*job.pack_nodes, job.nodes[0]]
    launches.append(
        lowering.launch(
            nodes,
            flat_buffers(inputs),
            {packed: flat(out)},
            Computation(body, operations, name="pack_tiles"),
        )
    )
    return packed


def _split(job: TileJob, layout: PartsLayout, lowering: Lowering, launches: list[Launch]) -> Value:
    """The parts of the left operand. The launch that makes them is added to `launches`, unless
    there is one already."""
    found = lowering.prepared.parts.get((job.left, layout.channels))
    if found is not None:
        return found
    parts = Value(TensorType(bf16, layout.shape))
    source, out = Buffer("in0", f32, (layout.elements,)), Buffer("out0", bf16, layout.shape)
    body, operations = layout.split_body(source, out, lowering.target.lanes(f32))
    launch = lowering.launch(
        [job.nodes[0]],
        {job.left: source},
        {parts: out},
        Computation(body, operations, name="split"),
    )
    launches.append(launch)
    if layout.is_whole:
        lowering.origins.splits.append(Split(launch, job.left, parts, layout))
    lowering.prepared.parts[job.left, layout.channels] = parts
    return parts
