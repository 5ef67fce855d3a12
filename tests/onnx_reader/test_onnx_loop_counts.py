"""Loops as TensorFlow's exporter writes them: with a condition, and no trip count to speak of."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.program import Branch, Repeat
from bessemer.compiler.ir.walk_steps import launches, touched
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import expected, floats, parsed

_MAP = """
agraph (float[batch, n] x) => (float[batch, n] y) {{
    most = Constant<value = int64 {{9223372036854775807}}>()
    zero = Constant<value = int32 {{0}}>()
    shape = Shape(x)
    short = Cast<to = 6>(shape)
    first = Constant<value = int64 {{0}}>()
    batch = Gather(short, first)
    begins = Less(zero, batch)
    count, y = Loop(most, begins, zero) <
        body = step (int64 i, bool c, int32 at) => (bool more, int32 next, float[n] row) {{
            one = Constant<value = int32 {{{step}}}>()
            next = Add(at, one)
            a = Cast<to = 1>(next)
            b = Cast<to = 1>(batch)
            given = Gather(x, at)
            {more}
            row = Exp(given)
        }}
    >
}}
"""
_COUNTED = "more = Less(a, b)"
_FOLDED = """
    none = Constant<value = float {{0.0}}>()
    wide = Cast<to = 1>(batch)
    begins = Less(none, wide)
"""
_BY_DATA = """
    near = Less(a, b)
    total = ReduceSum<keepdims = 0>(given)
    least = Constant<value = float {-1.0}>()
    high = Greater(total, least)
    more = And(near, high)
"""


def _loop(source: str, step: int = 1) -> Node:
    graph = read_onnx(parsed(_MAP.format(more=source, step=step)))
    return next(node for node in graph.nodes if node.operator.name == "loop")


def test_a_loop_that_counts_up_to_a_size_has_that_many_iterations() -> None:
    loop = _loop(_COUNTED)
    assert loop.attributes["has_trips"] and not loop.attributes["has_condition"]


@pytest.mark.parametrize(("source", "step"), [(_BY_DATA, 1), (_COUNTED, 2)])
def test_the_condition_stays_where_more_than_a_count_ends_the_loop(source: str, step: int) -> None:
    loop = _loop(source, step)
    assert loop.attributes["has_condition"] and not loop.attributes["has_trips"]


@pytest.mark.parametrize(("source", "step"), [(_COUNTED, 1), (_BY_DATA, 1)])
def test_it_computes_what_onnxruntime_does(source: str, step: int) -> None:
    model = parsed(_MAP.format(more=source, step=step))
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    for batch in (1, 4, 7):
        x = floats(batch, 3)
        (want,) = expected(model, {"x": x})
        np.testing.assert_allclose(compiled.run({"x": x})[0], want, rtol=1e-6)


def test_a_bound_may_be_compared_with_a_float_that_is_a_whole_number() -> None:
    """As tf2onnx folds the cast of the first iteration's number."""
    folded = _MAP.replace("begins = Less(zero, batch)", _FOLDED)
    model = parsed(folded.format(more=_COUNTED, step=1))
    loop = next(node for node in read_onnx(model).nodes if node.operator.name == "loop")
    assert loop.attributes["has_trips"] and not loop.attributes["has_condition"]
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    for batch in (0, 1, 4):
        x = floats(batch, 3)
        np.testing.assert_allclose(compiled.run({"x": x})[0], np.exp(x), rtol=1e-6)


def _repeats(text: str) -> list[Repeat]:
    """A loop that tries to collect all at once, then one that counts, and one that knows."""
    program = build_program(read_onnx(parsed(text)), host_target())
    trial, branch = (step for step in program.steps if isinstance(step, Repeat | Branch))
    assert isinstance(trial, Repeat) and isinstance(branch, Branch)
    return [trial, *(step for step in branch.then if isinstance(step, Repeat))]


def test_what_is_only_collected_has_no_part_in_counting() -> None:
    """The condition reads the rows, but not their exponentials."""
    trial, counting, collecting = _repeats(_MAP.format(more=_BY_DATA, step=1))
    exp = "Exp 'row'"
    for repeat in (trial, collecting):
        assert any(exp in launch.sources for launch in launches(repeat.body))
    assert not any(exp in launch.sources for launch in launches(counting.body))
    assert counting.body and len(counting.body) < len(collecting.body)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_loop_that_collects_for_long_is_counted(threads: int) -> None:
    """The trial has room for 64 rows of a size that is not a number."""
    model = parsed(_MAP.format(more=_BY_DATA, step=1))
    compiled = bessemer.compile(model, threads=threads)
    for count in (1, 63, 64, 65, 300):
        x = np.abs(floats(400, 5))
        x[count - 1] = -1
        (ours,) = compiled.run({"x": x})
        np.testing.assert_allclose(ours, expected(model, {"x": x})[0], rtol=1e-5)
        assert len(ours) == count


_BY_NUMBER = """
agraph (float[n] x, int64 last) => (float[n] y, float[m, n] all) {
    most = Constant<value = int64 {9223372036854775807}>()
    begins = Constant<value = bool {1}>()
    y, all = Loop(most, begins, x) <
        body = step (int64 i, bool c, float[n] s) => (bool more, float[n] t, float[n] row) {
            number = Cast<to = 1>(i)
            row = Add(s, number)
            quarter = Constant<value = float {0.25}>()
            t = Mul(row, quarter)
            total = ReduceSum<keepdims = 0>(t)
            least = Constant<value = float {-1.0}>()
            high = Greater(total, least)
            early = Less(i, last)
            more = And(high, early)
        }
    >
}
"""


def test_counting_goes_on_with_the_number_of_the_iteration() -> None:
    model = parsed(_BY_NUMBER)
    compiled = bessemer.compile(model, threads=1, cache=False)
    for last in (0, 62, 63, 64, 150):
        given = {"x": np.abs(floats(9)), "last": np.array(last)}
        for ours, theirs in zip(compiled.run(given), expected(model, given), strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


_NUMBERS = """
agraph (float[2] x, int64 last) => (float[2] y, int64[m] numbers, float[m, 0] none) {
    most = Constant<value = int64 {9223372036854775807}>()
    begins = Constant<value = bool {1}>()
    y, numbers, none = Loop(most, begins, x) <
        body = step (int64 i, bool c, float[2] s)
                => (bool more, float[2] t, int64 number, float[0] nothing) {
            t = Add(s, s)
            number = Identity(i)
            from = Constant<value = int64[1] {2}>()
            nothing = Slice(t, from, from)
            more = Less(i, last)
        }
    >
}
"""


def test_a_loop_may_collect_its_own_number_and_slices_of_nothing() -> None:
    model = parsed(_NUMBERS)
    compiled = bessemer.compile(model, threads=1, cache=False)
    for last in (0, 70, 1100):
        given = {"x": np.zeros(2, np.float32), "last": np.array(last)}
        _, numbers, none = compiled.run(given)
        np.testing.assert_array_equal(numbers, np.arange(last + 1))
        assert none.shape == (last + 1, 0)


def test_a_trial_takes_a_few_megabytes() -> None:
    for size, most in ((5, 1024), (1 << 14, 64), (1 << 20, 16)):
        text = _MAP.format(more=_BY_DATA, step=1).replace("batch, n]", f"batch, {size}]")
        trial, _, _ = _repeats(text.replace("float[n]", f"float[{size}]"))
        stores = [launch.values[-1].type.shape for launch in launches(trial.body)]
        assert (most, size) in stores


_CARRIED = """
agraph (float[n] x, float[4, n] w) => (float[n] last, float[4, n] seen, float[m, n] all) {
    most = Constant<value = int64 {9223372036854775807}>()
    begins = Constant<value = bool {1}>()
    last, seen, all = Loop(most, begins, x, w) <
        body = step (int64 i, bool c, float[n] s, float[4, n] v)
                => (bool more, float[n] t, float[4, n] u, float[n] row) {
            half = Constant<value = float {0.5}>()
            t = Mul(s, half)
            total = ReduceSum<keepdims = 0>(t)
            least = Constant<value = float {0.01}>()
            more = Greater(total, least)
            four = Constant<value = int64 {4}>()
            at = Mod(i, four)
            flat = Constant<value = int64[2] {1, 1}>()
            place = Reshape(at, flat)
            axis = Constant<value = int64[1] {0}>()
            wide = Unsqueeze(t, axis)
            u = ScatterND(v, place, wide)
            row = Exp(t)
        }
    >
}
"""


def test_what_the_condition_does_not_read_is_not_carried_while_counting() -> None:
    model = parsed(_CARRIED)
    _, counting, _ = _repeats(_CARRIED)
    written = [v for step in counting.body for v in touched(step)[1]]
    assert (4, symbol("n")) not in [value.type.shape for value in written]
    compiled = bessemer.compile(model, threads=1, cache=False)
    for size in (3, 20):
        given = {"x": np.abs(floats(size)), "w": floats(4, size)}
        for ours, theirs in zip(compiled.run(given), expected(model, given), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


_HANDED_ON = """
agraph (float[n] x, float step) => (float[n] last, float[m, n] all) {{
    most = Constant<value = int64 {{9223372036854775807}}>()
    begins = Constant<value = bool {{1}}>()
    last, b_end, c_end, all = Loop(most, begins, x, x, x) <
        body = body (int64 i, bool go, float[n] a, float[n] b, float[n] c)
                => (bool more, float[n] a_next, float[n] b_next, float[n] c_next, float[n] row) {{
            a_next = Identity(b)
            b_next = Mul(c, step)
            c_next = Sub(c, step)
            {condition}
            row = Exp(a)
        }}
    >
}}
"""
_LATE = """
    total = ReduceSum<keepdims = 0>(a)
    zero = Constant<value = float {0.0}>()
    more = Greater(total, zero)
"""
_OF_UNKNOWN_SIZE = """
    zero = Constant<value = float {0.0}>()
    high = Greater(a, zero)
    kept = Compress<axis = 0>(a, high)
    size = Size(kept)
    none = Constant<value = int64 {0}>()
    more = Greater(size, none)
"""


@pytest.mark.parametrize("condition", [_LATE, _OF_UNKNOWN_SIZE], ids=["late", "of unknown size"])
def test_counting_keeps_what_the_condition_reads_iterations_later(condition: str) -> None:
    model = parsed(_HANDED_ON.format(condition=condition))
    compiled = bessemer.compile(model, threads=1, cache=False)
    for step in (0.5, 0.0625, 0.03125):
        given = {"x": np.array([1, 2, 4, 3], np.float32), "step": np.array(step, np.float32)}
        for ours, theirs in zip(compiled.run(given), expected(model, given), strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_no_iteration_stacks_nothing() -> None:
    model = parsed(_MAP.format(more=_COUNTED, step=1))
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    assert compiled.run({"x": np.zeros((0, 3), np.float32)})[0].shape == (0, 3)


def test_a_condition_that_never_changes_leaves_the_count_known() -> None:
    """As torch writes an EmbeddingBag: the condition comes from outside, through casts."""
    text = """
    agraph (float[6, 4] x) => (float[n, 4] y) {
        one = Constant<value = int64 {1}>()
        always = Cast<to = 9>(one)
        trips = Constant<value = int64 {3}>()
        y = Loop(trips, always) <
            body = step (int64 i, bool c) => (bool more, float[4] row) {
                row = Gather(x, i)
                more = Cast<to = 9>(always)
            }
        >
    }
    """
    model = parsed(text)
    (result,) = read_onnx(model).outputs
    assert result.type.shape == (3, 4)
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    np.testing.assert_array_equal(bessemer.compile(model).run({"x": x})[0], x[:3])


def test_slices_are_stacked_apart_from_values_that_shrink() -> None:
    """Only the data says how many there will be, and the last iteration computes the least."""
    model = parsed(
        """
        agraph (float[n, 3] x, float stop) => (float[m, 3] y, float[p, 3] all) {
          going = Constant<value = bool {1}>()
          zero = Constant<value = float {0}>()
          total, y, all = Loop(, going, zero, x) <body = body (
            int64 i, bool before, float sum, float[l, 3] s
          ) => (bool on, float next, float[e, 3] fewer, float[3] row) {
            one = Constant<value = float {1}>()
            first = Constant<value_ints = [0]>()
            end = Constant<value_ints = [-40]>()
            axis = Constant<value = int64 {0}>()
            next = Add(sum, one)
            on = Less(next, stop)
            fewer = Slice(s, first, end, first)
            sums = CumSum(s, axis)
            shares = Softmax<axis = 0>(sums)
            row = ReduceMax<keepdims = 0>(shares, first)
          }>
        }
        """,
        18,
    )
    compiled = bessemer.compile(model, cache=False)
    x = np.random.default_rng(0).standard_normal((900, 3)).astype(np.float32)
    for stop in (0, 2, 9, 20):
        given = {"x": x, "stop": np.array(stop, np.float32)}
        for ours, theirs in zip(compiled.run(given), expected(model, given), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
