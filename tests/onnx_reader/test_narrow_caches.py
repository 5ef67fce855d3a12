"""Grouped attention with a cache of integers of few bits, against onnxruntime, which defines it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bessemer
from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnxruntime_sessions import session_of

HEADS, GROUPS, SIZE = 4, 2, 16


def _scales(mode: str, bits: int) -> Array:
    count = {"PER_TENSOR": 1, "PER_CHANNEL": GROUPS * SIZE}[mode]
    return (np.random.default_rng(9).uniform(1, 3, count) / (1 << (bits - 1))).astype(np.float32)


def _model(
    mode: str, bits: int, size: int = SIZE, real: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "past_k", "past_v", "lengths", "total", *[""] * 5, "k_scale", "v_scale"],
        ["y", "keys", "values"], domain="com.microsoft", num_heads=HEADS, kv_num_heads=GROUPS,
        k_quant_type=mode, v_quant_type=mode, kv_cache_bit_width=bits,
    )  # fmt: skip
    stored = TensorProto.INT8 if bits == 8 else TensorProto.UINT8
    cache = ["batch", GROUPS, "past", size * bits // 8]
    inputs: dict[str, tuple[int, list[Any]]] = {
        "q": (real, ["batch", "length", HEADS * size]),
        "k": (real, ["batch", "length", GROUPS * size]),
        "v": (real, ["batch", "length", GROUPS * size]),
        "past_k": (stored, cache), "past_v": (stored, cache),
        "lengths": (TensorProto.INT32, ["batch"]), "total": (TensorProto.INT32, []),
    }  # fmt: skip
    scales = _scales(mode, bits)
    graph = helper.make_graph(
        [node],
        "narrow",
        [helper.make_tensor_value_info(name, *given) for name, given in inputs.items()],
        [
            helper.make_tensor_value_info(name, type, None)
            for name, type in (("y", real), ("keys", stored), ("values", stored))
        ],
        [numpy_helper.from_array(scales, "k_scale"), numpy_helper.from_array(scales, "v_scale")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _feed(bits: int, length: int, past: int, batch: int, dtype: Any) -> dict[str, Array]:
    rng = np.random.default_rng(length)
    feed: dict[str, Array] = {
        name: (2 * rng.standard_normal((batch, length, width * SIZE))).astype(dtype)
        for name, width in (("q", HEADS), ("k", GROUPS), ("v", GROUPS))
    }
    for name in ("past_k", "past_v"):
        units = rng.integers(0, 256, (batch, GROUPS, past, SIZE * bits // 8), np.uint8)
        feed[name] = units.view(np.int8) if bits == 8 else units
    feed["lengths"] = np.full(batch, past + length - 1, np.int32)
    feed["total"] = np.array(past + length, np.int32)
    return feed


@pytest.mark.parametrize(
    ("mode", "bits", "dtype", "tolerance"),
    [
        ("PER_TENSOR", 8, np.float32, 1e-5),
        ("PER_CHANNEL", 4, np.float32, 1e-5),
        ("PER_CHANNEL", 8, np.float16, 4e-3),
        ("PER_TENSOR", 4, np.float16, 4e-3),
    ],
)
def test_caches_of_few_bits_are_those_of_onnxruntime(
    mode: str, bits: int, dtype: Any, tolerance: float
) -> None:
    model = _model(mode, bits, real=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    compiled = bessemer.compile(model)
    session = session_of(model)
    for length, past, batch in ((5, 0, 2), (1, 7, 2), (3, 4, 1), (1, 40, 1)):
        feed = _feed(bits, length, past, batch, dtype)
        y, *caches = compiled.run(feed)
        expected, *stored = session.run(None, feed)
        assert y.dtype == dtype
        for cache, wanted in zip(caches, stored, strict=True):
            np.testing.assert_array_equal(cache, wanted)
        np.testing.assert_allclose(y, expected, rtol=10 * tolerance, atol=tolerance)


def test_heads_that_do_not_fill_bytes_are_not_supported() -> None:
    with pytest.raises(UnsupportedError, match="a cache of 4 bits for heads of 15"):
        read_onnx(_model("PER_TENSOR", 4, size=15))
