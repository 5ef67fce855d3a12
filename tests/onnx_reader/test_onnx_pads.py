"""Pads that only a run knows: above 0 they add to an axis, below they cut off."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.dims import Dim
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.runtime.errors import ExecutionError
from tests.onnx_check import agrees, expected, floats, parsed

_PADDED = "g (float[rows,columns] x, int64[4] p) => (float[a,b] y) { y = Pad(x, p) }"
_PADS = [(1, 0, 0, 2), (-1, 0, 0, 2), (0, -2, 1, -1), (2, -5, -5, 0)]


@pytest.mark.parametrize("pads", _PADS)
def test_pads_from_data_may_cut(pads: tuple[int, ...]) -> None:
    agrees(parsed(_PADDED, 18), {"x": floats(4, 6), "p": np.array(pads)}, tolerance=0)


@pytest.mark.parametrize("pads", [(-1, 2, 0, -2), (-2, 1, 3, -1)])
def test_what_is_wrapped_around_is_what_the_cut_has_left(pads: tuple[int, ...]) -> None:
    wrapped = _PADDED.replace("Pad", 'Pad <mode = "wrap">')
    agrees(parsed(wrapped, 19), {"x": floats(4, 6), "p": np.array(pads)}, tolerance=0)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pads_of_every_axis_make_short_sizes(mode: str) -> None:
    """The number of elements is a product of all sizes: of sums of five terms it would have 625."""
    text = "g (float[1,3,4,5] x, int64[8] p) => (float[a,b,c,d] y) { y = Pad(x, p) }"
    model = parsed(text.replace("Pad", f'Pad <mode = "{mode}">'), 19)
    (padded,) = read_onnx(model).outputs
    assert all(isinstance(size, Dim) and len(size.terms) == 1 for size in padded.type.shape)
    compiled = bessemer.compile(model, cache=False)
    several = (
        (0, 0, 1, 1, 0, 2, 1, 1), (0, 0, 0, 0, 0, 0, 0, 0), (0, 1, 2, 0, 0, 0, 1, 3),
        (0, -1, 1, 2, 0, 1, -1, -1),
    )  # fmt: skip
    for pads in several:
        feed = {"x": floats(1, 3, 4, 5), "p": np.array(pads)}
        np.testing.assert_array_equal(compiled.run(feed)[0], expected(model, feed)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.bool_])
@pytest.mark.parametrize("pads", [(1, 0, 0, 2), (0, -2, 1, 3)])
def test_the_number_around_may_come_from_the_run(dtype: type, pads: tuple[int, ...]) -> None:
    name = {np.float32: "float", np.float16: "float16", np.int64: "int64", np.bool_: "bool"}[dtype]
    text = f"g ({name}[4,columns] x, {name} v) => ({name}[a,b] y) <int64[4] p = {{{{PADS}}}}> "
    text = text.replace("{PADS}", ", ".join(map(str, pads))) + "{ y = Pad(x, p, v) }"
    x: Array = floats(4, 6).astype(dtype)
    agrees(parsed(text, 18), {"x": x, "v": np.array(1, dtype)}, tolerance=0)


def test_what_lies_around_may_be_no_number() -> None:
    text = "g (float[2,3] x, float v, int64[4] p) => (float[a,b] y) { y = Pad(x, p, v) }"
    for value in (np.inf, np.nan):
        feed = {"x": floats(2, 3), "v": np.array(value, np.float32), "p": np.array([1, 0, 0, 1])}
        agrees(parsed(text, 18), feed, tolerance=0)


@pytest.mark.slow
def test_more_than_there_is_is_not_cut_off() -> None:
    model = parsed(_PADDED, 18)
    compiled = bessemer.compile(model, cache=False)
    for pads in _PADS:
        feed = {"x": floats(4, 6), "p": np.array(pads)}
        np.testing.assert_array_equal(compiled.run(feed)[0], expected(model, feed)[0])
    for pads in ((-5, 0, 0, 0), (-3, 0, -3, 0), (-(2**40), 0, 0, 0)):
        with pytest.raises(ExecutionError, match="a size is negative"):
            compiled.run({"x": floats(4, 6), "p": np.array(pads)})
