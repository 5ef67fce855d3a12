"""The runtime's promises, on models written by hand in LLVM IR."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.link import Bytes, Code
from bessemer.compiler.codegen.artifact.machine import Machine
from bessemer.compiler.codegen.support.support import WORTH_WAKING
from bessemer.compiler.codegen.support.trials import FEWEST, RUNS
from bessemer.compiler.jit import link, load_code
from bessemer.runtime.arrays import numpy_dtype
from bessemer.runtime.artifact import DTYPE_CODES, Status
from bessemer.runtime.errors import ExecutionError, InputError
from bessemer.runtime.model import CompiledModel
from tests import handmade

EMPTY = np.empty(0, np.uint8)


def jit(code: Code, weights: Bytes = EMPTY, threads: int = 1) -> CompiledModel:
    return load_code(code, weights, Machine(handmade.HOST), threads)


@pytest.fixture(scope="module")
def relu() -> CompiledModel:
    return jit(*handmade.relu(), threads=2)


@pytest.fixture(scope="module")
def positive() -> CompiledModel:
    return jit(handmade.positive())


@pytest.fixture(scope="module")
def related() -> CompiledModel:
    return jit(handmade.related())


def relu_reference(x: Any) -> Any:
    return np.maximum(x, 0) * np.arange(1, 5, dtype=np.float32)


@pytest.mark.parametrize("batch", [0, 1, 2, 7, 1000])
def test_one_model_serves_every_batch_size(
    relu: CompiledModel, rng: np.random.Generator, batch: int
) -> None:
    x = rng.standard_normal((batch, 4), np.float32)
    (y,) = relu.run({"x": x})
    np.testing.assert_array_equal(y, relu_reference(x))
    np.testing.assert_array_equal(relu(x), y)
    np.testing.assert_array_equal(relu(x=x), y)
    np.testing.assert_array_equal(relu.run([x])[0], y)


@pytest.mark.parametrize("dtype", sorted(DTYPE_CODES))
def test_every_dtype_goes_through_unchanged(dtype: str, rng: np.random.Generator) -> None:
    kind = numpy_dtype(dtype)
    x = rng.integers(1, 3, 40).astype(kind)
    model = jit(handmade.copy(dtype, x.itemsize, ("n",), "%n"))
    (y,) = model.run({"x": x})
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)
    assert not np.shares_memory(x, y)


def test_scalars_go_in_and_come_out_with_rank_zero() -> None:
    model = jit(handmade.product())
    (y,) = model.run({"a": np.float32(3), "b": np.array(5, np.float32)})
    assert y.shape == () and y == 15
    assert model(2.5, 2) == 5


def test_arrays_of_other_layouts_are_copied(relu: CompiledModel, rng: np.random.Generator) -> None:
    wide = rng.standard_normal((6, 8), np.float32)
    unaligned = np.zeros(6 * 16 + 1, np.uint8)[1:].view(np.float32).reshape(6, 4)
    unaligned[...] = wide[:, :4]
    read_only = wide[:, :4].copy()
    read_only.flags.writeable = False
    for x in (
        wide[:, ::2],
        np.asfortranarray(wide[:, :4]),
        wide[::-1, :4],
        np.broadcast_to(wide[:1, :4], (6, 4)),
        wide[:, :4].astype(">f4"),
        unaligned,
        read_only,
    ):
        np.testing.assert_array_equal(relu(x), relu_reference(x.astype(np.float32)))


def test_elements_that_are_masked_have_no_value(relu: CompiledModel) -> None:
    x = np.ma.masked_greater(np.arange(4, dtype=np.float32).reshape(1, 4), 9)
    np.testing.assert_array_equal(relu(x), relu_reference(x.data))
    relu(x.data)  # what has been planned for an array is not believed of another kind
    x[0, 2] = np.ma.masked
    with pytest.raises(InputError, match="'x' has masked elements"):
        relu(x)
    np.testing.assert_array_equal(relu(x.filled(7)), relu_reference(x.filled(7)))


def test_whatever_holds_an_array_goes_in(relu: CompiledModel, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4), np.float32)

    class Dlpack:
        def __dlpack__(self, **options: Any) -> Any:
            return x.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return x.__dlpack_device__()

    class HasArray:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return x

    for value in (Dlpack(), HasArray(), memoryview(x.data), x.tolist()):
        np.testing.assert_array_equal(relu.run({"x": value})[0], relu_reference(x))


def test_numbers_are_converted_only_where_nothing_is_lost() -> None:
    model = jit(handmade.copy("int8", 1, (2,), "2"))
    np.testing.assert_array_equal(model([1, -2]), [1, -2])
    for wrong in ([1.5, 2], [1, 300], ["a", "b"], [[1], [2, 3]], object()):
        with pytest.raises(InputError, match="Input 'x'"):
            model.run([wrong])


def test_wrong_names_are_told_with_the_right_ones(relu: CompiledModel) -> None:
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(InputError, match=r"'x' is missing and 'X' is unknown.*inputs are 'x'"):
        relu.run({"X": x})
    with pytest.raises(InputError, match="'extra' is unknown"):
        relu.run({"x": x, "extra": x})
    with pytest.raises(InputError, match="2 inputs were given, expected 1: 'x'"):
        relu.run([x, x])
    with pytest.raises(InputError, match="inputs are a ndarray: expected a dict"):
        relu.run(x)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not both"):
        relu(x, x=x)


def test_wrong_dtypes_and_shapes_name_the_input_and_the_axis(related: CompiledModel) -> None:
    def zeros(*shape: int) -> Any:
        return np.zeros(shape, np.float32)

    good = {"a": zeros(4, 3), "b": zeros(9), "c": zeros(4)}
    assert related.run(good)[0].shape == (2,)
    for name, value, problem in [
        ("a", zeros(4, 3).astype("f8"), r"'a' has dtype float64, expected float32.*astype"),
        ("a", zeros(4), r"'a' has shape \[4\] of rank 1, expected \[n, 3\] of rank 2"),
        ("a", zeros(4, 2), r"'a' has shape \[4, 2\], expected \[n, 3\]: axis 1 is 2, not 3"),
        ("b", zeros(8), r"'b'.*axis 0 is 8, not 2\*n\+1, which is 9"),
        ("c", zeros(5), r"'c'.*axis 0 is 5, not n, which is 4 in 'a'"),
    ]:
        with pytest.raises(InputError, match=problem):
            related.run(good | {name: value})
    assert related.run(good)[0].shape == (2,)


def test_outputs_go_where_the_caller_wants_them(
    relu: CompiledModel, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((5, 4), np.float32)
    y = np.empty((5, 4), np.float32)
    for out in (y, [y], {"y": y}):
        y[...] = np.nan
        assert relu.run({"x": x}, out=out)[0] is y
        np.testing.assert_array_equal(y, relu_reference(x))
    assert relu.run({"x": x}, out=[None])[0] is not y


def test_arrays_that_cannot_take_an_output_are_refused(relu: CompiledModel) -> None:
    x = np.ones((5, 4), np.float32)
    read_only = np.empty((5, 4), np.float32)
    read_only.flags.writeable = False
    for out, problem in [
        (np.empty((5, 4)), "has dtype float64, expected float32"),
        (np.empty((4, 4), np.float32), r"has shape \[4, 4\], expected \[5, 4\]"),
        (np.empty((5, 8), np.float32)[:, ::2], "not contiguous"),
        (np.zeros(81, np.uint8)[1:].view(np.float32).reshape(5, 4), "multiple of 4 bytes"),
        (read_only, "read-only"),
        (x, "overlaps that of 'x'"),
        ([[0.0] * 4] * 5, "out has 5 arrays"),
        ([x.tolist()], "is a list"),
        ({"z": x}, "out has 'z'; the outputs are 'y'"),
        (5, "is a int, expected a NumPy array"),
    ]:
        with pytest.raises(InputError, match=problem):
            relu.run({"x": x}, out=out)  # type: ignore[arg-type]
    np.testing.assert_array_equal(x, 1)


def test_large_outputs_begin_at_a_cache_line(relu: CompiledModel) -> None:
    for _ in range(5):
        y = relu(np.zeros((5001, 4), np.float32))
        assert y.ctypes.data % 64 == 0 and y.flags.c_contiguous and y.flags.writeable


def test_outputs_whose_size_the_data_decides(
    positive: CompiledModel, rng: np.random.Generator
) -> None:
    for length in (0, 1, 10, 5000, 10):
        x = rng.standard_normal(length, np.float32)
        (y,) = positive.run({"x": x})
        np.testing.assert_array_equal(y, x[x > 0])
    np.testing.assert_array_equal(positive(-np.ones(3, np.float32)), [])
    kept = positive(np.ones(3, np.float32))
    positive(np.full(3, 7, np.float32))
    np.testing.assert_array_equal(kept, 1)  # a copy, not the arena
    out = np.empty(2, np.float32)
    assert positive.run([np.array([1, -1, 2], np.float32)], out=out)[0] is out
    np.testing.assert_array_equal(out, [1, 2])
    with pytest.raises(InputError, match=r"has shape \[2\], expected \[3\]"):
        positive.run([np.ones(3, np.float32)], out=out)


def test_what_the_code_refuses_is_an_error_with_its_text(positive: CompiledModel) -> None:
    with pytest.raises(ExecutionError, match="positive: an index is huge") as caught:
        positive(np.array([1e10], np.float32))
    assert caught.value.status == Status.INDEX_OUT_OF_RANGE
    np.testing.assert_array_equal(positive(np.ones(2, np.float32)), 1)


def test_denormals_are_zero_inside_and_what_they_were_outside() -> None:
    model = jit(handmade.product())
    tiny = np.float32(1e-30)
    assert model(tiny, tiny) == 0
    assert model(np.float32(1e-40), np.float32(1e10)) == 0
    assert tiny * np.float32(1e-10) > 0


def test_the_arena_grows_and_is_given_back(relu: CompiledModel) -> None:
    relu.trim()
    assert relu.memory().arenas == 0
    relu(np.zeros((100, 4), np.float32))
    assert relu.workspace_bytes(batch=100) == relu.memory().arenas == 1600
    relu(np.zeros((10, 4), np.float32))
    assert relu.memory().arenas == 1600
    relu.trim()
    assert relu.memory().arenas == 0
    assert relu.memory().weights == 16
    with pytest.raises(InputError, match="Give the sizes of batch"):
        relu.workspace_bytes(rows=3)


def test_code_in_memory_is_not_writable() -> None:
    native = link(handmade.relu()[0], Machine(handmade.HOST))
    place = ctypes.cast(native.run, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, rights = line.split()[:2]
        first, last = (int(part, 16) for part in bounds.split("-"))
        if first <= place < last:
            assert rights == "r-xp"
            return
    pytest.fail("the code is nowhere")


# Threads.


@pytest.mark.parametrize("grain", [1, 5])
def test_a_parallel_loop_is_cut_into_contiguous_even_chunks(grain: int) -> None:
    code = handmade.chunks(grain)
    for threads in (1, 2, 3, 8):
        model = jit(code, threads=threads)
        assert model.threads == threads
        for extent in (0, 1, 2, 4, 5, 9, 10, 64, 1001):
            begins = model(np.zeros(extent, np.bool_))
            starts, sizes = np.unique(begins, return_counts=True)
            wanted = max(1, min(threads, extent // grain)) if extent else 0
            # Those that sleep are not woken for a little.
            assert len(starts) == wanted or (
                len(starts) < wanted and extent // grain < WORTH_WAKING
            )
            np.testing.assert_array_equal(begins, np.repeat(starts, sizes))
            if extent:
                assert starts[0] == 0 and sizes.max() - sizes.min() <= 1
                np.testing.assert_array_equal(np.cumsum(sizes)[:-1], starts[1:])
            if wanted > 1:
                assert sizes.min() >= grain


def test_many_short_parallel_loops_all_finish() -> None:
    """More threads than processors, with pauses that put the workers to sleep and without."""
    code = handmade.chunks(1)
    x = np.zeros(64, np.bool_)
    for threads in (2, 4):
        model = jit(code, threads=threads)
        pause = threading.Event()
        for turn in range(3000):
            assert len(np.unique(model(x))) in (1, threads)
            if turn % 100 == 0:
                pause.wait(0.002)


def test_of_some_runs_three_share_no_job_and_three_no_small_one() -> None:
    """The fastest way is kept; sizes of their own begin a new trial."""
    code = handmade.chunks(1)
    for jobs, kinds in ((4, (2, 1, 1)), (20, (2, 2, 1))):
        model = jit(code, threads=2)
        x = np.zeros(jobs, np.bool_)
        model(np.zeros(1000, np.bool_))  # wakes the worker
        found = np.array([len(np.unique(model(x))) for _ in range(RUNS * len(FEWEST))])
        most = np.resize([*kinds, *kinds[::-1]], RUNS * len(FEWEST))  # there and back
        assert np.all(found <= most) and np.any(found == most)
        kept = {len(np.unique(model(x))) for _ in range(20)}
        assert kept <= {1, 2}


def test_a_trial_wakes_the_workers_that_small_jobs_let_sleep() -> None:
    model = jit(handmade.chunks(1), threads=2)
    x = np.zeros(4, np.bool_)
    model(x)  # starts the worker
    threading.Event().wait(0.02)  # it sleeps
    found = [len(np.unique(model(x))) for _ in range(RUNS * len(FEWEST))]
    assert 2 in found


def test_python_threads_share_a_model(relu: CompiledModel, rng: np.random.Generator) -> None:
    failures: list[str] = []
    inputs = [rng.standard_normal((n, 4), np.float32) for n in (1, 50, 333, 1000)]

    def work(x: Any) -> None:
        expected = relu_reference(x)
        for _ in range(200):
            if not np.array_equal(relu.run({"x": x})[0], expected):
                failures.append(f"batch {len(x)}")

    workers = [threading.Thread(target=work, args=(x,)) for x in inputs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    assert 1 <= relu.memory().contexts <= 1 + len(workers)
