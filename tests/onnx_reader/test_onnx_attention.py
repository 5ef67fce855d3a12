"""Attention of com.microsoft: caches, masks and packed inputs, against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import bessemer
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, expected, floats

BATCH, LENGTH, PAST, HEADS, SIZE = 2, 4, 3, 2, 4
WIDTH = HEADS * SIZE
_X = [floats(BATCH, LENGTH, WIDTH), floats(WIDTH, 3 * WIDTH), floats(3 * WIDTH)]
_CACHE = floats(2, BATCH, HEADS, PAST, SIZE)
_BEFORE = [None, None, None, floats(BATCH, HEADS, PAST, SIZE), floats(BATCH, HEADS, PAST, SIZE) * 2]
_QKV = [floats(BATCH, LENGTH, WIDTH) * k for k in (1, 2, 3)]
_BY_HEADS = [floats(BATCH, HEADS, 5, SIZE) * k for k in (1, 2)]


def _whole(*numbers: int) -> Array:
    return np.array(numbers, np.int32)


def _truths(*shape: int) -> Array:
    """Which keys count; the first always does."""
    kept = np.random.default_rng(3).integers(0, 2, shape).astype(np.int32)
    kept[..., 0] = 1
    return kept


def _model(
    operator: str, inputs: Sequence[Array | None], outputs: int, free: Mapping[int, Any],
    **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    names = ["" if array is None else f"x{at}" for at, array in enumerate(inputs)]
    results = [f"y{at}" for at in range(outputs)]
    node = helper.make_node(
        operator, names, results, domain="com.microsoft", num_heads=HEADS, **attributes
    )
    given = [
        helper.make_tensor_value_info(
            f"x{at}", helper.np_dtype_to_tensor_dtype(array.dtype), free.get(at, array.shape)
        )
        for at, array in enumerate(inputs)
        if array is not None
    ]
    graph = helper.make_graph(
        [node], "attention", given, [onnx.ValueInfoProto(name=name) for name in results]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _feed(inputs: Sequence[Array | None]) -> dict[str, Array]:
    return {f"x{at}": array for at, array in enumerate(inputs) if array is not None}


@pytest.mark.parametrize(
    ("inputs", "outputs", "attributes"),
    [
        ([*_X, None, _CACHE], 2, {"unidirectional": 1}),
        ([*_X, _truths(BATCH, PAST + LENGTH), _CACHE], 2, {"unidirectional": 1}),
        ([*_X, _whole(6, 7), _CACHE], 2, {}),
        ([*_X, _whole(4, 4, 1, 0)], 2, {}),
        ([*_X, _whole(4, 3, 1, 0)], 1, {"unidirectional": 1}),
        ([*_X, _whole(3, 4, 0, 4, 8, 0, 4, 8)], 1, {}),
        ([*_X, _truths(BATCH, LENGTH, LENGTH)], 1, {"mask_filter_value": -3.0}),
        ([*_X, _whole(0, 0, 1, 1, 0, 1, 1, 1).reshape(2, 4)], 1, {"unidirectional": 1}),
    ],
)
def test_attention_with_a_cache_and_masks(
    inputs: Sequence[Array | None], outputs: int, attributes: dict[str, Any]
) -> None:
    model = _model("Attention", inputs, outputs, {}, **attributes)
    agrees(model, _feed(inputs), tolerance=5e-6)


@pytest.mark.parametrize(
    ("inputs", "outputs", "attributes"),
    [
        ([*_QKV, floats(3 * WIDTH), *_BEFORE[1:]], 3, {}),
        ([*_QKV, None, *_BEFORE[1:]], 3, {"unidirectional": 1}),
        ([*_QKV, None, _truths(BATCH, LENGTH, PAST + LENGTH), *_BEFORE[2:]], 3, {}),
        ([_QKV[0], *_BY_HEADS], 1, {"scale": 0.3}),
        ([_QKV[0], *(x[:, :, :3] for x in _BY_HEADS)], 1, {"unidirectional": 1}),
        ([_QKV[0], *_BY_HEADS, floats(3 * WIDTH), _whole(3, 5)], 1, {}),
    ],
)
def test_attention_of_several_heads_with_a_cache(
    inputs: Sequence[Array | None], outputs: int, attributes: dict[str, Any]
) -> None:
    model = _model("MultiHeadAttention", inputs, outputs, {}, **attributes)
    agrees(model, _feed(inputs), tolerance=5e-6)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("bias", [[], [floats(3 * WIDTH)]])
def test_packed_inputs_are_taken_apart(count: int, bias: list[Array]) -> None:
    """onnxruntime packs on GPUs only: it gets the parts."""
    packed = floats(BATCH, LENGTH, HEADS, count, SIZE)
    parts = [packed[:, :, :, at].reshape(BATCH, LENGTH, WIDTH) for at in range(count)]
    front = [_QKV[0]] if count == 2 else []
    inputs = [*front, *parts, *bias]
    (theirs,) = expected(_model("MultiHeadAttention", inputs, 1, {}), _feed(inputs))
    less = [*front, packed, *[None] * (count - 1), *bias]
    (ours,) = run_graph(read_onnx(_model("MultiHeadAttention", less, 1, {})), _feed(less))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_one_compilation_takes_a_cache_that_grows() -> None:
    free = {
        0: ["batch", "length", WIDTH],
        3: ["batch", "all"],
        4: [2, "batch", HEADS, "past", SIZE],
    }
    inputs: list[Array | None] = [*_X, _truths(BATCH, PAST + LENGTH), _CACHE]
    model = _model("Attention", inputs, 2, free, unidirectional=1)
    compiled = bessemer.compile(model, cache=False)
    cache = _CACHE[:, :, :, :0]
    for length in (LENGTH, 1, 1):
        total = cache.shape[3] + length
        feed = _feed([_X[0][:, :length], *_X[1:], _truths(BATCH, total), cache])
        ours = list(compiled.run(feed))
        for one, other in zip(ours, expected(model, feed), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)
        cache = ours[1]
