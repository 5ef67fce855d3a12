"""Attention whose memory is a matrix, against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.types import Array
from tests.onnx_check import node_model
from tests.onnxruntime_sessions import session_of

_BATCH, _STEPS, _DEPTH, _WIDTH = 2, 3, 8, 6
_RANDOM = np.random.default_rng(0)


def _normal(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _model(operator: str, given: Mapping[str, Array | None], **attributes: Any) -> onnx.ModelProto:
    names = [name if array is not None else "" for name, array in given.items()]
    node = onnx.helper.make_node(
        operator, names, ["y", "state"], domain="com.microsoft", **attributes
    )
    model = node_model(node, [(n, a) for n, a in given.items() if a is not None], 1)
    for output in model.graph.output:
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def _check(operator: str, given: Mapping[str, Array | None], **attributes: Any) -> None:
    model = _model(operator, given, **attributes)
    fed = {name: array for name, array in given.items() if array is not None}
    wanted: Any = session_of(model).run(None, fed)
    found = bessemer.compile(model, threads=1, cache=False).run(fed)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("heads", "reads", "attributes"),
    [
        ((2, 4), (1, 4), {}),
        ((4, 2), (8, 1), {"scale": 0.3}),
        ((2, 2), (1, 0), {"update_rule": "gated"}),
        ((2, 2), (0, 0), {"update_rule": "linear"}),
    ],
)
def test_heads_of_queries_share_states_or_states_share_queries(
    heads: tuple[int, int], reads: tuple[int, int], attributes: dict[str, Any]
) -> None:
    (queries, states), (decays, rates) = heads, reads
    shape = (_BATCH, _STEPS)
    _check(
        "LinearAttention",
        {
            "query": _normal(*shape, queries * _DEPTH),
            "key": _normal(*shape, states * _DEPTH) / 3,
            "value": _normal(*shape, states * _WIDTH),
            "past": _normal(_BATCH, states, _DEPTH, _WIDTH),
            "decay": -np.abs(_normal(*shape, states * decays)) if decays else None,
            "beta": np.abs(_normal(*shape, rates)) / 3 if rates else None,
        },
        q_num_heads=queries,
        kv_num_heads=states,
        **attributes,
    )


def test_several_states_in_a_window_are_refused() -> None:
    given = {name: _normal(2, 5, 8) for name in "qkv"}
    model = _model("LinearAttention", given, q_num_heads=2, kv_num_heads=2, state_window=2)
    with pytest.raises(UnsupportedError, match="state_window"):
        bessemer.compile(model)


@pytest.mark.parametrize("activation", ["none", "softplus", "kda"])
def test_packed_tokens_with_gates_of_their_own(activation: str) -> None:
    """Three spellings of the tokens: packed, with an axis of sequences, and all in one tensor."""
    queries, states, tokens = 2, 4, _BATCH * _STEPS
    tokens_given: dict[str, Array] = {
        "query": _normal(tokens, queries, _DEPTH),
        "key": _normal(tokens, queries, _DEPTH) * 1e-5,
        "value": _normal(tokens, states, _WIDTH),
    }
    gates = {"decay": -np.abs(_normal(tokens, states)), "beta": np.abs(_normal(tokens, states))}
    past = {"past": _normal(_BATCH, states, _WIDTH, _DEPTH)}
    rates = {"rate": _normal(states), "shift": _normal(states)}
    activated = {"gate_activation": activation, "beta_activation": "sigmoid"}
    match activation:
        case "none":
            _check("GatedDeltaNet", {**tokens_given, "ends": None, **gates, **past}, qk_l2_norm=1)
        case "softplus":
            apart = {
                name: array.reshape(_BATCH, _STEPS, *array.shape[1:])
                for name, array in (tokens_given | gates).items()
            }
            ordered = {name: apart.get(name) for name in (*tokens_given, "ends", *gates)}
            _check("GatedDeltaNet", {**ordered, **past, **rates}, qk_l2_norm=1, **activated)
        case _:
            packed = _normal(tokens, 2 * queries * _DEPTH + states * _WIDTH)
            gates["decay"], rates["shift"] = (_normal(n, states, _DEPTH) for n in (tokens, 1))
            rates["shift"] = rates["shift"][0]
            absent = dict.fromkeys(("key", "value", "ends"))
            given: dict[str, Array | None] = {"query": packed, **absent, **gates, **past, **rates}
            _check("GatedDeltaNet", given, qk_l2_norm=1, **activated)
