"""The smallest graphs of what random ONNX graphs have found; each is compiled once."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.helper import tensor_dtype_to_np_dtype

import bessemer
from bessemer.compiler.ir.types import Array
from bessemer.runtime.errors import ExecutionError
from tests.onnx_check import expected, parsed

GRAPHS: dict[str, tuple[str, int, list[tuple[int, ...]]]] = {
    "a product over one channel of a tensor with itself": (
        """g (float[n, 6, 1] x) => (float[n, 6, 6] y) {
             y = Einsum <equation = "bij,bkj->bik"> (x, x)
        }""",
        18,
        [(2, 6, 1), (3, 6, 1)],
    ),
    "two filters a channel in float16": (
        """g (float16[n, 3, 5] x) => (float16[n, 6, 4] y)
            <float16[6, 1, 2] w = {0, 15360, 15360, 0, 0, 16384, 0, 0, 15360, 15360, 0, 15360}> {
             y = Conv <group = 3> (x, w)
        }""",
        17,
        [(2, 3, 5), (1, 3, 5)],
    ),
    "a pool of one pixel and what is around it": (
        """g (float[n, 3, 1] x) => (float[n, 3, 3] y) {
             y = AveragePool <kernel_shape = [4], pads = [2, 3], count_include_pad = 1> (x)
        }""",
        18,
        [(2, 3, 1), (1, 3, 1)],
    ),
    "the largest of one pixel and what is around it, twice": (
        """g (float[n, 3, 1, 1] x) => (float[n, 3, 2, 3] y) {
             a = MaxPool <kernel_shape = [2, 1], pads = [1, 0, 1, 0]> (x)
             y = MaxPool <kernel_shape = [1, 3], pads = [0, 2, 0, 2], strides = [1, 1]> (a)
        }""",
        18,
        [(2, 3, 1, 1), (1, 3, 1, 1)],
    ),
    "an image that shrinks to nothing": (
        """g (float[n, 3, 1] x) => (float[n, 3, 0] y) <float[3] scales = {1, 1, 0.5}> {
             y = Resize <coordinate_transformation_mode = "asymmetric"> (x, , scales)
        }""",
        18,
        [(2, 3, 1)],
    ),
    "a signal filled up to an even length beside its halves, doubled": (
        """g (float[1, 1, n] x) => (float[1, 2, m] y)
            <int64[1] two = {2}, float[3] scales = {1, 1, 2}, int64[5] none = {0, 0, 0, 0, 0}> {
             length = Shape <start = 2> (x)
             odd = Mod (length, two)
             lacking = Sub (two, odd)
             more = Mod (lacking, two)
             pads = Concat <axis = 0> (none, more)
             filled = Pad (x, pads)
             halves = MaxPool <kernel_shape = [2], strides = [2]> (filled)
             doubled = Resize <coordinate_transformation_mode = "asymmetric",
                               nearest_mode = "floor"> (halves, , scales)
             y = Concat <axis = 1> (filled, doubled)
        }""",
        18,
        [(1, 1, 4), (1, 1, 5)],
    ),
    "a softmax of rows that are far apart, at places that the data says": (
        """g (float[n, 5, m] x) => (float[5, m, 5, m] y) {
             places = ArgMax <axis = 0, keepdims = 0> (x)
             rows = Gather (x, places)
             y = Softmax <axis = 2> (rows)
        }""",
        18,
        [(2, 5, 3), (3, 5, 20)],
    ),
    "the largest of three numbers that count down": (
        """g (float[n] x) => (int64 y, float[n] z)
            <int64 three = {3}, int64 down = {-1}, int64 zero = {0}> {
             numbers = Range (three, zero, down)
             y = ReduceMax <keepdims = 0> (numbers)
             z = Abs (x)
        }""",
        13,
        [(2,)],
    ),
    "sums of one channel by strides, which three launches read": (
        """g (float[n, 2, 3] x) => (float y)
            <float[2, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, -2, 3, 4, -5, 6, 7, 8, -9}> {
             sums = ConvTranspose <group = 2, strides = [3]> (x, w)
             y = ReduceMax <keepdims = 0> (sums)
        }""",
        13,
        [(2, 2, 3), (7, 2, 3)],
    ),
    "the largest of all channels and pixels, and where they are": (
        """g (float[n, 6, 8, 8] x) => (float[n, 1, 2] y, int64[n, 1, 2] places)
            <int64[1] count = {2}, int64[3] merged = {0, 1, -1}> {
             a = Reshape (x, merged)
             y, places = TopK (a, count)
        }""",
        13,
        [(2, 6, 8, 8)],
    ),
    "a product of two rows that are one": (
        """g (float[1, 1] x) => (float[2, 2, 2] y) <int64[2, 2] zeros = {0, 0, 0, 0}> {
             a = Gather (x, zeros)
             b = Transpose <perm = [0, 2, 1]> (a)
             y = MatMul (a, b)
        }""",
        13,
        [(1, 1)],
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph(name: str, rng: np.random.Generator) -> None:
    text, opset, shapes = GRAPHS[name]
    onnx_model = parsed(text, opset)
    model = bessemer.compile(onnx_model, threads=1, cache=False)
    for shape in [*shapes, *shapes]:
        given = onnx_model.graph.input[0].type.tensor_type.elem_type
        x: Array = rng.standard_normal(shape).astype(tensor_dtype_to_np_dtype(given))
        for ours, theirs in zip(model.run({"x": x}), expected(onnx_model, {"x": x}), strict=True):
            tolerance = 2e-3 if ours.dtype == np.float16 else 2e-5
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_sizes_that_contradict_each_other_are_told_as_such() -> None:
    text = """g (float[n, 4] x) => (float[2, 4] y) {
        shape = Constant <value = int64[2] {2, 4}> ()
        y = Reshape (x, shape)
    }"""
    model = bessemer.compile(parsed(text), threads=1, cache=False)
    assert model.run({"x": np.ones((2, 4), np.float32)})[0].shape == (2, 4)
    needed = r"which needs 8 = 4\*n elements, where n is axis 0 of 'x'"
    with pytest.raises(ExecutionError, match=rf"{needed}\): the sizes contradict it"):
        model.run({"x": np.ones((3, 4), np.float32)})


def test_many_long_rows_at_given_places_compile() -> None:
    """Such results are written past the caches, and what they read is prefetched."""
    text = """g (float[30000, 768] x, int64[12000] places) => (float[12000, 768] y) {
        rows = Gather (x, places)
        y = Relu (rows)
    }"""
    bessemer.compile(parsed(text), threads=1, cache=False)
