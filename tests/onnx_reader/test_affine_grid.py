"""AffineGrid at sizes that only the run knows, 1 among them, where ONNX's own function fails."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import floats, operators, parsed

_FLAT = "g (float[n,2,3] t, int64[4] s) => (float[n,h,w,2] y) { y = AffineGrid(t, s) }"
_DEEP = "g (float[n,3,4] t, int64[5] s) => (float[n,d,h,w,3] y) { y = AffineGrid(t, s) }"
_SIZES = [(2, 3, 4, 5), (1, 1, 6, 7), (3, 2, 1, 1), (1, 1, 2, 3, 4), (2, 1, 1, 3, 1)]


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("kind", ["float", "double", "float16"])
@pytest.mark.parametrize("text", [_FLAT, _DEEP])
def test_grids_are_those_of_the_standard(text: str, kind: str, aligned: int) -> None:
    text = text.replace("float", kind).replace("Grid", f"Grid <align_corners = {aligned}>")
    model = parsed(text, 20)
    compiled, reference = bessemer.compile(model, cache=False), ReferenceEvaluator(model)
    count = 2 if "[4]" in text else 3
    for size in (size for size in _SIZES if len(size) == count + 2):
        theta = floats(size[0], count, count + 1).astype(compiled.inputs[0].dtype)
        feed: dict[str, Array] = {"t": theta, "s": np.array(size)}
        with np.errstate(divide="ignore"):
            (expected,) = map(np.asarray, reference.run(None, feed))
        # The evaluator has its coordinates in float32.
        tolerance = 3e-3 if kind == "float16" else 1e-6
        np.testing.assert_allclose(compiled.run(feed)[0], expected, atol=tolerance, rtol=tolerance)


def test_known_sizes_leave_one_kernel() -> None:
    known = "<int64[4] s = {2, 3, 4, 5}>"
    text = f"g (float[n,2,3] t) => (float[n,4,5,2] y) {known} {{ y = AffineGrid(t, s) }}"
    graph = read_onnx(parsed(text, 20))
    assert "matmul" not in operators(graph) and "concat" not in operators(graph)
    for theta in (np.zeros((3, 3, 3), np.float32), np.zeros((3, 2), np.float32)):
        with pytest.raises(bessemer.CompileError, match="AffineGrid"):
            bessemer.compile(parsed(text.replace("[n,2,3]", str(list(theta.shape))), 20))
