"""Searches of com.microsoft over decoders of a few nodes, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.ir.types import Array
from tests.onnx_check import agrees, expected, node_model

_WORDS, _WIDTH = 9, 4
_CONTROLS = {
    "max_length": 9, "min_length": 4, "num_beams": 3, "num_return_sequences": 2,
    "length_penalty": 1.3, "repetition_penalty": 1.2,
}  # fmt: skip


def _table(seed: int, *shape: int) -> str:
    """Numbers in ONNX's text form."""
    numbers = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    sizes = ",".join(map(str, shape))
    return f"float[{sizes}] {{{','.join(map(str, numbers.reshape(-1).tolist()))}}}"


_WORD_TABLES = f"words = Constant <value = {_table(1, _WORDS, _WIDTH)}> () "
_HEAD = f"""
    head = Constant <value = {_table(2, _WIDTH, _WORDS)}> ()
    two = Constant <value = int64[1] {{2}}> ()
    one = Constant <value = int64[1] {{1}}> ()
"""

_GPT = f"""
gpt (int32[batch,n] input_ids, int32[batch,n] position_ids, int32[batch,all] attention_mask,
     float[2,batch,1,past,{_WIDTH}] past_0)
=> (float[batch,n,{_WORDS}] logits, float[2,batch,1,all,{_WIDTH}] present_0) {{
    {_WORD_TABLES} {_HEAD}
    places = Constant <value = {_table(3, 20, _WIDTH)}> ()
    word = Gather (words, input_ids)
    place = Gather (places, position_ids)
    entry = Add (word, place)
    axes = Constant <value = int64[2] {{0, 2}}> ()
    key = Unsqueeze (entry, axes)
    both = Concat <axis = 0> (key, key)
    present_0 = Concat <axis = 3> (past_0, both)
    keys = Squeeze (present_0, two)
    seen = Cast <to = 1> (attention_mask)
    column = Unsqueeze (seen, two)
    counted = Mul (keys, column)
    mean = ReduceMean <axes = [0, 2], keepdims = 0> (counted)
    line = Unsqueeze (mean, one)
    sum = Add (entry, line)
    logits = MatMul (sum, head)
}}
"""

_T5_ENCODER = f"""
encoder (int32[batch,n] encoder_input_ids, int32[batch,n] encoder_attention_mask)
=> (float[batch,1,n,{_WIDTH}] present_key_cross_0,
    float[batch,1,n,{_WIDTH}] present_value_cross_0) {{
    {_WORD_TABLES} {_HEAD}
    word = Gather (words, encoder_input_ids)
    seen = Cast <to = 1> (encoder_attention_mask)
    column = Unsqueeze (seen, two)
    masked = Mul (word, column)
    present_key_cross_0 = Unsqueeze (masked, one)
    present_value_cross_0 = Tanh (present_key_cross_0)
}}
"""

_DECODER = f"""
    {_WORD_TABLES} {_HEAD}
    word = Gather (words, input_ids)
    key = Unsqueeze (word, one)
    value = Sin (key)
    present_key_self_0 = Concat <axis = 2> (past_key_self_0, key)
    present_value_self_0 = Concat <axis = 2> (past_value_self_0, value)
    own = ReduceMean <axes = [1, 2], keepdims = 0> (present_value_self_0)
    source = ReduceMean <axes = [1, 2], keepdims = 0> (past_key_cross_0)
    both = Add (own, source)
    line = Unsqueeze (both, one)
    sum = Add (word, line)
    logits = MatMul (sum, head)
"""
_CACHES = ", ".join(
    f"float[batch,1,{length},{_WIDTH}] past_{kind}_{which}_0"
    for which, length in (("self", "past"), ("cross", "source"))
    for kind in ("key", "value")
)
_DECODED = f"""=> (float[batch,1,{_WORDS}] logits, float[batch,1,all,{_WIDTH}] present_key_self_0,
    float[batch,1,all,{_WIDTH}] present_value_self_0)"""
_T5_DECODER = f"""
decoder (int32[batch,1] input_ids, int32[batch,source] encoder_attention_mask, {_CACHES})
{_DECODED} {{ {_DECODER} }}
"""
_WHISPER_DECODER = f"decoder (int32[batch,1] input_ids, {_CACHES}) {_DECODED} {{ {_DECODER} }}"
_WHISPER_ENCODER = f"""
encoder (float[batch,{_WIDTH},n] encoder_input_ids, int32[batch,first] decoder_input_ids)
=> (float[batch,1,{_WORDS}] logits, float[batch,n,{_WIDTH}] encoder_hidden_states,
    float[batch,1,first,{_WIDTH}] present_key_self_0,
    float[batch,1,first,{_WIDTH}] present_value_self_0,
    float[batch,1,n,{_WIDTH}] present_key_cross_0,
    float[batch,1,n,{_WIDTH}] present_value_cross_0) {{
    {_WORD_TABLES} {_HEAD}
    word = Gather (words, decoder_input_ids)
    present_key_self_0 = Unsqueeze (word, one)
    present_value_self_0 = Sin (present_key_self_0)
    encoder_hidden_states = Transpose <perm = [0, 2, 1]> (encoder_input_ids)
    present_key_cross_0 = Unsqueeze (encoder_hidden_states, one)
    present_value_cross_0 = Cos (present_key_cross_0)
    mean = ReduceMean <axes = [1, 2], keepdims = 0> (present_key_cross_0)
    own = ReduceMean <axes = [1, 2], keepdims = 0> (present_value_self_0)
    both = Add (own, mean)
    line = Unsqueeze (both, one)
    last = Constant <value = int64[1] {{-1}}> ()
    last_word = Gather <axis = 1> (word, last)
    sum = Add (last_word, line)
    logits = MatMul (sum, head)
}}
"""


def _graph(text: str) -> onnx.GraphProto:
    return onnx.parser.parse_graph(text)


def _model(
    operator: str,
    fed: dict[str, Array],
    outputs: int,
    names: list[str] | None = None,
    **others: Any,
) -> onnx.ModelProto:
    others = {"eos_token_id": 1, "pad_token_id": 0, **others}
    made = [f"y{at}" for at in range(outputs)]
    node = onnx.helper.make_node(operator, names or [*fed], made, domain="com.microsoft", **others)
    model = node_model(node, [*fed.items()], 1)
    for value in model.graph.input:  # a prompt may have any sizes
        for place, size in enumerate(value.type.tensor_type.shape.dim):
            size.dim_param = f"{value.name}{place}"
    for output, kind in zip(model.graph.output, (onnx.TensorProto.INT32, onnx.TensorProto.FLOAT)):
        output.type.tensor_type.elem_type = kind
    return model


def _controls(*names: str) -> dict[str, Array]:
    kinds = {name: np.float32 if "penalty" in name else np.int32 for name in names}
    return {name: np.array([_CONTROLS[name]], kind) for name, kind in kinds.items()}


_PROMPT = np.array([[5, 3, 2], [0, 7, 4]], np.int32)


def test_greedy_search() -> None:
    fed = {"input_ids": _PROMPT, **_controls("max_length", "min_length", "repetition_penalty")}
    agrees(_model("GreedySearch", fed, 1, decoder=_graph(_GPT), init_decoder=_graph(_GPT)), fed)


def _beams(early: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    allowed = np.ones(_WORDS, np.int32)
    allowed[6] = 0
    fed = {"input_ids": _PROMPT, **_controls(*_CONTROLS), "vocab_mask": allowed}
    others: dict[str, Any] = {"early_stopping": early, "no_repeat_ngram_size": 2}
    return _model("BeamSearch", fed, 2, decoder=_graph(_GPT), **others), fed


@pytest.mark.parametrize("early", [0, 1])
def test_beam_search(early: int) -> None:
    agrees(*_beams(early))


@pytest.mark.slow
def test_beam_search_compiled() -> None:
    model, fed = _beams(0)
    found = bessemer.compile(model, threads=1, cache=False).run(fed)
    for one, other in zip(found, expected(model, fed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_beam_search_with_an_encoder() -> None:
    fed = {"input_ids": _PROMPT, **_controls(*_CONTROLS)}
    graphs = {"encoder": _graph(_T5_ENCODER), "decoder": _graph(_T5_DECODER)}
    agrees(_model("BeamSearch", fed, 2, model_type=1, decoder_start_token_id=2, **graphs), fed)


def test_beam_search_with_an_encoder_that_begins_to_decode() -> None:
    sounds = np.random.default_rng(0).standard_normal((2, _WIDTH, 5)).astype(np.float32)
    fed = {"input_ids": sounds, **_controls(*_CONTROLS), "prompt": _PROMPT}
    names = ["input_ids", *_CONTROLS, "", "", "", "prompt"]
    graphs = {"encoder": _graph(_WHISPER_ENCODER), "decoder": _graph(_WHISPER_DECODER)}
    agrees(_model("BeamSearch", fed, 2, names, model_type=2, **graphs), fed)
