"""What com.microsoft has for images on GPUs, against NumPy: onnxruntime runs none of it on CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import floats, node_model
from tests.onnx_nodes import run_node


def _run(
    operator: str, inputs: Sequence[Array], outputs: int = 1, **attributes: Any
) -> list[Array]:
    names = [f"x{at}" for at in range(len(inputs))]
    results = [f"y{at}" for at in range(outputs)]
    node = onnx.helper.make_node(operator, names, results, domain="com.microsoft", **attributes)
    fed = list(zip(names, inputs))
    return list(run_graph(read_onnx(node_model(node, fed, 1)), dict(fed)))


def _group_norm(x: Array, scale: Array, shift: Array, groups: int) -> Array:
    apart = x.astype(np.float64).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    center = apart.mean(axis=(1, 3), keepdims=True)
    spread = apart.var(axis=(1, 3), keepdims=True)
    normal: Array = ((apart - center) / np.sqrt(spread + 1e-5)).reshape(x.shape)
    return normal * scale + shift


def test_group_norm_with_an_activation() -> None:
    x, scale, shift = floats(2, 3, 4, 8), floats(8), floats(8) * 2
    (ours,) = _run("GroupNorm", [x, scale, shift], groups=4, activation=1)
    normal = _group_norm(x, scale, shift, 4)
    np.testing.assert_allclose(ours, normal / (1 + np.exp(-normal)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8), (2, 3, 4, 8)])
def test_group_norm_of_a_sum(shape: tuple[int, ...]) -> None:
    x, scale, shift, skip, bias = (
        floats(2, 3, 4, 8),
        floats(8),
        floats(8),
        floats(*shape),
        floats(8),
    )
    given = [x, scale, shift, skip, bias]
    ours, total = _run("SkipGroupNorm", given, 2, groups=2, activation=0)
    expected = x + (skip[:, None, None] if len(shape) == 2 else skip) + bias
    np.testing.assert_allclose(total, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours, _group_norm(expected, scale, shift, 2), rtol=1e-5, atol=1e-5)


def test_a_convolution_of_last_channels() -> None:
    x, weight, bias = floats(2, 5, 4, 6), floats(3, 5, 3, 2), floats(3)
    attributes: dict[str, Any] = {"pads": [1, 0, 1, 0], "strides": [1, 2]}
    (theirs,) = run_node("Conv", [x, weight, bias], **attributes)
    last = [np.ascontiguousarray(np.moveaxis(one, 1, -1)) for one in (x, weight)]
    (ours,) = _run("NhwcConv", [*last, bias], **attributes)
    np.testing.assert_allclose(ours, np.moveaxis(theirs, 1, -1), rtol=1e-5, atol=1e-5)


def test_biases_with_what_follows_them() -> None:
    x, bias, skip = floats(2, 3, 8), floats(8), floats(2, 3, 8) * 2
    (ours,) = _run("BiasAdd", [x, bias, skip])
    np.testing.assert_allclose(ours, x + bias + skip, rtol=1e-6)
    linear, gate = np.split(x + bias, 2, axis=-1)
    (curved,) = run_node("Gelu", [gate])
    (ours,) = _run("BiasSplitGelu", [x, bias])
    np.testing.assert_allclose(ours, linear * curved, rtol=1e-5, atol=1e-6)
