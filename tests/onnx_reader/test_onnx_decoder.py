"""Grouped attention with a cache, and rotations, against onnxruntime, which defines them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bessemer
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ir.walk_steps import launches
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import floats
from tests.onnxruntime_sessions import session_of
from tests.planned import planned

HEADS, GROUPS, SIZE = 4, 2, 16
_ANGLES = np.arange(64)[:, None] / 100.0 ** (np.arange(SIZE // 2) / (SIZE // 2))
TABLES = {
    "cos": np.cos(_ANGLES).astype(np.float32),
    "sin": np.sin(_ANGLES).astype(np.float32),
}


def _model(
    node: onnx.NodeProto, inputs: dict[str, tuple[int, list[Any]]], outputs: int
) -> onnx.ModelProto:
    node.output.extend(f"y{k}" for k in range(outputs))
    graph = helper.make_graph(
        [node],
        "decoder",
        [helper.make_tensor_value_info(name, *given) for name, given in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output],
        [numpy_helper.from_array(array, name) for name, array in TABLES.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _expected(model: onnx.ModelProto, feed: dict[str, Array]) -> list[Any]:
    return list(session_of(model).run(None, feed))


def _attention(is_packed: bool, **attributes: Any) -> onnx.ModelProto:
    own = ("", "") if is_packed else ("k", "v")
    tables = ["cos", "sin"] if attributes.get("do_rotary") else ["", ""]
    more = ["", attributes.pop("bias", ""), attributes.pop("sinks", "")]
    node = helper.make_node(
        "GroupQueryAttention", ["q", *own, "past_k", "past_v", "lengths", "total", *tables, *more],
        [], domain="com.microsoft", num_heads=HEADS, kv_num_heads=GROUPS, **attributes,
    )  # fmt: skip
    real, whole = TensorProto.FLOAT, TensorProto.INT32
    widths = {"q": HEADS + 2 * GROUPS} if is_packed else {"q": HEADS, "k": GROUPS, "v": GROUPS}
    inputs: dict[str, tuple[int, list[Any]]] = {
        name: (real, ["batch", "length", width * SIZE]) for name, width in widths.items()
    }
    inputs |= {name: (real, ["batch", GROUPS, "past", SIZE]) for name in ("past_k", "past_v")}
    inputs |= {"lengths": (whole, ["batch"]), "total": (whole, [])}
    inputs |= {"bias": (real, [1, HEADS, "length", "all"])} if more[1] else {}
    inputs |= {"sinks": (real, [HEADS])} if more[2] else {}
    return _model(node, inputs, 3)


def _feed(model: onnx.ModelProto, length: int, past: int, lengths: list[int]) -> dict[str, Array]:
    sizes = {"batch": len(lengths), "length": length, "past": past, "all": max(lengths)}
    feed: dict[str, Array] = {}
    for number, value in enumerate(model.graph.input):
        tensor = value.type.tensor_type
        shape = [sizes.get(one.dim_param, one.dim_value) for one in tensor.shape.dim]
        feed[value.name] = np.random.default_rng(number).standard_normal(shape).astype(np.float32)
    feed["lengths"] = np.array(lengths, np.int32) - 1
    feed["total"] = np.array(max(lengths), np.int32)
    return feed


def _assert_same(ours: list[Array], theirs: list[Any], length: int, lengths: list[int]) -> None:
    """Equal as far as there is something: rows that were filled up mean nothing behind it."""
    for row, count in enumerate(lengths):
        kept = min(length, count)
        pairs = [(ours[0][row, :kept], theirs[0][row, :kept])]
        pairs += [(ours[k][row, :, :count], theirs[k][row, :, :count]) for k in (1, 2)]
        for one, other in pairs:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)
    assert [one.shape for one in ours] == [other.shape for other in theirs]


@pytest.mark.parametrize(
    ("length", "past", "lengths", "is_packed", "attributes"),
    [
        (4, 0, [4, 2], False, {}),
        (1, 4, [5, 3], False, {"do_rotary": 1, "rotary_interleaved": 1}),
        (1, 8, [5], False, {"do_rotary": 1}),
        (3, 4, [7], False, {"softcap": 2.0, "scale": 0.3, "local_window_size": 4}),
        (6, 0, [6], True, {"do_rotary": 1, "local_window_size": 3}),
        (1, 4, [5, 3], False, {"sinks": "sinks", "bias": "bias"}),
        (1, 8, [5, 3], False, {"bias": "bias"}),  # a cache of more places than are in use
        (4, 0, [4, 2], True, {"smooth_softmax": 1}),
        (4, 0, [4, 2], False, {"causal": 0}),
    ],
)
def test_grouped_attention_is_that_of_onnxruntime(
    length: int, past: int, lengths: list[int], is_packed: bool, attributes: dict[str, Any]
) -> None:
    model = _attention(is_packed, **attributes)
    feed = _feed(model, length, past, lengths)
    ours = list(run_graph(read_onnx(model), feed))
    _assert_same(ours, _expected(model, feed), length, lengths)


def test_a_grouped_attention_is_one_kernel_which_reads_the_cache() -> None:
    program = planned(read_onnx(_attention(False, sinks="sinks"))).program
    kernels = [step.kernel.name for step in program.steps if isinstance(step, Launch)]
    assert kernels[-1].startswith("attention")
    assert sum(name.startswith(("matmul", "concat")) for name in kernels) == 0
    copied = [s.values[-1].type.shape for s in launches(program.steps) if "copy" in s.kernel.name]
    assert {str(shape[2]) for shape in copied} == {"length"}  # the new keys, not the cache


def _step(past: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A step of a decoder with a cache of so many places; the longest row is as long as the mask,
    so that it is known before the run. And what to feed."""
    node = helper.make_node(
        "GroupQueryAttention", ["q", "k", "v", "past_k", "past_v", "lengths", "total"], [],
        domain="com.microsoft", num_heads=HEADS, kv_num_heads=GROUPS,
    )  # fmt: skip
    total = helper.make_node("Shape", ["mask"], ["longest"], start=1)
    cast = helper.make_node("Cast", ["longest"], ["total"], to=TensorProto.INT32)
    real, whole = TensorProto.FLOAT, TensorProto.INT32
    widths = {"q": HEADS, "k": GROUPS, "v": GROUPS}
    inputs: dict[str, tuple[int, list[Any]]] = {
        name: (real, ["batch", 1, width * SIZE]) for name, width in widths.items()
    }
    inputs |= {name: (real, ["batch", GROUPS, "past", SIZE]) for name in ("past_k", "past_v")}
    inputs |= {"lengths": (whole, ["batch"]), "mask": (whole, ["batch", "all"])}
    model = _model(node, inputs, 3)
    del model.graph.node[:]
    model.graph.node.extend([total, cast, node])
    feed: dict[str, Array] = {}
    rng = np.random.default_rng(past)
    for name, (_, shape) in inputs.items():
        sizes = {"batch": 2, "past": past, "all": 5}
        feed[name] = rng.standard_normal([sizes.get(one, one) for one in shape]).astype(np.float32)
    feed["lengths"], feed["mask"] = np.array([4, 2], np.int32), np.ones((2, 5), np.int32)
    return model, feed


@pytest.mark.parametrize("past", [8, 5, 4])
def test_a_step_of_a_decoder_writes_into_its_cache(past: int) -> None:
    """With one array for a cache of enough places, and with an array of its own in any case."""
    model, feed = _step(past)
    wanted = _expected(model, feed)
    compiled = bessemer.compile(model, threads=2, cache=False)
    names = [value.name for value in compiled.signature.inputs]
    places = [names.index(name) for name in ("past_k", "past_v")]
    assert compiled.signature.updates == ((1, places[0]), (2, places[1]))
    _assert_same(compiled.run(feed), wanted, 1, [5, 3])
    kept = {"y1": feed["past_k"], "y2": feed["past_v"]}
    if past < 5:
        with pytest.raises(bessemer.InputError, match="y1"):
            compiled.run(feed, out=kept)
        return
    found = compiled.run(feed, out=kept)
    assert found[1] is feed["past_k"] and found[2] is feed["past_v"]
    _assert_same(found, wanted, 1, [5, 3])


def _spoil(feed: dict[str, Array], lengths: list[int]) -> None:
    """Puts what is no number where a cache has no keys: nobody need ever have filled it."""
    for row, count in enumerate(lengths):
        feed["past_k"][row, :, count - 1 :] = np.nan
        feed["past_v"][row, :, count - 1 :: 2] = np.nan
        feed["past_v"][row, :, count::2] = np.inf


@pytest.mark.parametrize("past", [4, 9])
def test_what_lies_in_unused_places_is_not_multiplied(past: int) -> None:
    lengths = [5, 3, 4]
    model = _attention(False)
    feed = _feed(model, 1, past, lengths)
    expected = _expected(model, feed)
    _spoil(feed, lengths)
    ours = bessemer.compile(model, threads=1, cache=False).run(feed)
    _assert_same(ours, expected, 1, lengths)


@pytest.mark.parametrize("in_place", [False, True])
def test_what_lies_in_unused_places_of_a_cache_that_is_written_to_is_not(in_place: bool) -> None:
    model, feed = _step(8)
    expected = _expected(model, feed)
    _spoil(feed, [5, 3])
    compiled = bessemer.compile(model, threads=1, cache=False)
    out = {"y1": feed["past_k"], "y2": feed["past_v"]} if in_place else None
    _assert_same(compiled.run(feed, out=out), expected, 1, [5, 3])


def test_a_cache_without_places_may_begin_where_the_new_one_does() -> None:
    model, feed = _step(0)
    feed["lengths"] = np.array([0, 0], np.int32)
    kept = {f"y{k}": np.full((2, GROUPS, 5, SIZE), 7, np.float32) for k in (1, 2)}
    feed |= {"past_k": kept["y1"][:, :, :0], "past_v": kept["y2"][:, :, :0]}
    _, keys, values = bessemer.compile(model, threads=1, cache=False).run(feed, out=kept)
    for found, given in ((keys, feed["k"]), (values, feed["v"])):
        np.testing.assert_array_equal(found[:, :, 0], given.reshape(2, GROUPS, SIZE))
        assert not found[:, :, 1:].any()


def test_sizes_of_a_cache_may_have_names_of_their_own() -> None:
    model = _attention(False)
    for value in model.graph.input[3:5]:
        for axis, name in ((0, "rows"), (1, "heads")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    feed = _feed(_attention(False), 1, 4, [5, 3])
    ours = bessemer.compile(model, threads=1, cache=False).run(feed)
    _assert_same(ours, _expected(model, feed), 1, [5, 3])


def test_norms_of_heads_are_part_of_a_grouped_attention() -> None:
    """onnxruntime has them on GPUs only: it gets heads that NumPy has been through."""
    model, feed = _attention(False), _feed(_attention(False), 3, 2, [5])
    weights = {"q": floats(SIZE), "k": floats(SIZE) * 2}
    normed = copy.deepcopy(model)
    normed.graph.node[0].input.extend(["", "", "q_norm", "k_norm"])
    normed.graph.initializer.extend(
        numpy_helper.from_array(weight, f"{name}_norm") for name, weight in weights.items()
    )
    ours = list(run_graph(read_onnx(normed), feed))
    for name, weight in weights.items():
        heads = feed[name].reshape(1, 3, -1, SIZE).astype(np.float64)
        length = np.sqrt(np.mean(heads**2, axis=3, keepdims=True) + 1e-6)
        feed[name] = (heads / length * weight).reshape(1, 3, -1).astype(np.float32)
    _assert_same(ours, _expected(model, feed), 3, [5])


@pytest.mark.slow
def test_one_compilation_takes_a_prompt_and_the_steps_behind_it() -> None:
    model = _attention(False, do_rotary=1)
    compiled = bessemer.compile(model, cache=False)
    cache = _feed(model, 5, 0, [5])
    for length, total in ((5, 5), (1, 6), (1, 7)):
        feed = _feed(model, length, total - length, [total])
        feed |= {name: cache[name] for name in ("past_k", "past_v")}
        ours, theirs = list(compiled.run(feed)), _expected(model, feed)
        _assert_same(ours, theirs, length, [total])
        cache = {"past_k": ours[1], "past_v": ours[2]}


@pytest.mark.parametrize(("rank", "interleaved", "is_offset"), [(3, 0, True), (4, 1, False)])
def test_rotations_are_those_of_onnxruntime(rank: int, interleaved: int, is_offset: bool) -> None:
    node = helper.make_node(
        "RotaryEmbedding", ["x", "places", "cos", "sin"], [], domain="com.microsoft",
        interleaved=interleaved,
    )  # fmt: skip
    shape = [2, 3, HEADS * SIZE] if rank == 3 else [2, HEADS, 3, SIZE]
    places = np.array([7]) if is_offset else np.array([[0, 5, 2], [9, 1, 3]])
    inputs: dict[str, tuple[int, list[Any]]] = {
        "x": (TensorProto.FLOAT, list(shape)),
        "places": (TensorProto.INT64, list(places.shape)),
    }
    model, feed = _model(node, inputs, 1), {"x": floats(*shape), "places": places}
    (ours,) = run_graph(read_onnx(model), feed)
    np.testing.assert_allclose(ours, _expected(model, feed)[0], rtol=1e-5, atol=1e-6)


def test_a_norm_of_onnxruntime_in_onnx_own_domain_is_read() -> None:
    node = helper.make_node("SimplifiedLayerNormalization", ["x", "scale"], [], epsilon=1e-3)
    given = (TensorProto.FLOAT, [3, 8])
    model = _model(node, {"x": given, "scale": (TensorProto.FLOAT, [8])}, 1)
    feed = {"x": floats(3, 8), "scale": floats(8)}
    (ours,) = run_graph(read_onnx(model), feed)
    np.testing.assert_allclose(ours, _expected(model, feed)[0], rtol=1e-5)
