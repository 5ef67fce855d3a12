"""The onnx.backend module: the calls that onnx's own test runner makes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.frontends import onnx_backend
from tests.onnx_check import floats, parsed


def test_prepare_runs_a_model_at_several_sizes() -> None:
    model = parsed("agraph (float[n, 3] x, float[3] y) => (float[n, 3] z) { z = Add(x, y) }")
    prepared = onnx_backend.prepare(model, device="CPU")
    for rows in (1, 4):
        x, y = floats(rows, 3), floats(3)
        (z,) = prepared.run([x, y])
        np.testing.assert_array_equal(z, x + y)
        (z,) = prepared.run({"x": x, "y": y})
        np.testing.assert_array_equal(z, x + y)


def test_what_is_given_by_name_replaces_an_initializer() -> None:
    model = parsed("agraph (float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(floats(2), "w"))
    prepared = onnx_backend.prepare(model)
    x, w = floats(2), floats(2) + 1
    np.testing.assert_array_equal(prepared.run([x])[0], x * floats(2))
    np.testing.assert_array_equal(prepared.run({"x": x, "w": w})[0], x * w)


def test_a_model_that_needs_an_inputs_numbers_is_compiled_for_them() -> None:
    """An axis is not a number that a graph can take in: each new one is another program."""
    model = parsed(
        "agraph (float[n, m] x, int64[1] axes) => (float[k] y) "
        "{ y = ReduceSum<keepdims = 0>(x, axes) }"
    )
    prepared = onnx_backend.prepare(model)
    x = floats(4, 3)
    for axis in (0, 1, 0):
        (y,) = prepared.run([x, np.array([axis])])
        np.testing.assert_allclose(y, x.sum(axis), rtol=1e-5)


def test_inputs_without_a_shape_take_the_rank_of_the_array() -> None:
    model = parsed("agraph (float[n] x) => (float[n] y) { y = Relu(x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    for shape in ((3,), (2, 2)):
        (y,) = onnx_backend.run_model(model, [floats(*shape)])
        np.testing.assert_array_equal(y, np.maximum(floats(*shape), 0))


def test_run_node_makes_a_model_of_the_node() -> None:
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    (c,) = onnx_backend.run_node(node, [floats(2, 3), floats(3, 4)])
    np.testing.assert_allclose(c, floats(2, 3) @ floats(3, 4), rtol=1e-5, atol=1e-6)


def test_what_is_not_supported_is_said() -> None:
    model = parsed("agraph (float[n] x) => (float[n] y) { y = Relu(x) }")
    assert onnx_backend.supports_device("CPU") and not onnx_backend.supports_device("CUDA")
    with pytest.raises(CompileError, match=r"'CUDA:0' is not supported"):
        onnx_backend.prepare(model, device="CUDA:0")
    prepared = onnx_backend.prepare(model)
    for wrong, message in (
        ([floats(1)], "a list is not supported"),
        (None, "an absent optional is not supported"),
    ):
        with pytest.raises(CompileError, match=rf"input 'x': {message}"):
            prepared.run([wrong])
    with pytest.raises(CompileError, match=r"2 inputs for a model that has 1"):
        prepared.run([floats(1), floats(1)])
