"""Loops with a number of iterations that the run decides, which read the sequences they carry."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import bessemer
from bessemer.compiler.errors import UnsupportedError
from tests.onnx_check import floats, parsed

# Each iteration reads two earlier entries; how many there are changes what it makes of them.
GROWING = """g (float[a, 3] x, int64 n) => (float[m, b, 3] y, int64 count, float[c, 3] last) {
    first = SequenceConstruct(x)
    yes = Constant<value = bool {1}>()
    end = Constant<value = int64 {-1}>()
    entries = Loop(n, yes, first) <body = body (int64 i, bool go, seq(float[a, 3]) s)
        => (bool on, seq(float[a, 3]) t) {
            on = Identity(go)
            two = Constant<value = int64 {2}>()
            middle = Div(i, two)
            old = SequenceAt(s, middle)
            new = SequenceAt(s, end)
            sum = Add(old, new)
            length = SequenceLength(s)
            count = Cast<to = 1>(length)
            entry = Div(sum, count)
            t = SequenceInsert(s, entry)
        }>
    y = ConcatFromSequence<axis = 0, new_axis = 1>(entries)
    count = SequenceLength(entries)
    last = SequenceAt(entries, end)
}"""

# The last three entries, the newest first; the loop goes on while what it carries is small, and
# appends to another sequence, which it does not read.
SLIDING = """g (float[a] x, float limit) => (float[m, b] y, float[k] z, float[c] last) {
    half = Constant<value = float {0.5}>()
    x2 = Mul(x, half)
    x3 = Mul(x2, half)
    window = SequenceConstruct(x, x2, x3)
    all = SequenceConstruct(x)
    yes = Constant<value = bool {1}>()
    zero = Constant<value = int64 {0}>()
    recent, kept, final = Loop("", yes, window, all, x) <body = body (
        int64 i, bool go, seq(float[a]) w, seq(float[a]) s, float[a] c)
        => (bool on, seq(float[a]) w2, seq(float[a]) s2, float[a] d) {
            third = Constant<value = int64 {2}>()
            one = Constant<value = float {1}>()
            oldest = SequenceAt(w, third)
            b = Add(c, oldest)
            d = Add(b, one)
            fewer = SequenceErase(w)
            w2 = SequenceInsert(fewer, d, zero)
            s2 = SequenceInsert(s, d)
            highest = ReduceMax<keepdims = 0>(d)
            on = Less(highest, limit)
        }>
    y = ConcatFromSequence<axis = 0, new_axis = 1>(recent)
    z = ConcatFromSequence<axis = 0>(kept)
    last = Identity(final)
}"""


@pytest.mark.parametrize("rows", [1, 4])
def test_a_sequence_grows_while_it_is_read(rows: int) -> None:
    model = parsed(GROWING, 18)
    compiled = bessemer.compile(model, cache=False, threads=1)
    for trips in (0, 1, 2, 9, 40):
        feed = {"x": floats(rows, 3), "n": np.array(trips)}
        for one, other in zip(compiled.run(feed), ReferenceEvaluator(model).run(None, feed)):
            np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_sequence_may_lose_its_end_and_grow_at_its_beginning() -> None:
    model = parsed(SLIDING, 18)
    compiled = bessemer.compile(model, cache=False, threads=1)
    for limit in (0.0, 3.0, 50.0):
        feed = {"x": np.abs(floats(5)), "limit": np.array(limit, np.float32)}
        for one, other in zip(compiled.run(feed), ReferenceEvaluator(model).run(None, feed)):
            np.testing.assert_allclose(one, other, rtol=1e-5)


def test_what_is_read_of_an_empty_sequence_has_no_type() -> None:
    text = GROWING.replace("SequenceConstruct(x)", "SequenceEmpty<dtype = 1>()")
    with pytest.raises(UnsupportedError, match="carries a sequence of nothing"):
        bessemer.compile(parsed(text, 18), cache=False)
