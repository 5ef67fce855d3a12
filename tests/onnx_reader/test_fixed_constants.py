"""What an exporter folded into a file's weights but nobody learns is not trained as a rule."""

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from bessemer.frontends.train.fixed_constants import is_fixed
from bessemer.frontends.train.from_onnx import network_from_onnx

ANGLES = np.arange(6.0)[:, None] * 10000.0 ** (-np.arange(4) / 4)
FIXED = {
    "cosines": np.cos(ANGLES)[None, None],
    "sines": np.sin(ANGLES).astype(np.float32),
    "sines along the last axis": np.sin(ANGLES).T,
    "sines and cosines by turns": np.stack([np.sin(ANGLES), np.cos(ANGLES)], -1).reshape(1, 6, 8),
    "sines beside cosines": np.concatenate([np.sin(ANGLES), np.cos(ANGLES)], 1),
    "mask": np.triu(np.full((6, 6), -np.inf), 1),
    "finite mask": np.triu(np.full((6, 6), -1e4), 1),
    "identity": np.eye(4),
    "places": np.arange(4.0),
    "frequencies": np.exp(-np.log(1e4) * np.arange(4) / 4).astype(np.float32),
}
LEARNT = {
    "scale": np.ones(4),
    "shift": np.zeros((6, 4)),
    "large": np.array([1e5, 2.5e5, -1e5]),
    "first row of zeros": np.linspace(-1, 1, 24).reshape(6, 4) * (np.arange(6) > 0)[:, None],
    "two": np.array([1.0, 0.5]),
    "a few ones": np.vstack([np.eye(6), np.linspace(-1, 0.7, 30).reshape(5, 6)]),
}


@pytest.mark.parametrize("name", FIXED)
def test_tables_are_fixed(name: str) -> None:
    assert is_fixed(FIXED[name])


@pytest.mark.parametrize("name", LEARNT)
def test_weights_are_not_fixed(name: str) -> None:
    assert not is_fixed(LEARNT[name])


def test_attention_s_mask_and_rotation_are_not_trained_as_a_rule() -> None:
    arrays: dict[str, Any] = {
        "weight": np.ones((4, 4)), "cosines": FIXED["cosines"][0], "mask": FIXED["mask"],
        "places": np.linspace(-1, 1, 24).reshape(6, 4),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["projected"]),
        helper.make_node("Add", ["projected", "places"], ["placed"]),
        helper.make_node("Mul", ["placed", "cosines"], ["rotated"]),
        helper.make_node("Transpose", ["rotated"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["rotated", "keys"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", 1, ["batch", 6, 4])],
        [helper.make_tensor_value_info("y", 1, ["batch", 6, 6])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert set(network_from_onnx(model).parameters) == {"weight", "places"}
    chosen = network_from_onnx(model, ["weight", "mask"])
    assert set(chosen.parameters) == {"weight", "mask"}
