"""Operators of com.microsoft that are variants of ONNX's, against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from bessemer.compiler.ir.types import Array
from tests.onnx_check import agrees, floats, node_model

_SHORTS = np.random.default_rng(5).integers(-30000, 30000, (2, 4, 4)).astype(np.int16)
_GEMM = [floats(4, 3), floats(3, 5)]

_CASES: list[tuple[str, Sequence[Array], int, dict[str, Any]]] = [
    ("FusedGemm", _GEMM, 1, {"activation": "Softplus"}),
    ("FusedGemm", _GEMM, 1, {"activation": "Softsign"}),
    ("FusedGemm", _GEMM, 1, {"activation": "Elu", "activation_alpha": 0.7}),
    ("FusedGemm", _GEMM, 1, {"activation": "ThresholdedRelu", "activation_alpha": 0.3}),
    (
        "FusedGemm",
        _GEMM,
        1,
        {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.4},
    ),
    (
        "FusedGemm",
        _GEMM,
        1,
        {"activation": "Selu", "activation_alpha": 1.5, "activation_gamma": 0.9},
    ),
    ("FusedConv", [floats(1, 2, 5, 5), floats(3, 2, 3, 3)], 1, {"activation": "HardSwish"}),
    ("FusedMatMul", [floats(3, 2, 4), floats(2, 4, 5)], 1, {"transBatchA": 1}),
    (
        "FusedMatMul",
        [floats(2, 3, 4, 5), floats(6, 3, 4, 5)],
        1,
        {"transBatchA": 1, "transBatchB": 1, "transB": 1},
    ),
    ("ExpandDims", [floats(3, 4), np.array([-2], np.int32)], 1, {}),
    ("Pad", [floats(3, 4), np.array([1, 0, 2, 3]), np.array(2.5, np.float32)], 1, {}),
    ("Unique", [np.round(floats(30))], 3, {}),
    ("MatMulInteger16", [_SHORTS[0], _SHORTS[1]], 1, {}),
    ("UnfoldTensor", [floats(2, 9, 3)], 1, {"dim": 1, "size": 3, "step": 2}),
    (
        "ConvTransposeWithDynamicPads",
        [floats(1, 2, 5, 4), floats(2, 3, 3, 3), np.array([1, 0, 1, 2]), floats(3)],
        1,
        {"strides": [2, 2]},
    ),
    (
        "NGramHashMapping",
        [
            np.random.default_rng(3).integers(0, 1000, (2, 5)),
            np.array([2**62 + 1, 7, -(2**61) - 3]),
            np.array([101, 103, 211, 223]),
            np.array([[5, 6], [7, 8]]),
            np.array([0, 101, 204, 415]),
        ],
        2,
        {"max_ngram_size": 3, "n_head_per_ngram": 2, "pad_id": 5},
    ),
]


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "attributes"),
    _CASES,
    ids=[f"{case[0]}-{at}" for at, case in enumerate(_CASES)],
)
def test_a_variant(
    operator: str, inputs: Sequence[Array], outputs: int, attributes: dict[str, Any]
) -> None:
    names = [f"x{at}" for at in range(len(inputs))]
    made = [f"y{at}" for at in range(outputs)]
    node = onnx.helper.make_node(operator, names, made, domain="com.microsoft", **attributes)
    model = node_model(node, [("x0", inputs[0])], 1, list(zip(names[1:], inputs[1:])))
    agrees(model, {"x0": inputs[0]})


def test_the_scores_of_attention_are_an_output() -> None:
    q, k, bias = floats(2, 3, 8), floats(2, 5, 8), floats(1, 2, 3, 5)
    inputs = [("q", q), ("k", k), ("bias", bias)]
    node = onnx.helper.make_node(
        "MultiHeadAttention", ["q", "k", "k", "", "", "bias"], ["y", "keys", "values", "scores"],
        domain="com.microsoft", num_heads=2,
    )  # fmt: skip
    model = node_model(node, inputs, 1)
    for output in model.graph.output:  # onnxruntime does not infer the last one's
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    agrees(model, dict(inputs))


def test_networks_of_branches() -> None:
    """All that such networks have, in one graph; the numbers of branches and experts are 4."""
    shape, width = (2, 3), 8
    kept = {
        "made": floats(*shape, width),
        "mix": floats(*shape, 4, 4),
        "gates": floats(*shape, 4),
        "scale": floats(4 * width),
        "few": floats(4, width),
        "bias": floats(16),
    }
    nodes: list[tuple[str, str, str, dict[str, Any]]] = [
        ("HyperConnectionPostMix", "x made gates mix", "mixed", {"num_branches": 4}),
        ("BranchwiseRMSNorm", "mixed scale", "normal", {"num_branches": 4, "epsilon": 1e-3}),
        ("HyperConnectionPreMix", "normal x", "read", {"num_branches": 4, "reduction_scale": 0.5}),
        ("EngramGate", "key query made few few few", "gated after", {}),
        ("MoEGroupRouter", "rows bias", "routed", {"n_group": 4, "topk_group": 2, "top_k": 3}),
    ]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Reshape", ["x", "apart"], ["key"]),
            onnx.helper.make_node("Reshape", ["normal", "apart"], ["query"]),
            onnx.helper.make_node("Reshape", ["mixed", "sixteen"], ["rows"]),
            *[
                onnx.helper.make_node(
                    name, inputs.split(), outputs.split(), domain="com.microsoft", **attributes
                )
                for name, inputs, outputs, attributes in nodes
            ],
        ],
        "branches",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [*shape, 4 * width])],
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in ("read", "gated", "after", "routed")
        ],
        [
            *[onnx.numpy_helper.from_array(array, name) for name, array in kept.items()],
            onnx.numpy_helper.from_array(np.array([*shape, 4, width]), "apart"),
            onnx.numpy_helper.from_array(np.array([-1, 16]), "sixteen"),
        ],
    )
    sets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=sets, ir_version=10)
    agrees(model, {"x": floats(*shape, 4 * width)})
