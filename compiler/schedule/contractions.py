"""Lowers a group around a matrix product or convolution to register-tiled kernels.

The left operand is read where it lies, through views if its index arithmetic stays linear. The
right one is packed: at compile time if it is a constant, else by a kernel of its own, which also
computes whatever pointwise work leads to it. The rest of the group is the epilogue.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bessemer.compiler.ir import dims, expr, walk_expr
from bessemer.compiler.ir.dims import Size, Symbol, atom, product
from bessemer.compiler.ir.expr import Buffer, Expression, Index, Load
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import Store
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array, TensorType, type_of
from bessemer.compiler.schedule.contraction import (
    Contraction,
    DepthAxis,
    RowAxis,
    depth_order,
    memory_order,
    supports,
    with_group,
)
from bessemer.compiler.schedule.dependence import all_nodes
from bessemer.compiler.schedule.destinations import Destination
from bessemer.compiler.schedule.few_rows import reads_in_place
from bessemer.compiler.schedule.fuse import (
    Fusion,
    affine_strides,
    as_index,
    index_symbols,
    view_chain,
)
from bessemer.compiler.schedule.groups import Group, is_depthwise
from bessemer.compiler.schedule.image_groups import lower_depthwise_group, lower_winograd_group
from bessemer.compiler.schedule.interleave import lower_interleaved
from bessemer.compiler.schedule.lower import Lowering, flat_buffers, in_order
from bessemer.compiler.schedule.matrix_tiles_group import TileJob, lower_on_matrix_unit
from bessemer.compiler.schedule.merge_axes import Piece
from bessemer.compiler.schedule.microkernel import lower_contraction, operations
from bessemer.compiler.schedule.nests import flat, flatten_loads, lower_nest
from bessemer.compiler.schedule.packing import pack, packed_element, packed_shape
from bessemer.compiler.schedule.streams import past_caches
from bessemer.compiler.schedule.turn import lower_turned
from bessemer.compiler.schedule.winograd_gradient import lower_winograd_gradient
from bessemer.compiler.targets.machine import Target

BASE = "bessemer_base"
"""The kernel's symbol for the flat offset of the left operand's first element."""


@dataclass(frozen=True, eq=False)
class Axes:
    """A contraction's axes, and the number of matrices that its right operand holds."""

    rows: tuple[RowAxis, ...]
    depth: tuple[DepthAxis, ...]
    columns: Size
    matrices: Size


def lower_contraction_group(
    group: Group,
    pack_group: Group | None,
    producers: Mapping[Value, Node],
    materialized: Container[Value],
    lowering: Lowering,
    target: Target,
) -> list[Launch] | None:
    """The launches, or None where the tiled form does not apply and plain loops must do."""
    anchor = group.anchor
    assert anchor is not None and group.root is not None
    if is_depthwise(anchor):
        return lower_depthwise_group(group, producers, materialized, lowering, target)
    if any(size != 0 for side in ("low", "high") for size in anchor.attributes.get(side, ())):
        return None
    if anchor.operator.name == "conv":
        launches = lower_winograd_group(
            group, pack_group, producers, materialized, lowering, target
        )
        if launches is not None:
            return launches
    left, right = anchor.inputs
    if right not in lowering.constants:
        packed_nodes = pack_group.nodes if pack_group else []
        if reads_in_place(anchor, any(not node.operator.is_view for node in packed_nodes)):
            return None
    fusion = Fusion(view_chain(left, producers, materialized), {})
    symbols = index_symbols(left.type.shape)
    element = fusion.element(left, as_index(symbols, left.type.shape))
    if not isinstance(element, Load):
        return None
    strides = affine_strides(element, symbols)
    if strides is None:
        return None
    base = _base(element, symbols)
    form = _Convolution(anchor) if anchor.operator.name == "conv" else _Product(anchor)
    axes = form.axes(strides)
    inputs = Fusion({n.output: n for n in in_order(group)}, lowering.constants)
    (left_base,) = fusion.buffers
    a = flat(inputs.buffer(left_base))
    out = lowering.destination(group.root, group.tail)
    # Where the operand starts is an argument: slices of one tensor share their kernel.
    start = dims.symbol(BASE) if base != 0 else 0
    draft = Contraction(
        anchor.output.type.dtype,
        a,
        start,
        axes.rows,
        axes.depth,
        axes.columns,
        Buffer("in1", right.type.dtype, (1,)),
        _Epilogue(group.core, anchor.output, inputs, out, form),
    )
    if not supports(draft):
        return None
    job = TileJob(
        draft,
        left_base,
        right,
        axes.matrices,
        in_order(group),
        in_order(pack_group) if pack_group else [],
        out,
        BASE,
        base,
        lambda fusion: _Epilogue(group.core, anchor.output, fusion, out, form),
        form.right_matrices,
        partial(_right_element, right, form),
        (type(form).__name__, *form.key),
    )
    done = lower_on_matrix_unit(job, lowering, target)
    done = done or lower_winograd_gradient(job, lowering, target)
    if done is not None:
        return done
    draft = with_group(draft, target)
    tiling = lowering.choices.tiling(anchor, draft, target, right in lowering.constants)
    shape = packed_shape(axes.matrices, draft.depth_steps, axes.columns, tiling.panel, draft.group)
    launches = []
    if right in lowering.constants:
        packed = _packed_constant(right, form, tiling.panel, draft, lowering)
    else:
        key = (right, shape, type(form).__name__, *form.key, draft.run)
        found = lowering.packs.get(key)
        packed = found or Value(TensorType(right.type.dtype, shape))
        if found is None:
            lowering.packs[key] = packed
            nodes = in_order(pack_group) if pack_group else []
            launches.append(
                _pack_launch(anchor, right, nodes, packed, form, draft, lowering, target)
            )
    contraction = replace(draft, b=flat(inputs.buffer(packed)))
    body = lower_contraction(contraction, tiling, target)
    launch = lowering.launch(
        in_order(group),
        flat_buffers(inputs),
        {out.value: out.buffer},
        body,
        operations(contraction, tiling),
        arguments={BASE: base},
    )
    launches.append(replace(launch, replaceable=_replaceable(contraction, inputs)))
    return launches


def _replaceable(contraction: Contraction, inputs: Fusion) -> tuple[Value, ...]:
    """The inputs that only the epilogue reads, each element just before it is stored over."""
    rows = tuple(axis.extent for axis in contraction.rows)
    index = as_index(index_symbols((*rows, contraction.columns)), (*rows, contraction.columns))
    total = expr.fragment_element("sum", 0, contraction.dtype)
    elsewhere = {contraction.a.name, contraction.b.name}
    (store,) = contraction.epilogue(index[:-1], index[-1], total)
    for node in all_nodes(store.value):
        if isinstance(node, Load) and node.indices != store.indices:
            elsewhere.add(node.buffer.name)
    return tuple(
        value
        for value, buffer in inputs.buffers.items()
        if buffer.name not in elsewhere
        and buffer.dtype == store.buffer.dtype
        and value.type.numel == product(store.buffer.shape)
    )


def _base(element: Load, symbols: Sequence[Symbol]) -> Size:
    """The flat offset of the element at index 0."""
    first = walk_expr.substitute(element, dict.fromkeys(symbols, 0))
    assert isinstance(first, Load)
    return first.buffer.offset(first.indices)


class _Product:
    """matmul: [..., m, k] x [..., k, n], batch axes broadcast.

    `output_index` is the index of an element of the anchor's output, `right_index` that of one of
    its right operand, `right_matrices` a constant right operand as [matrices..., depth, columns].
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.left, self.right = (value.type.shape for value in node.inputs)
        self.out = node.output.type.shape
        self.batch = len(self.out) - 2

    def axes(self, strides: tuple[Size, ...]) -> Axes:
        left = (0,) * (self.batch - len(self.left) + 2) + tuple(
            0 if size == 1 else stride for size, stride in zip(self.left[:-2], strides[:-2])
        )
        rows = [
            RowAxis(size, a, b)
            for size, a, b in zip(self.out[:-2], left, self._matrix_strides(), strict=True)
        ]
        rows.append(RowAxis(self.out[-2], strides[-2]))
        depth = (DepthAxis(self.left[-1], strides[-1]),)
        return Axes(tuple(rows), depth, self.out[-1], product(self.right[:-2]))

    def _matrix_strides(self) -> tuple[Size, ...]:
        strides: list[Size] = []
        step: Size = 1
        for size in reversed(self.right[:-2]):
            strides.append(0 if size == 1 else step)
            step = step * size
        return (0,) * (self.batch - len(self.right) + 2) + tuple(reversed(strides))

    def output_index(self, rows: tuple[Size, ...], column: Size) -> Index:
        return (*rows, column)

    def right_index(self, matrix: Size, k: Size, column: Size) -> Index:
        index: list[Size] = []
        rest = matrix
        for size in reversed(self.right[:-2]):
            index.append(rest % size if not isinstance(rest, int) or rest else 0)
            rest = rest // size
        return (*reversed(index), k, column)

    def right_matrices(self, array: Array) -> Array:
        return array

    @property
    def key(self) -> tuple[object, ...]:
        """What the order of its packed right operand depends on."""
        return ()


class _Convolution:
    """conv of an input that needs no padding; groups are the outermost rows. As _Product.

    Rows and sums go through the input as its memory does. In a weight's gradient, whose samples are
    channels and whose channels are samples, a tile's rows are neighbouring channels, and the sum
    takes all pixels of a sample first.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.x, self.w = (value.type.shape for value in node.inputs)
        self.out = node.output.type.shape
        self.groups: int = node.attributes["groups"]
        self.order: tuple[int, ...] = tuple(range(len(self.w) - 1))
        self.row_order: tuple[int, ...] = tuple(range(len(self.out) - 1))

    def axes(self, strides: tuple[Size, ...]) -> Axes:
        kernel = self.w[:-2]
        steps, dilations = self.node.attributes["strides"], self.node.attributes["dilations"]
        rows = [RowAxis(self.out[0], strides[0])]
        rows += [
            RowAxis(size, step * stride)
            for size, step, stride in zip(self.out[1:-1], steps, strides[1:-1], strict=True)
        ]
        self.row_order = memory_order(rows)
        rows = [rows[place] for place in self.row_order]
        if self.groups > 1:
            rows.insert(0, RowAxis(self.groups, self.w[-2] * strides[-1], 1))
        depth = [
            DepthAxis(size, dilation * stride)
            for size, dilation, stride in zip(kernel, dilations, strides[1:-1], strict=True)
        ]
        depth.append(DepthAxis(self.w[-2], strides[-1]))
        self.order = depth_order(depth, self.node.output.type.dtype)
        depth = [depth[place] for place in self.order]
        return Axes(tuple(rows), tuple(depth), self.w[-1] // self.groups, self.groups)

    def output_index(self, rows: tuple[Size, ...], column: Size) -> Index:
        group = rows[: -len(self.row_order)]
        index: list[Size] = [0] * len(self.row_order)
        for place, row in zip(self.row_order, rows[len(group) :], strict=True):
            index[place] = row
        if not group:
            return (*index, column)
        return (*index, group[0] * (self.w[-1] // self.groups) + column)

    def right_index(self, matrix: Size, k: Size, column: Size) -> Index:
        index: list[Size] = [0] * len(self.order)
        rest = k
        for place in reversed(self.order):
            index[place] = rest % self.w[place]
            rest = rest // self.w[place]
        return (*index, matrix * (self.w[-1] // self.groups) + column)

    def right_matrices(self, array: Array) -> Array:
        columns = array.shape[-1] // self.groups
        ordered = array.transpose(*self.order, array.ndim - 1)
        grouped = ordered.reshape(-1, self.groups, columns)
        return grouped.transpose(1, 0, 2)

    @property
    def key(self) -> tuple[object, ...]:
        return (self.groups, self.order)


_Form = _Product | _Convolution


@dataclass(frozen=True, eq=False)
class _Epilogue:
    """The stores of one element of the group's root, given the sum."""

    root: Value
    sum: Value
    fusion: Fusion
    out: Destination
    form: _Form

    def __call__(
        self, rows: tuple[Size, ...], column: Size, total: Expression
    ) -> tuple[Store, ...]:
        index = self.form.output_index(rows, column)
        if self.root is self.sum:
            value = total
        else:
            inner = self.fusion.given({self.sum: lambda _: total})
            value = flatten_loads(inner.element(self.root, _unit_free(index, self.root)))
        return (Store(self.out.buffer, (self.out.offset(index),), value),)


def _unit_free(index: Index, value: Value) -> Index:
    return tuple(0 if size == 1 else i for i, size in zip(index, value.type.shape, strict=True))


def _packed_constant(
    right: Value, form: _Form, panel: int, contraction: Contraction, lowering: Lowering
) -> Value:
    """The packed weight as a constant of the program; made once for each weight."""
    matrices = form.right_matrices(lowering.constants[right])
    group, depth = contraction.group, matrices.shape[-2]
    run = contraction.run if isinstance(contraction.run, int) else depth
    run = depth if run % group == 0 else run
    key = (right, panel, type(form).__name__, *form.key, group, run)
    found = lowering.packed.get(key)
    if found is None:
        array = pack(matrices, panel, group, run)
        found = lowering.packed[key] = Value(type_of(array), right.name)
        lowering.add_constant(found, array)
    return found


def _right_element(
    right: Value, form: _Form, fusion: Fusion, matrix: Size, k: Size, column: Size
) -> Expression:
    return fusion.element(right, _unit_free(form.right_index(matrix, k, column), right))


def _pack_launch(
    anchor: Node,
    right: Value,
    nodes: Sequence[Node],
    packed: Value,
    form: _Form,
    contraction: Contraction,
    lowering: Lowering,
    target: Target,
) -> Launch:
    """Packs the right operand at run time."""
    fusion = Fusion({node.output: node for node in nodes}, lowering.constants)
    symbols = index_symbols(packed.type.shape)
    full = tuple(atom(symbol) for symbol in symbols)
    index = (0 if packed.type.shape[0] == 1 else full[0], *full[1:])
    element = partial(_right_element, right, form, fusion)
    value = packed_element(element, index, contraction.columns, contraction.group, contraction.run)
    value = flatten_loads(value)
    out = Buffer("out0", packed.type.dtype, packed.type.shape)
    # A step of the depth is a row of memory: read whole, though it goes to all panels.
    symbols = (symbols[0], symbols[2], symbols[1], *symbols[3:])
    piece = Piece(flat(out), out.offset(index), value, symbols)
    lanes = lowering.lanes
    nest = lowering.vectorize and (lower_turned(piece, lanes) or lower_interleaved(piece, lanes))
    nest = nest or lower_nest(piece, lanes, lowering.vectorize)
    return lowering.launch(
        [*nodes, anchor],
        flat_buffers(fusion),
        {packed: flat(out)},
        past_caches(nest.body, flat(out), target),
        nest.operations,
        name="pack",
    )
