"""Runs networks written with the builder, by the references; and single nodes of ONNX beside."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder import Input, Layer, Network
from tests.onnxruntime_sessions import session_of

Forward = Layer | Callable[..., Any]


def network_of(
    forward: Forward, *arrays: Array, symbolic: Sequence[int] = (0,), **options: Any
) -> Network:
    """A network for inputs x0, x1, ... like the arrays; the axes in `symbolic` are symbols."""
    inputs = []
    for number, array in enumerate(arrays):
        shape = [
            f"d{axis}_{size}" if axis in symbolic else size for axis, size in enumerate(array.shape)
        ]
        inputs.append(Input(f"x{number}", shape, str(array.dtype)))
    return Network(forward, *inputs, **options)


def run_network(network: Network, *arrays: Array) -> list[Array]:
    """The outputs for arrays in the order of the inputs."""
    names = [each.name for each in network.inputs]
    return run_graph(network.graph, dict(zip(names, arrays, strict=True)))


def run(forward: Forward, *arrays: Array, **options: Any) -> Array:
    """The only output of a layer or function for arrays."""
    (result,) = run_network(network_of(forward, *arrays, **options), *arrays)
    return result


def numbers(*shape: int, seed: int = 0) -> Array:
    """Standard normal f32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def by_onnxruntime(kind: str, x: Array, *constants: Array | None, **attributes: Any) -> Array:
    """One node by onnxruntime, its first output."""
    names = [f"c{k}" if c is not None else "" for k, c in enumerate(constants)]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(c), n) for n, c in zip(names, constants) if n
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    output = helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph([node], "one", inputs, [output], tensors)
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = session_of(onnx.shape_inference.infer_shapes(model))
    return np.asarray(session.run(["y"], {"x": x})[0])


def assert_near(actual: Array, expected: Array, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def with_random(network: Network) -> Network:
    """All parameters random, so that a scale that is forgotten shows."""
    arrays = {
        name: np.abs(numbers(*parameter.type.static_shape, seed=seed + 7)) * 0.5 + 0.1
        for seed, (name, parameter) in enumerate(network.parameters.items())
    }
    return network.with_arrays(arrays)
