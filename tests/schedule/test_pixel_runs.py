"""Windows of pixels are packed by runs of neighbours, also in panels of several image rows."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import helper

import bessemer
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import expected, floats, node_model
from tests.planned import planned


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "loads"),
    [
        ((1, 1, 7, 37), (24, 1, 3, 3), 1, 2),  # the last panel is not full
        ((2, 1, 8, 48), (24, 1, 3, 3), 1, 2),  # packed by the product's items
        ((1, 1, 6, 19), (40, 1, 3, 3), 1, 3),
        ((1, 1, 3, 5, 35), (48, 1, 2, 3, 3), 1, 2),
        ((1, 1, 4, 64), (40, 1, 3, 3), 1, 1),  # whole panels
        ((1, 2, 5, 71), (40, 2, 3, 3), 2, 2),
        ((1, 1, 9, 12), (40, 1, 3, 3), 1, 1),  # too many rows in a panel: gathers
    ],
)
def test_windows_of_any_row_length(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, loads: int
) -> None:
    x, w = floats(*shape), floats(*kernel)
    pads = [(size - 1) // 2 for size in kernel[2:]] + [size // 2 for size in kernel[2:]]
    strides = [*[1] * (len(shape) - 3), stride]
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, strides=strides)
    model = node_model(node, [("x", x)], 17, [("w", w)])
    steps = planned(read_onnx(model), "x86_64-avx512").program.steps
    kernels = [step.kernel for step in steps if isinstance(step, Launch)]
    texts = [print_kernel(kernel) for kernel in kernels if kernel.name.startswith(("pack", "mat"))]
    (store, *_) = [line for line in "".join(texts).splitlines() if "] = " in line]
    assert len(re.findall(r"in\d\[", store)) == loads
    (theirs,) = expected(model, {"x": x})
    np.testing.assert_allclose(bessemer.compile(model).run([x])[0], theirs, rtol=1e-5, atol=1e-5)
