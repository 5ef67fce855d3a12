"""The gradient of deform_conv: the image is read at the moved taps again, as grid_sample reads;
what was read, as a matrix, is the factor of a product with the weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import i64
from bessemer.compiler.ops.composite.composite import (
    binary,
    broadcast_to,
    cast,
    in_f32,
    reshape,
    size_as,
    transpose,
)
from bessemer.compiler.ops.image.gradients_neighbours import Reading, reading, taps_of


@dataclass(frozen=True, eq=False)
class _Shapes:
    """N samples, P positions of the output, K taps, C channels in `offset_groups` parts that move
    together and in `groups` parts that have weights of their own."""

    d: Differential
    samples: Size
    positions: Size
    taps: Size
    channels: Size
    features: Size
    offset_groups: int
    groups: int

    @property
    def each(self) -> Size:
        """Channels that move together."""
        return self.channels // self.offset_groups

    @property
    def flat(self) -> tuple[Size, Size]:
        """Samples and what moves together; positions and taps."""
        return self.samples * self.offset_groups, self.positions * self.taps

    def image(self, x: Value) -> Value:
        """[N, *S, (D, C / D)] as [(N, D), *S, C / D]."""
        rank = x.type.rank
        split = reshape(self.d.builder, x, (*x.type.shape[:-1], self.offset_groups, self.each))
        moved = transpose(self.d.builder, split, [0, rank - 1, *range(1, rank - 1), rank])
        return reshape(self.d.builder, moved, (self.flat[0], *x.type.shape[1:-1], self.each))

    def image_back(self, x: Value, shape: Sequence[Size]) -> Value:
        """The gradient of `image`."""
        rank = len(shape)
        split = reshape(
            self.d.builder, x, (self.samples, self.offset_groups, *shape[1:-1], self.each)
        )
        moved = transpose(self.d.builder, split, [0, *range(2, rank), 1, rank])
        return reshape(self.d.builder, moved, shape)

    def each_tap(self, x: Value, depth: int) -> Value:
        """[N, *out, (D, K, depth)] as [(N, D), (P, K), depth]."""
        shape = (self.samples, self.positions, self.offset_groups, self.taps, depth)
        moved = transpose(self.d.builder, reshape(self.d.builder, x, shape), [0, 2, 1, 3, 4])
        return reshape(self.d.builder, moved, (*self.flat, depth))

    def each_tap_back(self, x: Value, shape: Sequence[Size]) -> Value:
        """The gradient of `each_tap`."""
        depth = x.type.shape[-1]
        split = (self.samples, self.offset_groups, self.positions, self.taps, depth)
        moved = transpose(self.d.builder, reshape(self.d.builder, x, split), [0, 2, 1, 3, 4])
        return reshape(self.d.builder, moved, shape)

    def columns(self, x: Value) -> Value:
        """[(N, D), (P, K), C / D] as [G, (N, P), (K, C / G)]."""
        b = self.d.builder
        split = (self.samples, self.offset_groups, self.positions, self.taps, self.each)
        joined = transpose(b, reshape(b, x, split), [0, 2, 3, 1, 4])
        parts = (
            self.samples * self.positions,
            self.taps,
            self.groups,
            self.channels // self.groups,
        )
        moved = transpose(b, reshape(b, joined, parts), [2, 0, 1, 3])
        return reshape(b, moved, (self.groups, parts[0], parts[1] * parts[3]))

    def columns_back(self, x: Value) -> Value:
        """The gradient of `columns`."""
        b, inner = self.d.builder, self.channels // self.groups
        split = reshape(b, x, (self.groups, self.samples * self.positions, self.taps, inner))
        joined = transpose(b, split, [1, 2, 0, 3])
        parts = (self.samples, self.positions, self.taps, self.offset_groups, self.each)
        moved = transpose(b, reshape(b, joined, parts), [0, 3, 1, 2, 4])
        return reshape(b, moved, (*self.flat, self.each))

    def weight(self, w: Value) -> Value:
        """[*kernel, C / G, (G, O / G)] as [G, (K, C / G), O / G]."""
        b, inner, outer = self.d.builder, w.type.shape[-2], self.features // self.groups
        split = reshape(b, w, (self.taps, inner, self.groups, outer))
        moved = transpose(b, split, [2, 0, 1, 3])
        return reshape(b, moved, (self.groups, self.taps * inner, outer))

    def weight_back(self, w: Value, shape: Sequence[Size]) -> Value:
        """The gradient of `weight`."""
        b, inner, outer = self.d.builder, shape[-2], self.features // self.groups
        split = reshape(b, w, (self.groups, self.taps, inner, outer))
        return reshape(b, transpose(b, split, [1, 2, 0, 3]), shape)

    def output(self, dy: Value) -> Value:
        """[N, *out, (G, O / G)] as [G, (N, P), O / G]."""
        b = self.d.builder
        shape = (self.samples * self.positions, self.groups, self.features // self.groups)
        return transpose(b, reshape(b, dy, shape), [1, 0, 2])


def deform_conv_gradient(d: Differential) -> Cotangents:
    """(x, w, offsets [, mask]), computed in f32 at least."""
    b = d.builder
    x, w, offsets, *mask = (in_f32(b, value) for value in d.inputs)
    kernel = w.type.shape[:-2]
    shapes = _Shapes(
        d, x.type.shape[0], product(d.y.type.shape[1:-1]), product(kernel), x.type.shape[-1],
        w.type.shape[-1], d.attributes.get("offset_groups", 1), d.attributes.get("groups", 1),
    )  # fmt: skip
    read = _read(shapes, x, offsets, kernel)
    value = read.value()
    share = None
    if mask:
        share = broadcast_to(b, shapes.each_tap(mask[0], 1), value.type.shape)
    columns = shapes.columns(value if share is None else d.apply("mul", value, share))
    dy, weight = shapes.output(in_f32(b, d.dy)), shapes.weight(w)
    dw = d.apply("matmul", transpose(b, columns, [0, 2, 1]), dy)
    dvalue = shapes.columns_back(d.apply("matmul", dy, transpose(b, weight, [0, 2, 1])))
    dmask = []
    if share is not None:
        found = d.apply("reduce_sum", d.apply("mul", dvalue, value), axes=(2,))
        found = reshape(b, found, (*shapes.flat, 1))
        dmask.append(shapes.each_tap_back(found, mask[0].type.shape))
        dvalue = d.apply("mul", dvalue, share)
    dx, along = read.back(dvalue)
    parts = [reshape(b, part, (*shapes.flat, 1)) for part in along]
    moved = d.apply("concat", *parts, axis=2) if len(parts) > 1 else parts[0]
    cotangents = (
        shapes.image_back(dx, x.type.shape),
        shapes.weight_back(dw, w.type.shape),
        shapes.each_tap_back(moved, offsets.type.shape),
        *dmask,
    )
    return tuple(cast(b, value, d.x.type.dtype) for value in cotangents)


def _read(shapes: _Shapes, x: Value, offsets: Value, kernel: Sequence[Size]) -> Reading:
    """The image at every tap, where its offset has moved it."""
    d, b, rank = shapes.d, shapes.d.builder, len(kernel)
    rows = shapes.each_tap(offsets, rank)
    image = shapes.image(x)
    taps = []
    for axis in range(rank):
        start, shape = (0, 0, axis), (*shapes.flat, 1)
        offset = d.apply("slice", rows, starts=start, shape=shape, steps=(1, 1, 1))
        place = _places(d, kernel, axis, shapes.flat[1])
        place = broadcast_to(b, cast(b, place, x.type.dtype), shapes.flat)
        position = d.apply("add", place, reshape(b, offset, shapes.flat))
        taps.append(taps_of(b, position, x.type.shape[1 + axis], "linear"))
    return reading(b, image, taps)


def _places(d: Differential, kernel: Sequence[Size], axis: int, count: Size) -> Value:
    """Where a tap is without its offset, along an axis, for every position and tap: [P K]."""
    b = d.builder
    shape = (*d.y.type.shape[1:-1], *kernel)
    output = d.apply("iota", shape=shape, axis=axis, dtype=i64)
    tap = d.apply("iota", shape=shape, axis=len(kernel) + axis, dtype=i64)
    output = binary(b, "mul", output, d["strides"][axis])
    tap = binary(b, "mul", tap, d["dilations"][axis])
    low = size_as(b, d["low"][axis], i64, shape)
    return reshape(b, d.apply("sub", d.apply("add", output, tap), low), (count,))
