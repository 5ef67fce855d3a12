"""Operators that move elements: transpose, concat, split, slice, pad, depth and space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Dim, Size, format_size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, boolean, i64
from bessemer.frontends.onnx_reader import limits
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.divisible_axes import cut_to
from bessemer.frontends.onnx_reader.equal_sizes import agreed_size, require_elements
from bessemer.frontends.onnx_reader.registry import rule
from bessemer.frontends.onnx_reader.sizes import slice_of

_TERMS = 2
"""Of a padded size: what is padded, and the number of elements at both ends."""


@rule("Transpose")
def read_transpose(context: NodeContext) -> Value:
    x = context.input(0)
    rank = x.type.rank
    order = context.integers("perm", tuple(reversed(range(rank))))
    # PyTorch's older exporter writes axes of channels-last permutations counted from the end.
    return context.transpose(x, [axis + rank if -rank <= axis < 0 else axis for axis in order])


@rule("Concat")
def read_concat(context: NodeContext) -> Value:
    parts = context.tensors()
    rank = parts[0].type.rank
    axis = context.axis(rank, None if context.opset >= 4 else context.integer("axis", 1))
    return concatenated(context, parts, axis)


def concatenated(context: NodeContext, parts: Sequence[Value], axis: int) -> Value:
    """The parts, one after the other; their other sizes are made to agree."""
    rank = parts[0].type.rank
    if any(part.type.rank != rank for part in parts):
        context.wrong(f"the inputs have different ranks: {', '.join(str(p.type) for p in parts)}")
    if len(parts) == 1:
        return parts[0]
    common = list(parts[0].type.shape)
    for part in parts[1:]:
        for other, size in enumerate(part.type.shape):
            if other != axis:
                common[other] = agreed_size(context.builder, common[other], size)
    shaped = [
        context.reshape(part, (*common[:axis], part.type.shape[axis], *common[axis + 1 :]))
        for part in parts
    ]
    return context.apply("concat", *shaped, axis=axis)


@rule("Split")
def read_split(context: NodeContext) -> list[Value]:
    x = context.input(0)
    axis = context.axis(x.type.rank, context.integer("axis", 0))
    sizes = _split_sizes(context, x.type.shape[axis])
    return split_along(context, x, axis, sizes)


def split_along(context: NodeContext, x: Value, axis: int, sizes: Sequence[Size]) -> list[Value]:
    """Pieces of the given sizes along an axis."""
    pieces: list[Value] = []
    start: Size = 0
    for size in sizes:
        pieces.append(piece(context, x, axis, start, size))
        start = start + size
    return pieces


def piece(context: NodeContext, x: Value, axis: int, start: Size, size: Size) -> Value:
    """x[start : start + size] along one axis."""
    shape = x.type.shape
    return context.apply(
        "slice",
        x,
        starts=tuple(start if at == axis else 0 for at in range(len(shape))),
        shape=tuple(size if at == axis else own for at, own in enumerate(shape)),
        steps=(1,) * len(shape),
    )


def _split_sizes(context: NodeContext, whole: Size) -> list[Size]:
    count = len(context.node.output)
    if context.has("split"):
        sizes: list[Size] = list(context.integers("split"))
    elif context.optional(1) is not None:
        sizes = list(context.sizes(1))
    else:
        count = context.integer("num_outputs", count)
        if not 1 <= count <= limits.PARTS:
            context.wrong(f"num_outputs is {count}")
        each = dims.ceildiv(whole, count)
        exact = dims.divide_exactly(whole, count)
        sizes = [each if exact is None else exact] * (count - 1)
        sizes.append(whole - dims.total(sizes))
        if isinstance(sizes[-1], int) and sizes[-1] < 0:
            context.wrong(f"{format_size(whole)} elements cannot be split into {count} parts")
    if len(sizes) < len(context.node.output):
        context.wrong(f"{len(sizes)} sizes for {len(context.node.output)} outputs")
    agreed_size(context.builder, dims.total(sizes), whole)
    return sizes


@rule("Slice")
def read_slice(context: NodeContext) -> Value:
    x = context.input(0)
    rank = x.type.rank
    if context.opset < 10:
        starts: Sequence[Size] | None = context.integers("starts")
        ends: Sequence[Size] | None = context.integers("ends")
        count = len(context.integers("starts"))
        axes, steps = context.integers("axes", range(count)), (1,) * count
    else:
        context = _with_known_lengths(context)
        starts, ends = context.known_sizes(1), context.known_sizes(2)
        count = context.length_at(1)
        axes = (
            tuple(range(count)) if context.optional(3) is None else context.integers_at(3, "axes")
        )
        given = context.optional(4)
        steps = (1,) * count if given is None else context.integers_at(4, "steps")
    axes = tuple(context.axis(rank, axis, "axes") for axis in axes)
    if len(set(axes)) != count or len(steps) != count or 0 in steps:
        context.wrong(f"{count} starts with the axes {list(axes)} and the steps {list(steps)}")
    first: list[Size] = [0] * rank
    shape = list(x.type.shape)
    by_axis = [1] * rank
    for position, (axis, step) in enumerate(zip(axes, steps)):
        found = None
        if starts is not None and ends is not None:
            size = x.type.shape[axis]
            found = slice_of(context.builder, size, starts[position], ends[position], step)
        if found is None:
            found = _bound_slice(context, x.type.shape[axis], position, step)
        first[axis], shape[axis] = found
        by_axis[axis] = step
    if tuple(shape) == x.type.shape and all(step == 1 for step in by_axis):
        return x
    return context.apply("slice", x, starts=tuple(first), shape=tuple(shape), steps=tuple(by_axis))


def _with_known_lengths(context: NodeContext) -> NodeContext:
    """Starts, ends and axes have one length: that of one is that of all."""
    places = [place for place in range(1, 5) if context.optional(place) is not None]
    lengths = [context.input(place).type.numel for place in places]
    known = [length for length in lengths if isinstance(length, int)]
    if not known or len(known) == len(lengths):
        return context
    items = list(context.items)
    for place in places:
        value = context.input(place)
        length = agreed_size(context.builder, value.type.numel, known[0])
        items[place] = context.reshape(value, (length,))
    return replace(context, items=tuple(items))


def _bound_slice(context: NodeContext, size: Size, position: int, step: int) -> tuple[Size, Size]:
    """(start, count) of a slice whose bounds are known when the model runs, computed then."""
    apply = context.apply
    whole = context.builder.scalar_size(size)
    zero = context.like(whole, 0)

    def bound(source: int) -> Value:
        vector = context.cast(context.input(source), i64)
        value = context.reshape(piece(context, vector, 0, position, 1), ())
        value = apply("select", apply("lt", value, zero), apply("add", value, whole), value)
        lowest, highest = zero, whole
        if step < 0:  # the end may be before the first element, the start is an element
            lowest = context.like(whole, -1 if source == 2 else 0)
            highest = apply("sub", whole, context.like(whole, 1))
        return apply("min", apply("max", value, lowest), highest)

    first, last = bound(1), bound(2)
    length = apply("sub", last, first) if step > 0 else apply("sub", first, last)
    rounded = apply("add", length, context.like(length, abs(step) - 1))
    count = apply("trunc_div", apply("max", rounded, zero), context.like(zero, abs(step)))
    pair = apply("concat", *(context.reshape(v, (1,)) for v in (first, count)), axis=0)
    start, number = context.builder.bind(pair, context.symbol_prefix())
    return start, number


@rule("Pad")
@rule("Pad", domain="com.microsoft")
def read_pad(context: NodeContext) -> Value:
    """onnxruntime's own is that of opset 11."""
    x = context.input(0)
    rank = x.type.rank
    value: float | int | bool = context.number("value", 0.0)
    filling: Value | None = None
    if context.opset < 11 and not context.node.domain:
        pads: tuple[Size, ...] = context.integers("pads" if context.opset >= 2 else "paddings")
    else:
        # What is negative is cut off.
        pads = context.sizes_in(context.input(1), signed=True)
        known = context.array(2)
        if known is not None:
            value = known.reshape(-1)[0].item()
        else:
            filling = context.optional(2)
    axes = tuple(range(rank))
    if context.optional(3) is not None:
        axes = tuple(context.axis(rank, a, "axes") for a in context.integers_at(3, "axes"))
    if len(pads) != 2 * len(axes):
        context.wrong(f"{len(pads)} pads for {len(axes)} axes")
    low: list[Size] = [0] * rank
    high: list[Size] = [0] * rank
    for position, axis in enumerate(axes):
        low[axis], high[axis] = pads[position], pads[position + len(axes)]
    mode = context.text("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        context.unsupported(f"mode = {mode}")
    if x.type.dtype.is_integer or x.type.dtype == boolean:
        value = int(value)
    if mode != "constant":
        # What is repeated is what has been left.
        x, low, high = _cut_off(context, x, low, high)
    high = _with_short_sums(context, x.type.shape, low, high)
    around = {"low": tuple(low), "high": tuple(high), "mode": mode}
    padded = context.apply("pad", x, **around, value=value)
    if mode != "constant":
        require_elements(context.builder, x.type.shape, padded.type.shape)
    elif filling is not None:
        everywhere = context.full(TensorType(boolean, x.type.shape), True)
        inside = context.apply("pad", everywhere, **around, value=False)
        filling = context.reshape(filling, (1,) * rank)
        return context.elementwise("select", inside, padded, filling)
    return padded


def _cut_off(
    context: NodeContext, x: Value, low: Sequence[Size], high: Sequence[Size]
) -> tuple[Value, list[Size], list[Size]]:
    """x without what pads below 0 take away, and the pads that are left. Sizes that only the run
    knows are symbols: rows are cut at borders that are not negative."""
    starts = [dims.maximum(-1 * before, 0) for before in low]
    ends = [dims.maximum(-1 * after, 0) for after in high]
    low, high = ([dims.maximum(one, 0) for one in side] for side in (low, high))
    if not any(one != 0 for one in (*starts, *ends)):
        return x, low, high
    shape = [size - s - e for size, s, e in zip(x.type.shape, starts, ends, strict=True)]
    both = zip(starts, ends, strict=True)
    free = [axis for axis, pair in enumerate(both) if not all(isinstance(n, int) for n in pair)]
    if free:
        named = context.builder.name_sizes([shape[axis] for axis in free], "left_")
        for axis, size in zip(free, named, strict=True):
            shape[axis] = size
    steps = (1,) * len(shape)
    x = context.apply("slice", x, starts=tuple(starts), shape=tuple(shape), steps=steps)
    return x, low, high


def _with_short_sums(
    context: NodeContext, shape: Sequence[Size], low: Sequence[Size], high: Sequence[Size]
) -> list[Size]:
    """`high`, so that padded sizes which would be long sums are symbols: kernels multiply sizes."""
    inner = [size + before for size, before in zip(shape, low, strict=True)]
    padded = [size + after for size, after in zip(inner, high, strict=True)]
    long = [axis for axis, s in enumerate(padded) if isinstance(s, Dim) and len(s.terms) > _TERMS]
    if not long:
        return list(high)
    named = context.builder.name_sizes([padded[axis] for axis in long], "padded_")
    for axis, size in zip(long, named, strict=True):
        padded[axis] = size
    return [size - before for size, before in zip(padded, inner, strict=True)]


def _in_blocks(context: NodeContext, x: Value, blocks: Mapping[int, int]) -> Value:
    """`x`, whose sizes along these axes are known to be multiples of the numbers: what only the run
    knows is checked there, and cut to a multiple, so that splitting the axis needs no more."""
    shape = list(x.type.shape)
    for axis, block in blocks.items():
        shape[axis] = dims.floordiv(shape[axis], block) * block
        agreed_size(context.builder, shape[axis], x.type.shape[axis])
    return cut_to(context, x, shape)


@rule("DepthToSpace")
def read_depth_to_space(context: NodeContext) -> Value:
    x = context.input(0)
    block = context.integer("blocksize")
    if x.type.rank != 4 or block < 1:
        context.wrong(f"blocks of {block} in {x.type}; a positive block and 4 axes are wanted")
    x = _in_blocks(context, x, {1: block * block})
    n, c, h, w = x.type.shape
    depth = dims.floordiv(c, block * block)
    # DCR: the block's rows and columns are the outer parts of the channel; CRD: the inner ones.
    if context.text("mode", "DCR") == "DCR":
        split: tuple[Size, ...] = (n, block, block, depth, h, w)
        order = (0, 3, 4, 1, 5, 2)
    else:
        split, order = (n, depth, block, block, h, w), (0, 1, 4, 2, 5, 3)
    moved = context.transpose(context.reshape(x, split), order)
    return context.reshape(moved, (n, depth, h * block, w * block))


@rule("SpaceToDepth")
def read_space_to_depth(context: NodeContext) -> Value:
    x = context.input(0)
    block = context.integer("blocksize")
    if x.type.rank != 4 or block < 1:
        context.wrong(f"blocks of {block} in {x.type}; a positive block and 4 axes are wanted")
    x = _in_blocks(context, x, {2: block, 3: block})
    n, c, h, w = x.type.shape
    rows, columns = dims.floordiv(h, block), dims.floordiv(w, block)
    split = context.reshape(x, (n, c, rows, block, columns, block))
    crd = context.attributes.get("mode", "DCR") == "CRD"
    moved = context.transpose(split, (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4))
    return context.reshape(moved, (n, c * block * block, rows, columns))


@rule("ReverseSequence")
def read_reverse_sequence(context: NodeContext) -> Value:
    """Along the time axis, element t of a sequence of n comes from n - 1 - t while t < n."""
    x, lengths = context.input(0), context.input(1)
    batch, time = context.integer("batch_axis"), context.integer("time_axis")
    if {batch, time} != {0, 1} or x.type.rank < 2:
        context.wrong(f"batch_axis {batch} and time_axis {time} of {x.type}; 0 and 1 are possible")
    return reversed_in_time(context, x, lengths, batch, time)


def reversed_in_time(
    context: NodeContext, x: Value, lengths: Value, batch: int, time: int
) -> Value:
    """Each sequence of the batch backwards, up to its length; the rest as it is."""
    exchanged = (batch, time, *range(2, x.type.rank))
    x = context.transpose(x, exchanged)
    shape = x.type.shape[:2]
    places = context.apply("iota", shape=shape, axis=1, dtype=i64)
    each = context.reshape(context.cast(lengths, i64), (shape[0], 1))
    each = context.apply("broadcast_to", each, shape=shape)
    last = context.apply("sub", each, context.like(each, 1))
    flipped = context.apply("sub", last, places)
    source = context.apply("select", context.apply("lt", places, each), flipped, places)
    # A place is looked up and checked once for all that lies there.
    rows = context.reshape(source, (*shape, 1))
    return context.transpose(context.apply("gather_nd", x, rows, batch_dims=1), exchanged)
