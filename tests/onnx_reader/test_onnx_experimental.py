"""Operators on trial in old files, and what onnxruntime's tools write, against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, floats, node_model

MICROSOFT = "com.microsoft"

_ON_TRIAL: list[tuple[str, dict[str, Any]]] = [
    ("Affine", {"alpha": 2.0, "beta": 0.5}),
    ("Scale", {"scale": -3.0}),
    ("ScaledTanh", {"alpha": 1.7, "beta": 0.6}),
    ("ParametricSoftplus", {"alpha": 1.5, "beta": 2.0}),
    ("ImageScaler", {"scale": 0.5, "bias": [0.1, -0.2, 0.3]}),
    ("Crop", {"border": [1, 2, 3, 1]}),
    ("Crop", {"border": [2, 1, 0, 0], "scale": [3, 4]}),
]


@pytest.mark.parametrize(
    ("operator", "attributes"), _ON_TRIAL, ids=[f"{c[0]}-{at}" for at, c in enumerate(_ON_TRIAL)]
)
def test_an_operator_on_trial(operator: str, attributes: dict[str, Any]) -> None:
    node = onnx.helper.make_node(operator, ["x"], ["y"], **attributes)
    x = floats(2, 3, 7, 8)
    agrees(node_model(node, [("x", x)], 7), {"x": x})


def test_wrong_attributes_of_operators_on_trial_are_named() -> None:
    for operator, attributes in (
        ("Crop", {"border": [1, 2]}),
        ("Crop", {"border": [1, 2, 3, 1], "scale": [3]}),
        ("ImageScaler", {"bias": [0.5]}),
    ):
        node = onnx.helper.make_node(operator, ["x"], ["y"], **attributes)
        with pytest.raises(CompileError, match=f"{operator}.*f32\\[2,3,7,8\\]"):
            read_onnx(node_model(node, [("x", floats(2, 3, 7, 8))], 7))


def _bytes(*shape: int) -> Array:
    return np.random.default_rng(5).integers(100, 156, shape).astype(np.uint8)


def _number(value: float) -> Array:
    return np.array(value, np.float32)


_ZERO = np.array(128, np.uint8)


def _agrees(
    operator: str,
    fed: Mapping[str, Array],
    kept: Mapping[str, Array],
    names: Sequence[str],
    tolerance: float,
    outputs: int = 1,
    **attributes: Any,
) -> None:
    made = [f"y{at}" for at in range(outputs)]
    node = onnx.helper.make_node(operator, names, made, domain=MICROSOFT, **attributes)
    model = node_model(node, list(fed.items()), 1, list(kept.items()))
    agrees(model, fed, tolerance=tolerance)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize(("columns", "each"), [(False, False), (True, False), (True, True)])
def test_attention_of_bytes(causal: int, columns: bool, each: bool) -> None:
    """The scale of each column, and a mask of each query."""
    width, heads = 8, 2
    scale = np.abs(floats(3 * width)) * 0.01 + 0.01 if columns else _number(0.02)
    zero = np.zeros(3 * width, np.int8) if columns else np.array(3, np.int8)
    weight = (_bytes(width, 3 * width).astype(np.int16) - 128).astype(np.int8)
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], np.int32)
    fed = {"x": _bytes(2, 5, width), "mask": np.stack([mask] * 5, 1) if each else mask}
    kept = {"w": weight, "b": floats(3 * width), "xs": _number(0.03), "ws": scale, "xz": _ZERO,
            "wz": zero}  # fmt: skip
    names = ["x", "w", "b", "xs", "ws", "mask", "xz", "wz"]
    _agrees("QAttention", fed, kept, names, 1e-4, num_heads=heads, unidirectional=causal)


@pytest.mark.parametrize("segments", [False, True])
def test_embeddings_of_bytes(segments: bool) -> None:
    width = 8
    fed = {"ids": np.array([[1, 4, 2, 0], [3, 3, 1, 2]], np.int32)}
    kept = {"w": _bytes(6, width), "p": _bytes(5, width), "g": _bytes(width), "b": _bytes(width)}
    if segments:
        fed["parts"] = np.array([[0, 0, 1, 1], [0, 1, 1, 1]], np.int32)
        kept["s"] = _bytes(2, width)
    fed["mask"] = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], np.int32)
    tables = ["w", "p", "s" if segments else "", "g", "b"]
    for at, table in enumerate(filter(None, tables)):
        kept |= {f"{table}s": _number(0.02 + 0.01 * at), f"{table}z": np.array(120 + at, np.uint8)}
    scales, zeros = ([table and table + last for table in tables] for last in "sz")
    names = ["ids", "parts" if segments else "", *tables, "mask", *scales, *zeros]
    _agrees("QEmbedLayerNormalization", fed, kept, names, 1e-4, outputs=2, epsilon=1e-6)


def test_a_choice_among_bytes() -> None:
    """Of two scales; a tie may be rounded another way."""
    fed = {"c": floats(3, 5) > 0}
    kept = {"a": _bytes(3, 5), "as": _number(0.05), "az": _ZERO}
    kept |= {"b": _bytes(1, 5), "bs": _number(0.08), "bz": np.array(100, np.uint8)}
    kept |= {"s": _number(0.06), "z": _ZERO}
    _agrees("QLinearWhere", fed, kept, ["c", *kept], 1.01)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_distances_of_rows(metric: str) -> None:
    fed, kept = {"a": floats(9, 5)}, {"b": floats(7, 5) * 2}
    _agrees("CDist", fed, kept, ["a", "b"], 1e-4, metric=metric)


def test_operators_that_onnx_took_over() -> None:
    _agrees("Trilu", {"x": floats(2, 4, 5)}, {"k": np.array(-1)}, ["x", "k"], 0.0, upper=0)
    fed = {"x": floats(1, 2, 5, 6), "g": np.tanh(floats(1, 3, 4, 2))}
    settings: dict[str, Any] = {"mode": "bilinear", "padding_mode": "border", "align_corners": 1}
    _agrees("GridSample", fed, {}, ["x", "g"], 1e-5, **settings)


def test_their_attributes_may_be_left_out() -> None:
    """Their defaults are in no schema of the onnx package."""
    _agrees("Trilu", {"x": floats(2, 4, 5)}, {"k": np.array(1)}, ["x", "k"], 0.0)
    fed = {"x": floats(1, 2, 5, 6), "g": np.tanh(floats(1, 3, 4, 2)) * 1.5}
    _agrees("GridSample", fed, {}, ["x", "g"], 1e-5)
