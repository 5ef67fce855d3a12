"""Lowers a group around a matrix product or convolution to tiles, on GPUs.

Both operands are read where they lie, through views if the index arithmetic stays linear. If the
right operand is computed from something else, another kernel stores it first. Weights are packed at
compile time where the machine's copies of boxes (TMA) need that. The rest of the group is the
epilogue, which runs on the sums before they are stored. If the depth is split, a second kernel adds
up the parts and runs the epilogue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.device import DeviceLaunch
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, Index
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import Contract, Store
from bessemer.compiler.ir.operands import Products, Tile
from bessemer.compiler.ir.ravel import broadcast_index
from bessemer.compiler.ir.tensor_boxes import boxes_of
from bessemer.compiler.ir.types import (
    Array,
    DType,
    TensorType,
    bf16,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    u8,
)
from bessemer.compiler.ops.contractions.conv import is_depthwise
from bessemer.compiler.schedule.device.contraction_forms import Form, form_of, simplified
from bessemer.compiler.schedule.device.contraction_loops import Stores, threads_of, tile_loops
from bessemer.compiler.schedule.device.contraction_operands import (
    PACKED,
    Operands,
    deep,
    pack_deep,
)
from bessemer.compiler.schedule.device.contraction_parts import (
    PARTS,
    in_parts,
    split_constant,
    split_value,
)
from bessemer.compiler.schedule.device.contraction_tiles import (
    Choice,
    choose,
    levels,
)
from bessemer.compiler.schedule.device.lowering import DeviceLowering
from bessemer.compiler.schedule.grouping.destinations import Destination
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.grouping.groups import Group, Grouping, in_order
from bessemer.compiler.schedule.grouping.views import Source
from bessemer.compiler.schedule.lowering.lowering import Computation, flat_buffers
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import flat, flatten_loads
from bessemer.compiler.targets.nvptx import DeviceTarget

SUMS = "sums"
_SUM_TYPES: dict[DType, DType] = {f32: f32, bf16: f32, f16: f32, f64: f64}
_LONG = 1 << 16
"""The fewest weights (depth times columns) for which the product of one row is computed in
tiles."""
_NARROW = (i8, u8, i16)


def lower_device_contraction(
    group: Group, grouping: Grouping, lowering: DeviceLowering
) -> list[DeviceLaunch] | None:
    """The launches for a group with an anchor. None if plain loops have to compute it: products
    with a vector, depthwise convolutions, types or left operands that do not suit."""
    anchor = group.anchor
    assert anchor is not None and group.root is not None
    if is_depthwise(anchor) or _sum_type(anchor) is None or _is_thin(anchor):
        return None
    return _Job(group, anchor, grouping, lowering).launches()


def _sum_type(node: Node) -> DType | None:
    """The type in which products are added up; None if the machine has no instruction for the
    operands' types."""
    types = [value.type.dtype for value in node.inputs]
    result = node.output.type.dtype
    if result is i32 and all(dtype in _NARROW for dtype in types):
        return i32
    if not all(dtype in _SUM_TYPES for dtype in types) or result not in _SUM_TYPES:
        return None
    sums = {_SUM_TYPES[dtype] for dtype in (*types, result)}
    return sums.pop() if len(sums) == 1 else None


def _is_thin(node: Node) -> bool:
    """Whether tiles would share nothing (one column, one row of few weights, nothing to compute),
    or the padding of a convolution is only known when the model runs."""
    shape, depth = node.output.type.shape, node.inputs[0].type.shape[-1]
    columns = shape[-1]
    if node.operator.name == "conv":
        columns = dims.floordiv(columns, node.attributes["groups"])
        if not all(isinstance(low, int) for low in node.attributes.get("low", ())):
            return True
    rows = dims.product(shape[:-1])
    if columns == 1 or rows * columns * depth == 0:
        return True
    # One row is worth cutting its columns and the depth into tiles only if there are many.
    return rows == 1 and not dims.is_nonnegative(columns * depth - _LONG)


@dataclass(frozen=True, eq=False)
class _Job:
    """The lowering of one group."""

    group: Group
    anchor: Node
    grouping: Grouping
    lowering: DeviceLowering

    @property
    def target(self) -> DeviceTarget:
        return self.lowering.target

    @cached_property
    def fusion(self) -> Fusion:
        """The expressions of the group's values, and the buffers of the contraction's kernel."""
        nodes = in_order(self.group)
        return Fusion.of(nodes, self.lowering.constants)

    @cached_property
    def sums(self) -> DType:
        dtype = _sum_type(self.anchor)
        assert dtype is not None
        return dtype

    @cached_property
    def products(self) -> Products:
        """How the operands are multiplied on matrix units; "exact" stands for ordinary
        multiply-adds and 16-bit operands."""
        types = {value.type.dtype for value in self.anchor.inputs}
        precision = self.lowering.precision
        if types != {f32} or not self.target.has_mma or precision not in ("tf32", "float32"):
            return "exact"
        return "tf32" if precision == "tf32" else "bf16x3"

    @cached_property
    def out(self) -> Destination:
        assert self.group.root is not None
        return self.lowering.destination(self.group.root, self.group.tail)

    def launches(self) -> list[DeviceLaunch] | None:
        """The launches, or None; see lower_device_contraction."""
        operands = Operands(self.anchor, self.lowering)
        left = operands.left(self.grouping)
        if left is None:
            return None
        nodes = in_order(self.grouping.packs.get(self.anchor))
        value, memory = operands.right(self.anchor, nodes)
        node, left, value, memory = operands.padded(left, value, memory)
        choice, form = self._chosen(node, left, value, memory, operands)
        if choice.split == 1:
            return [*operands.before, self._whole(form, choice)]
        return [*operands.before, *self._split(form, choice)]

    # The choice

    def _chosen(
        self, node: Node, left: Source, right: Value, memory: Source, operands: Operands
    ) -> tuple[Choice, Form]:
        """The chosen tile, and the operands in the form that its level of products wants."""
        form = form_of(node, left, memory)
        plain = replace(form, left=simplified(form.left), right=simplified(form.right))
        may_split = isinstance(self.anchor.output.type.numel, int)
        boxed = [
            one
            for one in self._boxed(node, form, right)
            if "wgmma" in levels(self._draft(one, self.products), self.target)
        ]
        drafts = [self._draft(one, self.products) for one in boxed]
        if not drafts or self.products == "bf16x3":
            drafts.append(self._draft(plain, self.products))
        if self.products == "bf16x3":
            drafts.append(self._draft(plain, "exact"))
        choice = choose(self.anchor, drafts, self.target, may_split, self.lowering.choices)
        chosen = boxed[0] if choice.tile.level == "wgmma" else plain
        return choice, self._used(chosen, left, right, memory, operands)

    def _boxed(self, node: Node, form: Form, right: Value) -> list[Form]:
        """The form in which TMA can copy the operands, as a list of one, or empty: weights have the
        depth innermost, and both operands cut the depth alike."""
        if not self.target.has_wgmma or node.inputs[0].type.dtype not in (bf16, f16, f32):
            return []
        if node.inputs[0].type.dtype is f32 and self.products == "exact":
            return []
        operand = form.right
        if right in self.lowering.constants:
            operand = deep(form.right)
        found = replace(form, right=operand)
        plain_left = simplified(form.left)
        if boxes_of(plain_left) is not None:
            merged = simplified(operand)
            if len(plain_left.depth) == len(merged.depth):
                found = replace(form, left=plain_left, right=merged)
        if self.products != "bf16x3":
            return [found]
        one, other = in_parts(found.left), in_parts(found.right)
        if one is None or other is None:
            return []
        return [replace(found, left=one, right=other)]

    def _used(
        self, form: Form, left: Source, right: Value, memory: Source, operands: Operands
    ) -> Form:
        """The form with the kernel's buffers in place of LEFT, RIGHT and PACKED. The right operand
        is packed, and float32 operands are split into parts, if the form says so; `operands` gets
        the launches."""
        sources = [left.value, memory.value]
        packed = form.right.buffer.name == PACKED
        if packed:
            sources[1] = self._packed(form, right)
        if form.left.parts != 0:
            for side in range(1 if packed else 2):
                value = sources[side]
                sources[side] = split_value(self.anchor, value, self.lowering, operands.before)
        sides = (form.left, sources[0]), (form.right, sources[1])
        used = [replace(o, buffer=flat(self.fusion.buffer(v))) for o, v in sides]
        return replace(form, left=used[0], right=used[1])

    def _packed(self, form: Form, right: Value) -> Value:
        """The packed weight: a constant of the program, made once for all groups."""
        groups = dims.product(axis.extent for axis in form.right.batch)
        assert isinstance(groups, int)
        in_parts = form.right.parts != 0
        name, size = self.anchor.operator.name, right.type.numel
        made = (
            TensorType(bf16, (PARTS * size,)) if in_parts else TensorType(right.type.dtype, (size,))
        )

        def arrange(array: Array) -> Array:
            packed = pack_deep(array, groups, name)
            return split_constant(packed) if in_parts else packed

        key = "depth innermost", groups, name, in_parts
        return self.lowering.arrange(right, key, made, arrange)

    def _draft(self, form: Form, products: Products) -> Contract:
        """The contraction over the whole depth, without stores or a real tile: what the model
        needs."""
        rows = dims.Symbol("row", form.left.outer_extent)
        columns = dims.Symbol("column", form.right.outer_extent)
        batch = tuple(dims.symbol(f"batch{i}", n) for i, n in enumerate(form.batch_extents))
        return Contract(
            sums=SUMS,
            dtype=self.sums,
            left=form.left,
            right=form.right,
            batch=batch,
            row=rows,
            row_begin=0,
            column=columns,
            column_begin=0,
            depth_begin=0,
            depth_end=form.left.depth_extent,
            stores=(),
            tile=Tile("simt", 1, 1, 1),
            products=products,
        )

    # The launches

    def _whole(self, form: Form, choice: Choice) -> DeviceLaunch:
        """One kernel, with the epilogue inside."""

        def stores(batch: Index, row: Size, column: Size, part: Size) -> tuple[Store, ...]:
            index = form.output_index(batch, row, column)
            total = expr.fragment_element(SUMS, 0, self.sums)
            value = self._element(index, lambda _: total)
            return (Store(self.out.buffer, (self.out.offset(index),), value),)

        return self._launch(form, choice, stores, self.out.value, self.out.buffer)

    def _element(self, index: Index, total: Callable[[Index], Expression]) -> Expression:
        """An element of the group's core; `total` gives the sum at an index."""
        sum_value = self.anchor.output
        dtype = sum_value.type.dtype
        inner = self.fusion.given({sum_value: lambda at: expr.convert(total(at), dtype)})
        core = self.group.core
        return flatten_loads(inner.element(core, broadcast_index(index, core.type.shape)))

    def _split(self, form: Form, choice: Choice) -> list[DeviceLaunch]:
        """Two kernels: one that stores the sums of each part of the depth, and one that adds them
        up and runs the epilogue."""
        shape = self.anchor.output.type.shape
        parts = Value(TensorType(self.sums, (choice.split, *shape)))
        target = Buffer("out0", self.sums, parts.type.shape)

        def stores(batch: Index, row: Size, column: Size, part: Size) -> tuple[Store, ...]:
            index = (part, *form.output_index(batch, row, column))
            total = expr.fragment_element(SUMS, 0, self.sums)
            return (Store(flat(target), (target.offset(index),), total),)

        first = self._launch(form, choice, stores, parts, flat(target))
        self.fusion.buffers.clear()
        source = self.fusion.buffer(parts)

        def total(index: Index) -> Expression:
            found = expr.load(source, (0, *index))
            for part in range(1, choice.split):
                found = found + expr.load(source, (part, *index))
            return found

        core = self.group.core
        symbols = index_symbols(core.type.shape)
        index = as_index(symbols, core.type.shape)
        value = self._element(index, total)
        nest = self.lowering.nest(Piece(self.out.buffer, self.out.offset(index), value, symbols))
        second = self.lowering.launch(
            in_order(self.group),
            flat_buffers(self.fusion),
            {self.out.value: self.out.buffer},
            Computation(nest.body, nest.operations),
        )
        return [first, second]

    def _launch(
        self, form: Form, choice: Choice, stores: Stores, value: Value, buffer: Buffer
    ) -> DeviceLaunch:
        tile = choice.tile
        draft = self._draft(form, "exact" if tile.level == "simt" else self.products)
        body = tile_loops(draft, form.batch_extents, choice, stores)
        self.lowering.map_block(body, threads_of(tile, self.target))
        work = tile.rows * tile.columns * draft.left.depth_extent
        return self.lowering.launch(
            in_order(self.group),
            flat_buffers(self.fusion),
            {value: buffer},
            Computation(body, work),
        )
