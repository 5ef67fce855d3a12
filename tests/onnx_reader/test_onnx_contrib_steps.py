"""Steps of decoders and gates of com.microsoft, against onnxruntime, which defines them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.ir.types import Array
from tests.onnx_check import node_model
from tests.onnxruntime_sessions import session_of

_Given = Mapping[str, Array | None]
_BATCH, _HEADS, _SIZE, _PLACES, _USED = 4, 3, 5, 9, 6


def _normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _whole(seed: int, limit: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(0, limit, shape)


def _model(
    operator: str, given: _Given, outputs: int, constants: Sequence[str] = (), **attributes: Any
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    names = [name if array is not None else "" for name, array in given.items()]
    made = [f"y{at}" for at in range(outputs)]
    node = onnx.helper.make_node(operator, names, made, domain="com.microsoft", **attributes)
    arrays = {name: array for name, array in given.items() if array is not None}
    fed = {name: array for name, array in arrays.items() if name not in constants}
    model = node_model(node, [*fed.items()], 1, [(name, arrays[name]) for name in constants])
    for output in model.graph.output:  # onnxruntime does not infer all of them
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model, fed


def _check(
    operator: str, given: _Given, outputs: int = 1, constants: Sequence[str] = (), **attributes: Any
) -> None:
    model, fed = _model(operator, given, outputs, constants, **attributes)
    wanted: Any = session_of(model).run(None, fed)
    found = bessemer.compile(model, threads=1, cache=False).run(fed)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def _step(length: int = 1) -> dict[str, Array]:
    """A query, keys and values of so many tokens."""
    width = _HEADS * _SIZE
    return {name: _normal(at, _BATCH, length, width) for at, name in enumerate(("q", "k", "v"))}


_CACHES = {name: _normal(9, _BATCH, _HEADS, _PLACES, _SIZE) for name in ("past_k", "past_v")}
_BEAMS = _whole(3, 2, 2, 2, _PLACES).astype(np.int32)
_SEEN = np.array([[1, 1, 0, 1, 1, 0, 1], [1] * 7, [0, 1, 1, 1, 1, 1, 1], [1] * 7], np.int32)
_COUNT = np.array([_USED], np.int32)


@pytest.mark.parametrize("mask", [None, _SEEN])
@pytest.mark.parametrize("beams", [None, _BEAMS])
def test_a_decoders_attention_writes_into_its_cache(
    mask: Array | None, beams: Array | None
) -> None:
    more = {"width": None if beams is None else np.array([2], np.int32), "beams": beams}
    given = {**_step(), "mask": mask, "added": None, **_CACHES, "used": _COUNT, **more}
    _check(
        "DecoderMaskedMultiHeadAttention", given, 3, num_heads=_HEADS, past_present_share_buffer=1
    )


def test_a_decoders_attention_with_a_bias_tells_its_scores() -> None:
    bias, added = _normal(4, 3 * _HEADS * _SIZE), _normal(5, 1, _HEADS, 1, _USED + 1)
    more = {"width": None, "beams": None, "bias": bias}
    given = {**_step(), "mask": None, "added": added, **_CACHES, "used": _COUNT, **more}
    _check(
        "DecoderMaskedMultiHeadAttention",
        given,
        4,
        num_heads=_HEADS,
        past_present_share_buffer=1,
        output_qk=1,
    )


def test_a_decoders_attention_to_an_encoder() -> None:
    keys, values = _normal(1, _BATCH, _HEADS, 7, _SIZE), _normal(2, _BATCH, _HEADS, 7, _SIZE)
    given = {"q": _step()["q"], "k": keys, "v": values, "mask": _SEEN}
    _check("DecoderMaskedMultiHeadAttention", given, num_heads=_HEADS)


@pytest.mark.parametrize("length", [1, 3])
def test_attention_among_heads_writes_into_a_cache_that_has_room(length: int) -> None:
    given = {**_step(length), "bias": None, "mask": None, "added": None, **_CACHES, "used": _COUNT}
    _check("MultiHeadAttention", given, 3, num_heads=_HEADS, unidirectional=1)


@pytest.mark.parametrize("operator", ["MultiHeadAttention", "DecoderMaskedMultiHeadAttention"])
def test_sizes_of_all_inputs_may_have_names_of_their_own(operator: str) -> None:
    names = ["bias", "mask", "added"] if operator == "MultiHeadAttention" else ["mask", "added"]
    given = {**_step(), **dict.fromkeys(names), **_CACHES, "used": _COUNT}
    shares = operator != "MultiHeadAttention"
    shared: dict[str, Any] = {"past_present_share_buffer": 1} if shares else {}
    model, fed = _model(operator, given, 3, num_heads=_HEADS, **shared)
    wanted: Any = session_of(model).run(None, fed)
    for one in model.graph.input[:-1]:
        for axis, dimension in enumerate(one.type.tensor_type.shape.dim[:-1]):
            if one.name in ("q", "k", "v") or axis != 1:  # heads are known
                dimension.dim_param = f"{one.name}_{axis}"
    found = bessemer.compile(model, threads=1, cache=False).run(fed)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("known", [_USED - 1, _USED])
def test_beams_of_fewer_places_than_are_in_use_are_refused(known: int) -> None:
    more = {"width": np.array([2], np.int32), "beams": _BEAMS[:, :, :known]}
    given = {**_step(), "mask": None, "added": None, **_CACHES, "used": _COUNT, **more}
    model, fed = _model(
        "DecoderMaskedMultiHeadAttention", given, 3, num_heads=_HEADS, past_present_share_buffer=1
    )
    compiled = bessemer.compile(model, threads=1, cache=False)
    if known == _USED:
        compiled.run(fed)
    else:
        with pytest.raises(bessemer.ExecutionError, match="places among 5"):
            compiled.run(fed)


def test_a_cache_that_is_too_small_is_refused() -> None:
    given = {**_step(), "bias": None, "mask": None, "added": None, **_CACHES, "used": _COUNT}
    model, fed = _model("MultiHeadAttention", given, 3, num_heads=_HEADS)
    compiled = bessemer.compile(model, threads=1, cache=False)
    compiled.run({**fed, "used": np.array([_PLACES - 1], np.int32)})
    with pytest.raises(bessemer.ExecutionError):
        compiled.run({**fed, "used": np.array([_PLACES], np.int32)})


_LAYOUTS = np.array(
    [
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1]],
    ],
    np.bool_,
)
_ROWS = np.array([[0, 1, 3, 5, 8], [0, 1, 3, 6, 9]], np.int32)
_COLUMNS = np.array([[0, 0, 1, 1, 2, 1, 2, 3, -1], [0, 0, 1, 0, 1, 2, 0, 2, 3]], np.int32)


@pytest.mark.parametrize(("length", "lengths"), [(40, [40, 40]), (1, [46, 41]), (1, [64, 1])])
def test_sparse_attention_sees_the_blocks_of_its_layout(length: int, lengths: list[int]) -> None:
    heads, groups, size, places = 4, 2, 16, 64
    shapes = {"q": heads * size, "k": groups * size, "v": groups * size}
    given = {name: _normal(at, 2, length, width) for at, (name, width) in enumerate(shapes.items())}
    given |= {name: _normal(at, 2, groups, places, size) for at, name in enumerate(("pk", "pv"), 5)}
    given |= {"rows": _ROWS, "columns": _COLUMNS, "total": np.array([max(lengths)], np.int32)}
    given |= {"lengths": np.array(lengths, np.int32)}
    model, fed = _model(
        "SparseAttention", given, 3, ("rows", "columns"),
        num_heads=heads, kv_num_heads=groups, sparse_block_size=16,
    )  # fmt: skip
    y, keys, values = bessemer.compile(model, threads=1, cache=False).run(fed)
    for row, head, at in itertools.product(range(2), range(heads), range(length)):
        first, group = lengths[row] - length, head // 2
        for cache, past, new in ((keys, "pk", "k"), (values, "pv", "v")):
            wanted = given[past][row, group].copy()
            wanted[first : first + length] = given[new][row].reshape(length, groups, size)[:, group]
            np.testing.assert_array_equal(cache[row, group], wanted)
        own = first + at
        kept = np.repeat(_LAYOUTS[head % 2, own // 16], 16) & (np.arange(places) <= own)
        part = slice(head * size, (head + 1) * size)
        scores = keys[row, group].astype(np.float64) @ given["q"][row, at, part] / np.sqrt(size)
        powers = np.where(kept, np.exp(scores - scores[kept].max()), 0)
        mixed = (powers / powers.sum()) @ values[row, group]
        np.testing.assert_allclose(y[row, at, part], mixed, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 30])
def test_tokens_that_would_repeat_a_run_are_ruled_out(size: int) -> None:
    given = {"tokens": _whole(1, 4, 6, 20), "scores": _normal(2, 6, 5)}
    _check("NGramRepeatBlock", given, ngram_size=size)


def test_a_sequence_shorter_than_a_run_repeats_none() -> None:
    model, fed = _model(
        "NGramRepeatBlock", {"tokens": _whole(1, 3, 1, 2), "scores": _normal(2, 1, 3)}, 1,
        ngram_size=4,
    )  # fmt: skip
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    compiled = bessemer.compile(model, threads=1, cache=False)
    for length in (0, 1, 2, 3, 9):
        tokens: Array = np.zeros((1, length), np.int64)
        (found,) = compiled.run({**fed, "tokens": tokens})
        assert np.isinf(found[0, 0]) == (length >= 4)
        np.testing.assert_array_equal(found[0, 1:], fed["scores"][0, 1:])


_BOXES = _normal(3, 9, 4) * 0.4 + 0.5


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("crop", [(5, 6), (1, 4), (1, 1)])
def test_boxes_are_cropped_and_resized(mode: str, crop: tuple[int, int]) -> None:
    images = _whole(4, 2, 9).astype(np.int32)
    given = {"x": _normal(1, 2, 7, 11, 13), "boxes": _BOXES, "images": images}
    given["crop"] = np.array(crop, np.int32)
    _check("CropAndResize", given, constants=["crop"], mode=mode, extrapolation_value=0.7)


@pytest.mark.parametrize("crop", [(3,), (0, 4), (3, -1)])
def test_boxes_are_not_resized_to_nothing(crop: tuple[int, ...]) -> None:
    images: Array = np.zeros(9, np.int32)
    given = {"x": _normal(1, 2, 3, 5, 5), "boxes": _BOXES, "images": images}
    model, _ = _model("CropAndResize", {**given, "crop": np.array(crop, np.int32)}, 1, ["crop"])
    with pytest.raises(bessemer.CompileError, match="crop_size is"):
        bessemer.compile(model, cache=False)


def test_a_box_of_an_image_that_is_not_there_ends_the_run() -> None:
    given = {"x": _normal(1, 2, 3, 5, 5), "boxes": _BOXES[:1], "images": np.array([2], np.int32)}
    given["crop"] = np.array([2, 2], np.int32)
    model, fed = _model("CropAndResize", given, 1, ["crop"])
    with pytest.raises(bessemer.ExecutionError):
        bessemer.compile(model, threads=1, cache=False).run(fed)


@pytest.mark.parametrize("activation", ["silu", "swish", "sigmoid"])
def test_norms_of_groups_are_gated(activation: str) -> None:
    given = {"x": _normal(1, 2, 3, 24), "scale": _normal(2, 8), "gate": _normal(3, 2, 3, 24)}
    _check("GatedRMSNorm", given, activation=activation, epsilon=1e-4)


def test_gates_of_linear_attention() -> None:
    given = {"a": _normal(1, 2, 3, 4) * 5, "bias": _normal(2, 4), "scale": -_normal(3, 4)}
    _check("LinearAttentionGate", given)
    _check("LinearAttentionGate", {**given, "b": _normal(4, 2, 3, 4)}, 2)


def test_sums_and_activations_with_a_factor() -> None:
    x = _normal(1, 2, 3, 4)
    _check("GatedAdd", {"x": x, "y": _normal(2, 2, 3, 4), "gate": _normal(3, 2, 3, 1)})
    _check("ScaledSiLU", {"x": x}, alpha=1.5)
    _check("ScaledSiLU", {"x": x, "scale": np.array(0.7, np.float32)})


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("shape", [(2, 6, 48), (2, 3, 6, 16), (2, 3, 6, 20)])
def test_rotations_by_three_positions(
    shape: tuple[int, ...], interleaved: int, layout: int
) -> None:
    angles = np.arange(50, dtype=np.float32)[:, None] * np.abs(_normal(2, 8))
    given = {"x": _normal(1, *shape), "places": _whole(3, 50, 3, 2, 6)}
    given |= {"cos": np.cos(angles), "sin": np.sin(angles)}
    _check(
        "MRotaryEmbedding", given, num_heads=3, rotary_embedding_dim=16,
        mrope_section=[4, 2, 2], mrope_layout=layout, interleaved=interleaved, scale=0.75,
    )  # fmt: skip
