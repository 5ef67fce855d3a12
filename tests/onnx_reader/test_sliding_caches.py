"""Grouped attention whose cache keeps the last keys only, against onnxruntime, which defines it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import bessemer
from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnxruntime_sessions import session_of

HEADS, GROUPS, SIZE, WINDOW = 4, 2, 8, 5


def _model(bias: str = "", **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(
        "GroupQueryAttention",
        ["q", "k", "v", "past_k", "past_v", "last", "total", "", "", "", bias],
        ["y", "keys", "values"], domain="com.microsoft", num_heads=HEADS, kv_num_heads=GROUPS,
        sliding_window_cache=1, **{"local_window_size": WINDOW} | attributes,
    )  # fmt: skip
    real = TensorProto.FLOAT
    inputs: dict[str, tuple[int, list[Any]]] = {
        "q": (real, ["batch", "length", HEADS * SIZE]),
        "k": (real, ["batch", "length", GROUPS * SIZE]),
        "v": (real, ["batch", "length", GROUPS * SIZE]),
        "past_k": (real, ["batch", GROUPS, "places", SIZE]),
        "past_v": (real, ["batch", GROUPS, "places", SIZE]),
        "last": (TensorProto.INT32, ["batch"]), "total": (TensorProto.INT32, []),
    }  # fmt: skip
    inputs |= {bias: (real, [1, 1, "length", "all"])} if bias else {}
    graph = helper.make_graph(
        [node],
        "sliding",
        [helper.make_tensor_value_info(name, *given) for name, given in inputs.items()],
        [helper.make_tensor_value_info(name, real, None) for name in ("y", "keys", "values")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _in_use(count: int, places: int) -> int:
    each = places - WINDOW + 1
    return count if count <= places else count - each * -(-(count - places) // each)


def _assert_steps_agree(run: Any, model: onnx.ModelProto, places: int) -> None:
    """Two rows of different lengths by steps of one key; and a prompt, then steps of several."""
    session = session_of(model)
    rows, prompt = [(1, [4 + k, 2 + k]) for k in range(8)], [(3, [3]), (9, [12]), (2, [14])]
    for steps in (rows, prompt):
        length, counts = steps[0]
        batch = len(counts)
        caches = [np.full((batch, GROUPS, places, SIZE), np.nan, np.float32) for _ in "kv"]
        for cache in caches:
            cache[:, :, : max(counts) - length] = 1
        for number, (length, counts) in enumerate(steps):
            rng = np.random.default_rng(number)
            feed: dict[str, Array] = {
                name: rng.standard_normal((batch, length, width * SIZE)).astype(np.float32)
                for name, width in (("q", HEADS), ("k", GROUPS), ("v", GROUPS))
            }
            feed |= {"past_k": caches[0], "past_v": caches[1]}
            feed |= {
                "last": np.array(counts, np.int32) - 1,
                "total": np.array(max(counts), np.int32),
            }
            ours, theirs = run(feed), session.run(None, feed)
            for row, count in enumerate(counts):
                pairs = [(ours[0][row, :count], theirs[0][row, :count])]
                used = _in_use(count, places)
                pairs += [(ours[k][row, :, :used], theirs[k][row, :, :used]) for k in (1, 2)]
                for one, other in pairs:
                    np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)
            caches = [np.asarray(theirs[k]) for k in (1, 2)]


@pytest.mark.parametrize("places", [5, 6, 8])
def test_the_last_keys_are_kept_as_onnxruntime_keeps_them(places: int) -> None:
    model = _model()
    graph = read_onnx(model)
    _assert_steps_agree(lambda feed: run_graph(graph, feed), model, places)


def test_a_sliding_cache_is_compiled() -> None:
    model = _model()
    compiled = bessemer.compile(model)
    _assert_steps_agree(compiled.run, model, 7)
    zeros = {"q": np.zeros((1, 1, HEADS * SIZE), np.float32), "last": np.zeros(1, np.int32)}
    zeros |= dict.fromkeys("kv", np.zeros((1, 1, GROUPS * SIZE), np.float32))
    few = dict.fromkeys(("past_k", "past_v"), np.zeros((1, GROUPS, WINDOW - 1, SIZE), np.float32))
    with pytest.raises(bessemer.RunError, match="places >= 5"):
        compiled.run({**zeros, **few, "total": np.array(1, np.int32)})


def test_a_sliding_cache_without_a_window_or_room_for_it_is_an_error() -> None:
    few = _model()
    for given in few.graph.input[3:5]:
        given.type.tensor_type.shape.dim[2].dim_value = WINDOW - 1
    with pytest.raises(CompileError, match="a cache of 4 places for a window of 5"):
        read_onnx(few)
    with pytest.raises(CompileError, match="with a local_window_size"):
        read_onnx(_model(local_window_size=-1))
    with pytest.raises(UnsupportedError, match="an attention_bias"):
        read_onnx(_model(bias="bias"))
