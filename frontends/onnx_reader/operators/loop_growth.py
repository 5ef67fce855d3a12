"""Loops whose carried tensors change their sizes: greedy decoders, beam searches.

`tokens = torch.cat((tokens, token), 1)`, where the next iteration reads all tokens, gives every
iteration a tensor of another size. Such a tensor is carried in a buffer as large as it ever gets,
the capacity, with its length along each axis that changes: all lengths are one more carried vector.
The body binds them to symbols, and sees slices of the buffers.

Capacities follow from the number of iterations, where the sizes say by how much a length grows in
each. Elsewhere a first run of the loop looks for them, again with larger ones as long as some
length exceeds its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Dim, Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, i64
from bessemer.frontends.onnx_reader.equal_sizes import require_nonnegative

Place = tuple[int, int]
"""A carried value by its number, and one of its axes."""


@dataclass(frozen=True)
class Lengths:
    """The places whose sizes change, in the order of the vector of lengths."""

    places: tuple[Place, ...]

    @property
    def type(self) -> TensorType:
        return TensorType(i64, (len(self.places),))

    @property
    def numbers(self) -> set[int]:
        """The carried values that change."""
        return {number for number, _ in self.places}

    def of(self, values: Sequence[Value]) -> list[Size]:
        """The sizes of carried values at the places."""
        return [values[number].type.shape[axis] for number, axis in self.places]

    def with_sizes(self, type: TensorType, number: int, sizes: Sequence[Size]) -> TensorType:
        """The type of a carried value if it had these sizes at the places."""
        shape = list(type.shape)
        for (other, axis), size in zip(self.places, sizes, strict=True):
            if other == number:
                shape[axis] = size
        return type.with_shape(tuple(shape))

    def filled(self, b: GraphBuilder, value: Value, number: int, sizes: Sequence[Size]) -> Value:
        """A buffer of these sizes that begins with the value; what does not fit is left out."""
        shape = self.with_sizes(value.type, number, sizes).shape
        high = tuple(size - own for size, own in zip(shape, value.type.shape))
        low = (0,) * value.type.rank
        return b.apply("pad", value, low=low, high=high, mode="constant", value=0)

    def begun(self, b: GraphBuilder, buffer: Value, number: int, sizes: Sequence[Size]) -> Value:
        """The beginning of a buffer, of these sizes."""
        shape = self.with_sizes(buffer.type, number, sizes).shape
        starts, steps = (0,) * len(shape), (1,) * len(shape)
        return b.apply("slice", buffer, starts=starts, shape=shape, steps=steps)


@dataclass(frozen=True)
class Buffers:
    """How a loop holds what changes its sizes. Where it `measures`, it ends at a length above its
    capacity; elsewhere the run ends there, for none may be."""

    lengths: Lengths
    capacities: tuple[Size, ...]
    measures: bool = False

    def type(self, value: Value, number: int) -> TensorType:
        """The type of a carried value's buffer; its own if it does not change."""
        return self.lengths.with_sizes(value.type, number, self.capacities)

    def opened(self, b: GraphBuilder, state: Sequence[Value], lengths: Value) -> list[Value]:
        """The carried values as the body sees them; some are buffers in `state`."""
        sizes = b.bind(lengths, "length_")
        changing = self.lengths.numbers
        return [
            self.lengths.begun(b, value, number, sizes) if number in changing else value
            for number, value in enumerate(state)
        ]

    def closed(self, b: GraphBuilder, results: Sequence[Value]) -> tuple[list[Value], Value]:
        """The body's carried results with buffers, and their lengths."""
        sizes = self.lengths.of(results)
        if not self.measures:
            require_nonnegative(b, [most - size for most, size in zip(self.capacities, sizes)])
        return self.filled(b, results), b.sizes(sizes)

    def filled(self, b: GraphBuilder, values: Sequence[Value]) -> list[Value]:
        """Carried values, those that change in buffers."""
        changing = self.lengths.numbers
        return [
            self.lengths.filled(b, value, number, self.capacities) if number in changing else value
            for number, value in enumerate(values)
        ]

    def goes_on(self, b: GraphBuilder, keep_going: Value, results: Sequence[Value]) -> Value:
        """The body's condition, which does not hold behind a capacity where the loop measures."""
        if not self.measures:
            return keep_going
        room = [most - size for most, size in zip(self.capacities, self.lengths.of(results))]
        least = b.scalar_size(reduce(dims.minimum, room))
        fits = b.apply("ge", least, b.constant(np.array(0, np.int64)))
        return b.apply("and", keep_going, fits)


def known_capacities(
    starts: Sequence[Size],
    lengths: Sequence[Dim],
    ends: Sequence[Size],
    inside: Collection[str],
    trips: Size,
) -> list[Size] | None:
    """The largest sizes in so many iterations; None where the sizes do not say.

    One iteration makes of `lengths`, which are symbols, `ends`; `inside` are all symbols that only
    the body knows.
    """
    found: dict[int, Size] = {}
    for _ in lengths:
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            step = end - lengths[number]
            if number in found:
                continue
            if not dims.symbol_names(step) & set(inside):
                found[number] = start + trips * dims.maximum(step, 0)
                continue
            known = {lengths[other]: most for other, most in found.items()}
            most = _most(end, known, inside)
            if most is not None:
                found[number] = dims.maximum(start, most)
    return [found[number] for number in range(len(lengths))] if len(found) == len(lengths) else None


def _most(end: Size, known: Mapping[Dim, Size], inside: Collection[str]) -> Size | None:
    """The most that `end` is: something from outside, or a length away from it."""
    if not dims.symbol_names(end) & set(inside):
        return end
    for length, most in known.items():
        if not dims.symbol_names(end - length) & set(inside):
            return dims.maximum(most + (end - length), 0)
    return None


ROOM = 64
"""How much longer than at the start a measuring loop lets a tensor become at first."""


def exceeded(b: GraphBuilder, lengths: Value, capacities: Value) -> tuple[Value, Value]:
    """Whether any length is above its capacity, and capacities to try next."""
    above = b.apply("gt", lengths, capacities)
    larger = b.apply("select", above, b.apply("add", lengths, lengths), capacities)
    return b.apply("reduce_any", above, axes=(0,)), larger
