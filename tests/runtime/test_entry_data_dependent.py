"""The C entry by which Python calls a model makes outputs whose sizes the data decides."""

from __future__ import annotations

from types import BuiltinFunctionType

import numpy as np
import pytest

from bessemer import compile
from bessemer.runtime.errors import ExecutionError
from bessemer.runtime.model import CompiledModel
from tests.onnx_check import parsed

LATE = """g (float[rows,3] x, float[rows] z)
    => (float[rows] r, int64[2,n] p, float[k] u, int64[m] c) {
    r = Relu(z)
    p = NonZero(x)
    u, first, places, c = Unique(z)
}"""


def test_outputs_may_have_sizes_that_the_data_decides(rng: np.random.Generator) -> None:
    """Among others; their number of elements changes from call to call, that of inputs too."""
    model = compile(parsed(LATE, 18), cache=False, threads=1)
    assert isinstance(model.run, BuiltinFunctionType)
    held = []
    for rows in (5, 5, 5, 1, 0, 0, 700, 700, 5):
        x = rng.integers(0, 2, (rows, 3)).astype(np.float32)
        z = rng.integers(-3, 3, rows).astype(np.float32)
        values, counts = np.unique(z, return_counts=True)
        expected = [np.maximum(z, 0), np.array(np.nonzero(x)), values, counts]
        held.append((expected, model.run({"x": x, "z": z})))
        held.append((expected, model.run([x, z])))
    for expected, found in held:
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype and one.flags.writeable and one.base is None
            np.testing.assert_array_equal(one, other)


def test_large_outputs_take_memory_of_earlier_ones() -> None:
    """Also where the data decides their sizes."""
    model = compile(parsed(LATE, 18), cache=False, threads=1)
    x, z = np.ones((20_000, 3), np.float32), np.zeros(20_000, np.float32)
    kept, places = model.run([x, z])[1], set()
    for entry in (CompiledModel.run.__get__(model), model.run):
        for _ in range(6):
            found = entry([x, z])[1]
            places.add(found.ctypes.data)
            np.testing.assert_array_equal(found, np.nonzero(x))
            del found
    assert len(places) <= 3 and all(place % 64 == 0 for place in places)
    assert kept.ctypes.data not in places
    np.testing.assert_array_equal(kept, np.nonzero(x))


COMPOUND = """g (float[rows,3] x, float[rows] z, int64 total)
    => (int64[2,both] p, int64[2,half] h, float[last] l) {
    found = NonZero(x)
    others = NonZero(z)
    twice = Concat<axis=0>(others, others)
    p = Concat<axis=1>(found, twice)
    zero = Constant<value_ints=[0]>()
    one = Constant<value_ints=[1]>()
    two = Constant<value_ints=[2]>()
    end = Constant<value_ints=[9223372036854775807]>()
    h = Slice(found, zero, end, one, two)
    axes = Constant<value_ints=[0]>()
    limit = Unsqueeze(total, axes)
    l = Slice(z, zero, limit, zero)
}"""


def test_sizes_may_follow_from_those_that_the_data_decides(rng: np.random.Generator) -> None:
    """Sums, quotients and minima of them; such a model needs no Python code to run, either."""
    model = compile(parsed(COMPOUND, 18), cache=False, threads=1)
    assert isinstance(model.run, BuiltinFunctionType)
    for rows, total in ((5, 3), (5, 4), (5, 9), (0, 0), (70, 70), (70, 1)):
        x = rng.integers(0, 2, (rows, 3)).astype(np.float32)
        z = rng.integers(-1, 2, rows).astype(np.float32)
        found, others = np.array(np.nonzero(x)), np.array(np.nonzero(z))
        both = np.concatenate([found, np.repeat(others, 2, 0)], 1)
        for _ in range(2):
            results = model.run([x, z, np.array(total)])
            for one, other in zip(results, (both, found[:, ::2], z[:total]), strict=True):
                np.testing.assert_array_equal(one, other)


EXPECTED = """g (float[1,columns] x, int64[2] s, float[1,columns] u)
    => (float[p,q] y, float[n] z, float[p,q] w, float[p,q] v) {
    wide = Expand(x, s)
    y = Relu(wide)
    flat = Constant<value_ints=[-1]>()
    z = Reshape(y, flat)
    place = Constant<value = int64[1,1] {0}>()
    w = ScatterND(wide, place, u)
    axis = Constant<value_int=0>()
    v = CumSum(w, axis)
}"""


def test_outputs_about_as_large_as_before_are_written_where_they_stay(
    rng: np.random.Generator,
) -> None:
    """Among them two that are the same bytes, and one that a scatter writes over; what is held
    stays as it is."""
    model = compile(parsed(EXPECTED, 18), cache=False, threads=1)
    held = []
    for rows in (300, 300, 320, 700, 70, 1, 300, 300):
        x, u = (rng.integers(-3, 4, (1, 100)).astype(np.float32) for _ in range(2))
        y, w = np.maximum(x, 0).repeat(rows, 0), x.repeat(rows, 0)
        w[:1] = u[:rows]
        held.append(([y, y.ravel(), w, w.cumsum(0)], model.run([x, np.array([rows, 100]), u])))
    for expected, found in held:
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    rooms = []
    for expected, found in held[:4]:
        assert found[0].base is not None
        rooms.append(found[0].base.nbytes / expected[0].nbytes)
    assert [room > 1.125 for room in rooms] == [False, True, True, False]


def test_quotients_by_a_size_of_zero_are_explained_by_the_run() -> None:
    text = """g (float[a,b] x, float[c] z) => (float[c,n] y) {
        rest = Constant<value_ints=[-1]>()
        first = Shape(z)
        shape = Concat<axis=0>(first, rest)
        y = Reshape<allowzero=1>(x, shape)
    }"""
    model = compile(parsed(text, 18), cache=False, threads=1)
    x, none = np.ones((4, 6), np.float32), np.empty(0, np.float32)
    assert model.run([x, np.empty(3, np.float32)])[0].shape == (3, 8)
    with pytest.raises(ExecutionError, match="the sizes contradict it"):
        model.run([x, none])
    assert model.run([x[:0], none])[0].shape == (0, 0)
