"""Computes a transposed convolution as one convolution for each phase of its output, so that
nothing is multiplied by zero.

With stride s, output r + s*j (phase r) is reached only from the taps k for which (r + low - k) is
divisible by s; the last of them reads input j + e. So phase r is a convolution of x, padded to
where its first window begins, with every s-th tap, the last one first:

    conv_transpose(x, w, stride 2) = interleave(conv(x, w[1::2]), conv(x, w[0::2]))

A phase without taps is zero. With a window of one pixel only one phase has taps, and it is a matrix
product. With stride 1 there is one phase, and nothing to interleave. Taps with a dilation d reach
phase r if (r + low - k*d) is divisible by s: from a first one on every s/g-th, d/g inputs apart,
where g is the greatest common divisor of s and d.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter


@dataclass(frozen=True)
class _AxisPhase:
    """A phase along one axis: `taps` taps from `first` on, every `step`-th, which read inputs
    `dilation` places apart. It has `positions` outputs, and its input is padded by `low` and `high`
    (or cropped, if these are negative)."""

    first: int
    step: int
    taps: int
    dilation: int
    positions: Size
    low: Size
    high: Size

    @property
    def ends(self) -> tuple[Size, Size]:
        return self.low, self.high


def as_phases(rewriter: GraphRewriter, node: Node) -> Value:
    """The convolutions of all phases, interleaved."""
    strides: tuple[int, ...] = node.attributes["strides"]
    axes = [_axis_phases(node, axis) for axis in range(len(strides))]
    x = node.inputs[0]
    if node.attributes["groups"] == 1 and any(s > 1 for s in strides):
        x, axes = _padded_once(rewriter, x, axes)
    found: dict[tuple[int, ...], Value] = {}
    for phase in itertools.product(*map(range, strides)):
        found[phase] = _phase(rewriter, node, x, [a[r] for a, r in zip(axes, phase)])
    return _interleaved(rewriter, found, strides, node.output.type.shape)


def _axis_phases(node: Node, axis: int) -> list[_AxisPhase]:
    """The phases along an axis. All have as many positions as the first; what is too much is cut
    off at the end."""
    x, w = (value.type.shape for value in node.inputs)
    stride, low = node.attributes["strides"][axis], node.attributes["low"][axis]
    dilation, kernel = node.attributes["dilations"][axis], w[axis]
    assert isinstance(kernel, int)
    common = math.gcd(stride, dilation)
    step, distance = stride // common, dilation // common
    positions = dims.ceildiv(node.output.type.shape[1 + axis], stride)
    found = []
    for phase in range(stride):
        met = (k for k in range(step) if (phase + low - k * dilation) % stride == 0)
        first = next(met, kernel)
        taps = max(0, -(-(kernel - first) // step))
        reach = (taps - 1) * distance
        before = reach - (phase + low - first * dilation) // stride
        after = positions + reach - x[1 + axis] - before
        found.append(_AxisPhase(first, step, taps, distance, positions, before, after))
    return found


def _padded_once(
    rewriter: GraphRewriter, x: Value, axes: list[list[_AxisPhase]]
) -> tuple[Value, list[list[_AxisPhase]]]:
    """x with the zeros that any phase needs, and the phases, which crop the zeros that they do not
    need.

    If it is not known how many each needs, x is returned unchanged.
    """
    met = [[a for a in phases if a.taps] for phases in axes]
    if not all(isinstance(size, int) for phases in met for a in phases for size in a.ends):
        return x, axes
    low = [_most(a.low for a in phases) for phases in met]
    high = [_most(a.high for a in phases) for phases in met]
    if not any((*low, *high)):
        return x, axes
    padded = rewriter.emit("pad", x, low=(0, *low, 0), high=(0, *high, 0), mode="constant", value=0)
    cropped = [
        [replace(a, low=a.low - before, high=a.high - after) for a in phases]
        for phases, before, after in zip(axes, low, high, strict=True)
    ]
    return padded, cropped


def _most(sizes: Iterable[Size]) -> int:
    return max([0, *(size for size in sizes if isinstance(size, int))])


def _phase(rewriter: GraphRewriter, node: Node, x: Value, axes: Sequence[_AxisPhase]) -> Value:
    w = node.inputs[1]
    groups = node.attributes["groups"]
    outputs, channels = w.type.shape[-2:]
    taps = [axis.taps for axis in axes]
    if not all(taps):
        shape = (x.type.shape[0], *(axis.positions for axis in axes), outputs * groups)
        return rewriter.emit("full", shape=shape, value=0.0, dtype=x.type.dtype)
    starts = [a.first + (a.taps - 1) * a.step for a in axes]
    seen = rewriter.emit(
        "slice",
        w,
        starts=(*starts, 0, 0),
        shape=(*taps, outputs, channels),
        steps=(*(-axis.step for axis in axes), 1, 1),
    )
    weights = _exchanged(rewriter, seen, groups)
    ones = tuple(1 for _ in taps)
    return rewriter.emit(
        "conv",
        x,
        weights,
        strides=ones,
        dilations=tuple(axis.dilation for axis in axes),
        low=tuple(axis.low for axis in axes),
        high=tuple(axis.high for axis in axes),
        groups=groups,
    )


def _exchanged(rewriter: GraphRewriter, w: Value, groups: int) -> Value:
    """[*taps, o, (groups, c)] as [*taps, c, (groups, o)]."""
    *taps, outputs, channels = w.type.shape
    rank = len(taps)
    if groups == 1:
        return rewriter.emit("transpose", w, permutation=(*range(rank), rank + 1, rank))
    of_group = dims.floordiv(channels, groups)
    w = rewriter.emit("reshape", w, shape=(*taps, outputs, groups, of_group))
    order = (*range(rank), rank + 2, rank + 1, rank)
    w = rewriter.emit("transpose", w, permutation=order)
    return rewriter.emit("reshape", w, shape=(*taps, of_group, groups * outputs))


def _interleaved(
    rewriter: GraphRewriter,
    phases: Mapping[tuple[int, ...], Value],
    strides: Sequence[int],
    wanted: tuple[Size, ...],
) -> Value:
    """The phases as one value. The last axis is interleaved first: its phases are neighbours, as
    channels are."""
    batch, *_, outputs = wanted
    positions = next(iter(phases.values())).type.shape[1:-1]
    known = dict(phases)
    for axis in reversed(range(len(strides))):
        stride = strides[axis]
        # The axes after this one are one row. The rows of all phases follow each other.
        inner = dims.product(
            p * s for p, s in zip(positions[axis + 1 :], strides[axis + 1 :], strict=True)
        )
        joined: dict[tuple[int, ...], Value] = {}
        for outer in itertools.product(*map(range, strides[:axis])):
            parts = [known[(*outer, r)] for r in range(stride)]
            if stride > 1:
                shape = (batch, *positions[: axis + 1], inner * outputs)
                rows = [rewriter.emit("reshape", part, shape=shape) for part in parts]
                joined[outer] = rewriter.emit("concat", *rows, axis=axis + 2)
            else:
                joined[outer] = parts[0]
        known = joined
    sizes = tuple(p * s for p, s in zip(positions, strides, strict=True))
    whole = rewriter.emit("reshape", known[()], shape=(batch, *sizes, outputs))
    if whole.type.shape == wanted:
        return whole
    return rewriter.emit(
        "slice",
        whole,
        starts=tuple(0 for _ in wanted),
        shape=wanted,
        steps=tuple(1 for _ in wanted),
    )
