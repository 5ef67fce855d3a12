"""Where arrays lie in memory, compared with NumPy's own arrays."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.runtime.arrays import are_apart, check_output, extent, first_places, places_along
from bessemer.runtime.artifact import ArrayInfo
from bessemer.runtime.errors import InputError

_MOST = 6


def _lies_as_first_of(
    count: int, shape: tuple[int, ...], strides: tuple[int, ...], axis: int
) -> bool:
    """Whether the first places of an array with `count` of them along the axis have these strides;
    of an axis of one place the stride says nothing."""
    whole = np.zeros((*shape[:axis], count, *shape[axis + 1 :]), np.int32)
    pairs = zip(shape, strides, whole.strides, strict=True)
    return all(stride == wanted for size, stride, wanted in pairs if size > 1)


@settings(max_examples=300)
@given(st.data())
def test_the_places_of_an_array_are_found_in_its_strides(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 4))
    axis = data.draw(st.integers(0, rank - 1))
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)))
    room = data.draw(st.integers(shape[axis], _MOST))
    whole = np.zeros((*shape[:axis], room, *shape[axis + 1 :]), np.int32)
    strides = list(first_places(whole, axis, shape[axis]).strides)
    for place in range(rank):
        if data.draw(st.integers(0, 4)) == 0:
            strides[place] = 4 * data.draw(st.integers(1, 40))
    array = np.lib.stride_tricks.as_strided(np.zeros(1, np.int32), shape, strides, writeable=False)
    able = [n for n in range(shape[axis], 60) if _lies_as_first_of(n, shape, tuple(strides), axis)]
    found = places_along(array, axis)
    assert found in able if able else found is None
    if axis > 0 and shape[axis - 1] > 1 and able:
        assert able == [found]


@pytest.mark.parametrize("shape", [(3, 4), (2, 0, 5), (1,), (), (4, 1, 3)])
@pytest.mark.parametrize("steps", [slice(None), slice(None, None, 2), slice(None, None, -1)])
def test_an_array_extends_over_its_elements(shape: tuple[int, ...], steps: slice) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=np.int16).reshape(shape)
    array = array[(steps,) * array.ndim]
    assert extent(array) == np.lib.array_utils.byte_bounds(array) or not array.size
    start, end = extent(array)
    assert end - start >= array.nbytes and (array.size or end == start)


def test_ranges_meet_where_they_share_a_byte() -> None:
    for one, other in product([(0, 4), (4, 8), (2, 6), (4, 4)], repeat=2):
        shared = set(range(*one)) & set(range(*other))
        inside = one[0] < other[0] < one[1] or other[0] < one[0] < other[1]
        assert are_apart([one, other]) == (not shared and not inside)


def test_room_is_missed_only_along_the_axis_that_grows() -> None:
    info = ArrayInfo("y", "float32", ("a", "b", "c"))
    for shape, says in (((2, 3, 4), True), ((2, 9, 4), False), ((3, 5, 4), False)):
        with pytest.raises(InputError, match="'y' has shape") as caught:
            check_output(info, np.dtype(np.float32), (2, 5, 4), np.zeros(shape, np.float32), 1)
        assert ("no room" in str(caught.value)) == says
