"""Windows that slide over the spatial axes of an image: what convolutions and pools share.

Images are [N, *spatial, C]. Output position o sees, at tap k, the input position
o * stride - low + k * dilation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Size, Symbol, atom, floordiv, format_size, is_nonnegative
from bessemer.compiler.ir.element import reduction_symbols
from bessemer.compiler.ir.expr import Expression, Index, constant
from bessemer.compiler.ir.types import Array, TensorType, boolean
from bessemer.compiler.ops.check import require, require_entries
from bessemer.compiler.ops.movement.pad import within_pads


@dataclass(frozen=True)
class Window:
    """One entry a spatial axis each; pads may be negative (they crop)."""

    kernel: tuple[Size, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    low: tuple[Size, ...]
    high: tuple[Size, ...]

    def check(self, name: str, x: TensorType) -> None:
        """Raises CompileError if the entries do not fit [N, *spatial, C]."""
        require(x.rank >= 2, f"{name} wants an input [N, *spatial, C], but it is {x}.")
        for what, entries in (
            ("kernel sizes", self.kernel),
            ("strides", self.strides),
            ("dilations", self.dilations),
            ("low pads", self.low),
            ("high pads", self.high),
        ):
            require_entries(name, what, entries, x.rank - 2)
        require(
            all(step > 0 for step in (*self.strides, *self.dilations)),
            f"{name} wants positive strides and dilations, not {self.strides}, {self.dilations}.",
        )
        require(
            all(not isinstance(size, int) or size > 0 for size in self.kernel),
            f"{name} has an empty kernel: {self.kernel}.",
        )

    def reach(self, axis: int) -> Size:
        """The distance between a window's first and last tap."""
        return (self.kernel[axis] - 1) * self.dilations[axis]

    def positions(self, name: str, x: TensorType) -> tuple[Size, ...]:
        """The spatial shape of the output; CompileError where no window fits."""
        result: list[Size] = []
        for axis, size in enumerate(x.shape[1:-1]):
            room = size + self.low[axis] + self.high[axis] - self.reach(axis) - 1
            require(
                not is_nonnegative(-1 - room),
                f"{name} of {x}: a window of {format_size(self.reach(axis) + 1)} does not fit into "
                f"spatial axis {axis}, which is {format_size(size)} with pads of "
                f"{format_size(self.low[axis])} and {format_size(self.high[axis])}.",
            )
            result.append(floordiv(room, self.strides[axis]) + 1)
        return tuple(result)

    def source(self, output: Sequence[Size], taps: Sequence[Size]) -> tuple[Size, ...]:
        """The input position that an output position sees at a tap."""
        entries = zip(output, taps, self.strides, self.dilations, self.low)
        return tuple(o * stride - low + k * d for o, k, stride, d, low in entries)

    def is_inside(self, place: Index, spatial: Sequence[Size]) -> Expression:
        """Whether a position that some window sees is in the input, not in its padding."""
        result = constant(True, boolean)
        for position, size, low, high in zip(place, spatial, self.low, self.high):
            result = result & within_pads(position, size, low, high)
        return result


def window_of(
    kernel: Sequence[Size],
    strides: Sequence[int],
    dilations: Sequence[int],
    low: Sequence[Size],
    high: Sequence[Size],
) -> Window:
    """A window from an operator's attributes."""
    return Window(tuple(kernel), tuple(strides), tuple(dilations), tuple(low), tuple(high))


def reduction_index(extents: Sequence[Size]) -> tuple[tuple[Symbol, ...], tuple[Size, ...]]:
    """Symbols to reduce over, and an index made of them that is 0 on axes of size 1."""
    over = iter(reduction_symbols([extent for extent in extents if extent != 1]))
    symbols: list[Symbol] = []
    index: list[Size] = []
    for extent in extents:
        if extent != 1:
            symbols.append(next(over))
        index.append(0 if extent == 1 else atom(symbols[-1]))
    return tuple(symbols), tuple(index)


def tap_views(
    x: Array, window: Window, fill: float | int
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Every tap with what all windows see at it, [N, *output, C]; `fill` is what pads hold."""
    kernel = [int(expr.index_value(size).value) for size in window.kernel]  # type: ignore[attr-defined]
    padded = _padded(x, window, fill)
    room = [
        size - (k - 1) * d - 1 for size, k, d in zip(padded.shape[1:-1], kernel, window.dilations)
    ]
    for tap in itertools.product(*map(range, kernel)):
        spatial = tuple(
            slice(k * d, k * d + space + 1, stride)
            for k, d, space, stride in zip(tap, window.dilations, room, window.strides)
        )
        yield tap, padded[(slice(None), *spatial, slice(None))]


def _padded(x: Array, window: Window, fill: float | int) -> Array:
    low = np.array([0, *window.low, 0], dtype=np.int64)
    high = np.array([0, *window.high, 0], dtype=np.int64)
    wide = np.pad(
        x,
        [(max(b, 0), max(a, 0)) for b, a in zip(low.tolist(), high.tolist())],
        constant_values=np.asarray(fill).astype(x.dtype),
    )
    kept = tuple(
        slice(max(-b, 0), n - max(-a, 0))
        for b, a, n in zip(low.tolist(), high.tolist(), wide.shape)
    )
    return wide[kept]
