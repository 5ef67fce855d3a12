"""Passes around convolutions: padding, and wide convolutions in place of narrow ones."""

import numpy as np
import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, f16, f32
from bessemer.compiler.passes.convolution.separate_padding import separate_padding
from bessemer.compiler.passes.convolution.sum_tap_planes import sum_tap_planes
from bessemer.compiler.passes.convolution.widen_convolutions import widen_convolutions
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.sums.group_statistics import group_statistics
from tests.pass_runs import N, changed, lines


def _convolution(
    x: tuple[int, ...], w: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...]
) -> Graph:
    builder = GraphBuilder("g")
    image = builder.input("x", TensorType(f32, x))
    weights = builder.constant(np.arange(np.prod(w), dtype=np.float32).reshape(w) % 7 - 3)
    none = tuple(1 for _ in strides)
    y = builder.apply(
        "conv", image, weights, strides=strides, dilations=none, low=pads, high=pads, groups=1
    )
    return builder.finish([y])


@pytest.mark.parametrize(
    ("x", "w", "strides", "wanted"),
    [
        ((1, 6, 20, 32), (3, 3, 32, 3), (1, 1), (3, 7, 32, 15)),
        ((2, 6, 22, 32), (3, 9, 32, 2), (1, 2), (3, 23, 32, 16)),
        ((1, 27, 40), (9, 40, 5), (1,), (11, 40, 15)),
        ((1, 6, 20, 8), (3, 3, 8, 17), (1, 1), None),
        ((1, 6, 20, 64), (1, 1, 64, 3), (1, 1), None),
        ((1, 6, 19, 32), (3, 3, 32, 3), (1, 1), None),
        ((1, 6, 20, 32), (3, 3, 32, 0), (1, 1), None),
    ],
)
def test_neighbours_become_channels_of_narrow_convolutions(
    x: tuple[int, ...],
    w: tuple[int, ...],
    strides: tuple[int, ...],
    wanted: tuple[int, ...] | None,
    rng: np.random.Generator,
) -> None:
    graph = _convolution(x, w, strides, tuple(1 for _ in strides))
    result = changed(graph, [widen_convolutions], rng, rtol=1e-6)
    if wanted is None:
        assert result is graph
    else:
        convolution = next(node for node in result.nodes if node.operator.name == "conv")
        assert convolution.inputs[1].type.shape == wanted


@pytest.mark.parametrize(
    ("x", "w", "strides", "pads", "is_summed"),
    [
        ((2, 6, 20, 32), (3, 3, 32, 3), (1, 1), (1, 0), True),
        ((1, 3, 5, 4, 64), (3, 2, 2, 64, 2), (1, 1, 1), (3, 0, 1), True),
        ((1, 27, 40), (9, 40, 5), (1,), (2,), True),
        ((1, 6, 20, 32), (3, 3, 32, 3), (1, 2), (1, 1), False),
        ((1, 6, 20, 64), (1, 1, 64, 3), (1, 1), (0, 0), False),
        ((1, 6, 20, 64), (3, 3, 64, 16), (1, 1), (1, 1), False),
        ((1, 20, 20, 64), (3, 3, 64, 1), (1, 1), (1, 1), False),
        ((1, 20, 20, 2), (7, 7, 2, 1), (1, 1), (3, 3), True),
        ((1, 20, 20, 8), (17, 17, 8, 3), (1, 1), (0, 0), False),
    ],
)
def test_convolutions_to_few_channels_are_sums_of_products_in_planes(
    x: tuple[int, ...],
    w: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    is_summed: bool,
    rng: np.random.Generator,
) -> None:
    graph = _convolution(x, w, strides, pads)
    result = changed(graph, [sum_tap_planes], rng, rtol=1e-5)
    names = [node.operator.name for node in result.nodes]
    assert ("col2im" in names) == is_summed == ("conv" not in names)


@pytest.mark.parametrize("is_stored_narrow", [False, True])
def test_depthwise_convolutions_take_a_pad_in(
    is_stored_narrow: bool, rng: np.random.Generator
) -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f16 if is_stored_narrow else f32, (1, 5, 6, 4)))
    low, high = (0, 1, 0, 0), (0, 2, 1, 0)
    padded = builder.apply("pad", x, low=low, high=high, mode="constant", value=0)
    if is_stored_narrow:
        padded = builder.apply("cast", padded, dtype=f32)
    w = builder.constant(np.ones((3, 3, 1, 4), np.float32))
    ones = (1, 1)
    y = builder.apply(
        "conv", padded, w, strides=ones, dilations=ones, low=(0, 1), high=(1, 0), groups=4
    )
    result = changed(builder.finish([y]), [separate_padding, remove_dead], rng)
    (line,) = [line for line in lines(result) if "conv" in line]
    assert "low=(1, 1), high=(3, 1)" in line
    names = [node.operator.name for node in result.nodes]
    assert names == ["cast", "conv"] if is_stored_narrow else names == ["conv"]


def test_images_in_planes_are_padded_before_they_are_transposed(rng: np.random.Generator) -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, (1, 3, 5, 6)))
    image = builder.apply("transpose", x, permutation=(0, 2, 3, 1))
    w = builder.constant(np.ones((3, 3, 3, 4), np.float32))
    ones = (1, 1)
    y = builder.apply("conv", image, w, strides=ones, dilations=ones, low=ones, high=ones, groups=1)
    result = changed(builder.finish([y]), [separate_padding], rng)
    names = [node.operator.name for node in result.nodes]
    assert names[-3:] == ["pad", "transpose", "conv"]
    assert result.nodes[-3].output.type.shape == (1, 3, 7, 8)


def test_planes_of_a_film_are_padded_before_they_are_transposed(rng: np.random.Generator) -> None:
    """Channels of every image of a film, behind the film's own axis."""
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, (1, 4, 3, 5, 6)))
    film = builder.apply("transpose", x, permutation=(0, 1, 3, 4, 2))
    w = builder.constant(np.ones((3, 3, 3, 3, 4), np.float32))
    one, none = (1, 1, 1), (0, 0, 0)
    low = (1, 0, 2)
    y = builder.apply("conv", film, w, strides=one, dilations=one, low=low, high=none, groups=1)
    result = changed(builder.finish([y]), [separate_padding], rng)
    names = [node.operator.name for node in result.nodes]
    assert names[-3:] == ["pad", "transpose", "conv"]
    assert result.nodes[-3].output.type.shape == (1, 5, 3, 5, 8)


def _grouped(transposed: bool, kept: bool = False, counted: bool = False) -> Graph:
    """An image standardized by groups of two channels, as exporters write group norm; what a sum is
    multiplied by may be counted when the model runs."""
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, (N, 6, 4, 5)))
    merged = builder.apply("reshape", x, shape=(N, 3, 40))
    shape, one, axis = (N, 3, 40), (N, 3, 1), 2
    if transposed:
        merged = builder.apply("transpose", merged, permutation=(0, 2, 1))
        shape, one, axis = (N, 40, 3), (N, 1, 3), 1
    share = builder.apply("full", shape=one, value=0.025, dtype=f32)
    if counted:
        count = builder.apply("cast", builder.apply("sizes", sizes=(N,)), dtype=f32)
        count = builder.apply("reshape", count, shape=())
        share = builder.apply("broadcast_to", count, shape=one)
    mean = builder.apply("reshape", builder.apply("reduce_sum", merged, axes=(axis,)), shape=one)
    mean = builder.apply("mul", mean, share)
    apart = builder.apply("sub", merged, builder.apply("broadcast_to", mean, shape=shape))
    squares = builder.apply("reduce_sum", builder.apply("mul", apart, apart), axes=(axis,))
    scale = builder.apply("rsqrt", builder.apply("reshape", squares, shape=one))
    normal = builder.apply("mul", apart, builder.apply("broadcast_to", scale, shape=shape))
    if transposed:
        normal = builder.apply("transpose", normal, permutation=(0, 2, 1))
    y = builder.apply("reshape", normal, shape=(N, 6, 4, 5))
    return builder.finish([y, scale] if kept else [y])


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_statistics_of_groups_do_not_merge_channels_with_pixels(
    transposed: bool, counted: bool, rng: np.random.Generator
) -> None:
    graph = _grouped(transposed, counted=counted)
    result = changed(graph, [group_statistics], rng, rtol=1e-5)
    computed = [node for node in result.nodes if node.operator.name not in ("full", "broadcast_to")]
    assert all(node.output.type.rank != 3 for node in computed)


@pytest.mark.parametrize("last", [False, True])
def test_statistics_of_all_channels_do_not_merge_them_with_pixels(
    last: bool, rng: np.random.Generator
) -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, (N, 6, 4, 5)))
    shape, axis = ((N, 120, 1), 1) if last else ((N, 1, 120), 2)
    merged = builder.apply("reshape", x, shape=shape)
    total = builder.apply("reduce_sum", merged, axes=(axis,))
    total = builder.apply("reshape", total, shape=(N, 1, 1))
    apart = builder.apply("sub", merged, builder.apply("broadcast_to", total, shape=shape))
    y = builder.apply("reshape", apart, shape=(N, 6, 4, 5))
    result = changed(builder.finish([y]), [group_statistics], rng, rtol=1e-5)
    computed = [node for node in result.nodes if node.operator.name == "sub"]
    assert [node.output.type.shape for node in computed] == [(N, 6, 4, 5)]


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_meet_the_values_of_their_groups(
    transposed: bool, rng: np.random.Generator
) -> None:
    """As in training: what a gradient has of a normalized value, which both are merged for."""
    builder = GraphBuilder("g")
    values = [builder.input(name, TensorType(f32, (2, 6, 4, 5))) for name in ("x", "dy")]
    merged = [builder.apply("reshape", value, shape=(2, 3, 40)) for value in values]
    if transposed:
        merged = [builder.apply("transpose", m, permutation=(0, 2, 1)) for m in merged]
    axis, shape = (1, (2, 40, 3)) if transposed else (2, (2, 3, 40))
    x, dy = merged[0], builder.apply("neg", merged[1])
    total = builder.apply("reduce_sum", builder.apply("mul", dy, x), axes=(axis,))
    total = builder.apply("reshape", total, shape=(2, 1, 3) if transposed else (2, 3, 1))
    dx = builder.apply("sub", dy, builder.apply("broadcast_to", total, shape=shape))
    if transposed:
        dx = builder.apply("transpose", dx, permutation=(0, 2, 1))
    graph = builder.finish([builder.apply("reshape", dx, shape=(2, 6, 4, 5))])
    result = changed(graph, [group_statistics], rng, rtol=1e-5)
    computed = [node for node in result.nodes if node.operator.name != "broadcast_to"]
    assert all(node.output.type.rank != 3 for node in computed)


def test_statistics_that_others_read_stay(rng: np.random.Generator) -> None:
    graph = _grouped(False, kept=True)
    assert changed(graph, [group_statistics], rng) is graph
