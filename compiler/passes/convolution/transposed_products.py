"""Computes a transposed convolution to few channels as one matrix product for all taps, in planes,
and adds up the products that fall on the same output.

    conv_transpose(x, w, stride s)
becomes
    p = matmul(w'[(taps, phases, o), c], x[c, positions])      all products, and none with a zero
    y[phases, o, positions] = col2im(p)                        sums of shifted planes
    transpose(y), reshape                                      phases become neighbours

A vector holds neighbouring positions of a plane, so it is full however few the outputs are.

With stride s, output r + s*j (phase r) is reached from the taps k for which (r + low - k) is
divisible by s: from k = (r + low) % s on, every s-th one. Tap t of these reads input j + begin - t,
where begin = (r + low) // s. Neighbouring phases with as many taps and the same begin are summed up
at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.ir.types import f32

_LANES = 16
_WASTE = 1.1
"""Products take this many times what full vectors would."""
_MOVED = 4
"""Numbers that a cycle writes and reads again: of the products, and of the phases."""
_MULTIPLIED = 2
"""Vectors that a cycle multiplies."""
_NARROW = 8
"""Groups of so few channels are computed by vectors of channels."""
_MOST_OUTPUTS = 32
"""Outputs of which planes are faster (T2x2 by 2 of 64x64, 64 -> 32: 384 -> 331 us; 256 -> 80 of
14x14: 558 -> 609)."""


@dataclass(frozen=True)
class _Phases:
    """`count` neighbouring phases along an axis. Tap t of the i-th of them is tap `first + i + t *
    stride` of the kernel."""

    first: int
    count: int
    taps: int
    begin: int


_Block = tuple[_Phases, ...]
"""Phases along each axis."""


def pays_as_products(node: Node, vectors: float, ends_in_planes: bool) -> bool:
    """Whether this takes less time than convolutions that multiply so many vectors for an input
    position and channel. The kernel and the outputs must be numbers. If each input has outputs of
    its own, nothing is added up, and a result that is wanted in planes is only laid out once."""
    groups: int = node.attributes["groups"]
    strides: tuple[int, ...] = node.attributes["strides"]
    *kernel, outputs, channels = map(dims.number, node.inputs[1].type.shape)
    is_narrow = groups > 1 and channels // groups <= _NARROW
    if is_narrow or node.inputs[0].type.dtype is not f32:
        return False
    products = math.prod(kernel) * outputs
    if ends_in_planes and all(k <= s for k, s in zip(kernel, strides)):
        return outputs <= _MOST_OUTPUTS
    saved: float = (vectors - _WASTE * products / _LANES) * (channels // groups) / _MULTIPLIED
    return saved > (products + math.prod(strides) * outputs) / _MOVED


def as_products(rewriter: GraphRewriter, node: Node) -> Value:
    """The product, its sums, and their phases side by side. The node's low pads must be numbers."""
    x, w = node.inputs
    strides: tuple[int, ...] = node.attributes["strides"]
    groups: int = node.attributes["groups"]
    lows = map(dims.number, node.attributes["low"])
    axes = [_phases(*each) for each in zip(map(dims.number, w.type.shape), strides, lows)]
    blocks = list(itertools.product(*axes))
    reached = [block for block in blocks if all(phases.taps for phases in block)]
    matrices = [_matrix(rewriter, w, block, strides, groups) for block in reached]
    products = rewriter.emit(
        "matmul", _joined(rewriter, matrices, -2), _planes(rewriter, x, groups)
    )
    wanted = node.output.type.shape
    positions = [dims.ceildiv(size, s) for size, s in zip(wanted[1:-1], strides, strict=True)]
    summed: dict[_Block, Value] = {}
    begin: Size = 0
    for block, matrix in zip(reached, matrices, strict=True):
        *batch, _, columns = products.type.shape
        rows = matrix.type.shape[-2]
        starts, shape = (*(0 for _ in batch), begin, 0), (*batch, rows, columns)
        ones = tuple(1 for _ in shape)
        part = rewriter.emit("slice", products, starts=starts, shape=shape, steps=ones)
        summed[block] = _summed(rewriter, part, block, x.type.shape[1:-1], positions, groups)
        begin = begin + rows
    for block in blocks:
        if block not in summed:
            counts = (phases.count for phases in block)
            shape = (x.type.shape[0], groups, *counts, w.type.shape[-2], *positions)
            summed[block] = rewriter.emit("full", shape=shape, value=0.0, dtype=x.type.dtype)
    whole = _interleaved(rewriter, _together(rewriter, summed, axes), len(axes))
    if whole.type.shape == wanted:
        return whole
    none, ones = tuple(0 for _ in wanted), tuple(1 for _ in wanted)
    return rewriter.emit("slice", whole, starts=none, shape=wanted, steps=ones)


def _phases(kernel: int, stride: int, low: int) -> list[_Phases]:
    """All phases along an axis, in order."""
    found: list[_Phases] = []
    for phase in range(stride):
        begin, first = divmod(phase + low, stride)
        taps = max(0, -(-(kernel - first) // stride))
        last = found[-1] if found else None
        if last is not None and (last.taps, last.begin) == (taps, begin):
            found[-1] = _Phases(last.first, last.count + 1, taps, begin)
        else:
            found.append(_Phases(first, 1, taps, begin))
    return found


def _planes(rewriter: GraphRewriter, x: Value, groups: int) -> Value:
    """[n, *positions, (groups, c)] as [n, (groups,) c, positions]."""
    n, *spatial, channels = x.type.shape
    last = x.type.rank - 1
    planes = rewriter.emit("transpose", x, permutation=(0, last, *range(1, last)))
    batch = (n,) if groups == 1 else (n, groups)
    shape = (*batch, dims.floordiv(channels, groups), product(spatial))
    return rewriter.emit("reshape", planes, shape=shape)


def _matrix(
    rewriter: GraphRewriter, w: Value, block: _Block, strides: Sequence[int], groups: int
) -> Value:
    """[*kernel, o, (groups, c)] as [(groups,) (*taps, *phases, o), c], of a block's phases."""
    *kernel, outputs, channels = w.type.shape
    rank, none, ones = len(kernel), tuple(0 for _ in w.type.shape), (1,) * (2 * len(kernel) + 3)
    firsts = [phases.first for phases in block]
    cut = [phases.taps * stride for phases, stride in zip(block, strides, strict=True)]
    # Whole strides of taps: what is added behind the kernel belongs to other phases.
    high = [dims.maximum(0, a + n - k) for a, n, k in zip(firsts, cut, kernel, strict=True)]
    if any(high):
        w = rewriter.emit("pad", w, low=none, high=(*high, 0, 0), mode="constant", value=0)
    starts, shape = (*firsts, 0, 0), (*cut, outputs, channels)
    w = rewriter.emit("slice", w, starts=starts, shape=shape, steps=ones[: rank + 2])
    rest = (outputs, groups, dims.floordiv(channels, groups))
    split = [n for phases, s in zip(block, strides, strict=True) for n in (phases.taps, s)]
    w = rewriter.emit("reshape", w, shape=(*split, *rest))
    kept = [n for phases in block for n in (phases.taps, phases.count)]
    w = rewriter.emit("slice", w, starts=(0,) * len(ones), shape=(*kept, *rest), steps=ones)
    taps, counts = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    order = (2 * rank + 1, *taps, *counts, 2 * rank, 2 * rank + 2)
    w = rewriter.emit("transpose", w, permutation=order)
    batch = () if groups == 1 else (groups,)
    return rewriter.emit("reshape", w, shape=(*batch, product(kept) * outputs, rest[-1]))


def _summed(
    rewriter: GraphRewriter,
    products: Value,
    block: _Block,
    spatial: Sequence[Size],
    positions: Sequence[Size],
    groups: int,
) -> Value:
    """[n, (groups,) (*taps, *phases, o), positions] as [n, groups, *phases, o, *positions], summed
    over taps."""
    rank, n, rows = len(block), products.type.shape[0], products.type.shape[-2]
    taps, counts = [phases.taps for phases in block], [phases.count for phases in block]
    planes = dims.floordiv(rows, product(taps))
    whole = (n, groups, *counts, dims.floordiv(planes, product(counts)), *positions)
    is_shifted = any(phases.begin or phases.taps > 1 for phases in block)
    if not is_shifted and list(positions) == list(spatial):
        return rewriter.emit("reshape", products, shape=whole)
    x = rewriter.emit("reshape", products, shape=(n, groups, *taps, planes, *spatial))
    order = (0, 1, 2 + rank, *range(3 + rank, 3 + 2 * rank), *range(2, 2 + rank))
    x = rewriter.emit("transpose", x, permutation=order)
    # Each plane is a sample of its own, so that sums are laid out as planes, too.
    x = rewriter.emit("reshape", x, shape=(n * groups * planes, *spatial, *taps, 1))
    ones, begins = tuple(1 for _ in block), tuple(phases.begin for phases in block)
    y = rewriter.emit("col2im", x, image=tuple(positions), strides=ones, dilations=ones, low=begins)
    return rewriter.emit("reshape", y, shape=whole)


def _together(
    rewriter: GraphRewriter, summed: Mapping[_Block, Value], axes: Sequence[Sequence[_Phases]]
) -> Value:
    """The phases of all blocks as one value."""
    known = dict(summed)
    for axis in reversed(range(len(axes))):
        joined: dict[_Block, Value] = {}
        for outer in itertools.product(*axes[:axis]):
            parts = [known[(*outer, phases)] for phases in axes[axis]]
            joined[outer] = _joined(rewriter, parts, 2 + axis)
        known = joined
    return known[()]


def _joined(rewriter: GraphRewriter, parts: Sequence[Value], axis: int) -> Value:
    first, *others = parts
    return rewriter.emit("concat", *parts, axis=axis % first.type.rank) if others else first


def _interleaved(rewriter: GraphRewriter, y: Value, rank: int) -> Value:
    """[n, groups, *phases, o, *positions] as [n, *(positions, phases), (groups, o)]."""
    n, groups, *strides = y.type.shape[: 2 + rank]
    outputs, *positions = y.type.shape[2 + rank :]
    pairs = [axis for i in range(rank) for axis in (3 + rank + i, 2 + i)]
    y = rewriter.emit("transpose", y, permutation=(0, *pairs, 1, 2 + rank))
    sizes = [p * s for p, s in zip(positions, strides, strict=True)]
    return rewriter.emit("reshape", y, shape=(n, *sizes, groups * outputs))
