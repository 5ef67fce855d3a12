"""Caches with room whose keys and values lie in one array, whose places come first, or that
something reads before they grow."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.driver import build
from bessemer.compiler.ir.order_nodes import delayed
from bessemer.compiler.ir.program import Copy
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.options import Options
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.runtime.arrays import first_places, places_along
from tests.onnx_check import parsed
from tests.onnxruntime_sessions import session_of


def _stacked(turned: bool, more: str = "value_rows = Identity(v_rows)") -> onnx.ModelProto:
    """Attention whose cache is [keys or values, batch, heads, places, size]; keys may be turned
    for their product before they are joined."""
    order, axis = ("0, 2, 3, 1", 3) if turned else ("0, 2, 1, 3", 2)
    turn = "Transpose<perm = [0, 1, 3, 2]>" if turned else "Identity"
    keys = "Identity(keys)" if turned else "Transpose<perm = [0, 1, 3, 2]>(keys)"
    return parsed(f"""g (float[b, s, 32] x, float[2, b, 2, n, 16] past, float[32, 96] w)
            => (float[b, s, 32] y, float[2, b, 2, t, 16] present) {{
        rows = Constant<value = int64[4] {{0, 0, 2, 16}}>()
        flat = Constant<value = int64[3] {{0, 0, 32}}>()
        zero = Constant<value = int64 {{0}}>() one = Constant<value = int64 {{1}}>()
        front = Constant<value = int64[1] {{0}}>()
        parts = Constant<value = int64[3] {{32, 32, 32}}>()
        joint = MatMul(x, w) q_flat, k_flat, v_flat = Split<axis = 2>(joint, parts)
        q_rows = Reshape(q_flat, rows) q = Transpose<perm = [0, 2, 1, 3]>(q_rows)
        k_rows = Reshape(k_flat, rows) k = Transpose<perm = [{order}]>(k_rows)
        past_k = Gather<axis = 0>(past, zero) past_keys = {turn}(past_k)
        keys = Concat<axis = {axis}>(past_keys, k) right = {keys}
        scores = MatMul(q, right) shares = Softmax<axis = -1>(scores)
        v_rows = Reshape(v_flat, rows) {more}
        v = Transpose<perm = [0, 2, 1, 3]>(value_rows)
        past_v = Gather<axis = 0>(past, one) values = Concat<axis = 2>(past_v, v)
        mixed = MatMul(shares, values) turned = Transpose<perm = [0, 2, 1, 3]>(mixed)
        y = Reshape(turned, flat)
        old_keys = {turn}(keys) whole_k = Unsqueeze(old_keys, front)
        whole_v = Unsqueeze(values, front) present = Concat<axis = 0>(whole_k, whole_v)
    }}""")


_FIRST = """g (float[n, 3, 4] past, float[s, 3, 4] new) => (float[t, 3, 4] present, float[3, 4] y) {
    present = Concat<axis = 0>(past, new) y = ReduceSum<keepdims = 0, axes = [0]>(present)
}"""
_FROM_ITSELF = """g (float[b, n, 4] past, float[4, 4] w)
        => (float[b, t, 4] present, float[b, 4] y) {
    mean = ReduceMean<keepdims = 1, axes = [1]>(past) new = MatMul(mean, w)
    present = Concat<axis = 1>(past, new) y = ReduceMax<keepdims = 0, axes = [1]>(present)
}"""
_READ_FIRST = """g (float[b, n, 4] past, float[b, s, 4] x)
        => (float[b, n, 4] y, float[b, t, 4] present) {
    y = Exp(past) new = Relu(x) present = Concat<axis = 1>(past, new)
}"""


def _model(text: str) -> onnx.ModelProto:
    model = parsed(text)
    model.opset_import[0].version = 11  # axes of reductions are attributes
    return model


def _decoded(model: onnx.ModelProto, cache: Array, steps: tuple[dict[str, Array], ...]) -> None:
    """Runs of a model whose cache grows in place give what onnxruntime does; the cache begins with
    two places in use."""
    grown = bessemer.compile(model, threads=1, cache=False, grow_in_place=True)
    (room,) = grown.signature.rooms
    name = grown.signature.outputs[room.output].name
    past = first_places(cache, room.axis, 2).copy()
    for given in steps:
        wanted: Any = session_of(model).run(None, {**given, "past": past})
        alone = grown.run({**given, "past": past})
        used, count = past.shape[room.axis], wanted[room.output].shape[room.axis]
        places = first_places(cache, room.axis, count)
        found = grown.run(
            {**given, "past": first_places(cache, room.axis, used)}, out={name: places}
        )
        assert found[room.output] is places
        for one, other, reference in zip(found, alone, wanted, strict=True):
            np.testing.assert_allclose(one, reference, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(other, reference, rtol=1e-5, atol=1e-5)
        past = wanted[room.output]


def _copies_nothing(model: onnx.ModelProto) -> bool:
    """Whether the only copies are those left out where input and output are one array."""
    program = build(read_onnx(model), Options(grow_in_place=True)).program
    copies = [step for step in program.steps if isinstance(step, Copy)]
    return len(copies) == len(program.updates) == 1


@pytest.mark.parametrize("turned", [False, True])
def test_keys_and_values_in_one_array_grow_in_place(turned: bool) -> None:
    model, rng = _stacked(turned), np.random.default_rng(3)
    assert _copies_nothing(model)
    w = (rng.standard_normal((32, 96)) / 6).astype(np.float32)
    steps = tuple(
        {"x": rng.standard_normal((3, length, 32)).astype(np.float32), "w": w}
        for length in (4, 1, 2)
    )
    _decoded(model, rng.standard_normal((2, 3, 2, 12, 16)).astype(np.float32), steps)


def test_a_stacks_parts_are_written_by_one_kernel() -> None:
    program = build(read_onnx(_stacked(False)), Options(grow_in_place=True)).program
    names = [step.kernel.name for step in launches(program.steps)]
    assert names.count("tensor_scatter") == 1 and "attention" in names


def test_values_that_need_the_keys_stay_apart() -> None:
    more = """most = ReduceMax<keepdims = 0>(keys) value_rows = Mul(v_rows, most)"""
    model = _stacked(False, more)
    with pytest.raises(bessemer.CompileError, match="'g' has none"):
        bessemer.compile(model, cache=False, grow_in_place=True)


_PARTS = """
    zero = Constant<value = int64 {0}>() one = Constant<value = int64 {1}>()
    front = Constant<value = int64[1] {0}>()
    past_k = Gather<axis = 0>(past, zero) past_v = Gather<axis = 0>(past, one)
    keys = Concat<axis = 2>(past_k, k) values = Concat<axis = 2>(past_v, v)
"""


def test_one_stack_of_two_equal_ones_grows_in_place() -> None:
    model = parsed(f"""g (float[2, 2, 3, n, 4] past, float[2, 3, s, 4] k, float[2, 3, s, 4] v)
            => (float[2, 2, 3, t, 4] present, float[2, 2, 3, t, 4] again) {{{_PARTS}
        whole_k = Unsqueeze(keys, front) whole_v = Unsqueeze(values, front)
        present = Concat<axis = 0>(whole_k, whole_v) again = Concat<axis = 0>(whole_k, whole_v)
    }}""")
    rng = np.random.default_rng(7)
    steps = tuple(
        {name: rng.standard_normal((2, 3, length, 4)).astype(np.float32) for name in ("k", "v")}
        for length in (3, 1)
    )
    _decoded(model, rng.standard_normal((2, 2, 3, 6, 4)).astype(np.float32), steps)


@pytest.mark.parametrize(
    "stacked",
    [
        "present = Concat<axis = 0>(keys, values)",
        """flat_k = Squeeze(keys, front) flat_v = Squeeze(values, front)
        present = Concat<axis = 0>(flat_k, flat_v)""",
    ],
)
def test_a_stack_of_fewer_axes_than_the_cache_is_none(stacked: str) -> None:
    model = parsed(f"""g (float[2, 1, 3, n, 4] past, float[1, 3, s, 4] k, float[1, 3, s, 4] v)
            => (float[] present) {{{_PARTS} {stacked} }}""")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(bessemer.CompileError, match="'g' has none"):
        bessemer.compile(model, cache=False, grow_in_place=True)


def test_places_may_come_first() -> None:
    model, rng = _model(_FIRST), np.random.default_rng(4)
    assert _copies_nothing(model)
    steps = tuple(
        {"new": rng.standard_normal((length, 3, 4)).astype(np.float32)} for length in (2, 1, 3)
    )
    _decoded(model, rng.standard_normal((9, 3, 4)).astype(np.float32), steps)


def test_what_is_new_may_come_from_the_cache_itself() -> None:
    model, rng = _model(_FROM_ITSELF), np.random.default_rng(5)
    assert _copies_nothing(model)
    w = rng.standard_normal((4, 4)).astype(np.float32)
    _decoded(model, rng.standard_normal((2, 6, 4)).astype(np.float32), ({"w": w},) * 3)


def test_what_reads_a_cache_before_it_grows_reads_it_later() -> None:
    model, rng = _model(_READ_FIRST), np.random.default_rng(6)
    assert _copies_nothing(model)
    steps = tuple(
        {"x": rng.standard_normal((2, length, 4)).astype(np.float32)} for length in (2, 1, 3)
    )
    _decoded(model, rng.standard_normal((2, 9, 4)).astype(np.float32), steps)


def test_of_places_that_come_first_an_array_has_its_own() -> None:
    cache: Array = np.zeros((8, 3, 4), np.float32)
    assert places_along(cache[:5], 0) == 5 and places_along(cache[:, :2], 0) is None


def test_nodes_wait_for_others_unless_that_is_a_circle() -> None:
    graph = read_onnx(_model(_READ_FIRST))
    exp, relu, concat = graph.nodes
    later = delayed(graph, {exp: [concat]})
    assert later is not None and later.nodes == (relu, concat, exp)
    assert delayed(graph, {relu: [concat]}) is None
