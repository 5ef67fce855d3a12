"""Elementwise work, movement and reductions: nothing but memory to wait for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.cases import Build, Case, Peer, Sample, graph_of, numbers, picked, wide
from bessemer.compiler.ir.types import Array, TensorType, bf16, dtype_of
from bessemer.compiler.ops.composite import composite_activation, composite_reduce, composite_shape

BF16 = bf16.numpy
Function = Callable[..., Array]


def _simple(
    name: str, shape: Sequence[int], dtype: Any, count: int, build: Build, function: Function,
    peer: Peer | None, flops: float = 0.0,
) -> Case:  # fmt: skip
    """A case whose rows are computed from the inputs' rows of the same numbers."""
    kind = dtype_of(np.empty(0, dtype))

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        rows = picked(shape[0])
        return [Sample(0, rows, function(*(wide(array[rows]) for array in arrays)))]

    return Case(
        f"{name} {kind.name} {'x'.join(map(str, shape))}",
        lambda: graph_of(build, [TensorType(kind, tuple(shape))] * count),
        lambda: [numbers(shape, dtype, seed) for seed in range(count)],
        reference,
        4e-3 if kind is bf16 else 2e-6,
        flops,
        peer=peer,
    )


def pointwise_cases(small: bool) -> list[Case]:
    """Sums, and functions that cost something."""
    shape = (37, 130) if small else (8192, 8192)
    found = []
    for dtype in (np.float32, BF16):
        found += [
            _simple("add_relu", shape, dtype, 2, _add_relu, lambda x, y: np.maximum(x + y, 0),
                    lambda torch: lambda x, y: torch.relu(x + y)),
            _simple("gelu", shape, dtype, 1, composite_activation.gelu, _gelu,
                    lambda torch: torch.nn.functional.gelu),
            _simple("sigmoid_mul", shape, dtype, 2, _gated, lambda x, y: x / (1 + np.exp(-x)) * y,
                    lambda torch: lambda x, y: torch.nn.functional.silu(x) * y),
        ]  # fmt: skip
    return found


def _add_relu(b: Any, x: Any, y: Any) -> Any:
    return b.apply("relu", b.apply("add", x, y))


def _gated(b: Any, x: Any, y: Any) -> Any:
    return b.apply("mul", composite_activation.silu(b, x), y)


def _gelu(x: Array) -> Array:
    root = np.abs(x) / np.sqrt(2.0)
    return np.asarray(x * 0.5 * (1 + np.sign(x) * _error_function(root)))


def _error_function(x: Array) -> Array:
    """erf for x >= 0 by Simpson's rule over 400 parts: within 1e-9."""
    parts = np.linspace(0.0, 1.0, 401)
    weights = np.ones(401)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    bounded = np.minimum(x, 6.0)
    total = np.zeros_like(bounded)
    for part, weight in zip(parts, weights):
        total += weight * np.exp(-((part * bounded) ** 2))
    return np.asarray(total * bounded * (2 / np.sqrt(np.pi)) / (3 * 400))


def movement_cases(small: bool) -> list[Case]:
    """Copies in another order."""
    rows, columns = (45, 67) if small else (16384, 8192)
    image = (2, 5, 6, 3) if small else (64, 112, 112, 64)
    found = [
        _moved("transpose", (rows, columns), np.float32, (1, 0)),
        _moved("transpose", (rows, columns), BF16, (1, 0)),
        _moved("to_channels_first", image, np.float32, (0, 3, 1, 2)),
    ]
    half = _simple("concat", (rows, columns), np.float32, 2, _joined,
                   lambda x, y: np.concatenate([x, y], 1),
                   lambda torch: lambda x, y: torch.cat([x, y], 1))  # fmt: skip
    return [*found, half, _gathered(small)]


def _joined(b: Any, x: Any, y: Any) -> Any:
    return composite_shape.concat(b, [x, y], 1)


def _moved(name: str, shape: tuple[int, ...], dtype: Any, order: tuple[int, ...]) -> Case:
    kind = dtype_of(np.empty(0, dtype))

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        rows = picked(shape[order[0]])
        return [Sample(0, rows, wide(np.transpose(arrays[0], order)[rows]))]

    return Case(
        f"{name} {kind.name} {'x'.join(map(str, shape))}",
        lambda: graph_of(
            lambda b, x: b.apply("transpose", x, permutation=order), [TensorType(kind, shape)]
        ),
        lambda: [numbers(shape, dtype)],
        reference,
        0.0,
        peer=lambda torch: lambda x: x.permute(*order).contiguous(),
    )


def _gathered(small: bool) -> Case:
    rows, columns, count = (50, 24, 33) if small else (30522, 768, 131072)
    table = numbers((rows, columns))
    index = np.random.default_rng(1).integers(0, rows, count)

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        chosen = picked(count)
        return [Sample(0, chosen, wide(arrays[0][arrays[1][chosen]]))]

    return Case(
        f"gather f32 {count} of {rows}x{columns}",
        lambda: graph_of(lambda b, x, i: b.apply("gather", x, i, axis=0), [table, index]),
        lambda: [table, index],
        reference,
        0.0,
        bytes=8.0 * count * columns + 8.0 * count,
        peer=lambda torch: lambda x, i: x[i],
    )


def reduction_cases(small: bool) -> list[Case]:
    """Sums and maxima over rows, over columns, and over everything."""
    rows, columns = (33, 300) if small else (16384, 8192)
    found = []
    for name, axes in (("sum", (1,)), ("sum", (0,)), ("sum", (0, 1)), ("max", (1,))):
        for dtype in (np.float32, BF16):
            found.append(_reduced(name, (rows, columns), dtype, axes))
    return found


def _reduced(name: str, shape: tuple[int, int], dtype: Any, axes: tuple[int, ...]) -> Case:
    kind = dtype_of(np.empty(0, dtype))
    where = {(1,): "rows", (0,): "columns", (0, 1): "all"}[axes]

    def positive() -> list[Array]:
        return [np.abs(numbers(shape, dtype))]

    def reference(arrays: Sequence[Array]) -> list[Sample]:
        reduce = np.sum if name == "sum" else np.max
        if axes == (1,):
            rows = picked(shape[0])
            return [Sample(0, rows, reduce(wide(arrays[0][rows]), 1))]
        if axes == (0,):
            columns = picked(shape[1])
            return [Sample(0, columns, reduce(wide(arrays[0][:, columns]), 0))]
        return [Sample(0, (), np.asarray(np.sum(arrays[0], dtype=np.float64)))]

    return Case(
        f"{name} of {where} {kind.name} {shape[0]}x{shape[1]}",
        lambda: graph_of(
            lambda b, x: composite_reduce.reduce(b, name, x, axes), [TensorType(kind, shape)]
        ),
        positive,
        reference,
        4e-3 if kind is bf16 else 2e-6,
        peer=lambda torch: lambda x: x.sum(axes) if name == "sum" else x.amax(axes),
    )
