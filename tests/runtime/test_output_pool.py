"""Large outputs take the memory of earlier ones, but never of one that somebody still sees."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from types import BuiltinFunctionType

import numpy as np
import pytest

import bessemer
from bessemer.frontends.builder import Input, Network
from bessemer.runtime.model import CompiledModel
from bessemer.runtime.output_pool import OutputPool

ROWS = 1 << 17
F32 = np.dtype(np.float32)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    """Three outputs of ROWS x 3 numbers."""
    network = Network(lambda x: (x * 2, x + 1, -x), Input("x", ("rows", 3)))
    return bessemer.compile(network)


def test_what_somebody_holds_is_not_written_again(model: CompiledModel) -> None:
    held = [model.run([np.full((ROWS, 3), k, np.float32)]) for k in range(5)]
    views = [model.run([np.full((ROWS, 3), k, np.float32)])[1][5:, 1] for k in range(5, 10)]
    model.run([np.zeros((ROWS, 3), np.float32)])
    for k, (double, more, negative) in enumerate(held):
        assert (double == 2 * k).all() and (more == k + 1).all() and (negative == -k).all()
    for k, view in enumerate(views, 5):
        assert (view == k + 1).all()


def test_memory_that_nobody_holds_is_taken_again(model: CompiledModel) -> None:
    x = np.zeros((ROWS, 3), np.float32)
    places = {array.ctypes.data for _ in range(20) for array in model.run([x])}
    assert len(places) <= 7
    assert all(place % 64 == 0 for place in places)


@pytest.mark.parametrize("rows", [ROWS // 3, ROWS // 16])
def test_python_code_and_the_entry_take_the_same_memory(model: CompiledModel, rows: int) -> None:
    """Also outputs of a few hundred kilobytes."""
    assert isinstance(model.run, BuiltinFunctionType)
    model.trim()
    x = np.zeros((rows, 3), np.float32)
    places = set()
    for _ in range(10):
        places |= {array.ctypes.data for array in CompiledModel.run(model, [x])}
        places |= {array.ctypes.data for array in model.run([x])}
    assert len(places) <= 7


def test_several_threads_do_not_write_where_another_reads(model: CompiledModel) -> None:
    def work(number: int) -> bool:
        x = np.full((ROWS // 8, 3), number, np.float32)
        runs = [model.run([x]) for _ in range(30)]
        return all((more == number + 1).all() for _, more, _ in runs)

    with ThreadPoolExecutor(4) as executor:
        assert all(executor.map(work, range(8)))


def test_memory_is_kept_until_the_model_is_trimmed(model: CompiledModel) -> None:
    x = np.zeros((ROWS, 3), np.float32)
    for _ in range(2):
        blocks = [weakref.ref(array.base) for array in model.run([x]) if array.base is not None]
    assert len(blocks) == 3 and all(block() is not None for block in blocks)
    model.trim()
    assert all(block() is None for block in blocks)


def test_a_pool_holds_no_more_than_it_may() -> None:
    pool = OutputPool(1)
    blocks = [weakref.ref(pool.empty(((1 + k) << 18,), F32).base) for k in (0, 2, 8, 32, 128)]
    assert [block() is not None for block in blocks] == [False, False, True, True, True]


def test_a_small_output_does_not_take_a_large_block() -> None:
    pool = OutputPool(4)
    large = pool.empty((1 << 20,), F32).ctypes.data
    assert pool.empty((1 << 14,), F32).ctypes.data != large
    assert pool.empty((1 << 20,), F32).ctypes.data == large


def test_sizes_that_grow_find_earlier_blocks() -> None:
    pool = OutputPool(2)
    places = {pool.empty(((1 << 20) + 512 * k,), F32).ctypes.data for k in range(8)}
    assert len(places) == 1
    assert pool.empty((10, 7), F32).shape == (10, 7)
    assert pool.empty((0, 7), F32).size == 0


def test_a_pool_that_is_cleared_leaves_its_arrays_alone() -> None:
    pool = OutputPool(1)
    first, second = pool.empty((1 << 18,), F32), pool.empty((1 << 18,), F32)
    first[:], second[:] = 1, 2
    pool.clear()
    third = pool.empty((1 << 18,), F32)
    third[:] = 3
    assert (first == 1).all() and (second == 2).all()
