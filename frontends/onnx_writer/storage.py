"""Where a graph's values are in an ONNX model: the tensor, the order of its axes, what it lacks.

Our convolutions have channels last, ONNX's have them first; our pointwise operators want equal
shapes, ONNX's broadcast. So a value is not always a tensor of the model, but
`broadcast_to(transpose(tensor, order), shape)`, written out only where an operator needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value

Order = tuple[int, ...]


def identity(rank: int) -> Order:
    """The order that leaves axes where they are."""
    return tuple(range(rank))


def inverse(order: Order) -> Order:
    """The order that undoes another."""
    result = [0] * len(order)
    for place, axis in enumerate(order):
        result[axis] = place
    return tuple(result)


def without(order: Order, axes: Sequence[int]) -> Order:
    """The order of what is left when axes of the value are gone."""
    kept = [place for axis, place in enumerate(order) if axis not in axes]
    return tuple(sorted(kept).index(place) for place in kept)


def to_channels_last(rank: int) -> Order:
    """From [N, C, *spatial] to [N, *spatial, C]."""
    return (0, *range(2, rank), 1)


def to_channels_first(rank: int) -> Order:
    """From [N, *spatial, C] to [N, C, *spatial]."""
    return inverse(to_channels_last(rank))


@dataclass(frozen=True)
class Stored:
    """A tensor of the model and how to read the value from it: axis i is its axis order[i].

    The shape is the tensor's; after reordering it broadcasts to the value's.
    """

    name: str
    shape: tuple[Size, ...]
    order: Order

    @property
    def seen_shape(self) -> tuple[Size, ...]:
        """The shape after reordering."""
        return tuple(self.shape[axis] for axis in self.order)

    def is_whole(self, value: Value) -> bool:
        """Whether nothing is broadcast."""
        return self.seen_shape == value.type.shape

    def reordered(self, order: Sequence[int]) -> Stored:
        """What a transpose of the value is."""
        return Stored(self.name, self.shape, tuple(self.order[axis] for axis in order))


def plain(name: str, shape: Sequence[Size]) -> Stored:
    """A tensor that is the value as it stands."""
    return Stored(name, tuple(shape), identity(len(shape)))
