"""Loops that append to a tensor or a sequence, and sequences whose length the run decides."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, floats, operators, parsed

_TOKENS = """agraph (float[b, n] x, int64 trips, float limit) => (float[b, m] y, float[b, n] last) {
    going = Constant<value = bool {1}>()
    none = Constant<value = int64[1] {0}>()
    end = Constant<value = int64[1] {%s}>()
    axis = Constant<value = int64[1] {1}>()
    start = Slice(x, none, end, axis)
    y, last = Loop(trips, going, start, x) <
        body = step (int64 i, bool go, float[b, k] out, float[b, n] s)
                => (bool more, float[b, l] longer, float[b, n] t) {
            half = Constant<value = float {0.5}>()
            minus = Constant<value = int64[1] {-1}>()
            t = Mul(s, half)
            entry = ReduceSum(t, axis)
            joined = Concat<axis = %d>(out, entry)
            longer = Identity(joined)
            total = ReduceSum<keepdims = 0>(t)
            more = Greater(total, limit)
        }
    >
}"""


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_loop_that_appends_columns_until_it_stops_is_a_loop(first: int, axis: int) -> None:
    model = parsed(_TOKENS % (first, axis))
    graph = read_onnx(model)
    assert operators(graph).count("loop") == 1
    x = np.abs(floats(2, 5))
    for trips, limit in ((4, 0.0), (9, 0.5), (1, 0.0)):
        given = {"x": x, "trips": np.array(trips), "limit": np.array(limit, np.float32)}
        agrees(model, given, graph)


def test_entries_in_front_of_the_others() -> None:
    text = (_TOKENS % (2, 1)).replace("(out, entry)", "(entry, out)")
    model = parsed(text)
    for trips in (1, 4):
        limit = np.array(0.0, np.float32)
        given = {"x": np.abs(floats(2, 5)), "trips": np.array(trips), "limit": limit}
        agrees(model, given)


_ENTRIES = """agraph (float[t, b, n] x) => (float y, int64 count, float[b, n] second) {
    sizes = Shape<start = 0, end = 1>(x)
    trips = Squeeze(sizes)
    going = Constant<value = bool {1}>()
    one = Constant<value = int64 {1}>()
    parts = SplitToSequence<keepdims = 0>(SPLIT)
    none = SequenceEmpty<dtype = 1>()
    entries = Loop(trips, going, none) <
        body = step (int64 i, bool go, seq(float[b, n]) s) => (bool more, seq(float[b, n]) t) {
            more = Identity(go)
            part = SequenceAt(parts, i)
            entry = Relu(part)
            t = SequenceInsert(s, entry)
        }
    >
    y = ConcatFromSequence<axis = AXIS, new_axis = NEW>(entries)
    count = SequenceLength(entries)
    second = SequenceAt(entries, one)
}"""


@pytest.mark.parametrize("split", ["x, one", "x"])
@pytest.mark.parametrize(("axis", "new"), [(0, 1), (1, 1), (-1, 1), (0, 0), (1, 0)])
def test_a_list_that_grows_over_a_free_length(axis: int, new: int, split: str) -> None:
    text = _ENTRIES.replace("AXIS", str(axis)).replace("NEW", str(new)).replace("SPLIT", split)
    model = parsed(text)
    graph = read_onnx(model)
    for length in (2, 5):
        agrees(model, {"x": floats(length, 2, 3)}, graph)


@pytest.mark.parametrize("length", ["4", "t"])
@pytest.mark.parametrize("keeps", [0, 1])
def test_torch_unbinds_with_a_split_and_without_the_axis(length: str, keeps: int) -> None:
    model = parsed(
        f"""agraph (float[2, {length}, 3] x, int64 place) => (float y) {{
            one = Constant<value = int64 {{1}}>()
            parts = SplitToSequence<axis = 1, keepdims = {keeps}>(x, one)
            y = SequenceAt(parts, place)
        }}"""
    )
    agrees(model, {"x": floats(2, 4, 3), "place": np.array(2)})


@pytest.mark.parametrize("split", ["int64[4] {1, 1, 1, 1}", "int64[1] {4}", "int64[2] {1, 3}"])
def test_a_list_of_sizes_keeps_the_axis(split: str) -> None:
    model = parsed(
        f"""agraph (float[2, 4] x) => (float[a, b] y) {{
            sizes = Constant<value = {split}>()
            parts = SplitToSequence<axis = 1, keepdims = 0>(x, sizes)
            last = Constant<value = int64 {{-1}}>()
            y = SequenceAt(parts, last)
        }}"""
    )
    agrees(model, {"x": floats(2, 4)})


def test_one_of_several_tensors_is_chosen_while_the_model_runs() -> None:
    model = parsed(
        """agraph (float[n] a, float[n] b, int64 place) => (float[n] y) {
            both = SequenceConstruct(a, b)
            y = SequenceAt(both, place)
        }"""
    )
    graph = read_onnx(model)
    for place in (0, 1, -1):
        agrees(model, {"a": floats(3), "b": floats(3) + 1, "place": np.array(place)}, graph)


def test_entries_whose_size_the_body_computes_are_as_wide_as_what_they_join() -> None:
    """torchvision pastes masks so: a box's rows, and zeros in front of and behind them."""
    model = parsed(
        """agraph (int64[k] starts, int64 trips, float[1, 8] first) => (float[m, 8] y) {
            going = Constant<value = bool {1}>()
            y = Loop(trips, going, first) <
                body = step (int64 i, bool go, float[a, 8] s) => (bool more, float[b, 8] t) {
                    more = Identity(go)
                    at = Gather(starts, i)
                    row = Constant<value_ints = [-1]>()
                    before = Reshape(at, row)
                    six = Constant<value_ints = [6]>()
                    behind = Sub(six, before)
                    zeros = ConstantOfShape(before)
                    two = Constant<value_floats = [1.0, 2.0]>()
                    more_zeros = ConstantOfShape(behind)
                    line = Concat<axis = 0>(zeros, two, more_zeros)
                    axis = Constant<value_ints = [0]>()
                    entry = Unsqueeze(line, axis)
                    t = Concat<axis = 0>(s, entry)
                }
            >
        }"""
    )
    graph = read_onnx(model)
    for places in ([3], [0, 6, 2]):
        given = {"starts": np.array(places), "trips": np.array(len(places)), "first": floats(1, 8)}
        agrees(model, given, graph)


def test_numbers_cannot_be_concatenated() -> None:
    model = parsed(
        """agraph (float x, int64 trips) => (float y) {
            going = Constant<value = bool {1}>()
            y = Loop(trips, going, x) <
                body = step (int64 i, bool go, float s) => (bool more, float t) {
                    more = Identity(go)
                    t = Concat<axis = 0>(s, x)
                }
            >
        }"""
    )
    with pytest.raises(CompileError, match="Loop 'y': axis 0 is not among the 0 axes"):
        read_onnx(model)


def test_entries_of_different_sizes_are_refused() -> None:
    text = (_TOKENS % (0, 1)).replace(
        "entry = ReduceSum(t, axis)",
        """above = Greater(t, limit)
            places = NonZero(above)
            entry = Cast<to = 1>(places)""",
    )
    with pytest.raises(CompileError, match="whose size differs"):
        read_onnx(parsed(text))
