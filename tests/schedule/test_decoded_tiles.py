"""Products that decode their weights to pairs of bfloat16, against sums in float64 and onnxruntime.

The error of rounded operands is bounded by that of the sum of the products' magnitudes.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bessemer
from bessemer.compiler.driver import kernels_of
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options, Precision
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import host_target
from bessemer.compiler.targets.x86 import AVX512_BF16
from bessemer.frontends.models_in import as_graph
from tests.onnxruntime_sessions import session_of

_ROUNDED = 2.0**-8
"""The largest relative error of a number that is rounded to bfloat16, twice over: of a product of
two such numbers."""


def _model(depth: int, columns: int, has_bias: bool, block: int = 0) -> onnx.ModelProto:
    """A product with weights of bytes, or of four bits in blocks."""
    rng = np.random.default_rng(depth)
    dtype = ml_dtypes.int4 if block else np.int8
    lowest, highest = (-8, 8) if block else (-128, 128)
    shape = (-(-depth // block), columns) if block else (columns,)
    constants: dict[str, Array] = {
        "w": rng.integers(lowest, highest, (depth, columns)).astype(dtype),
        "scale": rng.uniform(0.01, 0.03, shape).astype(np.float32),
        "zero": rng.integers(lowest // 2, highest // 2, shape).astype(dtype),
    }
    nodes = [
        helper.make_node(
            "DequantizeLinear", list(constants), ["real"], axis=0 if block else 1, block_size=block
        ),
        helper.make_node("MatMul", ["x", "real"], ["product" if has_bias else "y"]),
    ]
    if has_bias:
        constants["bias"] = rng.standard_normal(columns).astype(np.float32)
        nodes.append(helper.make_node("Add", ["product", "bias"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "pairs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", columns])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _weights(model: onnx.ModelProto, block: int) -> tuple[Array, Array]:
    """In float64, and the bias."""
    given = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    wide = {name: array.astype(np.float64) for name, array in given.items()}
    scale, zero = wide["scale"], wide["zero"]
    if block:
        depth = len(wide["w"])
        scale, zero = (np.repeat(one, block, axis=0)[:depth] for one in (scale, zero))
    return (wide["w"] - zero) * scale, wide.get("bias", np.zeros(1))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("depth", "columns", "has_bias", "block"), [
    (64, 40, True, 0), (301, 128, False, 0), (513, 33, True, 0), (256, 1100, False, 0),
    (96, 150, False, 32),
])  # fmt: skip
def test_products_are_those_of_rounded_numbers(
    depth: int, columns: int, has_bias: bool, block: int, threads: int
) -> None:
    model = _model(depth, columns, has_bias, block)
    weights, bias = _weights(model, block)
    compiled = bessemer.compile(model, precision="bfloat16", threads=threads)
    for rows in (0, 1, 4, 5, 12, 13, 29, 49):
        x = np.random.default_rng(rows).standard_normal((rows, depth)).astype(np.float32)
        exact = x.astype(np.float64) @ weights + bias
        (y,) = compiled.run({"x": x})
        assert y.shape == exact.shape
        bound = _ROUNDED * (abs(x).astype(np.float64) @ abs(weights)) + 1e-4
        assert (abs(y - exact) < bound).all()
        if rows and not block:
            (theirs,) = session_of(model, plain=True).run(None, {"x": x})
            assert (abs(y - theirs) < bound).all()


@pytest.mark.skipif(not host_target().has_dot_bf16, reason="no instruction multiplies bfloat16")
def test_numbers_that_bfloat16_holds_are_multiplied_exactly() -> None:
    model = _model(77, 70, has_bias=False)
    for name, numbers in (("scale", np.full(70, 0.25)), ("zero", np.zeros(70))):
        (constant,) = (c for c in model.graph.initializer if c.name == name)
        dtype = np.float32 if name == "scale" else np.int8
        constant.CopyFrom(numpy_helper.from_array(numbers.astype(dtype), name))
    weights, _ = _weights(model, 0)
    x = np.random.default_rng(3).integers(-64, 65, (23, 77)).astype(np.float32)
    compiled = bessemer.compile(model, precision="bfloat16", threads=1, cache=False)
    np.testing.assert_array_equal(compiled.run({"x": x})[0], x.astype(np.float64) @ weights)


def test_only_products_of_some_rows_are_of_pairs() -> None:
    model, target = _model(64, 40, has_bias=False), AVX512_BF16

    def are_pairs(rows: int, precision: Precision) -> bool:
        graph = as_graph(model, dims={"rows": rows})
        for step in passes_of(Options(precision=precision), target):
            graph = step(graph)
        kernels = kernels_of(build_program(graph, target).steps)
        return "bf16" in "".join(map(print_kernel, kernels))

    assert are_pairs(5, "bfloat16")
    assert not are_pairs(4, "bfloat16")
    assert not are_pairs(5, "float32")
