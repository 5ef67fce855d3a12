"""Depthwise convolutions through their schedule, against NumPy in float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.expr import Buffer, Expression, binary
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Accumulate, Kernel, Store
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.schedule.convolution.depthwise import lower_depthwise
from bessemer.compiler.schedule.convolution.depthwise_plan import Depthwise, plan_depthwise
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import HERE, CompiledKernel

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """`shape` is that of the input; `dynamic` names symbolic sizes of n, h, w, c."""

    shape: tuple[int, int, int, int]
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    dynamic: str = ""
    low: tuple[int, int] = (0, 0)
    high: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        numbers = (self.shape, self.kernel, self.strides, self.dilations)
        text = "-".join(str(n).replace(" ", "") for n in numbers) + self.dynamic
        return f"{text}-pads{self.low}{self.high}".replace(" ", "")

    @property
    def outputs(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        high, wide = (
            (size + low + high - (taps - 1) * dilation - 1) // stride + 1
            for size, taps, stride, dilation, low, high in zip(
                self.shape[1:3], self.kernel, self.strides, self.dilations, self.low, self.high
            )
        )
        return high, wide


CASES = (
    Case((1, 5, 9, 4)),
    Case((2, 9, 9, 17)),
    Case((1, 16, 6, 3)),
    Case((1, 9, 11, 5), strides=(2, 2)),
    Case((1, 9, 12, 5), kernel=(5, 3), strides=(1, 2), dilations=(1, 2)),
    Case((1, 7, 7, 6), kernel=(1, 1)),
    Case((2, 6, 13, 7), dynamic="n"),
    Case((1, 7, 13, 7), dynamic="hw"),
    Case((2, 5, 6, 18), dynamic="nhwc"),
    Case((1, 7, 7, 5), low=(1, 1), high=(1, 1)),
    Case((1, 14, 30, 20), low=(1, 1), high=(1, 1)),
    Case((1, 11, 23, 3), kernel=(5, 5), low=(2, 2), high=(2, 2)),
    Case((1, 12, 26, 3), kernel=(5, 5), strides=(2, 2), low=(1, 1), high=(2, 2)),
    Case((1, 3, 2, 3), kernel=(7, 7), low=(3, 3), high=(3, 3)),
    Case((1, 9, 31, 4), dilations=(2, 3), low=(2, 3), high=(2, 3)),
    Case((1, 9, 33, 4), low=(1, 1), high=(1, 1), dynamic="w"),
    Case((2, 11, 34, 4), kernel=(5, 5), strides=(2, 2), low=(2, 2), high=(2, 2), dynamic="hw"),
    Case((1, 2, 3, 4), kernel=(5, 5), low=(2, 2), high=(2, 2), dynamic="nhwc"),
    Case((1, 9, 9, 4), low=(-1, 1), high=(1, 0)),
    Case((1, 8, 40, 4), kernel=(1, 9), low=(0, 9), high=(0, 9), dynamic="w"),
    Case((1, 5, 37, 17), kernel=(7, 7), low=(3, 3), high=(3, 3)),
    Case((1, 4, 9, 3), kernel=(9, 13), low=(9, 6), high=(1, 6)),
    Case((1, 13, 15, 4), kernel=(5, 5), strides=(2, 2), dilations=(3, 2), low=(6, 4), high=(6, 4)),
    Case((1, 1, 50, 4), kernel=(1, 31), low=(0, 15), high=(0, 15)),
    Case((1, 1, 131, 4), kernel=(1, 5), dilations=(1, 6), low=(0, 12), high=(0, 12)),
    Case((3, 1, 131, 4), kernel=(1, 3), strides=(1, 2), low=(0, 1), high=(0, 1), dynamic="w"),
    Case((1, 7, 30, 4), kernel=(5, 7), low=(2, 3), high=(2, 3), dynamic="nhwc"),
    Case((1, 1, 50, 4), kernel=(1, 40), low=(0, 39)),
    Case((1, 1, 9, 4), kernel=(1, 95), low=(0, 47), high=(0, 47)),
    Case((1, 2, 50, 2), kernel=(3, 41), low=(1, 20), high=(1, 20), dynamic="hw"),
    Case((2, 1, 99, 3), kernel=(1, 38), strides=(1, 2), dynamic="nw"),
    Case((1, 1, 70, 4), kernel=(1, 37), strides=(1, 2), dilations=(1, 3), low=(0, 50), high=(0, 9)),
)


def _prepare(case: Case, target: Target) -> tuple[Kernel, tuple[Buffer, ...]]:
    sizes: tuple[Size, ...] = tuple(
        symbol(name) if name in case.dynamic else size for name, size in zip("nhwc", case.shape)
    )
    count, high, wide, channels = sizes
    x = Buffer("x", f32, sizes)
    weights = Buffer("w", f32, (*case.kernel, channels))
    bias = Buffer("bias", f32, (channels,))
    rows, columns = (
        (size + before + after - (taps - 1) * dilation - 1) // stride + 1
        for size, taps, stride, dilation, before, after in zip(
            (high, wide), case.kernel, case.strides, case.dilations, case.low, case.high
        )
    )
    out = Buffer("out", f32, (count, rows, columns, channels))

    def epilogue(
        at: tuple[Size, Size, Size], channel: Size, total: Expression
    ) -> tuple[Store, ...]:
        return (Store(out, (*at, channel), binary("max", total + bias[channel], 0.0)),)

    work = Depthwise(
        lambda n, row, column, channel: x[n, row, column, channel],
        weights,
        case.strides,
        case.dilations,
        (count, rows, columns),
        channels,
        epilogue,
        case.low,
        (
            high if case.low[0] or case.high[0] else None,
            wide if case.low[1] or case.high[1] else None,
        ),
    )
    body = lower_depthwise(work, plan_depthwise(work, target))
    buffers = (x, weights, bias, out)
    return Kernel("tested", buffers, 1, tuple(case.dynamic), body), buffers


def _reference(case: Case, x: Array, w: Array, bias: Array) -> Array:
    high, wide = case.outputs
    x = x[:, max(0, -case.low[0]) :]  # a negative pad takes rows away
    x = np.pad(x, ((0, 0), *zip(np.maximum(case.low, 0), case.high), (0, 0)))
    total = np.zeros((case.shape[0], high, wide, case.shape[3])) + bias
    for i, j in product(range(case.kernel[0]), range(case.kernel[1])):
        top, left = i * case.dilations[0], j * case.dilations[1]
        rows = slice(top, top + (high - 1) * case.strides[0] + 1, case.strides[0])
        columns = slice(left, left + (wide - 1) * case.strides[1] + 1, case.strides[1])
        total += x[:, rows, columns].astype(np.float64) * w[i, j]
    return np.maximum(total, 0)


def _arrays(case: Case, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    x = rng.standard_normal(case.shape).astype(np.float32)
    w = rng.standard_normal((*case.kernel, case.shape[3])).astype(np.float32)
    return x, w, rng.standard_normal(case.shape[3]).astype(np.float32)


def _sizes(case: Case) -> dict[str, int]:
    return {name: size for name, size in zip("nhwc", case.shape) if name in case.dynamic}


def _each(targets: Sequence[Target], times: int) -> list[Any]:
    """Each case for as many of the targets, in turn."""
    return [
        pytest.param(case, target, id=f"{case}-{target.name}")
        for number, case in enumerate(CASES)
        for target in dict.fromkeys(targets[(number + k) % len(targets)] for k in range(times))
    ]


def test_code_does_not_grow_with_the_window() -> None:
    def accumulations(taps: int) -> int:
        case = Case((1, 1, 2 * taps, 4), kernel=(1, taps), low=(0, taps - 1))
        kernel, _ = _prepare(case, x86.AVX512)
        return sum(isinstance(statement, Accumulate) for statement in walk(kernel.body))

    assert 0 < accumulations(513) <= accumulations(54)


@pytest.mark.parametrize(("case", "target"), _each((x86.SSE42, x86.AVX512), 1))
def test_every_channel_is_convolved_with_its_own_filter(
    case: Case, target: Target, rng: np.random.Generator
) -> None:
    kernel, _ = _prepare(case, target)
    arrays = _arrays(case, rng)
    result = run_kernel(kernel, arrays, _sizes(case)).outputs[0]
    np.testing.assert_allclose(result, _reference(case, *arrays), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("case", "target"), _each(HERE, 2))
def test_machine_code_does_the_same(case: Case, target: Target, rng: np.random.Generator) -> None:
    kernel, _ = _prepare(case, target)
    arrays = _arrays(case, rng)
    expected = _reference(case, *arrays)
    out = np.full(expected.shape, np.nan, np.float32)
    result = CompiledKernel(kernel, target)([*arrays, out], _sizes(case)).arrays[-1]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
