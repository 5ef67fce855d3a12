"""Mixtures of experts of com.microsoft, against onnxruntime, which defines them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bessemer
from bessemer.compiler.ir.types import Array
from tests.onnx_check import agrees, expected, floats

EXPERTS, DEPTH, WIDTH = 4, 32, 48
_SWIGLU = {
    "activation_type": "swiglu", "swiglu_fusion": 1, "swiglu_limit": 7.0,
    "activation_alpha": 1.702, "activation_beta": 1.0, "normalize_routing_weights": 1,
}  # fmt: skip


def _bytes(*shape: int) -> Array:
    return np.random.default_rng(5).integers(0, 256, shape).astype(np.uint8)


def _scales(*shape: int) -> Array:
    made: Array = np.abs(floats(*shape)) * np.float32(0.01) + np.float32(0.001)
    return made


def _plain(wide: int) -> list[Array | None]:
    """Weights and biases of both products; the first gives `wide` columns."""
    first = [floats(EXPERTS, wide, DEPTH), floats(EXPERTS, wide)]
    return [*first, floats(EXPERTS, DEPTH, WIDTH), floats(EXPERTS, DEPTH)]


def _quantized(bits: int, block: int) -> list[Array | None]:
    """Units, scales and biases of both products, and zero points where there are blocks."""
    wide = 2 * WIDTH
    parts: list[Array | None] = []
    zeros: list[Array | None] = []
    for columns, depth in ((wide, DEPTH), (DEPTH, WIDTH)):
        scales = (columns, depth // block) if block else (columns,)
        parts += [_bytes(EXPERTS, columns, depth * bits // 8), _scales(EXPERTS, *scales)]
        parts += [floats(EXPERTS, columns)]
        zeros += [_bytes(EXPERTS, columns, -(-depth // block * bits // 8)) if block else None]
    return [*parts, None, None, None, *zeros]


def _model(operator: str, constants: Sequence[Array | None], more: int, **attributes: Any) -> Any:
    """Rows and scores are inputs, and as many others behind the constants."""
    names = ["x", "scores", *(f"c{k}" if c is not None else "" for k, c in enumerate(constants))]
    fed = ["x", "scores", *(["", "weights"] if more else [])]
    node = helper.make_node(
        operator, [*names, *fed[2:]], ["y"], domain="com.microsoft", k=2, **attributes
    )
    real = onnx.TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info(name, real, ["rows", DEPTH if name == "x" else EXPERTS])
        for name in fed
        if name
    ]
    graph = helper.make_graph(
        [node],
        "experts",
        inputs,
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(c, f"c{k}") for k, c in enumerate(constants) if c is not None],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _feed(rows: int, more: int) -> dict[str, Array]:
    feed = {"x": floats(rows, DEPTH), "scores": floats(rows, EXPERTS)}
    return feed | ({"weights": np.abs(floats(rows, EXPERTS))} if more else {})


@pytest.mark.parametrize(
    ("operator", "constants", "more", "attributes"),
    [
        ("MoE", _plain(WIDTH), 0, {"activation_type": "gelu", "normalize_routing_weights": 1}),
        ("MoE", _plain(WIDTH), 0, {}),
        ("MoE", _plain(2 * WIDTH), 0, _SWIGLU),
        ("QMoE", _quantized(4, 16), 0, {**_SWIGLU, "block_size": 16}),
        ("QMoE", _quantized(4, 0), 0, _SWIGLU),
        ("QMoE", _quantized(8, 0), 1, {**_SWIGLU, "expert_weight_bits": 8}),
    ],
)
def test_rows_go_through_the_experts_chosen_for_them(
    operator: str, constants: Sequence[Array | None], more: int, attributes: dict[str, Any]
) -> None:
    model = _model(operator, constants, more, **attributes)
    agrees(model, _feed(5, more), tolerance=5e-5)


@pytest.mark.slow
def test_one_compilation_takes_any_number_of_rows() -> None:
    model = _model("QMoE", _quantized(4, 16), 0, **_SWIGLU, block_size=16)
    compiled = bessemer.compile(model, cache=False)
    for rows in (1, 70):
        feed = _feed(rows, 0)
        (ours,) = compiled.run(feed)
        np.testing.assert_allclose(ours, expected(model, feed)[0], rtol=5e-5, atol=5e-5)
