"""Sizes that files compute are known while they are read, so that what reads them fits."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, floats, parsed


def test_as_many_from_the_end_as_there_are_is_all_of_them() -> None:
    """The size stays the axis', so that the product behind it is known to fit."""
    model = parsed(
        """agraph (float[n, 3] x) => (float[3, 3] y) {
            shape = Shape<end = 1>(x)
            start = Neg(shape)
            none = Constant<value = int64[1] {9223372036854775807}>()
            axis = Constant<value = int64[1] {0}>()
            last = Slice(x, start, none, axis)
            turned = Transpose(x)
            y = MatMul(turned, last)
        }"""
    )
    graph = read_onnx(model)
    for size in (1, 4):
        agrees(model, {"x": floats(size, 3)}, graph)
    assert graph.outputs[0].type.shape == (3, 3)
    assert not any(node.operator.name == "bind" for node in graph.nodes)


def test_repeats_that_a_one_hot_puts_in_place_are_followed() -> None:
    """As torch writes a repetition along one axis, as often as the size of another says."""
    model = parsed(
        """agraph (float[n, 3] x) => (float[n, m] y) {
            place = Constant<value = int64[1] {1}>()
            depth = Constant<value = int64 {2}>()
            one = Constant<value = int64[1] {1}>()
            flat = Constant<value = int64[1] {-1}>()
            size = Shape<end = 1>(x)
            values = Concat<axis = 0>(one, size)
            hot = OneHot(place, depth, values)
            repeats = Reshape(hot, flat)
            y = Tile(x, repeats)
        }"""
    )
    graph = read_onnx(model)
    (y,) = graph.outputs
    size = graph.inputs[0].type.shape[0]
    assert y.type.shape == (size, 3 * size)
    agrees(model, {"x": floats(4, 3)}, graph)


@pytest.mark.parametrize(
    ("start", "delta"), [(0.5, 1), (0.75, 2), (-1.25, 3), (9.5, -1), (8.25, -3)]
)
def test_a_range_from_between_integers_has_a_known_size(start: float, delta: float) -> None:
    """As networks with rotary embeddings place the centres of patches."""
    model = parsed(
        f"""agraph (float[n, 3] x) => (float[m] y) {{
            start = Constant<value = float {{{start}}}>()
            delta = Constant<value = float {{{delta}}}>()
            zero = Constant<value = int64 {{0}}>()
            shape = Shape(x)
            size = Gather(shape, zero)
            limit = Cast<to = 1>(size)
            y = Range(start, limit, delta)
        }}"""
    )
    graph = read_onnx(model)
    assert not any(node.operator.name == "bind" for node in graph.nodes)
    for size in (1, 2, 3, 4, 7, 8, 9, 10, 12):
        agrees(model, {"x": floats(size, 3)}, graph)


def test_sizes_may_come_in_a_tensor_of_several_axes() -> None:
    model = parsed(
        """agraph (float[n, 3] x, int64[1, 2] r) => (float[a, b] y) {
            flat = Constant<value = int64[1] {-1}>()
            repeats = Reshape(r, flat)
            y = Tile(x, repeats)
        }"""
    )
    agrees(model, {"x": floats(4, 3), "r": np.array([[2, 3]])}, read_onnx(model))


def test_a_size_may_come_in_a_vector_of_unknown_length() -> None:
    model = parsed(
        """agraph (float[1, 3] x, int64[m] r) => (float[a, 3] y) {
            one = Constant<value = int64[1] {1}>()
            rows = Reshape(r, one)
            repeats = Concat<axis = 0>(rows, one)
            y = Tile(x, repeats)
        }"""
    )
    agrees(model, {"x": floats(1, 3), "r": np.array([4])}, read_onnx(model))
