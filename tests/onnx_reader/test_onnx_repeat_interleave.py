"""repeat_interleave as PyTorch's exporter writes it, and updates whose number is computed apart."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, expected, floats, operators, parsed

_REPEAT = """
agraph (float[n, c] x, int64[n] r) => (float[m, c] y) {
    shape = Shape(r)
    ones = ConstantOfShape<value = int64[1] {1}>(shape)
    counts = SplitToSequence<axis = 0>(r, ones)
    rows = SplitToSequence<axis = 0>(x, ones)
    zero = Constant<value = int64 {0}>()
    one = Constant<value = int64[1] {1}>()
    trips = Gather(shape, zero)
    true = Constant<value = bool {1}>()
    none = SequenceEmpty<dtype = 1>()
    all = Loop(trips, true, none) <
        body = step (int64 i, bool c, seq(float[m, c]) before) => (
            bool more, seq(float[m, c]) after
        ) {
            count = SequenceAt(counts, i)
            row = SequenceAt(rows, i)
            spread = Unsqueeze(row, one)
            wanted = Concat<axis = 0>(one, count, one)
            dims = Shape(wanted)
            units = ConstantOfShape<value = int64[1] {1}>(dims)
            minus = Constant<value = int64 {-1}>()
            open = Mul(units, minus)
            is_open = Equal(wanted, open)
            sizes = Where(is_open, units, wanted)
            many = Expand(spread, sizes)
            flat = Constant<value = int64[2] {-1, 3}>()
            part = Reshape(many, flat)
            after = SequenceInsert(before, part)
            more = Cast<to = 9>(true)
        }
    >
    y = ConcatFromSequence<axis = 0>(all)
}
"""


def test_rows_come_as_often_as_the_data_says() -> None:
    model = parsed(_REPEAT)
    assert "loop" not in operators(read_onnx(model))
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    for counts in ([2, 0, 3, 1], [1], [0, 0, 5]):
        inputs = {"x": floats(len(counts), 3), "r": np.array(counts)}
        (want,) = expected(model, inputs)
        np.testing.assert_array_equal(compiled.run(inputs)[0], want)


@pytest.mark.parametrize("operator", ["ScatterND(x, places, updates)", "ScatterElements(x, at, u)"])
def test_updates_of_as_many_elements_as_there_are_indices(operator: str) -> None:
    """tf2onnx cuts one of the two off at 10^9."""
    model = parsed(
        f"""agraph (float[n] x, float[n] mask) => (float[n] y) {{
            found = NonZero(mask)
            transposed = Transpose(found)
            begin = Constant<value = int64[1] {{0}}>()
            end = Constant<value = int64[1] {{1000000000}}>()
            places = Slice(transposed, begin, end, begin)
            open = Constant<value = int64[1] {{-1}}>()
            at = Reshape(places, open)
            row = Reshape(transposed, open)
            updates = Gather(mask, row)
            u = Neg(updates)
            y = {operator}
        }}"""
    )
    agrees(model, {"x": floats(6), "mask": np.array([0, 1, 2, 0, 0, 3], np.float32)})
