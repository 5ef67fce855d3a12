"""Lowers a group around a matrix product or convolution to kernels with register tiles.

The left operand is read where it lies, through views if its index arithmetic stays linear. The
right operand is packed: at compile time if it is constant, otherwise by a launch of its own, which
also computes the pointwise work before it. The rest of the group is the epilogue.

`lower_contraction_group` first offers the group to the special algorithms (depthwise, Winograd, a
matrix unit). Everything else is computed in vector registers: ../contraction/tiles.py chooses the
size of the tiles, and ../contraction/microkernel.py writes the loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import Block, Store
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.ravel import broadcast_index
from bessemer.compiler.ir.types import TensorType, i32
from bessemer.compiler.ir.walk_expr import read_elsewhere
from bessemer.compiler.ops.contractions.conv import is_depthwise
from bessemer.compiler.schedule.contraction.contraction import Contraction, supports, with_group
from bessemer.compiler.schedule.contraction.microkernel import lower_contraction, operations
from bessemer.compiler.schedule.contraction.tiles import Tiling
from bessemer.compiler.schedule.convolution.depthwise_plan import has_narrow_groups
from bessemer.compiler.schedule.convolution.padding_regions import (
    Region,
    left_out,
    products_left,
    regions_of,
)
from bessemer.compiler.schedule.grouping.destinations import Destination
from bessemer.compiler.schedule.grouping.few_rows import only_if, reads_in_place
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.grouping.groups import Group, Grouping, in_order
from bessemer.compiler.schedule.grouping.views import Source, has_neighbours_last, source_of
from bessemer.compiler.schedule.lowering.contraction_forms import ConvolutionForm, Form, ProductForm
from bessemer.compiler.schedule.lowering.counted_rows import few_rows_product
from bessemer.compiler.schedule.lowering.depthwise_group import lower_depthwise_group
from bessemer.compiler.schedule.lowering.image_groups import lower_winograd_group, share_in_segments
from bessemer.compiler.schedule.lowering.kernel_table import content
from bessemer.compiler.schedule.lowering.lowering import (
    Computation,
    Lowering,
    TiledProduct,
    flat_buffers,
    replaceable_inputs,
)
from bessemer.compiler.schedule.lowering.matrix_tiles_group import lower_on_matrix_unit
from bessemer.compiler.schedule.lowering.padding_taps import without_padding
from bessemer.compiler.schedule.lowering.panels_in_items import ItemPacking, tiling_of_items
from bessemer.compiler.schedule.lowering.region_contractions import contractions_of
from bessemer.compiler.schedule.lowering.right_operands import packed_operand
from bessemer.compiler.schedule.lowering.rows_in_memory import in_memory
from bessemer.compiler.schedule.lowering.shared_windows import (
    reads_shared_windows,
    shared_windows,
)
from bessemer.compiler.schedule.lowering.small_products import SmallProduct, small_product
from bessemer.compiler.schedule.lowering.tile_job import BASE, TileJob
from bessemer.compiler.schedule.lowering.winograd_gradient import lower_winograd_gradient
from bessemer.compiler.schedule.nests.nests import flat, flatten_loads


def lower_contraction_group(
    group: Group, grouping: Grouping, lowering: Lowering
) -> list[Launch] | None:
    """The launches, or None if the group must be computed by plain loops."""
    anchor = group.anchor
    assert anchor is not None and group.root is not None
    if is_depthwise(anchor) or _is_like_depthwise(anchor, grouping, lowering):
        return lower_depthwise_group(group, grouping, lowering)
    if any(size != 0 for side in ("low", "high") for size in anchor.attributes.get(side, ())):
        return None
    regions, left, segments = grouping.unpadded.get(anchor, []), 1.0, inf
    if anchor.operator.name == "conv" and not regions:
        if not lowering.choices.is_tuned:
            regions = regions_of(anchor, grouping.producers, lowering.constants)
        left = products_left(anchor, grouping.producers, regions)
        if lowering.target.has_tiles:  # it may take less time than segments do
            segments = share_in_segments(group, grouping, lowering)
        if segments == inf:
            launches = lower_winograd_group(group, grouping, lowering, left)
            if launches is not None:
                return launches
    is_constant = anchor.inputs[1] in lowering.constants
    pack_nodes = in_order(grouping.packs.get(anchor))
    is_few = not is_constant and reads_in_place(anchor, pack_nodes, grouping.own_sources(anchor))
    if is_few and not reads_shared_windows(anchor, grouping):
        return None
    inputs = Fusion.of(in_order(group), lowering.constants)
    job = _tile_job(group, grouping, inputs, lowering)
    done = None if job is None else lower_on_matrix_unit(job, lowering, min(left, segments))
    if done is None and segments < inf:
        done = lower_winograd_group(group, grouping, lowering, left)
    if done is not None or job is None:
        return done
    done = lower_winograd_gradient(job, lowering)
    if done is not None:
        return done
    few = few_rows_product(group, job, grouping, lowering)
    if few is None:
        return _lower_in_registers(job, regions, anchor, inputs, grouping, lowering)
    launches = _lower_in_registers(job, [], anchor, inputs, grouping, lowering, 1 - few.are_few)
    return [*launches, few.launch]


def _is_like_depthwise(anchor: Node, grouping: Grouping, lowering: Lowering) -> bool:
    """Whether a convolution in groups of few outputs is computed by vectors of channels, as a
    depthwise convolution is."""
    x, w = anchor.inputs
    return (
        has_narrow_groups(anchor)
        and lowering.target.has_masks
        and w in lowering.constants
        and (x in grouping.roots or has_neighbours_last(x, grouping.producers))
    )


def _tile_job(
    group: Group, grouping: Grouping, inputs: Fusion, lowering: Lowering
) -> TileJob | None:
    """The contraction with its surroundings, which reads through `inputs`. None if the views of the
    left operand are not linear, or register tiles cannot compute this contraction."""
    anchor = group.anchor
    assert anchor is not None and group.root is not None
    right = anchor.inputs[1]
    source = _left_source(anchor, grouping)
    if source is None:
        return None
    form_of = ConvolutionForm if anchor.operator.name == "conv" else ProductForm
    form = form_of(anchor, source.strides)
    out = lowering.destination(group.root, group.tail)

    def epilogue(fusion: Fusion) -> _Epilogue:
        return _Epilogue(group.core, anchor.output, fusion, out, form)

    draft = Contraction(
        dtype=anchor.output.type.dtype,
        a=flat(inputs.buffer(source.value)),
        # The operand's start is an argument, so that slices of one tensor share their kernel.
        a_base=dims.symbol(BASE) if source.base != 0 else 0,
        rows=form.axes.rows,
        depth=form.axes.depth,
        columns=form.axes.columns,
        b=Buffer("in1", right.type.dtype, (1,)),
        epilogue=epilogue(inputs),
        bands=grouping.bands.get(anchor),
    )
    if not supports(draft):
        return None
    return TileJob(
        draft=draft,
        left=source.value,
        is_made=source.value in grouping.producers,
        right=right,
        matrices=form.axes.matrices,
        nodes=in_order(group),
        pack_nodes=in_order(grouping.packs.get(anchor)),
        out=out,
        base=source.base,
        epilogue=epilogue,
        form=form,
        right_element=partial(_right_element, right, form),
    )


def _left_source(anchor: Node, grouping: Grouping) -> Source | None:
    """Where the left operand lies. For a padded operand that is read without its padding, the place
    where it would begin if the padding was there; no window reads before the image."""
    left = anchor.inputs[0]
    if anchor not in grouping.unpadded:
        return source_of(left, grouping.views(left))
    pad = grouping.producers[left]
    image = source_of(pad.inputs[0], {})
    assert image is not None
    before = zip(pad.attributes["low"], image.strides, strict=True)
    return replace(image, base=image.base - dims.total(low * step for low, step in before))


def _lower_in_registers(
    job: TileJob,
    regions: list[Region],
    anchor: Node,
    inputs: Fusion,
    grouping: Grouping,
    lowering: Lowering,
    needed: Size = 1,
) -> list[Launch]:
    """The launches of kernels with register tiles: one, or one per region, after the launch that
    packs the right operand. They do nothing if `needed` is 0, and not 1."""
    target = lowering.target
    draft = with_group(job.draft, target)
    if not regions:
        draft = without_padding(draft, job.form, anchor, grouping.producers)
    is_constant = job.right in lowering.constants
    sums = partial(_left_out, anchor, regions, inputs, grouping, lowering)
    works = list(contractions_of(draft, job.form, regions, sums))
    assert works or anchor not in grouping.unpadded  # the whole would read beyond the image
    works = works or [(draft, dict[str, Size]())]
    tilings = [lowering.choices.tiling(anchor, work, target, is_constant) for work, _ in works]
    lies, small = None, None
    if not regions and not is_constant:
        lies = shared_windows(anchor, draft, grouping, target)
        lies = lies or in_memory(anchor, draft, tilings[0], grouping, target)
        if needed == 1 and lies is None:
            small = small_product(job, anchor, draft, grouping, target)
        items = None if lies else tiling_of_items(job, draft, anchor, grouping, tilings[0])
        if items is not None:
            needed = needed if small is None else 1 - small.is_small
            launch = _packing_its_panels(job, draft, items, needed, inputs, lowering)
            return [launch, *_in_place(small, job, inputs, lowering)]
    needed = needed if small is None else 1 - small.is_small
    launches: list[Launch] = []
    if lies is None:
        b, launches = packed_operand(job, anchor, draft, tilings[0].panel, lowering, needed)
    else:
        b, work, tiling = lies
        works, tilings = [(work, {})], [tiling]
    right = flat(inputs.buffer(b))
    for (work, places), tiling in zip(works, tilings, strict=True):
        contraction = replace(work, b=right)
        if regions or contraction.fetch:
            body = lower_contraction(contraction, tiling, target)  # finds what the epilogue reads
        else:
            body = _body(contraction, tiling, job, inputs, lowering)
        product = _product(contraction, tiling, job, inputs, places)
        launches.append(_launch(product, only_if(needed, body), job.out, lowering))
    if small is not None:
        return [*launches, *_in_place(small, job, inputs, lowering)]
    if regions or needed != 1:
        return launches
    if not job.out.starts:
        lowering.origins.products[job.out.value] = product
    return [*launches[:-1], replace(launches[-1], replaceable=_replaceable(contraction, inputs))]


def _packing_its_panels(
    job: TileJob,
    draft: Contraction,
    tiling: Tiling,
    needed: Size,
    inputs: Fusion,
    lowering: Lowering,
) -> Launch:
    """The launch of a product whose items pack the panels that they multiply by. It does nothing if
    `needed` is 0, and not 1."""
    fusion = Fusion.of(job.pack_nodes, lowering.constants).copy(inputs.buffers)
    packing = ItemPacking.of(job, draft, tiling, fusion, lowering.target.lanes)
    body = only_if(needed, _body(draft, tiling, job, inputs, lowering, packing))
    return _launch(_product(draft, tiling, job, inputs, {}), body, job.out, lowering)


def _product(
    contraction: Contraction,
    tiling: Tiling,
    job: TileJob,
    inputs: Fusion,
    places: Mapping[str, Size],
) -> TiledProduct:
    """What a launch computes; `inputs` have all buffers that its body reads, `places` the kernel's
    own symbols."""
    arguments = {BASE: job.base, **places}
    return TiledProduct(contraction, tiling, flat_buffers(inputs), job.nodes, arguments)


def _launch(product: TiledProduct, body: Block, out: Destination, lowering: Lowering) -> Launch:
    work = operations(product.contraction, product.tiling)
    made = Computation(body, work, arguments=product.arguments)
    return lowering.launch(product.nodes, product.inputs, {out.value: out.buffer}, made)


def _in_place(
    small: SmallProduct | None, job: TileJob, inputs: Fusion, lowering: Lowering
) -> list[Launch]:
    """The launch that computes a product of free sizes if the run finds it small."""
    if small is None:
        return []
    contraction = replace(small.contraction, b=flat(inputs.buffer(small.right)))
    body = only_if(small.is_small, _body(contraction, small.tiling, job, inputs, lowering))
    product = _product(contraction, small.tiling, job, inputs, {})
    return [_launch(product, body, job.out, lowering)]


def _left_out(
    convolution: Node,
    regions: list[Region],
    inputs: Fusion,
    grouping: Grouping,
    lowering: Lowering,
) -> Buffer | None:
    """The terms that regions leave out of their sums, those of taps that see a padding other than
    0: a constant of the program with a row per region. None if the padding is 0."""
    x, w = convolution.inputs
    number = grouping.producers[x].attributes["value"]
    if number == 0:
        return None
    type = TensorType(i32, (len(regions), w.type.shape[-1]))
    of = partial(left_out, regions, number)
    return flat(inputs.buffer(lowering.arrange(w, ("left out", number, *regions), type, of)))


def _body(
    contraction: Contraction,
    tiling: Tiling,
    job: TileJob,
    inputs: Fusion,
    lowering: Lowering,
    packing: ItemPacking | None = None,
) -> Block:
    """The body of the kernel. Contractions whose elements are the same expression of the same
    buffers have one body. `inputs` gets the buffers that the epilogue reads."""
    others = inputs.copy()
    store = _element(replace(contraction, epilogue=job.epilogue(others)))
    buffers = map(flat, others.buffers.values())
    key = (*content(contraction), tiling, *content(store), packing, *buffers)
    lower = partial(lower_contraction, contraction, tiling, lowering.target, packing)
    return lowering.kernels.body(key, inputs, others, lower)


def _element(contraction: Contraction) -> Store:
    """The store of an element at any place, as an expression of index symbols."""
    shape = (*(axis.extent for axis in contraction.rows), contraction.columns)
    index = as_index(index_symbols(shape), shape)
    (store,) = contraction.stores_at(index[:-1], index[-1])
    return store


def _replaceable(contraction: Contraction, inputs: Fusion) -> tuple[Value, ...]:
    """The inputs that the output may overwrite: only the epilogue reads them, and it reads each
    element just before it stores the one in its place."""
    store = _element(contraction)
    operands = {contraction.a.name, contraction.b.name}
    elsewhere = operands | read_elsewhere(store.value, store.indices)
    return replaceable_inputs(inputs.buffers, elsewhere, store.buffer)


@dataclass(frozen=True, eq=False)
class _Epilogue:
    """Gives the stores of one element of the group's root for a sum of the contraction."""

    root: Value
    sum: Value
    fusion: Fusion
    out: Destination
    form: Form

    def __call__(
        self, rows: tuple[Size, ...], column: Size, total: Expression
    ) -> tuple[Store, ...]:
        index = self.form.output_index(rows, column)
        if self.root is self.sum:
            value = total
        else:
            inner = self.fusion.given({self.sum: lambda _: total})
            value = flatten_loads(
                inner.element(self.root, broadcast_index(index, self.root.type.shape))
            )
        return (Store(self.out.buffer, (self.out.offset(index),), value),)


def _right_element(
    right: Value, form: Form, fusion: Fusion, matrix: Size, k: Size, column: Size
) -> Expression:
    index = broadcast_index(form.right_index(matrix, k, column), right.type.shape)
    return fusion.element(right, index)
