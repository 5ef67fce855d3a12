"""Operators of com.microsoft and ai.onnx.ml, against onnxruntime, which defines them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from bessemer.compiler.ir.types import Array
from tests.onnx_check import agrees, floats, node_model

ML, MICROSOFT = "ai.onnx.ml", "com.microsoft"
_SCALE, _ZERO = np.array(0.05, np.float32), np.array(120, np.uint8)
_OTHER_SCALE, _OTHER_ZERO = np.array(0.08, np.float32), np.array(100, np.uint8)


def _bytes(*shape: int) -> Array:
    return np.random.default_rng(5).integers(0, 256, shape).astype(np.uint8)


_QUANTIZED = [_bytes(2, 3, 4, 5), _SCALE, _ZERO]

_CASES: list[tuple[str, Sequence[Array | None], int, dict[str, Any], float]] = [
    (
        "FusedConv",
        [floats(1, 2, 5, 5), floats(3, 2, 3, 3), floats(3)],
        1,
        {"activation": "Relu"},
        2e-5,
    ),
    (
        "FusedConv",
        [floats(1, 2, 5, 5), floats(3, 2, 3, 3), floats(3), floats(1, 3, 3, 3)],
        1,
        {"activation": "LeakyRelu", "activation_params": [0.2]},
        2e-5,
    ),
    (
        "FusedMatMul",
        [floats(2, 4, 3), floats(2, 5, 4)],
        1,
        {"transA": 1, "transB": 1, "alpha": 0.5},
        2e-5,
    ),
    (
        "TransposeMatMul",
        [floats(2, 3, 4), floats(2, 5, 4)],
        1,
        {"transB": 1, "alpha": 0.5},
        2e-5,
    ),
    (
        "FusedGemm",
        [floats(4, 3), floats(4, 5), floats(5)],
        1,
        {
            "transA": 1,
            "alpha": 0.5,
            "beta": 2.0,
            "activation": "LeakyRelu",
            "activation_alpha": 0.2,
        },
        2e-5,
    ),
    ("FusedGemm", [floats(4, 3), floats(3, 5)], 1, {"activation": "Relu"}, 2e-5),
    ("Gelu", [floats(3, 4)], 1, {}, 2e-5),
    ("BiasGelu", [floats(3, 4), floats(4)], 1, {}, 2e-5),
    ("FastGelu", [floats(3, 4), floats(4)], 1, {}, 1e-4),
    ("QuickGelu", [floats(3, 4)], 1, {}, 2e-5),
    (
        "SkipLayerNormalization",
        [floats(2, 3, 8), floats(2, 3, 8) * 2, floats(8), floats(8), floats(8)],
        1,
        {"epsilon": 1e-5},
        5e-5,
    ),
    (
        "SkipSimplifiedLayerNormalization",
        [floats(2, 3, 8), floats(2, 3, 8) * 2, floats(8)],
        1,
        {"epsilon": 1e-5},
        5e-5,
    ),
    (
        "EmbedLayerNormalization",
        [
            np.array([[1, 3, 2]], np.int32),
            np.array([[0, 1, 0]], np.int32),
            floats(5, 8),
            floats(4, 8),
            floats(2, 8),
            floats(8),
            floats(8),
            np.array([[1, 1, 0]], np.int32),
        ],
        2,
        {},
        5e-5,
    ),
    (
        "Attention",
        [
            floats(2, 4, 8),
            floats(8, 24),
            floats(24),
            np.array([[1, 1, 1, 0], [1, 1, 1, 1]], np.int32),
        ],
        1,
        {"num_heads": 2},
        5e-5,
    ),
    (
        "Attention",
        [floats(2, 4, 8), floats(8, 24), floats(24)],
        1,
        {"num_heads": 2, "unidirectional": 1},
        5e-5,
    ),
    (
        "MultiHeadAttention",
        [floats(2, 4, 8), floats(2, 5, 8), floats(2, 5, 8) * 2, floats(24)],
        1,
        {"num_heads": 4},
        5e-5,
    ),
    ("QLinearAdd", [*_QUANTIZED, _bytes(5), _OTHER_SCALE, _OTHER_ZERO, _SCALE, _ZERO], 1, {}, 1.01),
    ("QLinearMul", [*_QUANTIZED, _bytes(5), _OTHER_SCALE, _OTHER_ZERO, _SCALE, _ZERO], 1, {}, 1.01),
    (
        "QLinearSigmoid",
        [*_QUANTIZED, np.array(1 / 256, np.float32), np.array(0, np.uint8)],
        1,
        {},
        1.01,
    ),
    (
        "QLinearSoftmax",
        [*_QUANTIZED, np.array(1 / 256, np.float32), np.array(0, np.uint8)],
        1,
        {"axis": -1, "opset": 13},
        1.01,
    ),
    (
        "QLinearSoftmax",
        [*_QUANTIZED, np.array(1 / 256, np.float32), np.array(0, np.uint8)],
        1,
        {"axis": 1, "opset": 11},
        1.01,
    ),
    (
        "QGemm",
        [
            _bytes(3, 4),
            _SCALE,
            _ZERO,
            _bytes(5, 4),
            _OTHER_SCALE,
            _OTHER_ZERO,
            np.arange(5, dtype=np.int32),
            _SCALE,
            _ZERO,
        ],
        1,
        {"transB": 1},
        1.01,
    ),
    (
        "QGemm",
        [_bytes(3, 4), _SCALE, _ZERO, _bytes(4, 5), _OTHER_SCALE, _OTHER_ZERO],
        1,
        {"alpha": 0.5},
        1e-4,
    ),
    ("QLinearLeakyRelu", [*_QUANTIZED, _OTHER_SCALE, _OTHER_ZERO], 1, {"alpha": 0.1}, 1.01),
    ("QLinearGlobalAveragePool", [*_QUANTIZED, _OTHER_SCALE, _OTHER_ZERO], 1, {}, 1.01),
    (
        "QLinearAveragePool",
        [*_QUANTIZED, _OTHER_SCALE, _OTHER_ZERO],
        1,
        {"kernel_shape": [2, 2]},
        1.01,
    ),
    (
        "QLinearConcat",
        [_SCALE, _ZERO, _bytes(2, 3), _OTHER_SCALE, _OTHER_ZERO, _bytes(4, 3), _SCALE, _ZERO],
        1,
        {"axis": 0},
        1.01,
    ),
    (
        "MatMulIntegerToFloat",
        [_bytes(3, 4), _bytes(4, 5), _SCALE, _OTHER_SCALE, _ZERO, _OTHER_ZERO, floats(5)],
        1,
        {},
        1e-4,
    ),
    ("DynamicQuantizeMatMul", [floats(3, 4), _bytes(4, 5), _SCALE, _ZERO, floats(5)], 1, {}, 1e-4),
    ("NhwcMaxPool", [_bytes(1, 6, 6, 3)], 1, {"kernel_shape": [2, 2], "strides": [2, 2]}, 0.0),
    (
        "QLinearConv",
        [
            _bytes(1, 6, 5, 4),
            _SCALE,
            _ZERO,
            _bytes(3, 4, 3, 3),
            _OTHER_SCALE,
            _OTHER_ZERO,
            np.array(0.9, np.float32),
            _ZERO,
            np.array([100, -200, 3000], np.int32),
        ],
        1,
        {"channels_last": 1, "kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1]},
        1.0,
    ),
    *[
        (
            "MatMulBnb4",
            [floats(3, 40), _bytes(340), np.abs(floats(43))],
            1,
            {"K": 40, "N": 17, "block_size": 16, "quant_type": kind},
            2e-5,
        )
        for kind in range(2)
    ],
    ("Range", [np.array(k, np.float32) for k in (1, 7, 2)], 1, {}, 0.0),
    ("GatherND", [floats(3, 4), np.array([[0, 1], [2, 2]])], 1, {}, 0.0),
    (
        "CausalConvWithState",
        [floats(2, 6, 5), floats(6, 1, 4), floats(6), floats(2, 6, 3)],
        2,
        {"activation": "silu", "dilation": 1},
        2e-5,
    ),
    (
        "CausalConvWithState",
        [floats(2, 5, 3, 2), floats(6, 1, 3), floats(6), floats(2, 4, 3, 2)],
        2,
        {"channels_last": 1, "dilation": 2},
        2e-5,
    ),
]


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "attributes", "tolerance"),
    _CASES,
    ids=[f"{case[0]}-{at}" for at, case in enumerate(_CASES)],
)
def test_an_operator_of_onnxruntime(
    operator: str,
    inputs: Sequence[Array],
    outputs: int,
    attributes: dict[str, Any],
    tolerance: float,
) -> None:
    """Quantized results may differ by one step where a tie is rounded another way."""
    # Only the first input is fed: the kernels of onnxruntime want weights to be constants.
    fed, kept = [("x0", inputs[0])], [(f"x{at + 1}", a) for at, a in enumerate(inputs[1:])]
    if operator == "QLinearConcat":
        fed, kept = [("x2", inputs[2])], [(f"x{at}", a) for at, a in enumerate(inputs) if at != 2]
    names = [f"x{at}" for at in range(len(inputs))]
    made = [f"y{at}" for at in range(outputs)]
    node = onnx.helper.make_node(operator, names, made, domain=MICROSOFT, **attributes)
    agrees(node_model(node, fed, 1, kept), dict(fed), tolerance=tolerance)


def test_a_quantized_lstm_rounds_its_state_as_onnxruntime_does() -> None:
    """A state that is not rounded ends a hundred times as far away as the tolerance."""
    hidden, width = 96, 5
    constants = [
        ("w", _bytes(1, width, 4 * hidden).astype(np.int8)),
        ("r", _bytes(1, hidden, 4 * hidden).astype(np.int8)),
        ("b", floats(1, 8 * hidden)),
        ("ws", np.array([0.005], np.float32)),
        ("wz", np.array([0], np.int8)),
        ("rs", np.array([0.004], np.float32)),
        ("rz", np.array([0], np.int8)),
    ]
    names = ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    node = onnx.helper.make_node(
        "DynamicQuantizeLSTM", names, ["y", "h", "c"], domain=MICROSOFT, hidden_size=hidden
    )
    # With several rows, the scales that onnxruntime takes depend on its threads.
    x = floats(7, 1, width)
    agrees(node_model(node, [("x", x)], 1, constants), {"x": x}, tolerance=1e-4)


_TREE: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0, 0, 0, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
    "nodes_featureids": [0, 1, 0, 0, 0, 2, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "BRANCH_LT", "LEAF", "LEAF", "LEAF", "BRANCH_GT", "LEAF", "LEAF"],
    "nodes_values": [0.1, -0.2, 0.0, 0.0, 0.0, 0.3, 0.0, 0.0],
    "nodes_truenodeids": [1, 2, 0, 0, 0, 1, 0, 0],
    "nodes_falsenodeids": [4, 3, 0, 0, 0, 2, 0, 0],
    "nodes_missing_value_tracks_true": [0, 1, 0, 0, 0, 1, 0, 0],
}


def _leaves(prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}_treeids": [0, 0, 0, 1, 1],
        f"{prefix}_nodeids": [2, 3, 4, 1, 2],
        f"{prefix}_ids": [0, 1, 2, 1, 2],
        f"{prefix}_weights": [0.5, 0.25, 1.5, -0.75, 2.0],
    }


_ML_CASES: list[tuple[str, int, dict[str, Any], int]] = [
    ("TreeEnsembleRegressor", 1, {**_TREE, **_leaves("target"), "n_targets": 3}, 3),
    (
        "TreeEnsembleRegressor",
        1,
        {
            **_TREE,
            **_leaves("target"),
            # Every target gets a weight: onnxruntime forgets the base value of one that gets none.
            "target_ids": [0, 0, 0, 1, 1],
            "n_targets": 2,
            "aggregate_function": "AVERAGE",
            "base_values": [1.0, 2.0],
        },
        3,
    ),
    (
        "TreeEnsembleClassifier",
        2,
        {**_TREE, **_leaves("class"), "classlabels_int64s": [7, 8, 9], "post_transform": "SOFTMAX"},
        3,
    ),
    (
        "TreeEnsembleClassifier",
        2,
        {
            **_TREE,
            **_leaves("class"),
            "class_ids": [0] * 5,
            "classlabels_int64s": [7, 8],
            "post_transform": "LOGISTIC",
        },
        3,
    ),
    ("Scaler", 1, {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 2.0, 4.0]}, 3),
    ("Normalizer", 1, {"norm": "L2"}, 3),
    ("Normalizer", 1, {"norm": "L1"}, 3),
    ("Binarizer", 1, {"threshold": 0.25}, 3),
    (
        "LinearRegressor",
        1,
        {"coefficients": [1.0, -2.0, 3.0, 4.0, 5.0, 6.0], "intercepts": [0.5, 1.5], "targets": 2},
        3,
    ),
    (
        "LinearClassifier",
        2,
        {
            "coefficients": [1.0, -2.0, 3.0, 4.0, 5.0, 6.0],
            "intercepts": [0.5, 1.5],
            "classlabels_ints": [4, 2],
            "post_transform": "SOFTMAX",
        },
        3,
    ),
]


@pytest.mark.parametrize(
    ("operator", "outputs", "attributes", "width"),
    _ML_CASES,
    ids=[f"{case[0]}-{at}" for at, case in enumerate(_ML_CASES)],
)
def test_an_operator_of_classical_models(
    operator: str, outputs: int, attributes: dict[str, Any], width: int
) -> None:
    x = floats(11, width)
    if operator.startswith("Tree"):
        x[3, 1] = x[5, 2] = np.nan
    node = onnx.helper.make_node(
        operator, ["x"], [f"y{at}" for at in range(outputs)], domain=ML, **attributes
    )
    agrees(node_model(node, [("x", x)], 1), {"x": x})


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_features_are_chosen_from_the_last_axis(shape: tuple[int, ...]) -> None:
    x, places = floats(*shape), np.array([4, 0, 4])
    node = onnx.helper.make_node("ArrayFeatureExtractor", ["x", "places"], ["y"], domain=ML)
    agrees(node_model(node, [("x", x)], 1, [("places", places)]), {"x": x})
