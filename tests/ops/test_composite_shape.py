"""Broadcasting, and compositions that move or count elements."""

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import TensorType, f32, i64, u8
from bessemer.compiler.ops.composite.composite import (
    binary,
    broadcast,
    broadcast_shape,
    scalar_like,
    where,
)
from bessemer.compiler.ops.composite.composite_reduce import mean, softmax
from bessemer.compiler.ops.composite.composite_shape import (
    arange,
    expand_dims,
    eye,
    flip,
    from_channels_last,
    split,
    split_evenly,
    squeeze,
    stack,
    to_channels_last,
)
from tests.graph_runs import run
from tests.op_cases import assert_same


def test_broadcasting_unifies_equal_symbols_and_ones() -> None:
    n, m = symbol("n"), symbol("m")
    assert broadcast_shape((n, 1, 3), (m * 2, 1)) == (n, m * 2, 3)
    assert broadcast_shape((), (n,)) == (n,)
    assert broadcast_shape((2 * n,), (n + n,)) == (2 * n,)


@pytest.mark.parametrize("other", [symbol("m"), 4, symbol("n") + 1])
def test_broadcasting_of_sizes_that_may_differ_names_both(other: Size) -> None:
    with pytest.raises(CompileError, match=r"do not broadcast: .*n.* meets .*nothing says"):
        broadcast_shape((symbol("n"),), (other,))


def test_an_error_names_the_source_node() -> None:
    b = GraphBuilder("test")
    x, y = (b.input(name, TensorType(f32, (size,))) for name, size in (("x", 2), ("y", 3)))
    with pytest.raises(CompileError, match=r"^layer1/add: "), b.source("layer1/add"):
        b.apply("add", x, y)


def test_binary_and_where_take_numbers_and_broadcast(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((3, 1)), rng.standard_normal((2, 1, 4))
    assert_same(run(lambda b, v, w: binary(b, "sub", v, w), [x, y])[0], x - y, 0)
    assert_same(run(lambda b, v: binary(b, "sub", 1, v), [x])[0], 1 - x, 0)
    (actual,) = run(lambda b, v, w: where(b, binary(b, "gt", v, 0), w, -1), [x, y])
    assert_same(actual, np.where(x > 0, y, -1), 0)
    with pytest.raises(CompileError, match="one element type"):
        run(lambda b, v, w: binary(b, "add", v, w), [x, y.astype(np.float32)])


def test_broadcast_adds_no_node_where_shapes_are_equal() -> None:
    b = GraphBuilder("test")
    x, y = (b.input(name, TensorType(f32, (symbol("n"), 3))) for name in "xy")
    assert broadcast(b, x, y) == (x, y)
    assert b.nodes == []


# Moving and counting


def test_channels_last_and_back(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 4, 5))
    assert_same(run(to_channels_last, [x])[0], np.moveaxis(x, 1, -1), 0)
    assert_same(run(from_channels_last, [x])[0], np.moveaxis(x, -1, 1), 0)


def test_split_stack_and_flip(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 7))
    for actual, expected in zip(
        run(lambda b, v: split(b, v, (2, 4, 1), 1), [x]), np.split(x, [2, 6], 1), strict=True
    ):
        assert_same(actual, expected, 0)
    pieces = run(lambda b, v: split_evenly(b, v, 3, -1), [x])
    assert [piece.shape for piece in pieces] == [(3, 3), (3, 3), (3, 1)]
    assert_same(np.concatenate(pieces, 1), x, 0)
    assert_same(run(lambda b, v: stack(b, [v, v], -1), [x])[0], np.stack([x, x], -1), 0)
    assert_same(run(lambda b, v: flip(b, v, 0), [x], symbolic=True)[0], x[::-1], 0)
    assert_same(run(lambda b, v: expand_dims(b, v, -1), [x])[0], x[..., None], 0)
    with pytest.raises(CompileError, match="6 elements together"):
        run(lambda b, v: split(b, v, (2, 4), 1), [x])


def test_eye() -> None:
    for k in (-2, 0, 1):
        assert_same(run(lambda b, k=k: eye(b, 3, 5, k, f32), [])[0], np.eye(3, 5, k, np.float32), 0)


RANGES = [
    (0, 5, 1),
    (2, 9, 3),
    (9, 2, -3),
    (5, 5, 1),
    (3, 1, 1),
    (0.0, 1.0, 0.3),
    (1.0, -2.0, -0.7),
]


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("numbers", RANGES, ids=str)
def test_arange(numbers: tuple[float, float, float], constant: bool) -> None:
    dtype = np.int32 if isinstance(numbers[0], int) else np.float32
    arrays = [np.array(number, dtype) for number in numbers]
    if constant:
        (actual,) = run(lambda b: arange(b, *(b.constant(array) for array in arrays)), [])
    else:
        (actual,) = run(arange, arrays)
    assert_same(actual, np.arange(*numbers, dtype=dtype), 1e-6)


def test_a_range_of_a_dimension_has_that_size() -> None:
    b = GraphBuilder("test")
    n = symbol("n")
    x = b.input("x", TensorType(f32, (n, 3)))
    zero, one = (b.constant(np.array(number)) for number in (0, 1))
    y = arange(b, zero, b.scalar_size(x.type.shape[0]), one)
    assert y.type == TensorType(i64, (n,))
    graph = b.finish([y], ["y"])
    assert_same(run_graph(graph, {"x": np.zeros((4, 3), np.float32)})[0], np.arange(4), 0)


def test_scalars_cost_no_memory() -> None:
    b = GraphBuilder("test")
    x = b.input("x", TensorType(u8, (symbol("n"),)))
    value = scalar_like(b, x, 300)
    assert value.type == x.type
    assert not b.constants


def test_axes_are_checked() -> None:
    with pytest.raises(CompileError, match="axis 2 of a tensor with 2 axes"):
        run(lambda b, x: softmax(b, x, (2,)), [np.zeros((2, 3))])
    with pytest.raises(CompileError, match="one axis twice"):
        run(lambda b, x: mean(b, x, (1, -1)), [np.zeros((2, 3))])
    with pytest.raises(CompileError, match="its size is not 1"):
        run(lambda b, x: squeeze(b, x, (1,)), [np.zeros((2, 3))])
