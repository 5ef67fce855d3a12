"""Convolutions to few channels, whose products read rows of planes where they lie."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

import bessemer
from bessemer.compiler.ir.walk_steps import launches
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import expected, floats, node_model
from tests.planned import planned


def _model(x: np.ndarray, outputs: int, kernel: tuple[int, ...], pads: list[int]) -> ModelProto:
    w = floats(outputs, x.shape[1], *kernel) / np.float32(9)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads)
    return node_model(node, [("x", x)], 17, [("w", w)])


@pytest.mark.parametrize(
    ("shape", "outputs", "kernel", "pads"),
    [
        ((2, 32, 5, 37), 3, (3, 3), [1, 2, 0, 1]),  # the last panel has columns of the one before
        ((2, 64, 4, 3, 20), 1, (3, 2, 2), [1, 0, 1, 0, 1, 1]),  # fewer rows than are packed
        ((1, 64, 9, 18), 2, (7, 5), [0] * 4),  # rows of planes are stored without padding, too
    ],
)
def test_windows_that_share_rows_are_not_packed(
    shape: tuple[int, ...], outputs: int, kernel: tuple[int, ...], pads: list[int]
) -> None:
    x = floats(*shape)
    model = _model(x, outputs, kernel, pads)
    names = [step.kernel.name for step in launches(planned(read_onnx(model)).program.steps)]
    assert sum(name.startswith("matmul") for name in names) == 1
    assert not any("pack" in name for name in names)
    (found,) = bessemer.compile(model, threads=2).run({"x": x})
    np.testing.assert_allclose(found, expected(model, {"x": x})[0], atol=2e-6, rtol=1e-5)


def test_windows_of_images_of_any_size_are_not_packed() -> None:
    model = _model(floats(1, 32, 4, 4), 3, (3, 3), [1] * 4)
    for axis, name in ((0, "n"), (2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    names = [step.kernel.name for step in launches(planned(read_onnx(model)).program.steps)]
    assert not any("pack" in name for name in names)
    compiled = bessemer.compile(model, threads=2)
    for shape in ((2, 32, 5, 70), (1, 32, 1, 3), (1, 32, 40, 48)):
        x = floats(*shape)
        (found,) = compiled.run({"x": x})
        np.testing.assert_allclose(found, expected(model, {"x": x})[0], atol=2e-6, rtol=1e-5)
