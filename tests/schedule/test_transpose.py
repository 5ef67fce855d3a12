"""Axes that are transposed by squares in registers: every width of squares, all ends."""

from collections.abc import Sequence

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build, kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array, TensorType, f32, i64, type_of
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.schedule.spans import spans_of
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import HERE, targets_in_turn

ROWS = [2, 3, 4, 5, 8, 12, 33]
N, M = symbol("n"), symbol("m")


def transposed(
    arrays: Sequence[Array], function: str, shapes: Sequence[tuple[Size, ...]], target: Target
) -> list[Array]:
    """The last two axes of function(array) changed, for each array of a shape."""
    b = GraphBuilder("transpose")
    outputs = []
    for k, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        x = b.input(f"x{k}", TensorType(type_of(array).dtype, shape))
        outputs.append(b.apply("transpose", b.apply(function, x), permutation=(0, 2, 1)))
    return _run(b, outputs, arrays, target)


def _run(
    b: GraphBuilder, outputs: Sequence[Value], arrays: Sequence[Array], target: Target
) -> list[Array]:
    made = build(b.finish(outputs), Options(target=target.name))
    model = load_code(made.code, made.weights, machine_of(made.target), 2)
    return [np.array(found) for found in model.run(list(arrays))]


@targets_in_turn
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.uint8])
def test_rows_become_columns(kind: type, target: Target) -> None:
    """Short axes on either side, in one band of squares or many."""
    rng = np.random.default_rng(3)
    shapes = [shape for rows in ROWS for shape in ((1, rows, 1025), (2, 517, rows))]
    arrays: list[Array] = [rng.integers(0, 100, shape).astype(kind) for shape in shapes]
    for x, found in zip(arrays, transposed(arrays, "abs", shapes, target), strict=True):
        np.testing.assert_array_equal(found, x.transpose(0, 2, 1), err_msg=str(x.shape))


@targets_in_turn
@pytest.mark.parametrize("length", [20, 64, 100])
def test_stores_that_are_whole_kibibytes_apart(length: int, target: Target) -> None:
    """Squares side by side, with some in the last band that begin before its end; sizes that are
    free along the loads, of some squares and of none."""
    x = np.random.default_rng(8).standard_normal((length, 64, 37)).astype(np.float32)
    arrays, b = [x, x, x[..., :5].copy()], GraphBuilder("apart")
    sizes: list[Size] = [37, N, M]
    turned = []
    for place, size in enumerate(sizes):
        value = b.apply("abs", b.input(f"x{place}", TensorType(f32, (length, 64, size))))
        turned.append(b.apply("transpose", value, permutation=(2, 1, 0)))
    for given, found in zip(arrays, _run(b, turned, arrays, target), strict=True):
        np.testing.assert_array_equal(found, np.abs(given).transpose(2, 1, 0))


@pytest.mark.parametrize("shape", [(2, 0, 130), (2, 37, 0), (0, 37, 130)])
def test_axes_of_no_length(shape: tuple[int, ...]) -> None:
    (found,) = transposed([np.ones(shape, np.float32)], "tanh", [shape], HERE[0])
    assert found.shape == (shape[0], shape[2], shape[1])


@targets_in_turn
def test_functions_and_free_sizes(target: Target) -> None:
    """A function that is too costly to be written once for each row."""
    x = np.random.default_rng(4).standard_normal((2, 37, 130)).astype(np.float32)
    exact = np.tanh(x.astype(np.float64)).transpose(0, 2, 1)
    shapes: list[tuple[Size, ...]] = [(2, 37, 130), (2, N, 130), (2, 37, M), (2, N, M)]
    for shape, found in zip(shapes, transposed([x] * 4, "tanh", shapes, target), strict=True):
        np.testing.assert_allclose(found, exact, rtol=0, atol=3e-7, err_msg=str(shape))


@targets_in_turn
def test_what_a_row_shares(target: Target) -> None:
    """A number for each row, which lies next to the next row's, is spread along the vectors."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 37, 130)).astype(np.float32)
    divisors = rng.uniform(1, 2, (2, 37, 1)).astype(np.float32)
    b = GraphBuilder("transpose")
    left = b.input("x", TensorType(type_of(x).dtype, x.shape))
    right = b.input("d", TensorType(type_of(x).dtype, divisors.shape))
    value = b.apply("div", left, b.apply("broadcast_to", right, shape=x.shape))
    (found,) = _run(b, [b.apply("transpose", value, permutation=(0, 2, 1))], [x, divisors], target)
    np.testing.assert_array_equal(found, (x / divisors).transpose(0, 2, 1))


def test_rows_that_are_looked_up_are_not_transposed() -> None:
    """They lie along the stores: only the numbers of the rows are read across."""
    b = GraphBuilder("looked up")
    table = b.input("table", TensorType(f32, (65, 1024)))
    numbers = b.apply("transpose", b.input("i", TensorType(i64, (16, 100))), permutation=(1, 0))
    rows = b.apply("gather", table, numbers, axis=0)
    spread = b.apply("broadcast_to", b.input("c", TensorType(f32, (1024,))), shape=(100, 16, 1024))
    program = build_program(b.finish([b.apply("add", rows, spread)]), x86.AVX512)
    (kernel,) = kernels_of(program.steps)
    assert "vector i4 in 0..1024 by 16" in print_kernel(kernel)


def test_what_a_row_shares_alone_is_not_transposed() -> None:
    """A number for each row and a row for all: nothing jumps from line to line."""
    b = GraphBuilder("outer")
    left = b.input("left", TensorType(f32, (512, 1)))
    right = b.input("right", TensorType(f32, (1, 512)))
    spread = [b.apply("broadcast_to", value, shape=(512, 512)) for value in (left, right)]
    program = build_program(b.finish([b.apply("add", *spread)]), x86.AVX512)
    (kernel,) = kernels_of(program.steps)
    assert "vector i3 in 0..512 by 16" in print_kernel(kernel)


@targets_in_turn
@pytest.mark.parametrize("times", [2, 4, 8])
@pytest.mark.parametrize("shape", [(3, 5, 53), (20, 4, 16), (3, 5, N), (5, N, 23)])
def test_pixels_that_are_repeated(times: int, shape: tuple[Size, ...], target: Target) -> None:
    """An image grows while its channels move to the end."""
    b = GraphBuilder("grown")
    grown = (shape[0], shape[1] * times, shape[2] * times)
    attributes = {"shape": grown, "coordinate": "asymmetric", "nearest": "floor"}
    large = b.apply("resize", b.input("x", TensorType(f32, shape)), **attributes)
    rng = np.random.default_rng(5)
    x = rng.standard_normal([s if isinstance(s, int) else 37 for s in shape], np.float32)
    (found,) = _run(b, [b.apply("transpose", large, permutation=(1, 2, 0))], [x], target)
    wanted = x.repeat(times, 1).repeat(times, 2).transpose(1, 2, 0)
    np.testing.assert_array_equal(found, wanted)


@targets_in_turn
@pytest.mark.parametrize("times", [2, 4])
def test_repeated_pixels_of_which_the_last_are_cut_off(times: int, target: Target) -> None:
    b = GraphBuilder("cut")
    x = b.apply("reshape", b.input("x", TensorType(f32, (5, 7, 53))), shape=(5, 7, 53, 1))
    spread = b.apply("broadcast_to", x, shape=(5, 7, 53, times))
    rows, columns = b.apply("reshape", spread, shape=(5, 7, 53 * times)), 53 * times - 1
    cut = b.apply("slice", rows, starts=(0, 0, 0), shape=(5, 7, columns), steps=(1, 1, 1))
    array = np.random.default_rng(5).standard_normal((5, 7, 53), np.float32)
    (found,) = _run(b, [b.apply("transpose", cut, permutation=(1, 2, 0))], [array], target)
    np.testing.assert_array_equal(found, array.repeat(times, 2)[..., :-1].transpose(1, 2, 0))


def test_few_channels_of_an_image_that_grows_are_interleaved() -> None:
    b = GraphBuilder("grown")
    x = b.input("x", TensorType(f32, (3, 37, 53)))
    shape, floor = (3, 74, 106), {"coordinate": "asymmetric", "nearest": "floor"}
    large = b.apply("resize", x, shape=shape, **floor)
    graph = b.finish([b.apply("transpose", large, permutation=(1, 2, 0))])
    (kernel,) = kernels_of(build_program(graph, x86.AVX512).steps)
    assert "vector i3 in 0..16 by 16" in print_kernel(kernel)


@pytest.mark.parametrize("shape", [(256, 768), (144, 28, 28)])
def test_threads_write_a_piece_of_memory_each(shape: tuple[int, ...]) -> None:
    b = GraphBuilder("transpose")
    x = b.input("x", TensorType(f32, shape))
    permutation = (*range(1, len(shape)), 0)
    turned = b.finish([b.apply("transpose", x, permutation=permutation)])
    (kernel,) = kernels_of(build_program(turned, x86.AVX512).steps)
    spans = spans_of(kernel)
    assert spans is not None
    out = spans[kernel.buffers[-1].name]
    half = len(out.low) // 2
    overlap = out.high[half - 1] - out.low[half]
    assert len(out.low) > 4 and overlap * 4 < np.prod(shape)


@targets_in_turn
def test_axes_that_lie_side_by_side_elsewhere_are_parted(target: Target) -> None:
    """Weights [o, c, taps] as rows (taps, c) of o, the taps in order and from the last one on; rows
    of an unknown number that are turned round."""
    shapes = [(33, 5, 4), (32, 6, 9), (48, 3, 16), (17, 4, 25)]
    rng, b, outputs, wanted = np.random.default_rng(6), GraphBuilder("parted"), [], []
    arrays: list[Array] = [rng.standard_normal(shape, np.float32) for shape in shapes]
    for k, (o, c, taps) in enumerate(shapes):
        x = b.input(f"x{k}", TensorType(f32, (o, c, taps)))
        for order, back in (((2, 1, 0), 1), ((2, 1, 0), -1), ((2, 0, 1), -1)):
            starts = (0, 0, 0 if back == 1 else taps - 1)
            seen = b.apply("slice", x, starts=starts, shape=(o, c, taps), steps=(1, 1, back))
            rows = b.apply("transpose", seen, permutation=order)
            shape = (taps * rows.type.static_shape[1], rows.type.static_shape[2])
            outputs.append(b.apply("reshape", rows, shape=shape))
            wanted.append(arrays[k][..., ::back].transpose(order).reshape(shape))
    arrays.append(rng.standard_normal((37, 23), np.float32))
    x = b.input("rows", TensorType(f32, (N, 23)))
    seen = b.apply("slice", x, starts=(0, 22), shape=(N, 23), steps=(1, -1))
    outputs.append(b.apply("transpose", seen, permutation=(1, 0)))
    wanted.append(arrays[-1][:, ::-1].T)
    for found, expected in zip(_run(b, outputs, arrays, target), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_bias_does_not_hide_that_phases_become_neighbours() -> None:
    """The bias is read along channels, but it is not what would be gathered."""
    b = GraphBuilder("phases")
    x, bias = b.input("x", TensorType(f32, (2, 5, 8, 40))), b.input("bias", TensorType(f32, (5,)))
    turned = b.apply("transpose", x, permutation=(1, 2, 3, 0))
    rows = b.apply("reshape", turned, shape=(5, 8, 80))
    wide = b.apply("reshape", bias, shape=(5, 1, 1))
    sums = b.apply("add", rows, b.apply("broadcast_to", wide, shape=(5, 8, 80)))
    program = build_program(b.finish([sums]), x86.AVX512)
    (kernel,) = kernels_of(program.steps)
    stores = [line for line in print_kernel(kernel).splitlines() if "out0[" in line]
    assert len(stores) == 2 and not any("%2" in line for line in stores)


def test_what_shares_a_line_is_stored_in_a_row() -> None:
    """Gradients of convolutions to ONNX's order: 9 taps, 36 bytes, of each input channel."""
    b = GraphBuilder("taps")
    x = b.input("x", TensorType(f32, (9, 40, 48)))
    graph = b.finish([b.apply("transpose", x, permutation=(2, 1, 0))])
    (kernel,) = kernels_of(build_program(graph, x86.AVX512).steps)
    spans = spans_of(kernel)
    assert spans is not None
    out = spans[kernel.buffers[-1].name]
    # The first items write 16 outputs' gradients, the next ones the next 16.
    thirds = len(out.low) // 3
    assert max(out.high[:thirds]) <= 16 * 360 <= min(out.low[thirds : 2 * thirds])


@targets_in_turn
@pytest.mark.parametrize("kind", [np.float32, np.int8])
def test_short_rows_beside_one_another(kind: type, target: Target) -> None:
    rng = np.random.default_rng(3)
    shapes = [(9, 40, 48), (4, 33, 17), (25, 7, 20), (2, 64, 65), (32, 5, 70), (9, 1, 300)]
    b = GraphBuilder("taps")
    arrays: list[Array] = [rng.integers(-100, 100, shape).astype(kind) for shape in shapes]
    inputs = [b.input(f"x{k}", TensorType(type_of(x).dtype, x.shape)) for k, x in enumerate(arrays)]
    outputs = [b.apply("transpose", x, permutation=(2, 1, 0)) for x in inputs]
    for x, found in zip(arrays, _run(b, outputs, arrays, target), strict=True):
        np.testing.assert_array_equal(found, x.transpose(2, 1, 0), err_msg=str(x.shape))
