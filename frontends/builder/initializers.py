"""Initial values of parameters: each parameter has a random generator of its own.

It depends on a seed and the parameter's name. A network with one more layer, or with its
layers in another order, gives every parameter that keeps its name the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.settings import require_finite, require_not_negative

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fans:
    """How many inputs one output of a weight sums, and how many outputs one input reaches. Those of
    grouped convolutions count the outputs of all groups, as torch's initializers do."""

    inputs: int
    outputs: int


def fans_of(shape: Shape) -> Fans:
    """The fans of a weight [*kernel, inputs, outputs]."""
    if len(shape) < 2:
        return Fans(math.prod(shape), math.prod(shape))
    taps = math.prod(shape[:-2])
    return Fans(taps * shape[-2], taps * shape[-1])


class Initializer(Protocol):
    """Gives a new array of a shape, in float64 or float32."""

    def __call__(self, shape: Shape, fans: Fans, generator: np.random.Generator) -> Array: ...


def generator_for(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one parameter."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _drawn(
    generator: np.random.Generator, shape: Shape, *, uniform: bool, deviation: float
) -> Array:
    """Numbers around 0 with a standard deviation."""
    if uniform:
        numbers = generator.random(shape, dtype=np.float32) * 2 - 1
        return numbers * np.float32(deviation * math.sqrt(3))
    return generator.standard_normal(shape, dtype=np.float32) * np.float32(deviation)


@dataclass(frozen=True)
class Constant:
    """One number everywhere."""

    value: float = 0.0

    def __call__(self, shape: Shape, fans: Fans, generator: np.random.Generator) -> Array:
        return np.full(shape, self.value)


ZEROS = Constant(0.0)
ONES = Constant(1.0)


@dataclass(frozen=True)
class Normal:
    """Normally distributed."""

    deviation: float = 0.01
    mean: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative(self, "deviation")
        require_finite(self, "mean")

    def __call__(self, shape: Shape, fans: Fans, generator: np.random.Generator) -> Array:
        return _drawn(generator, shape, uniform=False, deviation=self.deviation) + self.mean


@dataclass(frozen=True)
class Uniform:
    """Evenly distributed from low to high."""

    low: float = -0.05
    high: float = 0.05

    def __post_init__(self) -> None:
        require_finite(self, "low", "high")
        if self.low > self.high:
            raise CompileError(f"Uniform: low is {self.low!r}, above high, {self.high!r}.")

    def __call__(self, shape: Shape, fans: Fans, generator: np.random.Generator) -> Array:
        return generator.random(shape) * (self.high - self.low) + self.low


@dataclass(frozen=True)
class Xavier:
    """Variance gain² · 2 / (inputs + outputs), for tanh and sigmoid (Glorot & Bengio, 2010)."""

    uniform: bool = True
    gain: float = 1.0

    def __post_init__(self) -> None:
        require_finite(self, "gain")

    def __call__(self, shape: Shape, fans: Fans, generator: np.random.Generator) -> Array:
        deviation = self.gain * math.sqrt(2 / max(fans.inputs + fans.outputs, 1))
        return _drawn(generator, shape, uniform=self.uniform, deviation=deviation)


@dataclass(frozen=True)
class He:
    """Variance 2 / ((1 + slope²) · fan), for ReLU, or leaky ReLU with a slope (He et al., 2015)."""

    uniform: bool = False
    slope: float = 0.0
    fan: Literal["inputs", "outputs"] = "inputs"

    def __post_init__(self) -> None:
        require_finite(self, "slope")
        if self.fan not in ("inputs", "outputs"):
            raise CompileError(f"He's fan is 'inputs' or 'outputs', not {self.fan!r}.")

    def __call__(self, shape: Shape, fans: Fans, generator: np.random.Generator) -> Array:
        count = fans.inputs if self.fan == "inputs" else fans.outputs
        deviation = math.sqrt(2 / ((1 + self.slope**2) * max(count, 1)))
        return _drawn(generator, shape, uniform=self.uniform, deviation=deviation)


@dataclass(frozen=True)
class Orthogonal:
    """As a matrix [others, last axis], orthonormal rows or columns (Saxe et al., 2014)."""

    gain: float = 1.0

    def __post_init__(self) -> None:
        require_finite(self, "gain")

    def __call__(self, shape: Shape, fans: Fans, generator: np.random.Generator) -> Array:
        if len(shape) < 2:
            raise CompileError(f"Orthogonal wants a weight with two axes at least, not {shape}.")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        numbers = generator.standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(numbers)
        # Without the signs, the distribution is not uniform over the orthogonal matrices.
        q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return np.asarray((q if rows >= columns else q.T).reshape(shape) * self.gain)


@dataclass(frozen=True)
class Parts:
    """Equal pieces along the last axis, each drawn by itself: the gates of a recurrent cell."""

    pieces: tuple[Initializer, ...]

    def __call__(self, shape: Shape, fans: Fans, generator: np.random.Generator) -> Array:
        piece = (*shape[:-1], shape[-1] // len(self.pieces))
        each = [initializer(piece, fans_of(piece), generator) for initializer in self.pieces]
        return np.concatenate(each, axis=-1)


@dataclass(frozen=True, eq=False)
class Given:
    """These very numbers."""

    array: Array | Sequence[float]

    def __call__(self, shape: Shape, fans: Fans, generator: np.random.Generator) -> Array:
        array = np.asarray(self.array)
        if array.shape != shape:
            raise CompileError(f"The array given for a parameter is {array.shape}, not {shape}.")
        return array
