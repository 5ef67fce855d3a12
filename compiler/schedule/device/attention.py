"""Lowers attention to one kernel on GPUs whose warps multiply tiles on matrix units. Queries, keys
and values are 16-bit floats, or float32 numbers that are multiplied as three bf16 parts each. Any
pointwise work may stand between the scores and the softmax; it is done in float32.

What is between the two matrix products must be a softmax over the keys in its usual form,

    exp(s - max s) / sum of exp(s - max s)

possibly with casts in between. Any other attention is lowered as separate kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.device import WARP, DeviceLaunch, ThreadMapping
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.expr import (
    Binary,
    Buffer,
    Cast,
    Expression,
    Index,
    Load,
    Reduce,
    Unary,
)
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.loops import Attend, Store
from bessemer.compiler.ir.operands import Axis, Operand, Tile
from bessemer.compiler.ir.ravel import broadcast_index, unravel
from bessemer.compiler.ir.types import Array, bf16, f16, f32
from bessemer.compiler.schedule.device.attention_mask import farthest_key
from bessemer.compiler.schedule.device.attention_tiles import (
    AttentionSizes,
    choose_attention_tile,
)
from bessemer.compiler.schedule.device.contraction_operands import Operands
from bessemer.compiler.schedule.device.contraction_tiles import guess
from bessemer.compiler.schedule.device.lowering import DeviceLowering
from bessemer.compiler.schedule.grouping.attention import Attention, RowForm, row_form
from bessemer.compiler.schedule.grouping.destinations import Destination
from bessemer.compiler.schedule.grouping.fuse import Fusion
from bessemer.compiler.schedule.grouping.groups import Group, Grouping, in_order
from bessemer.compiler.schedule.grouping.views import Source
from bessemer.compiler.schedule.lowering.lowering import Computation, flat_buffers
from bessemer.compiler.schedule.nests.nests import flat, flatten_loads
from bessemer.compiler.targets.nvptx import DeviceTarget

MOST_DEPTH = 128
"""The most elements that a query, or a value, may have."""
_MOST_NODES = 16
"""Of a mask that is computed for every score anew; what is longer is made once, in memory."""
_SCORES, _RESULTS = "scores", "results"
_ROW = Buffer("row", f32, (1,))


def may_attend(
    attention: Attention, graph: Graph, target: DeviceTarget, precision: str = "float32"
) -> bool:
    """Whether `lower_device_attention` can lower an attention. Otherwise its nodes form groups of
    their own.

    It can if the device has matrix units, the operands have one type that they multiply at this
    precision, queries and values have 8 to MOST_DEPTH elements, the second product does not
    broadcast its left operand, and the weights are a softmax.
    """
    nodes = (attention.scores, attention.product)
    operands = {value.type.dtype for node in nodes for value in node.inputs}
    results = {node.output.type.dtype for node in nodes}
    types = ({bf16}, {f16}, {f32}) if precision == "float32" else ({bf16}, {f16})
    if not target.has_mma or operands not in types or not results <= {f32, *operands}:
        return False
    depth = attention.scores.inputs[0].type.shape[-1]
    columns = attention.product.output.type.shape[-1]
    if not (isinstance(depth, int) and isinstance(columns, int)):
        return False
    if max(depth, columns) > MOST_DEPTH or min(depth, columns) < 8:
        return False
    shapes = [v.type.shape[:-2] for v in (attention.product.inputs[0], attention.product.output)]
    if shapes[0] != shapes[1]:
        return False
    return _softmax(attention, graph.constants) is not None


def _softmax(attention: Attention, constants: Mapping[Value, Array]) -> RowForm | None:
    """The weights of a row as a function of its scores; None if they are not a softmax of them."""
    inlined = {n.output: n for n in (*attention.views, *attention.between)}
    fusion = Fusion(inlined, constants)
    carried = attention.carried.type
    row = Buffer(_ROW.name, carried.dtype, (carried.shape[-1],))
    form = row_form(attention, fusion, lambda key: expr.load(row, (key,)))
    if form is None or attention.product.inputs[0].type.shape != carried.shape:
        return None
    own = (*form.batch, form.row)
    expected = tuple(0 if s.extent == 1 else atom(s) for s in own)
    if form.leading != expected or not _is_softmax(form.weight, form.key):
        return None
    return form


def _plain(node: Expression) -> Expression:
    """The expression below casts from float to float."""
    while isinstance(node, Cast) and node.operand.dtype.is_float and node.dtype.is_float:
        node = node.operand
    return node


def _is_softmax(weight: Expression, key: Symbol) -> bool:
    """Whether a weight is exp(s - max s) / sum of exp(s - max s), where s is the row's score of the
    key."""
    quotient = _plain(weight)
    if not (isinstance(quotient, Binary) and quotient.name == "div"):
        return False
    below = _plain(quotient.right)
    if not (isinstance(below, Reduce) and below.name == "add" and len(below.over) == 1):
        return False
    (over,) = below.over
    above_index = 0 if key.extent == 1 else atom(key)
    first = _largest_below(quotient.left, above_index)
    second = _largest_below(below.body, atom(over))
    return first is not None and first is second and over.extent == key.extent


def _largest_below(node: Expression, index: Size) -> Expression | None:
    """The expression max s, if the node is exp(s[index] - max s); else None."""
    power = _plain(node)
    if not (isinstance(power, Unary) and power.name == "exp"):
        return None
    difference = _plain(power.operand)
    if not (isinstance(difference, Binary) and difference.name == "sub"):
        return None
    largest = _plain(difference.right)
    if not (isinstance(largest, Reduce) and largest.name == "max" and len(largest.over) == 1):
        return None
    scores = (difference.left, index), (largest.body, atom(largest.over[0]))
    return largest if all(_is_score(score, at) for score, at in scores) else None


def _is_score(node: Expression, index: Size) -> bool:
    match _plain(node):
        case Load(_, buffer, (at,), None):
            return buffer.name == _ROW.name and at == index
        case _:
            return False


def lower_device_attention(
    group: Group, grouping: Grouping, lowering: DeviceLowering
) -> list[DeviceLaunch] | None:
    """The launches for a group around an attention that `may_attend` has accepted: those that
    prepare the operands, then the attention itself. None where the queries do not lie in memory."""
    assert group.attention is not None and group.root is not None
    return _Kernel(group, group.attention, grouping, lowering).launches()


@dataclass(frozen=True, eq=False)
class _Kernel:
    group: Group
    attention: Attention
    grouping: Grouping
    lowering: DeviceLowering

    @cached_property
    def fusion(self) -> Fusion:
        nodes = [*self.attention.nodes, *in_order(self.group)]
        return Fusion.of(nodes, self.lowering.constants)

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape of the result: [batch..., rows, columns]."""
        return self.attention.product.output.type.shape

    @property
    def batch(self) -> tuple[Size, ...]:
        return self.shape[:-2]

    @property
    def key_count(self) -> Size:
        return self.attention.scores.output.type.shape[-1]

    def launches(self) -> list[DeviceLaunch] | None:
        """The launches, or None; see lower_device_attention."""
        scores, product = self.attention.scores, self.attention.product
        operands = Operands(scores, self.lowering)
        queries = operands.left(self.grouping)
        if queries is None:
            return None
        _, keys = operands.right(scores, self._nodes(scores))
        _, values = operands.right(product, self._nodes(product))
        return [*operands.before, self._launch((queries, keys, values))]

    def _nodes(self, node: Node) -> list[Node]:
        return in_order(self.grouping.packs.get(node))

    def _operand(self, memory: Source, value: Value, outer: int, depth: int) -> Operand:
        """The value in memory as an operand of `Attend`. `outer` and `depth` are the positions in
        its shape of the axis that is not summed over, and of the one that is."""
        shape = value.type.shape
        missing = len(self.batch) + 2 - len(shape)
        steps = (0,) * missing + tuple(
            0 if n == 1 else s for n, s in zip(shape[:-2], memory.strides[:-2])
        )
        return Operand(
            flat(self.fusion.buffer(memory.value)),
            memory.base,
            (Axis(shape[outer], memory.strides[outer]),),
            (Axis(shape[depth], memory.strides[depth]),),
            tuple(Axis(n, s) for n, s in zip(self.batch, steps, strict=True)),
        )

    def _launch(self, sources: tuple[Source, Source, Source]) -> DeviceLaunch:
        """The launch of the attention itself. `sources` are the queries, keys and values in
        memory."""
        assert self.group.root is not None
        out = self.lowering.destination(self.group.root, self.group.tail)
        tile = self._tile()
        builder = KernelBuilder()
        count = dims.product(self.batch) * self._blocks(tile)
        with builder.loop(count, "parallel") as block:
            builder.append(self._attend(builder, block, tile, sources, out))
        body = builder.block()
        threads = WARP * tile.warps[0]
        self.lowering.map_block(body, ThreadMapping(threads, threads))
        work = tile.rows * self.key_count * 4 * tile.columns
        nodes = [*self.attention.nodes, *in_order(self.group)]
        return self.lowering.launch(
            nodes,
            flat_buffers(self.fusion),
            {out.value: out.buffer},
            Computation(body, work, name="attention"),
        )

    def _blocks(self, tile: Tile) -> Size:
        """The number of blocks of rows in one attention of the batch."""
        return dims.ceildiv(self.shape[-2], tile.rows)

    def _attend(
        self,
        builder: KernelBuilder,
        block: Size,
        tile: Tile,
        sources: tuple[Source, Source, Source],
        out: Destination,
    ) -> Attend:
        """The statement that computes one block of rows; `block` is its number in the whole
        batch."""
        scores, product = self.attention.scores, self.attention.product
        queries, keys, values = sources
        blocks = self._blocks(tile)
        batch = unravel(dims.floordiv(block, blocks), self.batch)
        number = dims.mod(block, blocks)
        sizes = (self.shape[-2], self.key_count, self.shape[-1])
        row, key, column = (builder.index(size) for size in sizes)
        score = self._score((*batch, atom(row), atom(key)))
        farthest = self._farthest(score, row, key, tile)
        if farthest is not None:
            # Those that see most keys go first, so that no processor is left with one at last.
            number = blocks - 1 - number
        begin = number * tile.rows
        index = (*batch, atom(row), atom(column))
        result = expr.fragment_element(_RESULTS, 0, f32)
        value = self._element(product.output, self.group.core, index, result)
        return Attend(
            scores=_SCORES,
            results=_RESULTS,
            queries=self._operand(queries, scores.inputs[0], -2, -1),
            keys=self._operand(keys, scores.inputs[1], -1, -2),
            values=self._operand(values, product.inputs[1], -1, -2),
            batch=batch,
            row=row,
            row_begin=begin,
            key=key,
            column=column,
            score=score,
            stores=(Store(out.buffer, (out.offset(broadcast_index(index, self.shape)),), value),),
            tile=tile,
            key_end=self._key_end(farthest, begin, tile),
        )

    def _farthest(self, score: Expression, row: Symbol, key: Symbol, tile: Tile) -> Size | None:
        """The largest `key - row` that a mask does not hide (see farthest_key). None if there is no
        such mask, or if leaving keys out would spare no tile of keys."""
        constants = self.lowering.constants
        known = {
            buffer.name: constants[value]
            for value, buffer in self.fusion.buffers.items()
            if value in constants
        }
        found = farthest_key(score, row, key, known, self._computed)
        if found is None or dims.is_nonnegative(found - self.key_count + 1):
            return None
        few = isinstance(self.key_count, int) and self.key_count <= tile.depth
        return None if few else found

    def _computed(self, load: Load) -> Expression | None:
        """The expression for an element that another kernel stores, if it is computed from indices
        alone, as masks often are; else None."""
        value = next(v for v, b in self.fusion.buffers.items() if b.name == load.buffer.name)
        nodes: dict[Value, Node] = {}
        waiting = [value]
        while waiting:
            node = self.grouping.producers.get(waiting.pop())
            if node is None or node.operator.element is None or len(nodes) > _MOST_NODES:
                return None
            nodes[node.output] = node
            constants = self.lowering.constants
            waiting += [one for one in node.inputs if one not in constants and one not in nodes]
        (offset,) = load.indices
        index = unravel(offset, value.type.shape)
        return Fusion(nodes, self.lowering.constants).element(value, index)

    def _key_end(self, farthest: Size | None, begin: Size, tile: Tile) -> Size | None:
        if farthest is None:
            return None
        end = begin + tile.rows + farthest
        return dims.maximum(1, dims.minimum(end, self.key_count))

    def _tile(self) -> Tile:
        """The number of rows and keys that a block works on at a time."""
        target, scores = self.lowering.target, self.attention.scores
        depth, columns = scores.inputs[0].type.shape[-1], self.shape[-1]
        assert isinstance(depth, int) and isinstance(columns, int)
        dtype = scores.inputs[0].type.dtype
        sizes = AttentionSizes(
            guess(dims.product(self.batch)),
            guess(self.shape[-2]),
            guess(self.key_count),
            _padded(depth),
            _padded(columns),
            dtype,
        )
        steps = ", ".join(node.operator.name for node in self.attention.before)
        shape = f"{self.batch} {self.shape[-2]} x {self.key_count} x {depth} x {columns}"
        signature = f"attention {dtype} {shape} ({steps})"
        return choose_attention_tile(
            self.attention.product, signature, sizes, target, self.lowering.choices
        )

    def _score(self, index: Index) -> Expression:
        """A score in float32, after the pointwise work between the first product and the
        softmax."""
        scores = self.attention.scores.output
        total = expr.fragment_element(_SCORES, 0, f32)
        element = self._element(scores, self.attention.carried, index, total)
        return expr.convert(element, f32)

    def _element(self, sums: Value, wanted: Value, index: Index, total: Expression) -> Expression:
        inner = self.fusion.given({sums: lambda _: expr.convert(total, sums.type.dtype)})
        return flatten_loads(inner.element(wanted, broadcast_index(index, wanted.type.shape)))


def _padded(columns: int) -> int:
    """The number of columns padded to a power of two, at least 16, as shared memory holds them."""
    power = 16
    while power < columns:
        power *= 2
    return power
