"""Statistics of gradients and activations, computed inside of the training step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, f32
from bessemer.compiler.ops.composite.composite import binary, cast, scalar_like
from bessemer.compiler.ops.composite.composite_reduce import mean
from bessemer.compiler.ops.composite.composite_shape import stack


@dataclass(frozen=True)
class Activations:
    """What a layer gave for a batch: mean, standard deviation, and the share that is 0."""

    mean: float
    deviation: float
    zeros: float


@dataclass(frozen=True)
class Statistics:
    """Of one step: the gradients' root mean squares by parameter, and activations by layer."""

    gradients: Mapping[str, float]
    activations: Mapping[str, Activations]

    def rows(self) -> list[tuple[str, str, str]]:
        """For a table: parameter, and its gradient's size with that of the largest as 1."""
        most = max(self.gradients.values(), default=0.0) or 1.0
        return [(name, f"{g:.2e}", f"{g / most:.1e}") for name, g in self.gradients.items()]

    def activation_rows(self) -> list[tuple[str, str, str, str]]:
        """For a table: layer, mean, deviation, share of zeros."""
        return [
            (name or "(all)", f"{a.mean:.3g}", f"{a.deviation:.3g}", f"{a.zeros:.1%}")
            for name, a in self.activations.items()
        ]


def read_statistics(
    parameters: Sequence[str], layers: Sequence[str], sizes: Array, activations: Array
) -> Statistics:
    """From the two outputs of a step."""
    return Statistics(
        dict(zip(parameters, sizes.tolist(), strict=True)),
        {
            name: Activations(*map(float, row))
            for name, row in zip(layers, activations.tolist(), strict=True)
        },
    )


def gradient_sizes(b: GraphBuilder, gradients: Sequence[Value]) -> Value:
    """Root mean squares [gradients], f32."""
    return stack(b, [b.apply("sqrt", _mean(b, _square(b, each))) for each in gradients], 0)


def activation_statistics(b: GraphBuilder, layers: Sequence[Value]) -> Value:
    """Means, deviations and shares of zeros [layers, 3], f32."""
    return stack(b, [stack(b, _statistics(b, each), 0) for each in layers], 0)


def _statistics(b: GraphBuilder, x: Value) -> list[Value]:
    center = _mean(b, x)
    square = binary(b, "sub", _mean(b, _square(b, x)), binary(b, "mul", center, center))
    zeros = cast(b, b.apply("eq", x, scalar_like(b, x, 0)), f32)
    return [center, b.apply("sqrt", binary(b, "max", square, 0.0)), _mean(b, zeros)]


def _square(b: GraphBuilder, x: Value) -> Value:
    return b.apply("mul", x, x)


def _mean(b: GraphBuilder, x: Value) -> Value:
    return mean(b, cast(b, x, f32), range(x.type.rank))
