"""Transposes around channels-last operators meet and cancel, and never become more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import DType, TensorType, f32, f64
from bessemer.compiler.ir.verifier.verify_graph import verify_graph
from bessemer.compiler.pass_order import PASSES
from bessemer.compiler.passes.convolution.fold_batch_norm import fold_batch_norm
from bessemer.compiler.passes.layout.move_transposes import move_transposes
from bessemer.compiler.passes.layout.order_search import OrderSearch
from bessemer.compiler.passes.simplification.fold_constants import fold_constants
from bessemer.compiler.passes.simplification.merge_equal import merge_equal
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets import x86
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.pass_runs import N, Pass, changed
from tests.passes.channels_first import NETS, graph_of, residual

CLEANING: tuple[Pass, ...] = (
    fold_constants,
    simplify,
    move_transposes,
    fold_constants,
    simplify,
    fold_batch_norm,
    merge_equal,
    remove_dead,
)


def transposes(graph: Graph) -> int:
    """How many transposes a graph has."""
    return Counter(node.operator.name for node in graph.nodes)["transpose"]


@pytest.mark.parametrize("name", NETS)
def test_transposes_meet_and_cancel(name: str, rng: np.random.Generator) -> None:
    build, left = NETS[name]
    graph = changed(graph_of(build), CLEANING, rng, 1e-4)
    assert transposes(graph) == left
    convolutions = [node for node in graph.nodes if node.operator.name == "conv"]
    assert all(node.sources for node in convolutions)
    if name in ("residual", "mobile"):
        folded = [node for node in convolutions if any("bn" in source for source in node.sources)]
        assert len(folded) > len(convolutions) // 2


@pytest.mark.parametrize("name", NETS)
def test_no_more_bytes_are_transposed_than_before(name: str) -> None:
    build, _ = NETS[name]
    graph = graph_of(build)
    assert OrderSearch(move_transposes(graph)).cost <= OrderSearch(graph).cost


def test_transposes_that_cannot_cancel_stay_as_they_are() -> None:
    """As in attention: both ends are products."""
    b = GraphBuilder("g")
    q, k = (b.input(name, TensorType(f32, (N, 5, 2, 8))) for name in "qk")
    left = b.apply("transpose", q, permutation=(0, 2, 1, 3))
    right = b.apply("transpose", k, permutation=(0, 2, 3, 1))
    scores = b.apply("exp", b.apply("matmul", left, right))
    graph = b.finish([b.apply("matmul", scores, b.apply("transpose", k, permutation=(0, 2, 1, 3)))])
    assert move_transposes(graph) is graph


def test_what_nobody_reads_has_no_say() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (2, 5, 5, 8)))
    w = b.constant(np.ones((1, 1, 8, 8), np.float32))
    ones, none = (1, 1), (0, 0)
    window = {"strides": ones, "dilations": ones, "low": none, "high": none, "groups": 1}
    y = b.apply("transpose", b.apply("conv", x, w, **window), permutation=(0, 3, 1, 2))
    for operator in ("relu", "exp", "neg"):
        y = b.apply(operator, y)
        b.apply("matmul", y, y)
    y = b.apply("conv", b.apply("transpose", y, permutation=(0, 2, 3, 1)), w, **window)
    assert transposes(move_transposes(b.finish([y]))) == 0


def test_orders_of_arguments_scans_and_outputs_follow(rng: np.random.Generator) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (2, 5, 6, 3)))
    y = b.apply("relu", b.apply("transpose", x, permutation=(0, 3, 1, 2)))
    largest = b.apply("arg_max", y, axis=1, last=False)
    running = b.apply("cumulative", y, axis=3, reduction="add", exclusive=False, reverse=True)
    both = b.apply("concat", running, y, axis=2)
    back = b.apply("transpose", both, permutation=(0, 2, 3, 1))
    graph = changed(b.finish([largest, back]), (move_transposes, simplify, remove_dead), rng)
    assert transposes(graph) == 0


def test_a_pool_between_transposes_goes_through_planes(rng: np.random.Generator) -> None:
    b = GraphBuilder("g")
    window = {"kernel": (3, 2), "strides": (2, 1), "dilations": (1, 1), "low": (1, 0)}
    value = b.input("x", TensorType(f32, (N, 5, 9, 8)))
    for name, more in (("max_pool", {}), ("average_pool", {"count_include_pad": False})):
        last = b.apply("transpose", b.apply("relu", value), permutation=(0, 2, 3, 1))
        pooled = b.apply(name, last, **window, high=(1, 1), **more)
        value = b.apply("transpose", pooled, permutation=(0, 3, 1, 2))
    graph = changed(b.finish([value]), (move_transposes, simplify, remove_dead), rng)
    assert transposes(graph) == 0


@pytest.mark.parametrize("shape", [(N, 9, 11, 2), (2, 21, 1), (1, 6, 6, 5, 1)])
def test_convolutions_of_short_sums_make_planes(
    shape: tuple[Size, ...], rng: np.random.Generator
) -> None:
    """Strides, dilations and pads included; the transpose of what comes out is gone."""
    b = GraphBuilder("g")
    spatial = len(shape) - 2
    kernel = (3, 2, 2)[-spatial:]
    assert isinstance(shape[-1], int)
    w = rng.standard_normal((*kernel, shape[-1], 96)).astype(np.float32)
    window = {"strides": (2, 1, 1), "dilations": (3, 1, 2), "low": (0, 1, 2), "high": (1, 2, 1)}
    attributes = {name: entries[:spatial] for name, entries in window.items()}
    x = b.input("x", TensorType(f32, shape))
    y = b.apply("relu", b.apply("conv", x, b.constant(w), **attributes, groups=1))
    first = (0, spatial + 1, *range(1, spatial + 1))
    graph = changed(b.finish([b.apply("transpose", y, permutation=first)]), CLEANING, rng, 1e-5)
    names = Counter(node.operator.name for node in graph.nodes)
    assert names["conv"] == 0 and names["matmul"] == 1
    assert graph.nodes[-1].operator.name != "transpose"


@pytest.mark.parametrize(
    "sizes", [(), (1,), (96,), (5, 1), (5, 96), (3, 1, 1), (3, 5, 96), (2, 3, 5, 1)]
)
def test_what_planes_are_added_to_may_vary_inside_of_them(
    sizes: tuple[int, ...], rng: np.random.Generator
) -> None:
    b = GraphBuilder("g")
    x, more = b.input("x", TensorType(f32, (2, 5, 6, 2))), b.input("more", TensorType(f32, sizes))
    w = b.constant(rng.standard_normal((3, 2, 2, 96)).astype(np.float32))
    window = {"strides": (1, 1), "dilations": (1, 1), "low": (0, 0), "high": (0, 0), "groups": 1}
    sums = b.apply("conv", x, w, **window)
    y = b.apply("add", sums, b.apply("broadcast_to", more, shape=sums.type.shape))
    y = b.apply("transpose", b.apply("exp", y), permutation=(0, 3, 1, 2))
    graph = changed(b.finish([y]), CLEANING, rng, 1e-4)
    assert Counter(node.operator.name for node in graph.nodes)["matmul"] == 1
    is_one_in_a_plane = all(size == 1 for size in sizes[-3:-1])
    assert (graph.nodes[-1].operator.name == "reshape") is is_one_in_a_plane  # the epilogue's end


@pytest.mark.parametrize(
    ("weights", "groups", "dtype"),
    [
        ((3, 3, 3, 64), 1, f32),
        ((1, 2, 2, 64), 2, f32),
        ((1, 2, 2, 64), 1, f64),
        ((1, 1, 32, 128), 1, f32),
    ],
)
def test_convolutions_of_long_sums_of_groups_and_of_float64_do_not(
    weights: tuple[int, ...], groups: int, dtype: DType, rng: np.random.Generator
) -> None:
    """Nor do those whose pixels leave most lanes of their last vector empty."""
    b = GraphBuilder("g")
    pixels = (7, 7) if weights[2] == 32 else (12, 12)
    x = b.input("x", TensorType(dtype, (1, *pixels, weights[2] * groups)))
    w = b.constant(rng.standard_normal(weights).astype(dtype.numpy))
    window = {"strides": (1, 1), "dilations": (1, 1), "low": (0, 0), "high": (0, 0)}
    y = b.apply("conv", x, w, **window, groups=groups)
    graph = b.finish([b.apply("transpose", y, permutation=(0, 3, 1, 2))])
    assert move_transposes(graph) is graph


def test_the_search_tries_few_orders() -> None:
    """Its work grows with the graph's size, not with the number of possible orders."""
    graph = remove_dead(fold_constants(graph_of(residual)))
    search = OrderSearch(graph)
    tried = 0
    take_over = search._set

    def counted(value: Value, order: tuple[int, ...]) -> None:
        nonlocal tried
        tried += 1
        take_over(value, order)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_set", counted)
        assert search.run()
    assert tried < 20 * len(graph.nodes)


@pytest.mark.models
@pytest.mark.parametrize(
    ("model", "left"),
    # The U-Net's other three put the pixels of its transposed convolutions in place.
    [("resnet50", 1), ("mobilenetv2", 1), ("unet", 4)],
)
def test_real_networks_are_channels_last_throughout(
    model: str, left: int, models_folder: Path
) -> None:
    graph = read_onnx(models_folder / f"{model}.onnx")
    for step in PASSES:
        graph = step(graph)
        verify_graph(graph)
        assert step(graph) is graph
    assert transposes(graph) == left


@pytest.mark.parametrize(
    ("channels", "wanted"), [(3, ["pad", "transpose"]), (16, ["transpose", "pad"])]
)
def test_pads_of_few_channels_copy_rows_of_pixels(
    channels: int, wanted: list[str], rng: np.random.Generator
) -> None:
    """What repeats the border comes before the transpose then, in a kernel of its own."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (1, channels, 40, 40)))
    none, ends = (1, 1), (0, 0, 2, 2)
    padded = b.apply("pad", x, low=ends, high=ends, mode="reflect", value=0)
    last = b.apply("transpose", padded, permutation=(0, 2, 3, 1))
    w = b.constant(rng.standard_normal((5, 5, 1, channels)).astype(np.float32))
    y = b.apply(
        "conv", last, w, strides=none, dilations=none, low=(0, 0), high=(0, 0), groups=channels
    )
    graph = changed(b.finish([y]), [move_transposes], rng)
    assert [node.operator.name for node in graph.nodes] == [*wanted, "conv"]
    kernels = [kernel.name for kernel in kernels_of(build_program(graph, x86.AVX512).steps)]
    if channels == 3:
        assert kernels == ["pad_kernel", "copy_kernel", "conv_kernel"]
