"""If, Loop, Scan and sequences: settled while a model is read, or as regions of the graph."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, floats, operators, parsed


def test_an_if_with_a_constant_condition_is_only_the_branch_it_takes() -> None:
    model = parsed(
        """agraph (float[n] x) => (float[n] y) {
            c = Constant<value = bool {1}>()
            y = If(c) <
                then_branch = one () => (float[n] a) { a = Relu(x) },
                else_branch = two () => (float[n] b) { b = local.Unheard(x) }
            >
        }"""
    )
    assert operators(read_onnx(model)) == ["relu"]


_IF = """
agraph (float[n] x, bool c) => (float[m] y) {
    k = Constant<value = float {3.0}>()
    y = If(c) <
        then_branch = one () => (float[n] a) { a = Mul(x, k) },
        else_branch = two () => (float[m] b) { b = Concat<axis = 0>(x, x) }
    >
}
"""


def test_an_if_is_decided_when_the_model_runs() -> None:
    model = parsed(_IF)
    graph = read_onnx(model)
    for truth in (True, False):
        agrees(model, {"x": floats(5), "c": np.array(truth)}, graph)


def test_an_if_whose_branches_differ_in_rank_is_settled_by_what_follows() -> None:
    """Exporters write squeeze(0) so: the branch not taken would not fit what comes after."""
    text = """agraph (float[n, 3] x, float[3] w) => (float y) {{
        s = Shape<start = 0, end = 1>(x)
        one = Constant<value = int64[1] {{1}}>()
        eq = Equal(s, one)
        z = If(eq) <
            then_branch = squeezed () => (float[3] a) {{ {then} }},
            else_branch = kept () => (float[n, 3] b) {{ b = Identity(x) }}
        >
        y = MatMul(z, w)
    }}"""
    model = parsed(text.format(then="zero = Constant<value = int64[1] {0}>() a = Squeeze(x, zero)"))
    graph = read_onnx(model)
    agrees(model, {"x": floats(1, 3), "w": floats(3)}, graph)
    with pytest.raises(CompileError, match="input x"):
        run_graph(graph, {"x": floats(2, 3), "w": floats(3)})


_LOOP = """
agraph (float[n] x, int64 trips, bool go) => (float[n] last, float[k, n] all) {
    half = Constant<value = float {0.5}>()
    limit = Constant<value = float {0.1}>()
    last, all = Loop(trips, go, x) <
        body = step (int64 i, bool c, float[n] v) => (bool more, float[n] w, float[n] seen) {
            w = Mul(v, half)
            f = Cast<to = 1>(i)
            seen = Add(w, f)
            total = ReduceSum<keepdims = 0>(w)
            size = Abs(total)
            more = Greater(size, limit)
        }
    >
}
"""


def test_a_loop_stops_by_count_or_by_condition() -> None:
    model = parsed(_LOOP)
    graph = read_onnx(model)
    for trips in (1, 3, 50):
        inputs = {"x": floats(4), "trips": np.array(trips), "go": np.array(True)}
        agrees(model, inputs, graph)
    for trips, go in ((0, True), (4, False)):
        inputs = {"x": floats(4), "trips": np.array(trips), "go": np.array(go)}
        last, seen = run_graph(graph, inputs)
        np.testing.assert_array_equal(last, inputs["x"])
        assert seen.shape == (0, 4)


def test_a_loop_that_changes_a_carried_shape_is_unrolled() -> None:
    model = parsed(
        """agraph (float[2] x) => (float[8] y) {
            n = Constant<value = int64 {2}>()
            t = Constant<value = bool {1}>()
            y = Loop(n, t, x) <
                body = step (int64 i, bool c, float[k] v) => (bool more, float[j] w) {
                    more = Identity(c)
                    w = Concat<axis = 0>(v, v)
                }
            >
        }"""
    )
    (y,) = agrees(model, {"x": floats(2)})
    assert y.shape == (8,)


_DOUBLING = """agraph (float[n] x, int64 t) => (float[m] y) {
    trips = Constant<value = int64 {3}>()
    going = Constant<value = bool {1}>()
    y = Loop(%s, going, x) <
        body = step (int64 i, bool go, float[a] s) => (bool more, float[c] both) {
            more = Identity(go)
            both = Concat<axis = 0>(s, s)
        }
    >
}"""


def test_a_loop_that_doubles_a_carried_value_is_unrolled() -> None:
    agrees(parsed(_DOUBLING % "trips"), {"x": floats(3), "t": np.array(0)})


@pytest.mark.parametrize(("start", "step"), [(1, 1), (0, 2)])
def test_a_loop_that_cuts_a_carried_value_is_unrolled(start: int, step: int) -> None:
    ends = f"""start = Constant<value = int64[1] {{{start}}}>()
            end = Constant<value = int64[1] {{9223372036854775807}}>()
            axis = Constant<value = int64[1] {{0}}>()
            step = Constant<value = int64[1] {{{step}}}>()"""
    text = (_DOUBLING % "trips").replace(
        "both = Concat<axis = 0>(s, s)",
        f"""{ends}
            both = Slice(s, start, end, axis, step)""",
    )
    for length in (9, 4):
        agrees(parsed(text), {"x": floats(length), "t": np.array(0)})


def test_a_loop_that_doubles_a_carried_value_as_often_as_the_run_says() -> None:
    model = parsed(_DOUBLING % "t")
    graph = read_onnx(model)
    for trips in (0, 1, 7):
        agrees(model, {"x": floats(3), "t": np.array(trips)}, graph)


def test_a_scan_runs_over_any_axis_in_either_direction() -> None:
    model = parsed(
        """agraph (float[b, t] x, float[b] start) => (float[b] end, float[b, t] sums) {
            end, sums = Scan(start, x) <
                num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
                scan_output_axes = [1], scan_output_directions = [1],
                body = step (float[b] s, float[b] v) => (float[b] r, float[b] o) {
                    r = Add(s, v)
                    o = Identity(r)
                }
            >
        }"""
    )
    graph = read_onnx(model)
    for shape in ((2, 3), (1, 5)):
        agrees(model, {"x": floats(*shape), "start": floats(shape[0])}, graph)


def test_sequences_that_are_settled_while_reading_leave_no_trace() -> None:
    model = parsed(
        """agraph (float[4, 3] x) => (float[3, 2] y) {
            parts = SplitToSequence<axis = 0, keepdims = 0>(x)
            last = Constant<value = int64 {-1}>()
            first = Constant<value = int64 {0}>()
            a = SequenceAt(parts, first)
            b = SequenceAt(parts, last)
            pair = SequenceConstruct(a, b)
            y = ConcatFromSequence<axis = 1, new_axis = 1>(pair)
        }"""
    )
    agrees(model, {"x": floats(4, 3)})


@pytest.mark.parametrize("trips", ["given", "ahead"])
def test_fewer_iterations_than_none_stack_nothing(trips: str) -> None:
    """`ahead` is a size less 5."""
    model = parsed(
        """agraph (float[2] x, float[k] counted, int64 given) => (float[2] y, float[m, 2] rows) {
            going = Constant<value = bool {1}>()
            five = Constant<value_ints = [5]>()
            size = Shape(counted)
            less = Sub(size, five)
            ahead = Squeeze(less)
            y, rows = Loop(TRIPS, going, x) <
                body = step (int64 i, bool go, float[2] s)
                        => (bool more, float[2] t, float[2] row) {
                    more = Identity(go)
                    t = Sin(s)
                    row = Cos(s)
                }
            >
        }""".replace("TRIPS", trips)
    )
    compiled = bessemer.compile(model, cache=False)
    x = floats(2)
    for count in (3, 0, -2):
        given = {"x": x, "counted": floats(5 + count), "given": np.array(count)}
        y, rows = compiled.run(given)
        states = [x]
        for _ in range(max(count, 0)):
            states.append(np.sin(states[-1]))
        np.testing.assert_allclose(y, states[-1], rtol=1e-6)
        np.testing.assert_allclose(rows, np.cos(states[:-1]).reshape(-1, 2), rtol=1e-6)
