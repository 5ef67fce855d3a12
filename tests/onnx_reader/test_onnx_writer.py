"""What is written as ONNX computes in onnxruntime what the graph means."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array, TensorType, boolean, f32, i64
from bessemer.compiler.ops.composite.composite import binary, reshape
from bessemer.compiler.ops.composite.composite_activation import (
    elu,
    gelu,
    hard_swish,
    mish,
    selu,
    softplus,
    softsign,
)
from bessemer.compiler.ops.composite.composite_normalize import batch_norm, layer_norm
from bessemer.compiler.ops.composite.composite_reduce import log_softmax, mean, softmax
from bessemer.compiler.ops.composite.composite_shape import (
    flip,
    from_channels_last,
    slice_axis,
    to_channels_last,
)
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.frontends.onnx_writer import write
from bessemer.frontends.onnx_writer.write import write_onnx
from tests.onnx_reader.onnx_runs import Feed, assert_near, run_written

Build = Callable[..., Value | Sequence[Value]]


def _graph(build: Build, **shapes: Sequence[Size | str]) -> Graph:
    b = GraphBuilder("graph")
    inputs = [
        b.input(name, TensorType(f32, tuple(symbol(s) if isinstance(s, str) else s for s in shape)))
        for name, shape in shapes.items()
    ]
    outputs = build(b, *inputs)
    listed = [outputs] if isinstance(outputs, Value) else list(outputs)
    return b.finish(listed, [f"y{k}" for k in range(len(listed))])


def _numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _kinds(graph: Graph) -> list[str]:
    return [node.op_type for node in write_onnx(graph).graph.node]


def _check(graph: Graph, *feeds: Feed) -> None:
    for feed in feeds:
        for actual, wanted in zip(run_written(graph, feed), run_graph(graph, feed), strict=True):
            assert_near(actual, wanted, 1e-5)
        again = read_onnx(write_onnx(graph))
        for actual, wanted in zip(run_graph(again, feed), run_graph(graph, feed), strict=True):
            assert_near(actual, wanted, 1e-5)


_VECTORS = [_numbers(4, seed=k) for k in range(4)]


def _norm(b: GraphBuilder, x: Value) -> Value:
    scale, bias, center, spread = (b.constant(np.abs(v), f"p{k}") for k, v in enumerate(_VECTORS))
    return batch_norm(b, x, scale, bias, center, spread, 1e-3, axis=1)


def _layer_norm(b: GraphBuilder, x: Value) -> Value:
    scale, bias = b.constant(_VECTORS[0], "scale"), b.constant(_VECTORS[1], "bias")
    return layer_norm(b, x, scale, bias, (3,), 1e-4)


COMPOSITIONS: dict[str, Build] = {
    "Gelu": gelu,
    "HardSwish": hard_swish,
    "Mish": mish,
    "Selu": selu,
    "Softplus": softplus,
    "Softsign": softsign,
    "Elu": elu,
    "Softmax": lambda b, x: softmax(b, x, (1,)),
    "LogSoftmax": lambda b, x: log_softmax(b, x, (-1,)),
    "ReduceMean": lambda b, x: mean(b, x, (1, 2), keep=True),
    "BatchNormalization": _norm,
    "LayerNormalization": _layer_norm,
}


@pytest.mark.parametrize("kind", COMPOSITIONS)
def test_a_composition_is_found_again(kind: str) -> None:
    graph = _graph(COMPOSITIONS[kind], x=("n", 4, 3, 4))
    assert _kinds(graph) == [kind]
    _check(graph, {"x": _numbers(1, 4, 3, 4)}, {"x": _numbers(3, 4, 3, 4)})


def test_what_only_resembles_a_composition_is_not_taken_for_it() -> None:
    def build(b: GraphBuilder, x: Value) -> Value:
        powers = b.apply("exp", binary(b, "mul", x, 2.0))
        total = b.apply("reduce_sum", x, axes=(1,))
        return binary(b, "div", powers, reshape(b, total, (x.type.shape[0], 1)))

    graph = _graph(build, x=("n", 5))
    assert "Softmax" not in _kinds(graph)
    _check(graph, {"x": np.abs(_numbers(2, 5))})


def _conv(b: GraphBuilder, x: Value, channels: int, features: int, seed: int) -> Value:
    weight = b.constant(_numbers(3, 3, channels, features, seed=seed), f"conv{seed}.weight")
    window = {"strides": (1, 1), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}
    made = b.apply("conv", x, weight, groups=1, **window)
    return binary(b, "add", made, b.constant(_numbers(features, seed=seed), f"conv{seed}.bias"))


def test_a_channels_last_chain_becomes_channels_first_without_transposes() -> None:
    def build(b: GraphBuilder, x: Value) -> Value:
        first = b.apply("relu", _conv(b, to_channels_last(b, x), 3, 4, 1))
        second = binary(b, "add", _conv(b, first, 4, 4, 2), first)
        both = b.apply("concat", first, second, axis=3)
        return from_channels_last(b, slice_axis(b, both, 3, 1, 5))

    graph = _graph(build, x=("n", 3, 6, "w"))
    assert _kinds(graph) == ["Conv", "Relu", "Conv", "Add", "Concat", "Slice"]
    _check(graph, {"x": _numbers(1, 3, 6, 5)}, {"x": _numbers(2, 3, 6, 7)})


def test_parameters_keep_their_names_and_are_written_in_onnx_s_layout() -> None:
    graph = _graph(lambda b, x: _conv(b, x, 3, 4, 1), x=(1, 5, 5, 3))
    constants = {tensor.name: tuple(tensor.dims) for tensor in write_onnx(graph).graph.initializer}
    assert constants == {"conv1.weight": (4, 3, 3, 3), "conv1.bias": (4,)}


def test_a_parameter_used_in_two_layouts_keeps_its_name_once() -> None:
    def build(b: GraphBuilder, x: Value) -> Value:
        weight = b.constant(_numbers(4, 4), "weight")
        transposed = b.apply("transpose", weight, permutation=(1, 0))
        return b.apply("matmul", b.apply("matmul", x, weight), transposed)

    graph = _graph(build, x=("n", 4))
    names = [tensor.name for tensor in write_onnx(graph).graph.initializer]
    assert sorted(names) == ["weight", "weight_2"]
    _check(graph, {"x": _numbers(2, 4)})


def test_views_in_pointwise_arithmetic_are_not_written_out() -> None:
    def build(b: GraphBuilder, x: Value, y: Value) -> Value:
        transposed = b.apply("transpose", x, permutation=(2, 0, 1))
        return binary(b, "mul", binary(b, "add", transposed, y), 2.0)

    graph = _graph(build, x=("n", 3, 4), y=(3,))
    assert _kinds(graph) == ["Reshape", "Add", "Mul", "Transpose"]
    _check(graph, {"x": _numbers(2, 3, 4), "y": _numbers(3)})


def test_sizes_are_computed_in_the_model() -> None:
    def build(b: GraphBuilder, x: Value) -> list[Value]:
        n, m = x.type.shape
        half = n // 2
        first = b.apply("slice", x, starts=(half, 0), shape=(n - half, m), steps=(1, 1))
        padded = b.apply("pad", x, low=(0, n % 3), high=(half, 0), mode="constant", value=1.0)
        counted = b.apply("iota", shape=(n, m * 2), axis=1, dtype=f32)
        flat = reshape(b, x, (n * m,))
        return [first, padded, counted, flip(b, x, 0), flat, b.sizes((n * m - 1, half, 7))]

    graph = _graph(build, x=("n", "m"))
    _check(graph, {"x": _numbers(5, 3)}, {"x": _numbers(2, 4)}, {"x": _numbers(1, 1)})


def test_sizes_that_data_decide_come_from_where_they_are_made() -> None:
    def build(b: GraphBuilder, x: Value) -> list[Value]:
        places = b.apply("nonzero", x, symbol="found")
        rows = b.apply("transpose", places, permutation=(1, 0))
        (count,) = b.bind(b.apply("cast", b.apply("reduce_max", x, axes=(0,)), dtype=i64))
        return [rows, b.apply("full", shape=(count, symbol("found")), value=2.0, dtype=f32)]

    graph = _graph(build, x=("n",))
    _check(graph, {"x": np.array([0, 3, 0, 1], np.float32)}, {"x": np.array([2], np.float32)})


def _branch(b: GraphBuilder, x: Value, factor: float) -> Graph:
    region = GraphBuilder("branch", parent=b)
    inner = region.input("x", x.type)
    return region.finish([binary(region, "mul", inner, factor)], ["y"])


def test_a_branch_is_written_with_its_captures() -> None:
    def build(b: GraphBuilder, x: Value) -> Value:
        total = b.apply("reduce_sum", x, axes=(0, 1))
        regions = (_branch(b, x, 2.0), _branch(b, x, -1.0))
        (result,) = b.apply_many("if", binary(b, "gt", total, 0.0), x, regions=regions)
        return b.apply("relu", result)

    graph = _graph(build, x=("n", 3))
    _check(graph, {"x": np.ones((2, 3), np.float32)}, {"x": -np.ones((1, 3), np.float32)})


def test_a_loop_is_written_with_carried_and_stacked_values() -> None:
    def build(b: GraphBuilder, x: Value) -> list[Value]:
        body = GraphBuilder("body", parent=b)
        body.input("i", TensorType(i64, ()))
        going = body.input("going", TensorType(boolean, ()))
        state = body.input("state", x.type)
        step = body.input("step", x.type)
        after = binary(body, "add", state, step)
        region = body.finish([going, after, after], ["going", "state", "slice"])
        return list(
            b.apply_many(
                "loop", b.constant(np.array(3)), b.constant(np.array(True)), x, x,
                regions=(region,), carried=1, has_trips=True, has_condition=False, scans=1,
                count="rounds",
            )
        )  # fmt: skip

    graph = _graph(build, x=("n",))
    _check(graph, {"x": _numbers(2)}, {"x": _numbers(5)})


def test_one_value_may_be_several_outputs_and_an_input_too() -> None:
    graph = _graph(lambda b, x: [x, (y := b.apply("relu", x)), y], x=("n",))
    _check(graph, {"x": _numbers(4)})


def test_everything_that_cannot_be_written_is_in_one_error() -> None:
    b = GraphBuilder("graph")
    x = b.input("x", TensorType(f32, (3,)))
    with b.source("noise"):
        noise = b.apply("normal", shape=(3,), dtype=f32, seed=1)
    with b.source("head"):
        product = b.apply("cumulative", b.apply("add", x, noise), axis=0, reduction="mul")
    with pytest.raises(UnsupportedError) as caught:
        write_onnx(b.finish([product], ["y"]))
    assert [item.split(":")[0] for item in caught.value.items] == ["noise", "head"]


# Files


def test_the_file_is_the_model(tmp_path: Path) -> None:
    graph = _graph(lambda b, x: b.apply("relu", x), x=("n", 2))
    model = write_onnx(graph, tmp_path / "relu.onnx")
    assert onnx.load(tmp_path / "relu.onnx") == model
    assert [entry.name for entry in tmp_path.iterdir()] == ["relu.onnx"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"


def test_large_weights_go_to_a_file_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "LARGEST_FILE", 1000)
    graph = _graph(
        lambda b, x: b.apply("matmul", x, b.constant(_numbers(64, 64), "w")), x=("n", 64)
    )
    write_onnx(graph, tmp_path / "large.onnx")
    assert {entry.name for entry in tmp_path.iterdir()} == {"large.onnx", "large.onnx.data"}
    feed = {"x": _numbers(2, 64)}
    session = onnxruntime.InferenceSession(str(tmp_path / "large.onnx"))
    assert_near(session.run(None, feed)[0], run_graph(graph, feed)[0], 1e-5)


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    graph = _graph(lambda b, x: b.apply("relu", x), x=(2,))
    with pytest.raises(CompileError, match=r"Cannot write .*nowhere.*No such file"):
        write_onnx(graph, tmp_path / "nowhere" / "x.onnx")


def test_integers_are_divided_downwards() -> None:
    b = GraphBuilder("graph")
    x, y = (b.input(name, TensorType(i64, (8,))) for name in "xy")
    names = ("div", "trunc_div", "mod", "fmod")
    graph = b.finish([b.apply(name, x, y) for name in names], names)
    feed = {"x": np.array([7, -7, 7, -7, 6, -6, 0, 1]), "y": np.array([3, 3, -3, -3, 3, 3, 5, -9])}
    quotients = [2, -3, -3, 2, 2, -2, 0, -1], [2, -2, -2, 2, 2, -2, 0, 0]
    rests = [1, 2, -2, -1, 0, 0, 0, -8], [1, -1, 1, -1, 0, 0, 0, 1]
    for actual, wanted in zip(run_written(graph, feed), (*quotients, *rests), strict=True):
        assert actual.tolist() == wanted


def test_infinities_and_lost_digits_are_kept() -> None:
    def build(b: GraphBuilder, x: Value) -> list[Value]:
        names = ("log1p", "expm1", "trunc")
        clipped = b.apply("clip", x, minimum=-math.inf, maximum=2.0)
        return [*(b.apply(name, x) for name in names), clipped]

    x = np.array([-0.5, -1e-7, 0, 1e-7, 1e-3, 1, 50, -math.inf, math.inf], np.float32)
    for actual, name in zip(
        run_written(_graph(build, x=("n",)), {"x": x}), ("log1p", "expm1", "trunc")
    ):
        with np.errstate(all="ignore"):
            wanted = getattr(np, name)(x.astype(np.float64)).astype(np.float32)
        np.testing.assert_allclose(actual, wanted, rtol=1e-6)
