"""Loops whose carried tensors change their sizes: decoders that read all that they have written."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.runtime.artifact import Status
from bessemer.runtime.native import Context
from tests.onnx_check import agrees, expected, floats, operators, parsed

_UNLIMITED = "unlimited = Constant<value = int64 {9223372036854775807}>()"

_GREEDY = """agraph (int64[b, n] x, float[7, 4] table, int64 trips, int64 end)
        => (int64[b, m] tokens, float[b, 4] last) {
    going = Constant<value = bool {1}>()
    zeros = Constant<value = float[1, 4] {0, 0, 0, 0}>()
    UNLIMITED
    first = Gather(table, x)
    axis = Constant<value_ints = [1]>()
    start = ReduceMean<keepdims = 0>(first, axis)
    tokens, last = Loop(TRIPS, going, x, start) <
        body = step (int64 i, bool go, int64[b, k] seen, float[b, 4] s)
                => (bool more, int64[b, l] longer, float[b, 4] mean) {
            rows = Gather(table, seen)
            inner = Constant<value_ints = [1]>()
            all = ReduceMean<keepdims = 0>(rows, inner)
            three = Constant<value = float {3}>()
            wide = Mul(all, three)
            waves = Sin(wide)
            half = Constant<value = float {0.5}>()
            mean = Add(waves, half)
            turned = Transpose<perm = [1, 0]>(table)
            scores = MatMul(mean, turned)
            next = ArgMax<axis = 1>(scores)
            longer = Concat<axis = 1>(seen, next)
            sizes = Shape<start = 1, end = 2>(longer)
            length = Squeeze(sizes)
            more = Less(length, end)
        }
    >
}"""


def _greedy(trips: str) -> str:
    return _GREEDY.replace("UNLIMITED", _UNLIMITED).replace("TRIPS", trips)


def _given(length: int, trips: int, end: int) -> dict[str, Array]:
    x = np.arange(2 * length).reshape(2, length) % 7
    return {"x": x, "table": floats(7, 4), "trips": np.array(trips), "end": np.array(end)}


@pytest.mark.parametrize("trips", ["trips", "unlimited", "", "trips_at_most"])
def test_a_decoder_that_reads_all_tokens_is_a_loop(trips: str) -> None:
    at_most = "trips_at_most = Constant<value = int64 {300}>()\n"
    model = parsed(_greedy(trips).replace("going =", at_most + "going =", 1), 18)
    graph = read_onnx(model)
    assert "loop" in operators(graph)
    compiled = bessemer.compile(model, cache=False)
    for length, count, end in ((1, 4, 50), (3, 9, 7), (2, 0, 30), (1, 200, 150)):
        given = _given(length, count, end)
        agrees(model, given, graph)
        for ours, theirs in zip(compiled.run(given), expected(model, given), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_loop_asks_for_its_memory_a_few_times_only() -> None:
    """Every iteration wants more than the one before, and a run that lacks memory begins again."""
    text = _greedy("trips").replace("(int64[b, m] tokens, float[b, 4] last)", "(float[b, 4] last)")
    model = bessemer.compile(parsed(text, 18), threads=1, cache=False)
    native = model._runner.native
    weights = model._runner._weights
    assert weights is not None
    context = Context(native, threads=1, weights=weights.ctypes.data)
    given = _given(1, 200, 1000)
    last = np.zeros((2, 4), np.float32)
    inputs = (ctypes.c_void_p * 4)(*[array.ctypes.data for array in given.values()])
    outputs = (ctypes.c_void_p * 1)(last.ctypes.data)
    runs, size = 0, 0
    while True:
        sizes = {"b": 2, "n": 1}
        names = native.signature.symbols
        dims = (ctypes.c_int64 * (len(names) + 1))(*[sizes.get(name, 0) for name in names])
        size = size or native.workspace_bytes(ctypes.addressof(dims))
        workspace = np.zeros(size + 64, np.uint8)
        begin = workspace.ctypes.data + -workspace.ctypes.data % 64
        places = [ctypes.addressof(array) for array in (inputs, outputs, dims)]
        status = native.run(context.handle, *places, begin, size)
        runs += 1
        if status != Status.WORKSPACE_TOO_SMALL:
            break
        size = int(re.findall(rb"(\d+) are needed", native.message(context.handle))[0])
    assert status == 0 and runs < 12
    want = expected(parsed(_greedy("trips"), 18), given)[1]
    np.testing.assert_allclose(last, want, rtol=1e-5, atol=1e-5)


def test_memory_that_a_loop_can_never_have_is_refused() -> None:
    """Twice as much as it wants is not a number of 64 bits."""
    model = parsed(
        """agraph (int64[1] n, float[1] x) => (float[1] y) {
            two = Constant<value = int64 {2}>()
            zero = Constant<value = int64 {0}>()
            going = Constant<value = bool {1}>()
            y = Loop(two, going, x) <
                body = step (int64 i, bool go, float[1] s) => (bool more, float[1] t) {
                    more = Identity(go)
                    wide = Expand(s, n)
                    sums = CumSum(wide, zero)
                    place = Cast<to = 7>(s)
                    t = Gather(sums, place)
                }
            >
        }""",
        18,
    )
    compiled = bessemer.compile(model, threads=1, cache=False)
    x = np.zeros(1, np.float32)
    (y,) = compiled.run({"n": np.array([3]), "x": x})
    np.testing.assert_array_equal(y, x)
    for power in range(50, 63):
        with pytest.raises(MemoryError):
            compiled.run({"n": np.array([3 << power - 1]), "x": x})


def test_beams_keep_tokens_keys_and_scores_of_their_parents() -> None:
    """Everything grows from nothing or one, by gathers of rows and concatenation."""
    model = parsed(
        """agraph (float[1, 5] start, float[5, 5] table, int64 trips, float limit)
                => (int64[3, m] tokens, float[3, k, 5] kept, float[3, 1] score) {
            going = Constant<value = bool {1}>()
            none = Constant<value_ints = [3, 0]>()
            empty = ConstantOfShape<value = int64[1] {0}>(none)
            shape = Constant<value_ints = [3, 1, 5]>()
            first = Expand(start, shape)
            zero = Constant<value = float[3, 1] {0, -1, -2}>()
            tokens, kept, score = Loop(trips, going, empty, first, zero) <
                body = step (int64 i, bool go, int64[3, a] seen, float[3, c, 5] keys, float[3, 1] s)
                        => (bool more, int64[3, d] longer, float[3, e, 5] wider, float[3, 1] best) {
                    axis = Constant<value_ints = [1]>()
                    mean = ReduceMean<keepdims = 0>(keys, axis)
                    next = MatMul(mean, table)
                    all = Add(next, s)
                    flat = Constant<value_ints = [-1]>()
                    line = Reshape(all, flat)
                    three = Constant<value_ints = [3]>()
                    values, places = TopK(line, three)
                    five = Constant<value = int64 {5}>()
                    parents = Div(places, five)
                    words = Mod(places, five)
                    column = Constant<value_ints = [3, 1]>()
                    best = Reshape(values, column)
                    word = Reshape(words, column)
                    older = Gather<axis = 0>(seen, parents)
                    longer = Concat<axis = 1>(older, word)
                    before = Gather<axis = 0>(keys, parents)
                    row = Gather<axis = 0>(table, words)
                    entry = Unsqueeze(row, axis)
                    wider = Concat<axis = 1>(before, entry)
                    total = ReduceMax<keepdims = 0>(best)
                    more = Less(total, limit)
                }
            >
        }""",
        18,
    )
    graph = read_onnx(model)
    compiled = bessemer.compile(model, cache=False)
    start, table = floats(1, 5), np.abs(floats(5, 5))
    for trips, limit in ((6, 99.0), (40, 3.0), (0, 1.0)):
        given = {"start": start, "table": table, "trips": np.array(trips)}
        given["limit"] = np.array(limit, np.float32)
        agrees(model, given, graph)
        for ours, theirs in zip(compiled.run(given), expected(model, given), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_tokens_that_only_some_iterations_append() -> None:
    """A transducer: what is not a blank is appended, and read in the next iteration."""
    model = parsed(
        """agraph (float[t, 4] x, int64[1] first) => (int64[m] tokens) {
            sizes = Shape<start = 0, end = 1>(x)
            trips = Squeeze(sizes)
            going = Constant<value = bool {1}>()
            tokens = Loop(trips, going, first) <
                body = step (int64 i, bool go, int64[k] seen) => (bool more, int64[l] longer) {
                    more = Identity(go)
                    frame = Gather(x, i)
                    sum = ReduceSum<keepdims = 0>(seen)
                    four = Constant<value = int64 {4}>()
                    place = Mod(sum, four)
                    value = Gather(frame, place)
                    zero = Constant<value = float {0}>()
                    word = Greater(value, zero)
                    longer = If(word) <
                        then_branch = one () => (int64[p] joined) {
                            best = ArgMax<axis = 0>(frame)
                            joined = Concat<axis = 0>(seen, best)
                        },
                        else_branch = two () => (int64[q] same) { same = Identity(seen) }
                    >
                }
            >
        }"""
    )
    graph = read_onnx(model)
    compiled = bessemer.compile(model, cache=False)
    for length in (1, 12, 300):
        given = {"x": floats(length, 4), "first": np.array([2])}
        agrees(model, given, graph)
        np.testing.assert_array_equal(compiled.run(given)[0], expected(model, given)[0])


def test_tokens_that_a_loop_in_a_loop_appends() -> None:
    """A transducer that may write several tokens for each frame."""
    model = parsed(
        """agraph (float[t, 4] x) => (int64[m] tokens) {
            sizes = Shape<start = 0, end = 1>(x)
            trips = Squeeze(sizes)
            going = Constant<value = bool {1}>()
            first = Constant<value_ints = [2]>()
            tokens = Loop(trips, going, first) <
                body = step (int64 i, bool go, int64[k] seen) => (bool more, int64[l] longer) {
                    more = Identity(go)
                    frame = Gather(x, i)
                    three = Constant<value = int64 {3}>()
                    longer = Loop(three, going, seen) <
                        body = inner (int64 j, bool g, int64[p] s) => (bool again, int64[q] r) {
                            sum = ReduceSum<keepdims = 0>(s)
                            four = Constant<value = int64 {4}>()
                            place = Mod(sum, four)
                            value = Gather(frame, place)
                            zero = Constant<value = float {0}>()
                            again = Greater(value, zero)
                            r = If(again) <
                                then_branch = one () => (int64[u] joined) {
                                    best = ArgMax<axis = 0>(frame)
                                    joined = Concat<axis = 0>(s, best)
                                },
                                else_branch = two () => (int64[v] same) { same = Identity(s) }
                            >
                        }
                    >
                }
            >
        }"""
    )
    graph = read_onnx(model)
    compiled = bessemer.compile(model, cache=False)
    for length in (1, 12, 100):
        given = {"x": floats(length, 4)}
        agrees(model, given, graph)
        np.testing.assert_array_equal(compiled.run(given)[0], expected(model, given)[0])


def test_what_shrinks_and_what_is_as_long_as_something_else() -> None:
    model = parsed(
        """agraph (float[n] x, int64 trips) => (float[m] rest, float[k] copies) {
            going = Constant<value = bool {1}>()
            rest, copies = Loop(trips, going, x, x) <
                body = step (int64 i, bool go, float[a] s, float[c] t)
                        => (bool more, float[d] shorter, float[e] as_long) {
                    more = Identity(go)
                    one = Constant<value_ints = [1]>()
                    end = Constant<value_ints = [9223372036854775807]>()
                    shorter = Slice(s, one, end)
                    total = ReduceSum<keepdims = 1>(t)
                    as_long = Add(shorter, total)
                }
            >
        }"""
    )
    graph = read_onnx(model)
    compiled = bessemer.compile(model, cache=False)
    for length, trips in ((6, 3), (5, 5), (4, 0)):
        given = {"x": floats(length), "trips": np.array(trips)}
        agrees(model, given, graph)
        for ours, theirs in zip(compiled.run(given), expected(model, given), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_another_rank_is_refused() -> None:
    model = parsed(
        """agraph (float[n] x, int64 trips) => (float y) {
            going = Constant<value = bool {1}>()
            y = Loop(trips, going, x) <
                body = step (int64 i, bool go, float[a] s) => (bool more, float t) {
                    more = Identity(go)
                    axis = Constant<value_ints = [0]>()
                    t = Unsqueeze(s, axis)
                }
            >
        }"""
    )
    with pytest.raises(CompileError, match="a carried value that starts as"):
        read_onnx(model)


_GROWS = """agraph (float[n] x, float[k] counted, int64 trips) => (float[m] y) {
    going = Constant<value = bool {1}>()
    axis = Constant<value_ints = [0]>()
    five = Constant<value_ints = [5]>()
    size = Shape(counted)
    less = Sub(size, five)
    ahead = Squeeze(less)
    y, last = Loop(TRIPS, going, x, OTHER) <
        body = step (int64 i, bool go, float[a] s, OTHER_TYPE t)
                => (bool more, float[c] l, OTHER_TYPE u) {
            more = Identity(go)
            STEP
        }
    >
}"""


def _grows(step: str, trips: str = "trips", other: str = "axis", type: str = "int64[1]") -> str:
    text = _GROWS.replace("TRIPS", trips).replace("OTHER_TYPE", type)
    return text.replace("OTHER", other).replace("STEP", step)


_MEAN = "mean = ReduceMean<keepdims = 1>(s, t) l = Concat<axis = 0>(s, mean) u = Identity(t)"


@pytest.mark.parametrize("trips", ["trips", "ahead"])
def test_axes_that_are_handed_on_and_fewer_iterations_than_none(trips: str) -> None:
    """What is handed on as it is stays a constant; `ahead` is a size less 5."""
    model = parsed(_grows(_MEAN, trips), 18)
    compiled = bessemer.compile(model, cache=False)
    for count in (4, 0, -3):
        given = {"x": floats(3), "counted": floats(5 + count), "trips": np.array(count)}
        (found,) = compiled.run(given)
        np.testing.assert_allclose(found, expected(model, given)[0], rtol=1e-5, atol=1e-5)


def test_what_was_before_is_kept_where_the_other_grows() -> None:
    """`y` has at the start the size of `last`, and follows it by an iteration."""
    step = "one = Constant<value_floats = [1.0]>() u = Concat<axis = 0>(s, one, one) l = Sin(t)"
    model = parsed(_grows(step, other="x", type="float[d]"), 18)
    graph = read_onnx(model)
    compiled = bessemer.compile(model, cache=False)
    for length, count in ((3, 5), (0, 4), (2, 1), (1, 0), (1, 200)):
        given = {"x": floats(length), "counted": floats(5), "trips": np.array(count)}
        agrees(model, given, graph)
        (found,) = compiled.run(given)
        np.testing.assert_allclose(found, expected(model, given)[0], rtol=1e-5, atol=1e-5)


def test_slices_that_are_stacked_stay_where_they_are_while_others_grow() -> None:
    text = _grows(_MEAN + " row = Sin(mean)").replace("y, last = ", "y, last, all = ")
    text = text.replace("int64[1] u)", "int64[1] u, float[1] row)")
    model = parsed(text.replace("float[m] y)", "float[m] y, float[p, 1] all)"), 18)
    compiled = bessemer.compile(model, cache=False)
    for count in (0, 1, 2, 40):
        given = {"x": floats(3), "counted": floats(5), "trips": np.array(count)}
        for ours, theirs in zip(compiled.run(given), expected(model, given), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_slices_of_sizes_that_change_are_not_stacked() -> None:
    text = _grows(_MEAN + " rows = Sin(l)").replace("y, last = ", "y, last, all = ")
    text = text.replace("int64[1] u)", "int64[1] u, float[e] rows)")
    with pytest.raises(CompileError, match=r"stacks slices of f32\[length_1\+1\]"):
        read_onnx(parsed(text, 18))


def test_what_a_loop_picks_out_becomes_fewer() -> None:
    step = "half = Constant<value = float {0.5}>() small = Mul(s, half) large = Greater(s, half)"
    step += " l = Compress(small, large) u = Identity(t)"
    model = parsed(_grows(step), 18)
    graph = read_onnx(model)
    compiled = bessemer.compile(model, cache=False)
    x = np.arange(9, dtype=np.float32)
    for count in (0, 1, 3, 9):
        given = {"x": x, "counted": floats(5), "trips": np.array(count)}
        agrees(model, given, graph)
        (found,) = compiled.run(given)
        np.testing.assert_array_equal(found, expected(model, given)[0])
