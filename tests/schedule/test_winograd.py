"""Winograd's form of 3x3 convolutions, against NumPy in float64."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, product
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.evaluate import evaluate, evaluate_named
from bessemer.compiler.ir.expr import Buffer, Expression, binary
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Kernel, Store
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import TensorType, bf16, f32
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.contraction.packing import pack, packed_shape
from bessemer.compiler.schedule.convolution.winograd import (
    lower_winograd,
    winograd_tiling,
)
from bessemer.compiler.schedule.convolution.winograd_blocks import SHARES, groups_of_share
from bessemer.compiler.schedule.convolution.winograd_cost import (
    MOST_OF_DIRECT,
    is_profitable,
    share_in_segments,
)
from bessemer.compiler.schedule.convolution.winograd_taps import Taps
from bessemer.compiler.schedule.convolution.winograd_weights import transform_weights
from bessemer.compiler.schedule.convolution.winograd_work import Winograd
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import host_target
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import HERE, CompiledKernel

Array = npt.NDArray[Any]


def _work(
    outputs: tuple[Size, Size, Size],
    channels: int,
    columns: int,
    target: Target,
    taps: tuple[Taps, Taps] = (Taps(), Taps()),
) -> Winograd:
    """relu(conv(x, w) + bias), x with a border that the windows need."""
    images, rows, wide = outputs
    more, beside = ((axis.count - 1) * axis.dilation for axis in taps)
    x = Buffer("x", f32, (images, rows + more, wide + beside, channels))
    bias = Buffer("bias", f32, (columns,))
    out = Buffer("out", f32, (*outputs, columns))

    def epilogue(at: tuple[Size, Size, Size], column: Size, total: Expression) -> tuple[Store, ...]:
        return (Store(out, (*at, column), binary("max", total + bias[column], 0.0)),)

    def element(n: Size, row: Size, column: Size, channel: Size) -> Expression:
        return x[n, row, column, channel]

    draft = Winograd(element, outputs, channels, columns, Buffer("u", f32, (1,)), epilogue, taps)
    panel = winograd_tiling(draft, target).panel
    return replace(
        draft, u=Buffer("u", f32, packed_shape(draft.matrices, channels, columns, panel))
    )


def _interpret(
    work: Winograd,
    target: Target,
    arrays: dict[str, Array],
    threads: int,
    sizes: dict[str, int],
) -> Array:
    images, rows, wide, _ = arrays["x"].shape
    rows, wide = (
        size - (axis.count - 1) * axis.dilation for size, axis in zip((rows, wide), work.taps)
    )
    stages = lower_winograd(work, target, threads)
    memory = dict(arrays)
    memory["out"] = np.zeros((images, rows, wide, work.columns), np.float32)
    shapes = {"x": arrays["x"].shape, "bias": (work.columns,), "out": memory["out"].shape}
    buffers = [Buffer(name, f32, shape) for name, shape in shapes.items()]
    buffers += [work.u, stages.v, stages.m]
    for buffer in (stages.v, stages.m):
        shape = tuple(evaluate_named(size, sizes) for size in buffer.shape)
        memory[buffer.name] = np.full(shape, np.nan, np.float32)
    for body in stages.bodies:
        kernel = Kernel("tested", tuple(buffers), len(buffers), tuple(sizes), body)
        results = run_kernel(kernel, [memory[buffer.name] for buffer in buffers], sizes)
        memory |= {b.name: array for b, array in zip(buffers, results.outputs, strict=True)}
    return memory["out"]


# More columns than a panel has, and a panel of which some are none.
@pytest.mark.parametrize(
    ("outputs", "channels", "columns", "target"),
    [
        ((1, 4, 4), 3, 5, x86.SSE42),
        ((1, 4, 4), 3, 5, x86.AVX512),
        ((2, 8, 6), 5, 9, x86.SSE42),
        ((1, 5, 7), 4, 33, x86.AVX512),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("threads", [1, 64])
@pytest.mark.parametrize("dynamic", ["", "n", "hw"])
def test_it_is_the_convolution(
    outputs: tuple[int, int, int],
    channels: int,
    columns: int,
    threads: int,
    target: Target,
    dynamic: str,
    rng: np.random.Generator,
) -> None:
    sizes = {name: size for name, size in zip("nhw", outputs) if name in dynamic}
    known = zip("nhw", outputs)
    n, h, w_ = (symbol(name) if name in dynamic else size for name, size in known)
    work = _work((n, h, w_), channels, columns, target)
    images, rows, wide = outputs
    x = rng.standard_normal((images, rows + 2, wide + 2, channels))
    w = rng.standard_normal((3, 3, channels, columns))
    bias = rng.standard_normal(columns)
    arrays = {"x": x.astype(np.float32), "bias": bias.astype(np.float32)}
    panel = winograd_tiling(work, target).panel
    arrays["u"] = pack(transform_weights(w.astype(np.float32)), panel)
    result = _interpret(work, target, arrays, threads, sizes)
    expected = np.zeros(result.shape) + bias
    for i, j in product(range(3), range(3)):
        expected += arrays["x"][:, i : i + rows, j : j + wide].astype(np.float64) @ w[i, j]
    np.testing.assert_allclose(result, np.maximum(expected, 0), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dynamic", ["n", "hw"])
def test_where_weights_exceed_the_cache_every_step_is_a_kernel(
    dynamic: str, rng: np.random.Generator
) -> None:
    target = replace(x86.AVX512, l2_bytes=1 << 9)
    batch = _work((symbol("n"), 8, 6), 5, 9, target)
    assert len(lower_winograd(batch, target).bodies) == 3
    assert len(lower_winograd(batch, x86.AVX512).bodies) == 1
    test_it_is_the_convolution((2, 8, 6), 5, 9, 1, target, dynamic, rng)


LINES_AND_SEGMENTS = (
    ((1, 1, 11), (Taps(1), Taps(3))),
    ((2, 7, 3), (Taps(3), Taps(1))),
    ((1, 1, 23), (Taps(1), Taps(3, 4))),
    ((1, 7, 9), (Taps(3, 2), Taps(3, 3))),
    ((1, 8, 8), (Taps(3, 2), Taps(3, 2))),
    ((1, 10, 13), (Taps(3, 4), Taps(3, 5))),
    ((1, 7, 10), (Taps(5), Taps(7))),
    ((2, 6, 5), (Taps(6), Taps(4))),
    ((1, 5, 9), (Taps(9), Taps(1))),
    ((1, 1, 31), (Taps(1), Taps(11, 3))),
    ((1, 9, 8), (Taps(4, 2), Taps(2))),
    ((1, 6, 7), (Taps(2), Taps(2, 3))),
    ((1, 5, 6), (Taps(3), Taps(10))),
)


# Half of them on each target, of which half for one thread, the others for many.
@pytest.mark.parametrize(
    ("target", "threads", "outputs", "taps"),
    [
        pytest.param(target, threads, *case, id=f"{target.name}-{threads}-{number}")
        for number, (case, (target, threads)) in enumerate(
            zip(LINES_AND_SEGMENTS, cycle(product((x86.SSE42, x86.AVX512), (64, 1))))
        )
    ],
)
def test_one_axis_dilations_and_segments(
    outputs: tuple[int, int, int],
    taps: tuple[Taps, Taps],
    threads: int,
    target: Target,
    rng: np.random.Generator,
) -> None:
    work = _work(outputs, 5, 9, target, taps)
    images, rows, wide = outputs
    more, beside = ((axis.count - 1) * axis.dilation for axis in taps)
    sizes = TensorType(f32, (images, rows + more, wide + beside, 5)).static_shape
    x = rng.standard_normal(sizes).astype(np.float32)
    w = rng.standard_normal((taps[0].count, taps[1].count, 5, 9))
    u = pack(transform_weights(w.astype(np.float32)), winograd_tiling(work, target).panel)
    arrays: dict[str, Array] = {"x": x, "bias": np.zeros(9, np.float32), "u": u}
    result = _interpret(work, target, arrays, threads, {})
    expected = np.zeros(result.shape)
    for i, j in product(range(taps[0].count), range(taps[1].count)):
        top, left = i * taps[0].dilation, j * taps[1].dilation
        expected += x[:, top : top + rows, left : left + wide].astype(np.float64) @ w[i, j]
    np.testing.assert_allclose(result, np.maximum(expected, 0), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("taps", "error"), [(3, 6e-7), (5, 4e-7), (7, 4e-7), (9, 4e-7)])
def test_it_is_at_least_as_exact_as_the_direct_form(
    taps: int, error: float, rng: np.random.Generator
) -> None:
    """With machine code, on layers of ResNet-50's kind, for which `error` is the direct form's, and
    of long kernels, for which it is less."""
    target = HERE[-1]
    work = _work((1, 14, 14), 128, 64, target, (Taps(taps), Taps(taps)))
    x = rng.standard_normal((1, 13 + taps, 13 + taps, 128)).astype(np.float32)
    w = rng.standard_normal((taps, taps, 128, 64)).astype(np.float32)
    bias = np.zeros(64, np.float32)
    stages = lower_winograd(work, target, 1)
    u = pack(transform_weights(w), winograd_tiling(work, target).panel)
    out = np.zeros((1, 14, 14, 64), np.float32)
    buffers = [Buffer("x", f32, x.shape), Buffer("bias", f32, bias.shape), work.u]
    buffers += [stages.v, stages.m, Buffer("out", f32, out.shape)]
    memory = [np.zeros(TensorType(f32, b.shape).static_shape, np.float32) for b in buffers[3:5]]
    arrays = [x, bias, u, *memory, out]
    for body in stages.bodies:
        kernel = Kernel("tested", tuple(buffers), len(buffers), (), body)
        arrays = list(CompiledKernel(kernel, target)(arrays).arrays)
    expected = np.zeros(out.shape)
    for i, j in product(range(taps), range(taps)):
        expected += x[:, i : i + 14, j : j + 14].astype(np.float64) @ w[i, j]
    expected = np.maximum(expected, 0)
    difference = arrays[-1] - expected
    assert np.linalg.norm(difference) < error * np.linalg.norm(expected)


def test_all_rows_of_tiles_may_be_cut_into_items_of_one_kernel() -> None:
    few, many = (
        lower_winograd(_work((1, 64, 64), 64, 64, x86.AVX512), x86.AVX512, threads)
        for threads in (64, 1)
    )
    assert (len(few.bodies), len(many.bodies)) == (3, 1)


def test_it_is_for_wide_layers_with_known_channels() -> None:
    assert is_profitable((1, 56, 56), 64, 64, f32)
    assert is_profitable((symbol("n"), symbol("h"), 56), 64, 64, f32)
    assert not is_profitable((1, 56, 56), 3, 64, f32)
    assert not is_profitable((1, 56, 56), 64, symbol("c"), f32)
    assert is_profitable((1, 1, 7500), 128, 128, f32, (Taps(1), Taps(3, 1024)))
    assert not is_profitable((1, 1, 1025), 128, 128, f32, (Taps(1), Taps(3, 1024)))
    assert not is_profitable((1, 56, 56), 64, 64, f32, (Taps(1), Taps(1)))
    assert is_profitable((1, 1, 200), 24, 56, f32, (Taps(1), Taps(3)))
    assert not is_profitable((1, 1, 200), 16, 56, f32, (Taps(1), Taps(3)))


def test_it_is_compared_with_the_products_that_are_inside_of_the_image() -> None:
    """Six places apart, 20 outputs need 12 tiles, 28 need 16 (12 and 4 that begin in the image)."""
    far = (Taps(3, 6), Taps(3, 6))
    assert [far[0].tiles(size) for size in (4, 14, 20, 28)] == [4, 8, 12, 16]
    assert is_profitable((1, 20, 20), 256, 64, f32, far)
    assert not is_profitable((1, 20, 20), 256, 64, f32, far, left=0.64)
    assert is_profitable((1, 56, 56), 256, 64, f32, far, left=0.86)
    assert not is_profitable((8, 8, 8), 32, 32, f32, (Taps(3, 3), Taps(3, 3)), planes=3, left=0.42)


def test_segments_are_for_channels_whose_products_outweigh_the_transforms() -> None:
    def pays(
        outputs: Sequence[Size],
        channels: int,
        columns: Size,
        taps: tuple[Taps, Taps],
        is_across: bool = False,
    ) -> bool:
        return share_in_segments(outputs, channels, columns, taps, is_across) < MOST_OF_DIRECT

    square, line = (Taps(5), Taps(5)), (Taps(1), Taps(7))
    assert pays((1, 27, 27), 64, 192, square)
    assert pays((symbol("n"), symbol("h"), symbol("w")), 16, 16, square)
    assert not pays((1, 27, 27), 16, 16, square, is_across=True)
    assert not pays((1, 27, 27), 3, 64, square)
    assert not pays((1, 27, 27), 64, symbol("c"), square)
    for images in (1, symbol("n")):
        assert not pays((images, 3, 3), 64, 64, square)
    assert pays((1, 1, 400), 64, 64, line)
    assert not pays((1, 1, 400), 16, 16, line)


def _convolution_of_images(w: Array) -> Graph:
    """relu(conv(x) + bias) of padded images, n of h by w."""
    b = GraphBuilder("images")
    x = b.input("x", TensorType(f32, (symbol("n"), symbol("h"), symbol("w"), w.shape[2])))
    low, high = tuple(size // 2 for size in w.shape[:2]), tuple(s - 1 - s // 2 for s in w.shape[:2])
    around = {"dilations": (1, 1), "low": low, "high": high, "groups": 1}
    y = b.apply("conv", x, b.constant(w), strides=(1, 1), **around)
    bias = b.constant(np.arange(w.shape[3], dtype=np.float32))
    wide = b.apply("broadcast_to", bias, shape=y.type.shape)
    return b.finish([b.apply("relu", b.apply("add", y, wide))])


@pytest.mark.parametrize(("down", "across"), [(5, 5), (7, 4), (9, 1)])
def test_networks_take_long_kernels_in_segments(
    down: int, across: int, rng: np.random.Generator
) -> None:
    """Images of any size, on one thread and two."""
    w = rng.standard_normal((down, across, 48, 40)).astype(np.float32)
    made = build(_convolution_of_images(w), Options())
    scratch = [launch for launch in made.program.steps if isinstance(launch, Launch)]
    is_direct = host_target().has_tiles
    assert any(len(launch.scratch) == 2 for launch in scratch) or is_direct
    machine = machine_of(made.target)
    models = [load_code(made.code, made.weights, machine, threads) for threads in (1, 2)]
    for sizes in ((1, 4, 5), (2, 9, 30), (0, 8, 8)):
        array = rng.standard_normal((*sizes, 48)).astype(np.float32)
        (one,), (two,) = (model.run({"x": array}) for model in models)
        assert one.tobytes() == two.tobytes()
        borders = ((0, 0), *((size // 2, size - 1 - size // 2) for size in (down, across)), (0, 0))
        padded = np.pad(array, borders).astype(np.float64)
        expected = np.zeros((*sizes, 40)) + np.arange(40)
        for i, j in product(range(down), range(across)):
            expected += padded[:, i : i + sizes[1], j : j + sizes[2]] @ w[i, j]
        np.testing.assert_allclose(one, np.maximum(expected, 0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("blocks", [0, 1, 2, 8, 15, 16, 17, 100])
@pytest.mark.parametrize("groups", [1, 4])
def test_blocks_of_any_number_are_dealt_evenly(blocks: int, groups: int) -> None:
    count = symbol("blocks")
    shares = [groups_of_share(count, groups, share, 1) for share in range(SHARES)]
    parts = [tuple(evaluate(size, lambda _: blocks) for size in share) for share in shares]
    done = [begin + number for begin, mine in parts for number in range(mine)]
    assert done == list(range(blocks * groups))
    half = sum(mine for _, mine in parts[: SHARES // 2])
    assert abs(2 * half - blocks * groups) <= (1 if blocks <= 4 else groups)


def test_few_blocks_of_an_unknown_number_share_the_columns(rng: np.random.Generator) -> None:
    b = GraphBuilder("images")
    x = b.input("x", TensorType(f32, (symbol("n"), symbol("h"), symbol("w"), 16)))
    w = rng.standard_normal((3, 3, 16, 256)).astype(np.float32)
    around = {"dilations": (1, 1), "low": (1, 1), "high": (1, 1), "groups": 1}
    graph = b.finish([b.apply("conv", x, b.constant(w), strides=(1, 1), **around)])
    made = build(graph, Options())
    machine = machine_of(made.target)
    models = [load_code(made.code, made.weights, machine, threads) for threads in (1, 2)]
    for sizes in ((1, 4, 5), (2, 9, 30), (3, 40, 41), (0, 8, 8)):
        array = rng.standard_normal((*sizes, 16)).astype(np.float32)
        (one,), (two,) = (model.run({"x": array}) for model in models)
        assert one.tobytes() == two.tobytes()
        padded = np.pad(array, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64)
        expected = np.zeros((*sizes, 256))
        for i, j in product(range(3), range(3)):
            expected += padded[:, i : i + sizes[1], j : j + sizes[2]] @ w[i, j]
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(not host_target().has_dot_bf16, reason="no such products on this machine")
@pytest.mark.parametrize(
    "sizes", [(2, 18, 21), (symbol("n"), symbol("h"), symbol("w"))], ids=["known", "symbolic"]
)
def test_of_rounded_numbers_it_is_nearly_as_exact_as_the_direct_form(
    sizes: tuple[Size, ...], rng: np.random.Generator
) -> None:
    b = GraphBuilder("images")
    x = b.input("x", TensorType(f32, (*sizes, 39)))
    w = (rng.standard_normal((3, 3, 39, 70)) / 20).astype(np.float32)
    around = {"dilations": (1, 1), "low": (1, 1), "high": (1, 1), "groups": 1}
    sums = b.apply("conv", x, b.constant(w), strides=(1, 1), **around)
    made = build(b.finish([b.apply("relu", sums)]), Options(precision="bfloat16"))
    launches = [step for step in made.program.steps if isinstance(step, Launch)]
    types = [value.type for step in launches for value in step.values]
    assert any(type.dtype is bf16 and type.shape[1:2] == (16,) for type in types)  # of 16 points
    array = rng.standard_normal((2, 18, 21, 39)).astype(np.float32)
    (found,) = load_code(made.code, made.weights, machine_of(made.target), 2).run({"x": array})

    def direct(x: Array, w: Array) -> Array:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64)
        total = np.zeros((2, 18, 21, 70))
        for i, j in product(range(3), range(3)):
            total += padded[:, i : i + 18, j : j + 21] @ w[i, j]
        return np.maximum(total, 0)

    exact = direct(array, w)
    rounded = direct(*(a.astype(ml_dtypes.bfloat16).astype(np.float64) for a in (array, w)))
    assert np.linalg.norm(found - exact) < 2 * np.linalg.norm(rounded - exact)


@pytest.mark.parametrize("taps", [3, 5])
def test_no_images(taps: int) -> None:
    b = GraphBuilder("none")
    x = b.input("x", TensorType(f32, (0, 13, 11, 32)))
    w = b.constant(np.ones((taps, taps, 32, 32), np.float32))
    around = {"dilations": (1, 1), "low": (0, 0), "high": (0, 0), "groups": 1}
    made = build(b.finish([b.apply("conv", x, w, strides=(1, 1), **around)]), Options())
    model = load_code(made.code, made.weights, machine_of(made.target))
    (found,) = model.run({"x": np.ones((0, 13, 11, 32), np.float32)})
    assert found.shape == (0, 14 - taps, 12 - taps, 32)
