"""Each ONNX operator in the versions that models use, against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, floats, node_model


def _float(number: float) -> Array:
    return np.array(number, np.float32)


_BYTES = np.array([[1, 200, 77], [255, 128, 3]], np.uint8)
_EXTREMES = np.array([0, np.inf, -np.inf, np.nan, 3e38, -1], np.float32)
_IMAGE, _NONE, _SIZES = floats(1, 2, 4, 6), np.zeros(0, np.float32), np.array([1, 2, 7, 8])
_UNPOOL: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
_VERSIONS: list[tuple[str, int, Sequence[Array], Sequence[Array], dict[str, Any]]] = [
    ("Upsample", 7, [floats(1, 2, 3, 4)], [], {"scales": [1.0, 1.0, 2.0, 3.0]}),
    ("Upsample", 9, [floats(1, 2, 3, 4)], [np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}),
    ("Resize", 10, [floats(1, 2, 3, 4)], [np.array([1, 1, 2, 2], np.float32)], {}),
    (
        "Resize",
        10,
        [floats(1, 2, 6, 4)],
        [np.array([1, 1, 0.5, 0.5], np.float32)],
        {"mode": "linear"},
    ),
    ("Pad", 7, [floats(2, 3)], [], {"pads": [0, 1, 1, 2], "value": 2.5}),
    ("Pad", 11, [floats(2, 3)], [np.array([0, 1, 1, 2])], {"mode": "reflect"}),
    ("Pad", 13, [floats(4, 5)], [np.array([0, -1, 1, 2])], {"mode": "edge"}),
    ("Slice", 9, [floats(4, 5)], [], {"starts": [1, -3], "ends": [9, -1], "axes": [0, 1]}),
    ("Clip", 7, [floats(4, 5)], [], {"min": -0.5, "max": 0.25}),
    ("Clip", 11, [floats(4, 5)], [np.array(-0.5, np.float32)], {}),
    ("Softmax", 9, [floats(2, 3, 4)], [], {"axis": 1}),
    ("LogSoftmax", 11, [floats(2, 3, 4)], [], {}),
    ("Softmax", 13, [floats(2, 3, 4)], [], {"axis": 1}),
    ("Hardmax", 11, [floats(2, 3, 4)], [], {"axis": 1}),
    ("Dropout", 7, [floats(2, 3)], [], {"ratio": 0.5}),
    ("TopK", 9, [floats(3, 7)], [], {"k": 3}),
    ("TopK", 11, [floats(3, 7)], [np.array([2])], {"axis": 0, "largest": 0}),
    ("Squeeze", 11, [floats(1, 3, 1)], [], {"axes": [0]}),
    ("Squeeze", 13, [floats(1, 3, 1)], [np.array([-1])], {}),
    ("Unsqueeze", 11, [floats(3)], [], {"axes": [0, 2]}),
    ("ReduceSum", 11, [floats(2, 3, 4)], [], {"axes": [1], "keepdims": 0}),
    ("ReduceSum", 13, [floats(2, 3, 4)], [np.array([0, -1])], {}),
    ("ReduceMean", 18, [floats(2, 3, 4)], [np.array([1])], {}),
    ("ReduceMax", 17, [floats(2, 3, 4)], [], {"axes": [-1]}),
    ("Split", 11, [floats(7, 2)], [], {"split": [3, 4]}),
    ("Split", 18, [floats(7, 2)], [], {"num_outputs": 2}),
    ("Flatten", 9, [floats(2, 3, 4)], [], {"axis": 2}),
    (
        "Gemm",
        9,
        [floats(3, 2), floats(4, 3), floats(1, 4)],
        [],
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    (
        "BatchNormalization",
        9,
        [floats(2, 3, 4)],
        [floats(3), floats(3), floats(3), floats(3) ** 2 + 1],
        {},
    ),
    ("LayerNormalization", 17, [floats(2, 3, 4)], [floats(3, 4), floats(3, 4)], {"axis": 1}),
    ("InstanceNormalization", 9, [floats(2, 3, 5)], [floats(3), floats(3)], {}),
    ("LRN", 13, [floats(2, 5, 3, 3)], [], {"size": 3}),
    (
        "MaxPool",
        12,
        [floats(1, 2, 8, 9)],
        [],
        {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1},
    ),
    (
        "MaxPool",
        12,
        [floats(1, 2, 8, 9)],
        [],
        {"kernel_shape": [3, 3], "dilations": [2, 1], "pads": [1, 1, 0, 1]},
    ),
    (
        "MaxPool",
        8,
        [floats(1, 2, 8, 9)],
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
    (
        "AveragePool",
        10,
        [floats(1, 2, 8, 9)],
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    ),
    (
        "AveragePool",
        11,
        [floats(1, 2, 7, 7)],
        [],
        {
            "kernel_shape": [3, 3],
            "strides": [2, 2],
            "pads": [1, 1, 1, 1],
            "count_include_pad": 1,
            "ceil_mode": 1,
        },
    ),
    ("LpPool", 11, [floats(1, 2, 8, 9)], [], {"kernel_shape": [2, 2], "p": 2}),
    (
        "Conv",
        11,
        [floats(1, 4, 7, 8)],
        [floats(6, 2, 3, 3), floats(6)],
        {"group": 2, "strides": [2, 1], "auto_pad": "SAME_UPPER"},
    ),
    ("Conv", 11, [floats(1, 4, 9)], [floats(6, 4, 3)], {"dilations": [2], "pads": [1, 2]}),
    (
        "ConvTranspose",
        11,
        [floats(1, 4, 5, 5)],
        [floats(4, 3, 3, 3)],
        {"strides": [2, 2], "pads": [1, 1, 0, 1], "output_padding": [1, 1]},
    ),
    (
        "ConvTranspose",
        11,
        [floats(1, 4, 5, 5)],
        [floats(4, 3, 3, 3)],
        {"strides": [2, 2], "output_shape": [10, 9]},
    ),
    (
        "ConvTranspose",
        11,
        [floats(1, 4, 5, 5)],
        [floats(4, 3, 3, 3)],
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    ),
    ("Tile", 13, [floats(2, 3)], [np.array([2, 3])], {}),
    ("Einsum", 12, [floats(2, 3, 4), floats(2, 4, 5)], [], {"equation": "bij,bjk->bik"}),
    ("DepthToSpace", 11, [floats(1, 8, 2, 3)], [], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", 9, [floats(1, 2, 4, 6)], [], {"blocksize": 2}),
    (
        "OneHot",
        11,
        [np.array([0, -1, 2])],
        [np.array([4]), np.array([2, 5], np.float32)],
        {"axis": 0},
    ),
    ("GatherND", 12, [floats(2, 3, 4)], [np.array([[[1]], [[2]]])], {"batch_dims": 1}),
    (
        "ScatterElements",
        16,
        [floats(3, 3)],
        [np.array([[0, 2]]), floats(1, 2)],
        {"axis": 1, "reduction": "add"},
    ),
    ("CumSum", 14, [floats(2, 5)], [np.array(1)], {"exclusive": 1, "reverse": 1}),
    ("ReverseSequence", 10, [floats(4, 3, 2)], [np.array([4, 2, 1])], {}),
    (
        "ReverseSequence",
        10,
        [floats(3, 4)],
        [np.array([4, 2, 1])],
        {"batch_axis": 0, "time_axis": 1},
    ),
    ("Mod", 13, [np.array([-7, 7, -5]), np.array([3, -3, 5])], [], {}),
    ("Div", 13, [np.array([-7, 7, -9]), np.array([2, -2, 5])], [], {}),
    ("Pow", 13, [floats(2, 3)], [np.array(2)], {}),
    ("Pow", 13, [np.array([1, 2, 3], np.int32)], [np.array([2.5], np.float32)], {}),
    ("Trilu", 14, [floats(4, 5)], [np.array(-1)], {"upper": 0}),
    (
        "QuantizeLinear",
        13,
        [floats(3, 4)],
        [np.array([0.1, 0.2, 0.3, 0.4], np.float32), np.array([1, 2, 3, 4], np.uint8)],
        {"axis": 1},
    ),
    (
        "GridSample",
        16,
        [floats(2, 3, 4, 5), floats(2, 3, 2, 2)],
        [],
        {"mode": "bicubic", "padding_mode": "reflection"},
    ),
    (
        "RoiAlign",
        16,
        [floats(2, 3, 9, 9), np.array([[0, 1, 6, 7], [2, 2, 8, 5.5]], np.float32)],
        [np.array([1, 0])],
        {"output_height": 3, "output_width": 2, "spatial_scale": 0.75, "sampling_ratio": 2},
    ),
    (
        "RoiAlign",
        10,
        [floats(1, 2, 9, 9), np.array([[0, 1, 6, 7]], np.float32)],
        [np.array([0])],
        {"output_height": 2, "output_width": 2, "mode": "max", "sampling_ratio": 2},
    ),
    (
        "NonMaxSuppression",
        11,
        [np.abs(floats(2, 9, 4)).cumsum(axis=2), floats(2, 3, 9)],
        [np.array([3]), np.array([0.2], np.float32), np.array([0.1], np.float32)],
        {},
    ),
    (
        "Col2Im",
        18,
        [floats(2, 12, 6)],
        [np.array([4, 5]), np.array([2, 2])],
        {"strides": [2, 2], "pads": [0, 0, 0, 1]},
    ),
    ("DFT", 17, [floats(2, 10, 1)], [], {"onesided": 1}),
    ("DFT", 17, [floats(2, 7, 2)], [np.array(9)], {"inverse": 1}),
    ("STFT", 17, [floats(1, 40, 1)], [np.array(8), np.hanning(16).astype(np.float32)], {}),
    ("DFT", 17, [floats(2, 512, 1)], [], {"onesided": 1}),
    ("STFT", 17, [floats(1, 40)], [np.array(8), np.hanning(16).astype(np.float32)], {}),
    ("Det", 11, [floats(2, 4, 4)], [], {}),
    ("MaxUnpool", 11, [floats(1, 1, 2, 2)], [np.array([[[[5, 7], [13, 10]]]])], _UNPOOL),
    ("BitShift", 11, [_BYTES, np.array([0, 1, 3], np.uint8)], [], {"direction": "LEFT"}),
    ("BitShift", 11, [_BYTES, np.array([0, 1, 3], np.uint8)], [], {"direction": "RIGHT"}),
    ("EyeLike", 9, [floats(3, 5)], [], {}),
    ("EyeLike", 9, [floats(4, 3)], [], {"k": -2, "dtype": onnx.TensorProto.INT64}),
    ("GlobalLpPool", 2, [floats(2, 3, 4, 5)], [], {}),
    ("GlobalLpPool", 2, [floats(2, 3, 4, 5)], [], {"p": 3}),
    ("IsInf", 10, [_EXTREMES], [], {}),
    ("IsInf", 10, [_EXTREMES], [], {"detect_negative": 0}),
    ("IsInf", 10, [_EXTREMES], [], {"detect_positive": 0}),
    ("IsInf", 10, [_EXTREMES], [], {"detect_negative": 0, "detect_positive": 0}),
    ("MeanVarianceNormalization", 13, [floats(2, 3, 4, 5)], [], {}),
    ("MeanVarianceNormalization", 13, [floats(2, 3, 4)], [], {"axes": [1]}),
    (
        "MelWeightMatrix",
        17,
        [],
        [*map(np.array, (8, 64, 16000)), *map(_float, (125.0, 7600.0))],
        {},
    ),
    (
        "MelWeightMatrix",
        17,
        [],
        [*map(np.array, (12, 16, 8000)), *map(_float, (0.0, 4000.0))],
        {"output_datatype": onnx.TensorProto.DOUBLE},
    ),
    (
        "QLinearMatMul",
        10,
        [np.arange(24, dtype=np.uint8).reshape(2, 3, 4) * 9],
        [
            _float(0.05),
            np.array(100, np.uint8),
            (np.arange(20, dtype=np.uint8) * 11).reshape(4, 5),
            np.array([0.1, 0.2, 0.05, 0.4, 0.3], np.float32),
            np.array([7, 120, 0, 200, 128], np.uint8),
            _float(3.0),
            np.array(90, np.uint8),
        ],
        {},
    ),
    ("Scatter", 9, [floats(3, 4)], [np.array([[0, 3], [1, 2]]), floats(2, 2)], {"axis": 1}),
    ("Scatter", 9, [floats(3, 4)], [np.array([[2, 0, 1]]), floats(1, 3)], {}),
    ("Selu", 6, [floats(3, 4)], [], {"alpha": 1.2, "gamma": 2.0}),
    ("ReduceSum", 13, [floats(2, 3)], [np.array([], np.int64)], {"noop_with_empty_axes": 1}),
    ("ReduceMax", 18, [floats(2, 3)], [], {"noop_with_empty_axes": 1}),
    ("ReduceMax", 18, [floats(2, 3)], [np.array([], np.int64)], {}),
    ("Reshape", 14, [floats(3, 0)], [np.array([0, 5])], {"allowzero": 1}),
    ("Reshape", 14, [floats(3, 4)], [np.array([0, 2, -1])], {}),
    ("Resize", 18, [_IMAGE], [_NONE, _NONE, _SIZES], {"keep_aspect_ratio_policy": "not_larger"}),
    ("Resize", 18, [_IMAGE], [_NONE, _NONE, _SIZES], {"keep_aspect_ratio_policy": "not_smaller"}),
]


@pytest.mark.parametrize(
    ("operator", "opset", "inputs", "constants", "attributes"),
    _VERSIONS,
    ids=[f"{operator}-{opset}-{at}" for at, (operator, opset, *_) in enumerate(_VERSIONS)],
)
def test_an_operator_of_an_older_or_newer_version_means_what_onnxruntime_says(
    operator: str,
    opset: int,
    inputs: Sequence[Array],
    constants: Sequence[Array],
    attributes: dict[str, Any],
) -> None:
    count = 2 if operator in ("TopK", "Split") else 1
    fed = [(f"x{at}", array) for at, array in enumerate(inputs)]
    kept = [(f"c{at}", array) for at, array in enumerate(constants)]
    names = [name for name, _ in (*fed, *kept)]
    outputs = [f"y{at}" for at in range(count)]
    node = onnx.helper.make_node(operator, names, outputs, **attributes)
    agrees(node_model(node, fed, opset, kept), dict(fed))


@pytest.mark.parametrize(
    ("operator", "opset", "inputs", "constants", "attributes"),
    [
        ("RMSNormalization", 23, [floats(2, 3, 4)], [floats(4)], {}),
        ("RMSNormalization", 23, [floats(2, 3, 4)], [floats(3, 4)], {"axis": 1, "epsilon": 0.1}),
        ("Swish", 24, [floats(3, 4)], [], {}),
        ("Swish", 24, [floats(3, 4)], [], {"alpha": 1.7}),
        ("CumProd", 26, [floats(2, 5)], [np.array(1)], {}),
        ("CumProd", 26, [floats(4, 3)], [np.array(0)], {"exclusive": 1, "reverse": 1}),
        (
            "BatchNormalization",
            15,
            [floats(4, 3, 2)],
            [floats(3), floats(3) + 1, floats(3), floats(3) ** 2],
            {"training_mode": 1, "momentum": 0.7, "epsilon": 0.01},
        ),
    ],
)
def test_an_operator_that_onnxruntime_may_lack_means_what_onnx_says(
    operator: str,
    opset: int,
    inputs: Sequence[Array],
    constants: Sequence[Array],
    attributes: dict[str, Any],
) -> None:
    fed = {f"x{at}": array for at, array in enumerate(inputs)}
    kept = {f"c{at}": array for at, array in enumerate(constants)}
    outputs = [f"y{at}" for at in range(3 if "training_mode" in attributes else 1)]
    node = onnx.helper.make_node(operator, [*fed, *kept], outputs, **attributes)
    model = node_model(node, [*fed.items()], opset, [*kept.items()])
    expected = map(np.asarray, ReferenceEvaluator(model).run(None, fed))
    for found, wanted in zip(run_graph(read_onnx(model), fed), expected, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


def test_batch_normalization_in_training_has_the_operators_of_channels() -> None:
    """As the builder's has: their sums and those of their gradients read each value once."""
    names = ["x", "scale", "bias", "mean", "variance"]
    node = onnx.helper.make_node("BatchNormalization", names, ["y"], training_mode=1)
    fed = [("x", floats(4, 3, 2)), *((name, floats(3)) for name in names[1:])]
    operators = {node.operator.name for node in read_onnx(node_model(node, fed, 15)).nodes}
    assert {"channel_moments", "normalize_channels"} <= operators


def test_before_opset_7_an_attribute_says_where_the_second_operand_lies() -> None:
    node = onnx.helper.make_node("Add", ["x", "y"], ["z"], broadcast=1, axis=1)
    x, y = floats(2, 3, 4), floats(3)
    (z,) = run_graph(read_onnx(node_model(node, [("x", x), ("y", y)], 6)), {"x": x, "y": y})
    np.testing.assert_array_equal(z, x + y[:, None])


@pytest.mark.parametrize("order", [0, 1])
def test_max_pool_also_says_where_its_maxima_are(order: int) -> None:
    node = onnx.helper.make_node(
        "MaxPool",
        ["x"],
        ["y", "places"],
        kernel_shape=[3, 2],
        strides=[2, 1],
        pads=[1, 0, 1, 1],
        storage_order=order,
    )
    x = floats(2, 3, 7, 6)
    agrees(node_model(node, [("x", x)], 12), {"x": x})


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_with_lengths_and_states(operator: str, direction: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    ways = 2 if direction == "bidirectional" else 1
    constants = [
        ("w", floats(ways, gates * 5, 3) / 2),
        ("r", floats(ways, gates * 5, 5) / 2),
        ("b", floats(ways, 2 * gates * 5)),
    ]
    lengths = np.array([4, 2], np.int32)
    inputs = [("x", floats(4, 2, 3)), ("lengths", lengths), ("h", floats(ways, 2, 5))]
    names = ["x", "w", "r", "b", "lengths", "h"]
    outputs = ["y", "y_h"]
    more: dict[str, Any] = {"linear_before_reset": 1} if operator == "GRU" else {}
    if operator == "LSTM":
        inputs.append(("c", floats(ways, 2, 5)))
        constants.append(("p", floats(ways, 15)))
        names += ["c", "p"]
        outputs.append("y_c")
    node = onnx.helper.make_node(
        operator, names, outputs, hidden_size=5, direction=direction, **more
    )
    agrees(node_model(node, inputs, 14, constants), dict(inputs))
