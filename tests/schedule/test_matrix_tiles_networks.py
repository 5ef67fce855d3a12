"""Whole networks compiled for AMX, run under the emulator, against ONNX's evaluator in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bessemer.compiler.codegen.artifact.link import compile_code
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.codegen.kernels.cpu import PASSES
from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.ir import walk_loops
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.tile_statements import TileMac
from bessemer.compiler.ir.types import Array
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options, Precision
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import host_target, parse_target
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.runtime.errors import ArtifactError
from bessemer.runtime.model import CompiledModel
from tests.amx_emulation import counts, emulator, needs_emulator, reset


class Sketch:
    """An ONNX model with one input, layer by layer; float32, or the same numbers as float64."""

    def __init__(self, shape: Sequence[int | str], dtype: Any, seed: int = 3) -> None:
        self.dtype = np.dtype(dtype)
        self.kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", self.kind, list(shape))]
        self.last = "x"

    def add(self, kind: str, *others: Array | str, **attributes: Any) -> str:
        """A node on the last value and others; what its output is called."""
        names = [self.last]
        for other in others:
            if isinstance(other, str):
                names.append(other)
                continue
            names.append(f"c{len(self.constants)}")
            array = other.astype(self.dtype) if other.dtype.kind == "f" else other
            self.constants.append(numpy_helper.from_array(array, names[-1]))
        self.last = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [self.last], **attributes))
        return self.last

    def weights(self, *shape: int) -> Array:
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        weights: Array = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        return weights

    def conv(self, channels: int, outputs: int, kernel: int, **attributes: Any) -> str:
        pads = [kernel // 2] * 4
        weight = self.weights(outputs, channels, kernel, kernel)
        return self.add("Conv", weight, self.weights(outputs), pads=pads, **attributes)

    def linear(self, inputs: int, outputs: int) -> str:
        return self.add("Gemm", self.weights(outputs, inputs).T.copy(), self.weights(outputs))

    def model(self) -> onnx.ModelProto:
        output = helper.make_tensor_value_info(self.last, self.kind, None)
        graph = helper.make_graph(self.nodes, "sketch", self.inputs, [output], self.constants)
        opsets = [helper.make_opsetid("", 17)]
        return onnx.shape_inference.infer_shapes(
            helper.make_model(graph, opset_imports=opsets, ir_version=9)
        )


def mlp(dtype: Any) -> Sketch:
    net = Sketch((64, 300), dtype)
    net.linear(300, 200)
    net.add("Relu")
    net.linear(200, 64)
    net.add("Relu")
    net.linear(64, 10)
    return net


def lenet(dtype: Any) -> Sketch:
    net = Sketch((32, 1, 28, 28), dtype)
    net.conv(1, 6, 5)
    net.add("Relu")
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.conv(6, 16, 5)
    net.add("Relu")
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Flatten")
    for sizes in ((16 * 49, 120), (120, 84), (84, 10)):
        net.linear(*sizes)
        net.add("Relu")
    return net


def residual(dtype: Any) -> Sketch:
    """Strides, odd sizes, a residual sum, pooling."""
    net = Sketch((1, 3, 52, 52), dtype)
    net.conv(3, 64, 3, strides=[2, 2])
    before = net.add("Relu")
    net.conv(64, 128, 1)
    net.add("Relu")
    net.conv(128, 64, 5)
    net.add("Add", before)
    net.add("Relu")
    net.conv(64, 96, 3, strides=[2, 2])
    net.add("Relu")
    net.conv(96, 40, 1)
    net.add("GlobalAveragePool")
    net.add("Flatten")
    net.linear(40, 7)
    return net


def products(dtype: Any) -> Sketch:
    """A right operand that is computed, and a left one that two products read; any batch."""
    net = Sketch(("n", 64, 128), dtype)
    net.add("MatMul", net.weights(128, 256))
    left = net.add("Relu")
    net.add("Transpose", perm=[0, 2, 1])
    transposed = net.last
    net.last = left
    net.add("MatMul", transposed)
    scores = net.add("Softmax", axis=-1)
    net.last = left
    net.add("MatMul", net.weights(256, 128))
    values = net.last
    net.last = scores
    net.add("MatMul", values)
    return net


NETWORKS = {"mlp": mlp, "lenet": lenet, "residual": residual, "products": products}


def loaded(made: Compilation, threads: int = 1) -> CompiledModel:
    """The model in this process, which is asked only for what this machine has."""
    here = tuple(f for f in made.target.features if not f.startswith("amx"))
    signature = replace(made.code.signature, cpu_features=here)
    machine = machine_of(made.target)
    code = compile_code(signature, made.texts, machine, PASSES)
    return load_code(code, made.weights, machine, threads)


def uses_tiles(made: Compilation) -> int:
    """How many of the program's kernels do."""
    return sum(
        isinstance(step, Launch)
        and any(isinstance(s, TileMac) for s in walk_loops.walk(step.kernel.body))
        for step in made.program.steps
    )


def compiled(name: str, precision: Precision) -> Compilation:
    options = Options(target="x86_64-amx", precision=precision, verify=True)
    return build(read_onnx(NETWORKS[name](np.float32).model()), options)


def example(name: str) -> tuple[Array, Array]:
    """An input, and the exact output for it."""
    exact = NETWORKS[name](np.float64).model()
    shape = [d.dim_value or 3 for d in exact.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    (y,) = ReferenceEvaluator(exact).run(None, {"x": x.astype(np.float64)})
    return x, np.asarray(y)


def error(result: Array, exact: Array) -> float:
    return float(np.linalg.norm(result - exact) / np.linalg.norm(exact))


def runs_to(model: CompiledModel, x: Array) -> Array:
    (result,) = model.run({"x": x})
    return np.asarray(result)


@needs_emulator
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_on_tiles_are_as_exact_as_in_float32(name: str) -> None:
    emulator()
    x, exact = example(name)
    tiled, plain = compiled(name, "float32"), compiled(name, "strict")
    assert uses_tiles(tiled) and not uses_tiles(plain)
    reset()
    strict = error(runs_to(loaded(plain), x), exact)
    assert not any(counts().values())
    ours = error(runs_to(loaded(tiled), x), exact)
    assert counts()["product"] > 0
    assert ours <= max(1.3 * strict, 3e-7)


@needs_emulator
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_in_bfloat16_take_one_product(name: str) -> None:
    emulator()
    x, exact = example(name)
    made = compiled(name, "bfloat16")
    assert uses_tiles(made)
    reset()
    result = runs_to(loaded(made), x)
    assert counts()["product"] > 0
    assert error(result, exact) < 5e-3


@needs_emulator
def test_products_of_bytes_run_on_tiles() -> None:
    emulator()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (64, 150)).astype(np.uint8)
    w = rng.integers(-128, 128, (150, 48)).astype(np.int8)
    net = Sketch(x.shape, np.uint8)
    net.add("MatMulInteger", w)
    output = helper.make_tensor_value_info(net.last, onnx.TensorProto.INT32, None)
    graph = helper.make_graph(net.nodes, "bytes", net.inputs, [output], net.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    made = build(read_onnx(model), Options(target="x86_64-amx", verify=True))
    assert uses_tiles(made)
    np.testing.assert_array_equal(runs_to(loaded(made), x), x.astype(np.int32) @ w)


@needs_emulator
def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    emulator()
    x, _ = example("residual")
    made = compiled("residual", "float32")
    one, two = (runs_to(loaded(made, threads), x) for threads in (1, 2))
    np.testing.assert_array_equal(one.view(np.uint32), two.view(np.uint32))


@needs_emulator
def test_an_infinite_pixel_reaches_what_it_would_reach_in_float32() -> None:
    emulator()
    x, _ = example("mlp")
    x[7, 11], x[9, 200] = np.inf, np.nan
    net = NETWORKS["mlp"](np.float64).model()
    (exact,) = ReferenceEvaluator(net).run(None, {"x": x.astype(np.float64)})
    result = runs_to(loaded(compiled("mlp", "float32")), x)
    assert not np.isfinite(exact).all()
    np.testing.assert_allclose(result, np.asarray(exact), 1e-4, 1e-4)


def test_an_artifact_for_amx_is_made_anywhere_and_says_what_it_lacks(tmp_path: Path) -> None:
    if "amx-tile" in host_target().features:
        pytest.skip("this processor has AMX")
    made = compiled("mlp", "float32")
    assert {"amx-tile", "amx-bf16", "amx-int8"} <= set(made.code.signature.cpu_features)
    said = "lacks one of: .*amx-tile.*; or the system does not let this process use AMX"
    with pytest.raises(ArtifactError, match=said):
        load_code(made.code, made.weights, machine_of(made.target))


def test_where_linux_refuses_tiles_the_host_is_the_next_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {feature: x86._LINUX_NAMES.get(feature, feature) for feature in x86.AMX.features}
    monkeypatch.setattr(x86, "_flags", lambda: frozenset(names.values()))
    monkeypatch.setattr(x86, "request_tiles", lambda: False)
    assert x86.host().name == "x86_64-avx512-bf16"
    assert x86.refuses_tiles()
    monkeypatch.setattr(x86, "request_tiles", lambda: True)
    assert x86.host().name == parse_target("x86_64-amx").name == "x86_64-amx"
    assert not x86.refuses_tiles()
