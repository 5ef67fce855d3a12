"""Sizes that views make agree: tables cut to a length that they meet again (masks and positions of
exported decoders), rows that are written, axes that are split into blocks and windows."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.runtime.errors import ExecutionError
from tests.onnx_check import expected, floats, operators, parsed

_MASKED = """
agraph (float[n, n] x) => (float[n, n] y)
<bool[4, 4] table = {1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1}> {
    size = Shape<start = 0, end = 1>(x)
    zero = Constant<value = int64[1] {0}>()
    one = Constant<value = int64[1] {1}>()
    rows = Slice(table, zero, size, zero)
    mask = Slice(rows, zero, size, one)
    low = Constant<value = float {-3.0}>()
    y = Where(mask, x, low)
}
"""


def test_a_table_as_long_as_it_must_be_is_only_cut() -> None:
    model = parsed(_MASKED)
    assert "reshape" not in operators(read_onnx(model))
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    for size in (1, 3, 4):
        x = floats(size, size)
        np.testing.assert_array_equal(compiled.run({"x": x})[0], expected(model, {"x": x})[0])
    with pytest.raises(ExecutionError, match="Where"):
        compiled.run({"x": floats(5, 5)})


def test_the_rows_that_a_scatter_writes_are_those_of_its_data() -> None:
    text = "agraph (float[n, w] x, int64[m, 1] i, float[k, v] u) => (float[n, w] y)"
    model = parsed(f"{text} {{ y = ScatterND(x, i, u) }}")
    compiled = bessemer.compile(model, threads=1, cache=False)
    feed = {"x": floats(4, 3), "i": np.array([[2], [0]]), "u": floats(2, 3)}
    np.testing.assert_array_equal(compiled.run(feed)[0], expected(model, feed)[0])


def test_blocks_of_free_sizes_are_read_at_known_distances() -> None:
    text = "agraph (float[n, c, h, w] x) => (float[n, d, k, l] y)"
    model = parsed(
        f"{text} {{ s = SpaceToDepth<blocksize=2>(x) y = DepthToSpace<blocksize=4>(s) }}"
    )
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    for shape in ((1, 4, 2, 6), (2, 8, 4, 2), (0, 4, 2, 2)):
        x = floats(*shape)
        np.testing.assert_array_equal(compiled.run({"x": x})[0], expected(model, {"x": x})[0])
    for shape, block in (((1, 4, 3, 2), "Space"), ((1, 3, 2, 2), "Depth")):
        with pytest.raises(ExecutionError, match=f"{block}To"):
            compiled.run({"x": floats(*shape)})


_WINDOWS = """
agraph (float[b, h, w] x) => (float[b, k, 3, l, 2] y)
<int64[1] three = {3}, int64[1] two = {2}> {
    n = Shape<end = 1>(x)
    h = Shape<start = 1, end = 2>(x)
    w = Shape<start = 2>(x)
    rows = Div(h, three)
    columns = Div(w, two)
    shape = Concat<axis = 0>(n, rows, three, columns, two)
    y = Reshape(x, shape)
}
"""


def test_what_a_reshape_leaves_open_beside_windows_is_a_size_of_its_input() -> None:
    """As Swin's partition into windows leaves the channels open."""
    open_end = _WINDOWS.replace("3, l, 2] y)", "3, l, 2, 5] y)").replace("w] x)", "w, 5] x)")
    open_end = open_end.replace("w = Shape<start = 2>", "w = Shape<start = 2, end = 3>")
    open_end = open_end.replace("columns, two)", "columns, two, least)")
    model = parsed(open_end.replace("two = {2}>", "two = {2}, int64[1] least = {-1}>"))
    assert str(read_onnx(model).outputs[0].type).endswith(",2,5]")
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    x = floats(2, 6, 4, 5)
    np.testing.assert_array_equal(compiled.run({"x": x})[0], expected(model, {"x": x})[0])
    with pytest.raises(ExecutionError, match="elements"):
        compiled.run({"x": floats(1, 4, 2, 5)})


def test_an_axis_that_is_split_into_windows_is_cut_to_whole_ones() -> None:
    model = parsed(_WINDOWS)
    assert "slice" in operators(read_onnx(model))
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    for shape in ((2, 6, 4), (1, 3, 2), (0, 4, 5), (2, 0, 4)):
        x = floats(*shape)
        np.testing.assert_array_equal(compiled.run({"x": x})[0], expected(model, {"x": x})[0])
    with pytest.raises(ExecutionError, match="elements"):
        compiled.run({"x": floats(1, 4, 2)})


_JOINED = """
agraph (float[b, h, w] x) => (float[m, 2, l, 3] y)
<int64[1] two = {2}, int64[1] three = {3}, float[1] real_two = {2.0}, float[1] real_three = {3.0}> {
    n = Shape<end = 1>(x)
    h = Shape<start = 1, end = 2>(x)
    w = Shape<start = 2>(x)
    real_h = Cast<to = 1>(h)
    parts_h = Div(real_h, real_two)
    above_h = Ceil(parts_h)
    padded_h = Mul(above_h, real_two)
    whole_h = Cast<to = 7>(padded_h)
    rows = Div(whole_h, two)
    real_w = Cast<to = 1>(w)
    parts_w = Div(real_w, real_three)
    above_w = Ceil(parts_w)
    padded_w = Mul(above_w, real_three)
    whole_w = Cast<to = 7>(padded_w)
    columns = Div(whole_w, three)
    joined = Mul(n, rows)
    shape = Concat<axis = 0>(joined, two, columns, three)
    y = Reshape(x, shape)
}
"""


def test_axes_before_one_that_is_split_may_be_joined_with_its_parts() -> None:
    """As MobileViT's patches, whose numbers are computed in floats and rounded up."""
    model = parsed(_JOINED)
    assert "slice" in operators(read_onnx(model))
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    for shape in ((2, 6, 3), (1, 2, 9), (0, 4, 6)):
        x = floats(*shape)
        np.testing.assert_array_equal(compiled.run({"x": x})[0], expected(model, {"x": x})[0])
    for shape in ((1, 3, 3), (2, 2, 4)):
        with pytest.raises(ExecutionError, match="elements"):
            compiled.run({"x": floats(*shape)})
