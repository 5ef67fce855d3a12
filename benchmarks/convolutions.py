"""Depthwise and Winograd convolutions on one thread, against the peak measured beside them.

    python -m benchmarks.convolutions [--target x86_64-avx2] [--rounds 11]

Winograd's share counts the operations of the direct form, and its time includes the transforms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.gemm import Work, compile_work, convolution_work
from benchmarks.machine_code import (
    Array,
    Call,
    Function,
    Peak,
    Timing,
    aligned,
    load_kernel,
    measure,
    prepared,
)
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer, Expression, binary
from bessemer.compiler.ir.loops import Block, Kernel, Store
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.schedule.contraction.packing import pack, packed_shape
from bessemer.compiler.schedule.convolution.depthwise import lower_depthwise
from bessemer.compiler.schedule.convolution.depthwise_plan import (
    Depthwise,
    TileSize,
    plan_depthwise,
)
from bessemer.compiler.schedule.convolution.winograd import (
    lower_winograd,
    winograd_tiling,
)
from bessemer.compiler.schedule.convolution.winograd_weights import transform_weights
from bessemer.compiler.schedule.convolution.winograd_work import Winograd
from bessemer.compiler.targets.choose import parse_target
from bessemer.compiler.targets.machine import Target

DEPTHWISE = ((112, 32), (56, 144), (28, 192), (14, 384), (7, 960))  # pixels a side, channels
WINOGRAD = ((56, 64, 64), (28, 128, 128), (14, 256, 256), (7, 512, 512))


def _extent(kernel: Kernel) -> int:
    extent = kernel.parallel_extent
    assert isinstance(extent, int)
    return extent


def _ready(body: Block, arrays: dict[Buffer, Array], target: Target) -> tuple[Function, Call]:
    kernel = Kernel("tested", tuple(arrays), 1, (), body)
    function = load_kernel(kernel, target)
    return function, Call(function, tuple(arrays.values()), _extent(kernel))


def _copied(array: Array) -> Array:
    result = aligned(array.shape)
    result[...] = array
    return result


def depthwise(
    side: int, channels: int, stride: int, target: Target, tile: TileSize | None = None
) -> tuple[Callable[[], None], str, float]:
    """A compiled 3x3 layer with bias and relu, a description of it, and its operations."""
    rng = np.random.default_rng(0)
    wide, outputs = side + 2, (side - 1) // stride + 1
    x = Buffer("x", f32, (1, wide, wide, channels))
    w = Buffer("w", f32, (3, 3, channels))
    bias = Buffer("bias", f32, (channels,))
    out = Buffer("out", f32, (1, outputs, outputs, channels))

    def epilogue(at: tuple[Size, ...], channel: Size, total: Expression) -> tuple[Store, ...]:
        return (Store(out, (*at, channel), binary("max", total, 0.0)),)

    work = Depthwise(
        lambda n, row, column, channel: x[n, row, column, channel],
        w,
        (stride, stride),
        (1, 1),
        (1, outputs, outputs),
        channels,
        epilogue,
        lambda channel: bias[channel],
    )
    tile = tile or plan_depthwise(work, target)
    arrays = {
        buffer: _copied(rng.standard_normal(TensorType(f32, buffer.shape).static_shape))
        for buffer in (x, w, bias, out)
    }
    function, call = _ready(lower_depthwise(work, tile), arrays, target)
    call()
    expected = np.zeros((outputs, outputs, channels)) + arrays[bias]
    last = (outputs - 1) * stride + 1
    for i in range(3):
        for j in range(3):
            pixels = arrays[x][0, i : i + last : stride, j : j + last : stride]
            expected += pixels.astype(np.float64) * arrays[w][i, j]
    expected = np.maximum(expected, 0)
    wrong = np.linalg.norm(arrays[out][0] - expected) / np.linalg.norm(expected)
    assert wrong < 1e-6, wrong
    text = f"{tile.rows}x{tile.columns}, compiled in {function.seconds * 1e3:.0f} ms"
    return prepared(call), text, 18.0 * outputs * outputs * channels


def winograd(work: Work, target: Target, threads: int) -> tuple[Callable[[], None], str]:
    """The same layer as the direct form's, and a description of it."""
    _, rows, wide, columns = work.expected.shape
    channels = work.a.shape[3]
    x = Buffer("x", f32, (1, rows + 2 + rows % 2, wide + 2 + wide % 2, channels))
    bias, out = Buffer("bias", f32, (columns,)), work.out

    def epilogue(at: tuple[Size, ...], column: Size, total: Expression) -> tuple[Store, ...]:
        return (Store(out, (*at, column), binary("max", total + bias[column], 0.0)),)

    layer = Winograd(
        lambda n, row, column, channel: x[n, row, column, channel],
        (1, rows, wide),
        channels,
        columns,
        Buffer("u", f32, (1,)),
        epilogue,
    )
    panel = winograd_tiling(layer, target).panel
    layer = replace(layer, u=Buffer("u", f32, packed_shape(layer.points, channels, columns, panel)))
    stages = lower_winograd(layer, target, threads)
    input_ = np.zeros(TensorType(f32, x.shape).static_shape)
    input_[:, : rows + 2, : wide + 2] = work.a
    u = pack(transform_weights(work.b.reshape(3, 3, channels, columns)), panel)
    arrays = {x: _copied(input_), layer.u: _copied(u), bias: _copied(work.bias)}
    for buffer in (stages.v, stages.m, out):
        arrays[buffer] = aligned(TensorType(f32, buffer.shape).static_shape)
    ready = [_ready(body, arrays, target) for body in stages.bodies]
    calls = [prepared(call) for _, call in ready]

    def run() -> None:
        for call in calls:
            call()

    run()
    wrong = np.linalg.norm(arrays[out] - work.expected) / np.linalg.norm(work.expected)
    seconds = sum(function.seconds for function, _ in ready)
    return run, f"error {wrong:.1e}, {len(calls)} kernels compiled in {seconds * 1e3:.0f} ms"


def _shares(timing: Timing) -> str:
    return f"{100 * timing.share:5.1f} % (best {100 * timing.best:5.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="host")
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    target = parse_target(arguments.target)
    peak = Peak(target)
    for side, channels in DEPTHWISE:
        for stride in (1, 2):
            call, text, operations = depthwise(side, channels, stride, target)
            timing = measure(call, operations, peak, arguments.rounds)
            rate = operations / timing.seconds / 1e9
            print(
                f"depthwise {side}x{side}x{channels} s{stride}: {timing.seconds * 1e6:6.1f} us, "
                f"{rate:5.1f} GFLOP/s, {_shares(timing)} {text}"
            )
    for side, channels, columns in WINOGRAD:
        layer = (1, side, channels, columns, 3, 1, 1)
        work = convolution_work(layer, np.random.default_rng(0))
        direct = compile_work(work, target)
        forms = [("direct", prepared(direct.call), "")]
        forms += [(f"winograd for {n}", *winograd(work, target, n)) for n in (1, 2)]
        for name, call, text in forms:
            timing = measure(call, work.operations, peak, arguments.rounds)
            print(
                f"{work.name} {name:14s} {timing.seconds * 1e3:6.3f} ms, {_shares(timing)} {text}"
            )


if __name__ == "__main__":
    main()
