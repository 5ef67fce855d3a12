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
    draft, layout = job.draft, PartsLayout(job.left.type.numel)
    if form.parts > 1:
        layout = parts_layout(draft, job.left.type.shape, job.base)
        draft = layout.contraction(draft)
    tiling = plan_tiles(draft, form, target, layout.part_stride)
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
    operand = job.left if form.parts == 1 else _split(job, layout, lowering, launches)
    inputs = Fusion.of(job.nodes, lowering.constants)
    a, b = flat(inputs.buffer(operand)), flat(inputs.buffer(right))
    contraction = replace(draft, a=a, b=b, epilogue=job.epilogue(inputs))
    body = lower_on_tiles(contraction, tiling, target)
    launch = lowering.launch(
        job.nodes,
        flat_buffers(inputs),
        {job.out.value: job.out.buffer},
        Computation(body, tiling.operations(), arguments={BASE: layout.base(job.base)}),
    )
    return [*launches, launch]


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
