"""Normalizes inputs: (x - center) * scale, with statistics of the training data.

It is the first part of the network: its numbers are parameters that training does not move, so that
checkpoints keep them, exported networks carry them, and validation is measured by the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder.initializers import ONES, ZEROS
from bessemer.frontends.builder.network import Forward, Network
from bessemer.frontends.builder.tensor import Tensor

_ROWS = 4096
"""Rows that are looked at together: float64 copies of all would be large."""


@dataclass(frozen=True)
class Normalization:
    """What is done to one input.

    `kind` "standard" gives a mean of 0 and a deviation of 1, "range" numbers from 0 to 1. `axis` is
    the one whose entries are treated each by itself, by default the channels of images and the last
    axis of everything else. What is the same in all data stays at 0.
    """

    input: str
    kind: Literal["standard", "range"] = "standard"
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("standard", "range"):
            raise CompileError(f'A normalization is "standard" or "range", not {self.kind!r}.')

    def around(self, network: Network) -> Network:
        """The network with this before it; not fitted yet, it changes nothing.

        Raises CompileError where the network has no such float input.
        """
        names = [given.name for given in network.inputs]
        if self.input not in names:
            raise CompileError(
                f"There is no input {self.input} to normalize; there is {', '.join(names)}."
            )
        forward = _Around(network.forward, self, names.index(self.input))
        made = Network(
            forward,
            *network.inputs,
            name=network.name,
            outputs=network.structure.output_names,
            seed=network.seed,
            channels_last=network.channels_last,
        )
        return made.with_arrays(network.arrays())

    def parameter(self, name: str) -> str:
        """The parameter's name in the network."""
        return f"normalization.{self.input}.{name}"

    def axis_of(self, rank: int, channels_last: bool) -> int:
        """Which axis is treated entry by entry, of an input with a rank."""
        usual = 1 if rank >= 4 and not channels_last else rank - 1
        axis = usual if self.axis is None else self.axis % rank if -rank <= self.axis < rank else 0
        if axis == 0:
            raise CompileError(
                f"Input {self.input} has {rank} axes, the first of rows; axis {self.axis} is none "
                f"to normalize by."
            )
        return axis

    def fitted(self, network: Network, data: Mapping[str, Array]) -> dict[str, Array]:
        """The parameters' arrays for data; in the type and shape of the network's."""
        array = data[self.input]
        kept = self.axis_of(array.ndim, network.channels_last)
        axes = tuple(axis for axis in range(array.ndim) if axis != kept)
        if self.kind == "range":
            center, width = _range(array, axes)
        else:
            center, width = _moments(array, axes)
        # Rounding leaves a little of what is the same everywhere.
        is_flat = width <= 1e-7 * np.abs(center)
        scale = np.where(is_flat, 1.0, 1.0 / np.where(is_flat, 1.0, width))
        found = {}
        for name, value in (("center", center), ("scale", scale)):
            type = network.parameters[self.parameter(name)].type
            found[self.parameter(name)] = value.reshape(type.static_shape).astype(type.dtype.numpy)
        return found


def _range(array: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    low, high = (f(array, axis=axes).astype(np.float64) for f in (np.min, np.max))
    return low, high - low


def _moments(array: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Means and standard deviations in float64; the second pass is about the mean."""
    count = array.size // np.prod([n for k, n in enumerate(array.shape) if k not in axes])
    parts = [array[start : start + _ROWS] for start in range(0, len(array), _ROWS)]
    mean = sum(part.sum(axis=axes, dtype=np.float64) for part in parts) / count
    shape = [1 if axis in axes else n for axis, n in enumerate(array.shape)]
    squares = sum(((part - mean.reshape(shape)) ** 2).sum(axis=axes) for part in parts)
    return mean, np.sqrt(squares / count)


@dataclass(frozen=True, eq=False)
class _Around:
    """A network's forward, with one of its inputs normalized; names stay those of `inside`."""

    inside: Forward
    given: Normalization
    place: int

    def __call__(self, *inputs: Tensor) -> Any:
        x = inputs[self.place]
        if not x.dtype.is_float:
            raise CompileError(f"Input {self.given.input} is {x.type}; only floats are normalized.")
        axis = self.given.axis_of(x.rank, x.trace.channels_last)
        shape = [x.shape[axis] if place == axis else 1 for place in range(axis, x.rank)]
        center, scale = (
            x.parameter(self.given.parameter(name), shape, first, trainable=False)
            for name, first in (("center", ZEROS), ("scale", ONES))
        )
        moved = (x - center) * scale
        return self.inside(*inputs[: self.place], moved, *inputs[self.place + 1 :])
