"""Training beside weights of few bits, which stay as they are: torch's losses on the same steps."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder.network import Input
from bessemer.frontends.train.from_onnx import network_from_onnx
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.trainer import Trainer

torch = pytest.importorskip("torch")
LABELS = [Input("label", ("batch",), "i64")]
DEPTH, COLUMNS, RANK, BLOCK = 40, 24, 3, 16


def _bytes(rng: np.random.Generator) -> tuple[list[Any], dict[str, Array], Array]:
    """A product with int8 weights that have a scale for each column; weights as floats."""
    units = rng.integers(-128, 128, (DEPTH, COLUMNS)).astype(np.int8)
    scales = rng.uniform(0.001, 0.003, COLUMNS).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["units", "scales"], ["weights"], axis=1),
        helper.make_node("MatMul", ["h", "weights"], ["fixed"]),
    ]
    return nodes, {"units": units, "scales": scales}, units * scales


def _nibbles(rng: np.random.Generator) -> tuple[list[Any], dict[str, Array], Array]:
    """A product with weights of four bits that have scales and zero points in blocks."""
    blocks = -(-DEPTH // BLOCK)
    units = rng.integers(0, 16, (COLUMNS, blocks * BLOCK)).astype(np.uint8)
    scales = rng.uniform(0.02, 0.05, (COLUMNS, blocks)).astype(np.float32)
    zeros = rng.integers(5, 11, (COLUMNS, 2 * -(-blocks // 2))).astype(np.uint8)
    arrays = {
        "units": (units[:, ::2] | (units[:, 1::2] << 4)).reshape(COLUMNS, blocks, BLOCK // 2),
        "scales": scales.reshape(-1),
        "zeros": (zeros[:, ::2] | (zeros[:, 1::2] << 4)).reshape(-1),
    }
    node = helper.make_node(
        "MatMulNBits", ["h", "units", "scales", "zeros"], ["fixed"], domain="com.microsoft",
        K=DEPTH, N=COLUMNS, bits=4, block_size=BLOCK,
    )  # fmt: skip
    centred = units - np.repeat(zeros[:, :blocks], BLOCK, axis=1).astype(np.float32)
    return [node], arrays, (centred * np.repeat(scales, BLOCK, axis=1))[:, :DEPTH].T


def _network(nodes: list[Any], arrays: dict[str, Array]) -> onnx.ModelProto:
    """h = x first; y = h weights + h down up: a layer before, and a LoRA beside the weights."""
    around = [
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        *nodes,
        helper.make_node("MatMul", ["h", "down"], ["low"]),
        helper.make_node("MatMul", ["low", "up"], ["adapted"]),
        helper.make_node("Add", ["fixed", "adapted"], ["y"]),
    ]
    graph = helper.make_graph(
        around,
        "adapted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", COLUMNS])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("quantized", [_bytes, _nibbles])
def test_gradients_flow_through_weights_of_few_bits(
    quantized: Any, rng: np.random.Generator
) -> None:
    nodes, arrays, fixed = quantized(rng)
    shapes = {"first": (8, DEPTH), "down": (DEPTH, RANK), "up": (RANK, COLUMNS)}
    trained = {name: 0.3 * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    network = network_from_onnx(_network(nodes, {**arrays, **trained}), list(shapes))
    trainer = Trainer(network, cross_entropy, LABELS, optimizer=SGD(0.05, 0.9), threads=1)
    weights = {name: torch.tensor(array, requires_grad=True) for name, array in trained.items()}
    optimizer = torch.optim.SGD(list(weights.values()), 0.05, 0.9)
    for _ in range(6):
        x, label = rng.standard_normal((12, 8), np.float32), rng.integers(0, COLUMNS, 12)
        found = trainer.step({"x": x, "label": label})["loss"]
        h = torch.tensor(x) @ weights["first"]
        y = h @ torch.tensor(fixed, dtype=torch.float32) + h @ weights["down"] @ weights["up"]
        loss = torch.nn.functional.cross_entropy(y, torch.tensor(label))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert found == pytest.approx(loss.item(), rel=1e-4)
