"""The gradient of a depthwise convolution's weight.

depthwise_gradient        x, dy -> for each tap and channel, the sum of x at the tap times dy
depthwise_gradient_parts  the same sums of each block of rows (passes/sums/block_channel_sums.py)

A row of dy and the rows of x that its windows see are in a near cache while all taps go by. The
sums of a few taps along a row are in registers, and x is read where it lies: what windows see of
the padding is left out. (Zen 5, one core, against a sum for each tap of a padded copy: 9 taps of
16 x 24 x 24 x 144 in 0.34 of the time, 25 taps of 8 x 7 x 7 x 960 in 0.24.)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_
from typing import Any

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, constant, convert
from bessemer.compiler.ir.loops import Prefetch
from bessemer.compiler.ir.op import Example, Operator, register
from bessemer.compiler.ir.ravel import unravel
from bessemer.compiler.ir.types import FLOATS, Array, TensorType, f64
from bessemer.compiler.ops.check import listed, require, require_dtype
from bessemer.compiler.ops.example_arrays import ramp
from bessemer.compiler.ops.reductions.reduce import accumulator
from bessemer.compiler.ops.window import Window, tap_views, window_of

_SUMS = 14
"""The most sums in registers at once, of the 16 that AVX2 has."""
_BORDER = 8
"""The most pixels at an end of a row that are written out."""


@dataclass(frozen=True, eq=False)
class _Sums:
    """Writes sums over rows of `dy`, [n, *outer, width, channels], into blocks of `parts`,
    [blocks, *kernel, channels].

    The sums of a row are made first: they are rounded less than those of a block are.
    """

    builder: KernelBuilder
    x: Buffer
    dy: Buffer
    parts: Buffer
    window: Window

    def write(self, rows: Size) -> None:
        """Each block adds up as many rows; the last one what is left."""
        builder, kernel = self.builder, self.parts.shape[1:-1]
        count = dims.product(self.dy.shape[:-2])
        with builder.loop(self.parts.shape[0], "parallel") as block:
            with builder.loop(dims.product(kernel)) as tap:
                place = unravel(tap, kernel)
                with builder.loop(self.parts.shape[-1], "vector", lanes=0) as channel:
                    zero = constant(0, self.parts.dtype)
                    builder.store(self.parts, (block, *place, channel), zero)
            with builder.loop(dims.minimum(rows, count - block * rows)) as row:
                number = builder.local(block * rows + row)
                self._row(block, unravel(number, self.dy.shape[:-2], builder.local))

    def _row(self, block: Size, row: tuple[Size, ...]) -> None:
        """Adds what a row of dy adds to the sums of a block."""
        builder, window = self.builder, self.window
        outer = Window(*(entries[:-1] for entries in _entries(window)))
        for taps in _shares(dims.number(window.kernel[-1]), _SUMS):
            whole = list(itertools.product(*(range(dims.number(size)) for size in outer.kernel)))
            for share in _shares(len(whole), max(1, _SUMS // len(taps))):
                seen = {whole[n]: outer.source(row[1:], whole[n]) for n in share}
                insides = {tap: outer.is_inside(at, self.x.shape[1:-2]) for tap, at in seen.items()}
                rows = [((block, *tap), (row[0], *at)) for tap, at in seen.items()]
                with builder.when(reduce(and_, insides.values())):
                    self._taps(rows, row, taps, taps.start == share.start == 0)
                if len(rows) > 1:
                    with builder.otherwise():
                        for one, inside in zip(rows, insides.values(), strict=True):
                            with builder.when(inside):
                                self._taps([one], row, taps)

    def _taps(
        self,
        rows: Sequence[tuple[tuple[Size, ...], tuple[Size, ...]]],
        row: tuple[Size, ...],
        taps: range,
        fetches: bool = False,
    ) -> None:
        """Adds the products of a row of dy and some rows of x at some taps along the row. Each of
        `rows` says where its sums are, and which row of x they see."""
        builder, parts, near = self.builder, self.parts, self.parts.dtype
        stride, dilation, low = (entries[-1] for entries in _entries(self.window)[1:4])
        ranges = {tap: self._range(tap) for tap in taps}
        begin = reduce(dims.maximum, (before for before, _ in ranges.values()))
        end = dims.maximum(begin, reduce(dims.minimum, (behind for _, behind in ranges.values())))
        with builder.loop(parts.shape[-1], "vector", lanes=0) as channel:
            zero = constant(0, near)
            sums = {(n, tap): builder.define(zero, "sum") for n in range(len(rows)) for tap in taps}

            def add(pixel: Size, some: Sequence[int]) -> None:
                value = convert(self.dy[*row, pixel, channel], near)
                cotangent = builder.define(value, "dy").value
                for number, (_, seen) in enumerate(rows):
                    for tap in some:
                        at = pixel * stride + tap * dilation - low
                        product = convert(self.x[*seen, at, channel], near) * cotangent
                        sums[number, tap].accumulate("add", product)

            with builder.loop(end - begin) as pixel:
                add(begin + pixel, taps)
                if fetches:
                    self._fetch(row, rows[-1][1], begin + pixel, channel)
            for tap, (before, behind) in ranges.items():
                for one, other in ((before, dims.minimum(begin, behind)), (end, behind)):
                    count = dims.maximum(0, other - one)
                    is_short = isinstance(count, int) and count <= _BORDER
                    with builder.loop(count, "unroll" if is_short else "serial") as pixel:
                        add(one + pixel, [tap])
            for (number, tap), total in sums.items():
                at = (*rows[number][0], tap, channel)
                builder.store(parts, at, parts[at] + total.value)

    def _fetch(
        self, row: tuple[Size, ...], seen: tuple[Size, ...], pixel: Size, channel: Size
    ) -> None:
        """Fetches what lies a row behind, of dy and of x."""
        at = pixel * self.window.strides[-1]
        for buffer, index in ((self.dy, (*row, pixel)), (self.x, (*seen, at))):
            ahead = buffer.shape[-2] * buffer.shape[-1]
            self.builder.append(Prefetch(buffer, buffer.offset((*index, channel)) + ahead, 2))

    def _range(self, tap: int) -> tuple[Size, Size]:
        """The positions along a row, from and to, that see the image at a tap."""
        window, width = self.window, self.x.shape[-2]
        before = window.low[-1] - tap * window.dilations[-1]
        begin = dims.ceildiv(before, window.strides[-1])
        end = dims.ceildiv(before + width, window.strides[-1])
        return dims.maximum(0, begin), dims.minimum(self.dy.shape[-2], end)


def _shares(count: int, most: int) -> list[range]:
    """The first `count` numbers in even runs of at most `most`."""
    shares = -(-count // most)
    ends = [count * share // shares for share in range(shares + 1)]
    return [range(*both) for both in itertools.pairwise(ends)]


def _entries(window: Window) -> tuple[tuple[Any, ...], ...]:
    return window.kernel, window.strides, window.dilations, window.low, window.high


def _window(
    name: str, x: Sequence[Size], dy: Sequence[Size], kernel: Sequence[int],
    strides: Sequence[int], dilations: Sequence[int], low: Sequence[Size],
) -> Window:  # fmt: skip
    """The window whose positions are those of dy: the pads behind an axis are what that needs."""
    fits = len(x) == len(dy) > 2 and x[0] == dy[0] and x[-1] == dy[-1]
    require(fits, f"{name} wants an image and what windows over it see, not {x} and {dy}.")
    high: list[Size] = []
    for axis, taps in enumerate(kernel):
        reach = (taps - 1) * dilations[axis] + 1 + (dy[axis + 1] - 1) * strides[axis]
        high.append(reach - x[axis + 1] - low[axis])
    return window_of(kernel, strides, dilations, low, high)


def _infer(
    x: TensorType, dy: TensorType, *, kernel: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[Size, ...],
) -> TensorType:  # fmt: skip
    """[n, *spatial, channels] and [n, *positions, channels] -> [*kernel, 1, channels]."""
    name = "depthwise_gradient"
    require_dtype(name, x, FLOATS)
    require(
        x.dtype is dy.dtype, f"{name} wants one type of image and cotangent: {listed((x, dy))}."
    )
    _window(name, x.shape, dy.shape, kernel, strides, dilations, low).check(name, x)
    return x.with_shape((*kernel, 1, x.shape[-1]))


def _row_sums(x: Array, dy: Array, given: Mapping[str, Any]) -> Array:
    """[rows, *kernel, channels] in float64: what each row of dy adds."""
    window = _window("depthwise_gradient", x.shape, dy.shape, **given)
    wide, other = x.astype(np.float64), dy.astype(np.float64)
    rows = [(seen * other).sum(axis=-2) for _, seen in tap_views(wide, window, 0)]
    found = np.stack([one.reshape(-1, x.shape[-1]) for one in rows], axis=1)
    return found.reshape(-1, *given["kernel"], x.shape[-1])


def _reference(x: Array, dy: Array, **given: Any) -> Array:
    found: Array = _row_sums(x, dy, given).sum(axis=0)
    return found.reshape(*given["kernel"], 1, x.shape[-1]).astype(x.dtype)


def _statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], **given: Any
) -> None:
    (x, dy), (out,) = inputs, outputs
    window = _window("depthwise_gradient", x.shape, dy.shape, **given)
    near = accumulator(x.dtype)
    whole = replace(out, shape=(1, *out.shape[:-2], out.shape[-1]))
    parts = whole if near is x.dtype else builder.scratch(near, whole.shape)
    _Sums(builder, x, dy, parts, window).write(dims.product(dy.shape[:-2]))
    if near is not x.dtype:
        with builder.loop(dims.product(whole.shape)) as place:
            at = unravel(place, whole.shape)
            builder.store(whole, at, parts[at])


def _gradient(d: Differential) -> Cotangents:
    """The sums are linear in both: x's by the transposed convolution, dy's by the convolution."""
    x, dy = d.inputs
    given = {name: d[name] for name in ("strides", "dilations", "low")}
    found = _window("depthwise_gradient", x.type.shape, dy.type.shape, d["kernel"], **given)
    given |= {"high": found.high, "groups": x.type.shape[-1]}
    over = tuple(0 for _ in found.high)
    dx = d.apply("conv_transpose", dy, d.dy, **given, output_padding=over)
    return dx, d.apply("conv", x, d.dy, **given)


def _given(kernel: tuple[int, ...], stride: int = 1, low: int = 0, step: int = 1) -> dict[str, Any]:
    each = {"strides": stride, "dilations": step, "low": low}
    return {"kernel": kernel} | {name: (n,) * len(kernel) for name, n in each.items()}


register(
    Operator(
        "depthwise_gradient",
        _infer,
        _reference,
        statements=_statements,
        gradient=_gradient,
        examples=(
            Example(((2, 5, 7, 3), (2, 5, 7, 3)), _given((3, 3), low=1)),
            Example(((2, 7, 9, 19), (2, 4, 5, 19)), _given((3, 3), 2, 1)),
            Example(((2, 20, 5), (2, 20, 5)), _given((9,), low=8, step=2)),
            Example(((1, 3, 4, 5, 2), (1, 3, 4, 5, 2)), _given((3, 3, 3), low=1)),
            Example(
                (ramp((1, 3, 2, 4), f64), ramp((1, 3, 2, 4), f64)), _given((5, 5), low=2), 1e-12
            ),
        ),
    )
)


def _parts_infer(x: TensorType, dy: TensorType, *, rows: int, **given: Any) -> TensorType:
    """As depthwise_gradient -> [blocks, *kernel, channels], of so many rows of dy each; the last
    block of what is left."""
    whole = _infer(x, dy, **given)
    blocks = dims.ceildiv(dims.product(dy.shape[:-2]), rows)
    return TensorType(accumulator(x.dtype), (blocks, *whole.shape[:-2], whole.shape[-1]))


def _parts_reference(x: Array, dy: Array, *, rows: int, **given: Any) -> Array:
    each = _row_sums(x, dy, given)
    found: Array = np.add.reduceat(each, range(0, len(each), rows))
    return found.astype(x.dtype if x.dtype.itemsize > 2 else np.float32)


def _parts_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], *, rows: int, **given: Any
) -> None:
    (x, dy), (parts,) = inputs, outputs
    window = _window("depthwise_gradient_parts", x.shape, dy.shape, **given)
    _Sums(builder, x, dy, parts, window).write(rows)


register(
    Operator(
        "depthwise_gradient_parts",
        _parts_infer,
        _parts_reference,
        statements=_parts_statements,
        examples=(
            Example(((2, 6, 7, 3), (2, 6, 7, 3)), {**_given((3, 3), low=1), "rows": 5}),
            Example(((2, 9, 67), (2, 5, 67)), {**_given((5,), 2, 2), "rows": 1}),
            Example(
                (ramp((4, 3, 2, 4), f64), ramp((4, 3, 2, 4), f64)),
                {**_given((5, 5), low=2), "rows": 6},
                1e-12,
            ),
        ),
    )
)
