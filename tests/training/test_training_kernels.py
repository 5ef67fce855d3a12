"""What makes training steps fast keeps their numbers: phases, run-time weights, sums by blocks."""

from typing import Any

import numpy as np
import pytest

import bessemer
import bessemer.compiler.ops  # registers the operators
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.passes.convolution.decompose_conv_transpose import decompose_conv_transpose
from bessemer.compiler.passes.convolution.separate_padding import separate_padding
from bessemer.compiler.passes.convolution.widen_convolutions import widen_convolutions
from bessemer.compiler.passes.differentiation.differentiate import gradients
from bessemer.compiler.passes.sums.block_channel_sums import block_channel_sums
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import parse_target
from bessemer.frontends.builder.activations import relu
from bessemer.frontends.builder.layer import Sequential
from bessemer.frontends.builder.layers_dense import Dense
from bessemer.frontends.builder.layers_image import Conv
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.optimizers import SGD, Adam
from bessemer.frontends.train.step import Regularization, training_graph
from bessemer.frontends.train.trainer import Trainer
from tests.pass_runs import changed

torch = pytest.importorskip("torch")
ONES = {"strides": (1, 1), "dilations": (1, 1), "groups": 1}


def _kernels(graph: Graph) -> list[str]:
    target = parse_target("x86_64-avx512")
    for step in passes_of(Options(), target):
        graph = step(graph)
    return [kernel.name for kernel in kernels_of(build_program(graph, target).steps)]


def _run(graph: Graph, rng: np.random.Generator) -> tuple[dict[str, Any], Any]:
    """Inputs, and the outputs, which must have the same bits with one thread and with two."""
    inputs = {
        value.name: rng.standard_normal(value.type.static_shape).astype(np.float32)
        for value in graph.inputs
    }
    one, two = (bessemer.compile(graph, threads=count).run(inputs) for count in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    return inputs, one


def _error(found: Any, wanted: Any) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _first(array: Any) -> Any:
    """Channels first, as torch's double precision wants images."""
    return torch.tensor(array).double().permute(0, 3, 1, 2)


def _weights_first(array: Any) -> Any:
    return torch.tensor(array).double().permute(3, 2, 0, 1)


@pytest.mark.parametrize(
    ("kernel", "stride", "low", "extra", "size"),
    [(3, 1, 1, 0, 7), (3, 2, 1, 1, 7), (3, 2, 1, 0, 6), (1, 2, 0, 1, 5), (7, 2, 3, 1, 6),
     (5, 3, 2, 2, 4), (2, 3, 0, 0, 3), (4, 2, 1, 0, 5)],
)  # fmt: skip
def test_transposed_convolutions_by_phases(
    kernel: int, stride: int, low: int, extra: int, size: int, rng: np.random.Generator
) -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, (2, size, size + 1, 20)))
    w = builder.input("w", TensorType(f32, (kernel, kernel, 17, 20)))
    y = builder.apply(
        "conv_transpose", x, w, strides=(stride, stride), dilations=(1, 1), low=(low, low),
        high=(low, low), output_padding=(extra, extra), groups=1,
    )  # fmt: skip
    graph = builder.finish([y])
    changed(graph, [decompose_conv_transpose], rng, rtol=1e-4)
    inputs, (found,) = _run(graph, rng)
    wanted = torch.nn.functional.conv_transpose2d(
        _first(inputs["x"]), _weights_first(inputs["w"]), stride=stride, padding=low,
        output_padding=extra,
    )  # fmt: skip
    assert _error(found, wanted.permute(0, 2, 3, 1).numpy()) < 1e-6


@pytest.mark.parametrize(
    ("x", "w", "stride"),
    [((8, 9, 8, 16), (3, 3, 16, 32), 1), ((4, 12, 13, 20), (3, 3, 20, 24), 2),
     ((8, 14, 14, 1), (5, 5, 1, 6), 1), ((4, 10, 10, 32), (1, 1, 32, 40), 2),
     ((2, 16, 16, 48), (1, 1, 48, 16), 1), ((8, 14, 14, 6), (5, 5, 6, 16), 1)],
)  # fmt: skip
def test_gradients_of_convolutions(
    x: tuple[int, ...], w: tuple[int, ...], stride: int, rng: np.random.Generator
) -> None:
    pad = w[0] // 2
    builder = GraphBuilder("g")
    image = builder.input("x", TensorType(f32, x))
    weight = builder.input("w", TensorType(f32, w))
    y = builder.apply(
        "conv", image, weight, strides=(stride, stride), dilations=(1, 1), low=(pad, pad),
        high=(pad, pad), groups=1,
    )  # fmt: skip
    given = builder.input("given", y.type)
    total = builder.apply("reduce_sum", builder.apply("mul", y, given), axes=(0, 1, 2, 3))
    graph = builder.finish([total, *gradients(builder, total, [image, weight])])
    inputs, (_, dx, dw) = _run(graph, rng)
    tensors = [_first(inputs["x"]), _weights_first(inputs["w"])]
    for tensor in tensors:
        tensor.requires_grad_()
    out = torch.nn.functional.conv2d(*tensors, stride=stride, padding=pad)
    out.backward(_first(inputs["given"]))
    assert _error(dx, tensors[0].grad.permute(0, 2, 3, 1).numpy()) < 1e-6
    assert _error(dw, tensors[1].grad.permute(2, 3, 1, 0).numpy()) < 2e-6


@pytest.mark.parametrize(
    ("x", "columns", "is_transposed"),
    [((4, 8, 10, 32), 48, False), ((2, 16, 16, 64), 32, True), ((32, 4, 4, 64), 64, True),
     ((8, 9, 7, 20), 33, True), ((8, 9, 7, 20), 33, False)],
)  # fmt: skip
def test_winograd_s_method_with_weights_of_the_run(
    x: tuple[int, ...], columns: int, is_transposed: bool, rng: np.random.Generator
) -> None:
    builder = GraphBuilder("g")
    image = builder.input("x", TensorType(f32, x))
    shape = (3, 3, columns, x[-1]) if is_transposed else (3, 3, x[-1], columns)
    given = builder.input("w", TensorType(f32, shape))
    w = given
    if is_transposed:
        w = builder.apply("slice", w, starts=(2, 2, 0, 0), shape=shape, steps=(-1, -1, 1, 1))
        w = builder.apply("transpose", w, permutation=(0, 1, 3, 2))
    y = builder.apply("conv", image, w, low=(1, 1), high=(1, 1), **ONES)
    graph = builder.finish([builder.apply("relu", y)])
    assert any("winograd_weights" in name for name in _kernels(graph))
    inputs, (found,) = _run(graph, rng)
    weights = inputs["w"]
    if is_transposed:
        weights = weights[::-1, ::-1].transpose(0, 1, 3, 2).copy()
    wanted = torch.nn.functional.conv2d(_first(inputs["x"]), _weights_first(weights), padding=1)
    assert _error(found, wanted.relu().permute(0, 2, 3, 1).numpy()) < 1e-6


def test_narrow_convolutions_are_widened_with_weights_of_the_run(rng: np.random.Generator) -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, (40, 10, 20, 8)))
    w = builder.input("w", TensorType(f32, (5, 5, 8, 3)))
    graph = builder.finish([builder.apply("conv", x, w, low=(0, 0), high=(0, 0), **ONES)])
    result = changed(graph, [widen_convolutions], rng, rtol=1e-5)
    convolution = next(node for node in result.nodes if node.operator.name == "conv")
    assert convolution.inputs[1].type.shape == (5, 8, 8, 12)


def test_the_weight_s_gradient_reads_the_padded_copy_of_the_way_forward(
    rng: np.random.Generator,
) -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, (2, 9, 9, 8)))
    w = builder.input("w", TensorType(f32, (3, 3, 8, 4)))
    attributes = {"dilations": (1, 1), "groups": 1, "low": (1, 1), "high": (2, 2)}
    y = builder.apply("conv", x, w, strides=(2, 2), **attributes)
    total = builder.apply("reduce_sum", builder.apply("mul", y, y), axes=(0, 1, 2, 3))
    graph = builder.finish([total, *gradients(builder, total, [w])])
    result = changed(graph, [separate_padding], rng, rtol=1e-5)
    assert [node.operator.name for node in result.nodes].count("pad") == 1


def test_columns_that_do_not_fill_a_panel_are_packed_by_vectors() -> None:
    """A pointwise convolution's weight has its gradient in parts: the last panel of each ends
    before the next part, which no remainder of a division need tell."""
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, (16, 5, 5, 8)))
    w = builder.input("w", TensorType(f32, (1, 1, 8, 144)))
    none = {"strides": (1, 1), "dilations": (1, 1), "groups": 1, "low": (0, 0), "high": (0, 0)}
    y = builder.apply("conv", x, w, **none)
    total = builder.apply("reduce_sum", builder.apply("mul", y, y), axes=(0, 1, 2, 3))
    graph = builder.finish(gradients(builder, total, [w]))
    for each in passes_of(Options(), x86.AVX512):
        graph = each(graph)
    kernels = kernels_of(build_program(graph, x86.AVX512).steps)
    texts = [print_kernel(kernel) for kernel in kernels if kernel.name.startswith("pack")]
    assert any("< 144" in text for text in texts)
    assert not any("%144" in text for text in texts)


@pytest.mark.parametrize("shape", [(2, 5, 7, 19), (3, 16, 64, 32), (40, 19)])
def test_moments_by_blocks_do_not_cancel(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, shape))
    far = builder.apply("add", x, builder.apply("full", shape=shape, value=1000.0, dtype=f32))
    graph = builder.finish([far, *builder.apply_many("channel_moments", far)])
    changed(graph, [block_channel_sums], rng, rtol=1e-4)
    _, (moved, mean, variance) = _run(graph, rng)
    wide = moved.reshape(-1, shape[-1]).astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(variance, wide.var(axis=0), rtol=1e-4)


def test_sums_of_blocks_that_nearly_cancel_are_exact(rng: np.random.Generator) -> None:
    """As those of cotangents: their signs are an image's, and normalization has centered them."""
    builder = GraphBuilder("g")
    dy, x = (builder.input(name, TensorType(f32, (symbol("n"), 8, 8, 24))) for name in "dx")
    mean = builder.input("mean", TensorType(f32, (24,)))
    graph = builder.finish(builder.apply_many("channel_products", dy, x, mean))
    given = rng.standard_normal((32, 8, 8, 24), np.float32)
    given += 10 * rng.standard_normal((32, 1, 1, 24), np.float32)
    given -= given.mean((0, 1, 2))
    x_, mean_ = rng.standard_normal(given.shape, np.float32), np.zeros(24, np.float32)
    found = bessemer.compile(graph).run({"d": given, "x": x_, "mean": mean_})
    wide = given.astype(np.float64)
    for total, term in zip(found, (wide, wide * x_), strict=True):
        error = np.abs(total - term.sum((0, 1, 2))) / np.abs(term).sum((0, 1, 2))
        assert error.max() < 1e-8


@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0)], ids=str)
def test_rows_without_numbers_are_not_cut(shape: tuple[int, ...]) -> None:
    builder = GraphBuilder("moments")
    x = builder.input("x", TensorType(f32, shape))
    graph = builder.finish(builder.apply_many("channel_moments", x))
    assert block_channel_sums(graph) is graph


def _network() -> Network:
    layers = Sequential(Dense(96), relu, Dense(5))
    return Network(layers, Input("x", (8, 67)))


def test_an_optimizer_s_slots_are_updated_in_one_kernel() -> None:
    network = _network()
    label = Input("label", (8,), "i64")
    step = training_graph(network, cross_entropy, [label], Adam(), {}, Regularization())
    names = _kernels(step.graph)
    assert sum(name.startswith("update") for name in names) >= 2  # one for each bias
    assert sum(name.startswith("matmul_update") for name in names) == 2  # one for each weight


def test_adam_in_merged_kernels_is_torch_s(rng: np.random.Generator) -> None:
    network = _network()
    arrays = list(network.arrays().values())
    nn = torch.nn
    model = nn.Sequential(nn.Linear(67, 96), nn.ReLU(), nn.Linear(96, 5))
    with torch.no_grad():
        for array, target in zip(arrays, model.parameters(), strict=True):
            target.copy_(torch.tensor(np.ascontiguousarray(array.T)))
    label = Input("label", (8,), "i64")
    trainer = Trainer(network, cross_entropy, [label], optimizer=Adam(0.01), threads=2)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        x = rng.standard_normal((8, 67)).astype(np.float32)
        y = rng.integers(0, 5, 8)
        found = trainer.step({"x": x, "label": y})["loss"]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        optimizer.step()
        assert found == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("samples", [2, 4, 8])
def test_a_weight_s_gradient_is_not_summed_sample_by_sample(samples: int) -> None:
    """Parts of the batch are groups of a convolution; those of one channel are slow."""
    network = Network(Conv(16, 1), Input("x", (samples, 12, 50)))
    trainer = Trainer(network, lambda y: (y * y).mean(), [], optimizer=SGD(0.1), threads=1)
    for node in trainer._training.graph.nodes:
        if node.operator.name == "conv":
            assert node.attributes["groups"] < samples
    x = np.random.default_rng(0).standard_normal((samples, 12, 50)).astype(np.float32)
    (name,) = (name for name in trainer.state if name.endswith("weight"))
    before = trainer.state[name].astype(np.float64)
    trainer.step({"x": x})
    y = np.einsum("nct,co->not", x.astype(np.float64), before[0])
    gradient = np.einsum("nct,not->co", x.astype(np.float64), y) * 2 / y.size
    moved = (before - trainer.state[name])[0] / 0.1
    np.testing.assert_allclose(moved, gradient, rtol=1e-3, atol=1e-5)


def test_depthwise_weights_add_up_what_images_hold_where_it_lies() -> None:
    """Sums of blocks of rows, without padded copies: of fixed sizes, of a free batch where windows
    lie outside of the image, and of free images."""
    rng = np.random.default_rng(5)
    free = (symbol("n"), symbol("h"), symbol("w"))
    cases: list[tuple[tuple[Size, ...], int, int, int]] = [
        ((3, 9, 11), 5, 2, 2),
        ((free[0], 9, 11), 7, 1, 9),
        (free, 3, 2, 1),
    ]
    builder, found, arrays, wanted = GraphBuilder("g"), [], [], []
    for number, (sizes, taps, stride, low) in enumerate(cases):
        x = builder.input(f"x{number}", TensorType(f32, (*sizes, 20)))
        w = builder.input(f"w{number}", TensorType(f32, (taps, taps, 1, 20)))
        pads = {"low": (low, low), "high": (low, low), "dilations": (1, 1)}
        y = builder.apply("conv", x, w, strides=(stride, stride), groups=20, **pads)
        dy = builder.input(f"dy{number}", y.type)
        total = builder.apply("reduce_sum", builder.apply("mul", y, dy), axes=(0, 1, 2, 3))
        found += gradients(builder, total, [w])
        image = rng.standard_normal((3, 9, 11, 20), np.float32)
        padded = np.pad(image.astype(np.float64), ((0, 0), (low, low), (low, low), (0, 0)))
        seen = np.lib.stride_tricks.sliding_window_view(padded, (taps, taps), (1, 2))
        seen = seen[:, ::stride, ::stride]
        cotangent = rng.standard_normal(seen.shape[:4], np.float32)
        arrays += [image, np.zeros((taps, taps, 1, 20), np.float32), cotangent]
        wanted.append(np.einsum("nhwcij,nhwc->ijc", seen, cotangent)[:, :, None])
    graph = builder.finish(found)
    assert not any("pad" in name for name in _kernels(graph))
    names = [value.name for value in graph.inputs]
    results = bessemer.compile(graph, threads=2).run(dict(zip(names, arrays, strict=True)))
    for one, expected in zip(results, wanted, strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
