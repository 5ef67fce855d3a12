"""Resizing by scales that sizes do not reproduce, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.ir.types import Array
from tests.onnx_check import agrees, expected, floats, node_model


def _agrees(x: Array, scales: list[float], opset: int, **attributes: Any) -> None:
    names = ["x", "scales"] if opset < 11 else ["x", "", "scales"]
    node = onnx.helper.make_node("Resize", names, ["y"], **attributes)
    given = [("scales", np.array(scales, np.float32))]
    agrees(node_model(node, [("x", x)], opset, given), {"x": x})


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1.5, 0.7), (0.7, 0.6), (2.0, 0.5), (3.0, 1.3)])
def test_old_resizes_round_by_axis(mode: str, scales: tuple[float, float]) -> None:
    """Up along axes that shrink, down along those that grow."""
    _agrees(floats(1, 2, 17, 15), [1, 1, *scales], 10, mode=mode)


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize(
    ("coordinate", "scale"),
    [("asymmetric", 0.7), ("asymmetric", 0.3), ("asymmetric", 1.3), ("half_pixel", 0.7)],
)
def test_nearest_places_are_found_in_float32(coordinate: str, scale: float, rounding: str) -> None:
    """In float64, 7 / float32(0.7) is behind 10, and the next whole number is 11."""
    attributes = {"nearest_mode": rounding, "coordinate_transformation_mode": coordinate}
    _agrees(floats(1, 1, 53), [1, 1, scale], 13, mode="nearest", **attributes)


@pytest.mark.parametrize(("mode", "antialias"), [("linear", 0), ("cubic", 0), ("linear", 1)])
def test_a_position_between_two_numbers_has_one_floor(mode: str, antialias: int) -> None:
    """1.5 / float32(0.6) - 0.5 is 2 in float32; in float64 it lies before that, close to it."""
    x = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 2, 4)
    node = onnx.helper.make_node("Resize", ["x", "", "s"], ["y"], mode=mode, antialias=antialias)
    scales = np.array([1, 1, 0.6, 0.6], np.float32)
    model = node_model(node, [("x", x)], 19, [("s", scales)])
    (ours,) = bessemer.compile(model).run({"x": x})
    (theirs,) = expected(model, {"x": x})
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
