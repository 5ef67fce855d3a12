"""Sizes that leave 64 bits, from the data or from a C caller, are refused: none wraps around."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import bessemer
from bessemer.compiler.codegen.artifact.machine import Machine
from bessemer.compiler.jit import link
from bessemer.runtime.artifact import Status
from bessemer.runtime.model import CompiledModel
from bessemer.runtime.native import Context, Options
from tests import handmade
from tests.onnx_check import expected, parsed

_FROM_DATA = """
agraph (float[1, 1] x, int64[2] sizes) => (float y)
<int64 axis = {0}> {
    large = Expand(x, sizes)
    sums = CumSum(large, axis)
    y = ReduceMax<keepdims = 0>(sums)
}
"""
_FROM_CALLER = """
agraph (float[a, k] x, float[k, b] y) => (float[b, a] z) {
    product = MatMul(x, y)
    shares = Softmax(product)
    z = Transpose<perm = [1, 0]>(shares)
}
"""
_WITHOUT_MEMORY = """
agraph (float[a, 1] x, float[b] y) => (float[a, b] z, int64[a, 1] w) {
    z = Add(x, y)
    w = Cast<to = 7>(x)
}
"""


@pytest.fixture(scope="module")
def from_caller() -> CompiledModel:
    return bessemer.compile(parsed(_FROM_CALLER), threads=1, optimize=0, cache=False)


def test_the_data_s_sizes_are_refused() -> None:
    model = parsed(_FROM_DATA)
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    x = np.ones((1, 1), np.float32)
    for sizes in ((2**31, 2**31), (2**32, 2**32), (2**62, 4), (2**63 - 1, 2**63 - 1)):
        with pytest.raises(MemoryError, match="larger than the address space"):
            compiled.run([x, np.array(sizes)])
    feed = {"x": x, "sizes": np.array([3, 2])}
    np.testing.assert_array_equal(compiled.run(feed)[0], expected(model, feed)[0])


@pytest.mark.parametrize("dims", [(2**63 - 1, 2, 1), (2**62, 1, 2**62), (2**32, 1, 2**32)])
def test_a_caller_s_sizes_are_refused(
    from_caller: CompiledModel, dims: tuple[int, int, int]
) -> None:
    native = from_caller._runner.native
    sizes = (ctypes.c_int64 * 3)(*dims)
    assert native.workspace_bytes(ctypes.addressof(sizes)) < 0
    context = Context(native, threads=1)
    arrays = (ctypes.c_void_p * 2)(*[ctypes.addressof(sizes)] * 2)
    places = [ctypes.addressof(arrays), ctypes.addressof(arrays), ctypes.addressof(sizes)]
    status = native.run(context.handle, *places, None, 0)
    assert status == Status.OUT_OF_MEMORY
    assert b"larger than the address space" in native.message(context.handle)


@pytest.mark.parametrize("sizes", [(2**61, 0), (0, 2**62), (2**32, 2**32), (2**63 - 1, 1)])
def test_arrays_beyond_the_address_space_are_refused(sizes: tuple[int, int]) -> None:
    """Of a run that needs no memory of its own."""
    compiled = bessemer.compile(parsed(_WITHOUT_MEMORY), threads=1)
    native = compiled._runner.native
    dims = (ctypes.c_int64 * 2)(*sizes)
    assert native.workspace_bytes(ctypes.addressof(dims)) < 0
    context = Context(native, threads=1)
    arrays = (ctypes.c_void_p * 2)(*[ctypes.addressof(dims)] * 2)
    places = [ctypes.addressof(arrays), ctypes.addressof(arrays), ctypes.addressof(dims)]
    assert native.run(context.handle, *places, None, 0) == Status.OUT_OF_MEMORY
    assert b"larger than the address space" in native.message(context.handle)


def test_no_memory_is_enough_for_absurd_dims() -> None:
    native = bessemer.compile(parsed(_WITHOUT_MEMORY), threads=1)._runner.native
    assert native.workspace_bytes(None) == -1
    for sizes, bytes in (((0, -1), -1), ((-1, 0), -1), ((2, 3), 0)):
        dims = (ctypes.c_int64 * 2)(*sizes)
        assert native.workspace_bytes(ctypes.addressof(dims)) == bytes


def test_without_a_context_functions_do_nothing(from_caller: CompiledModel) -> None:
    native = from_caller._runner.native
    assert b"there is no context" in native.message(None)
    assert (native.threads(None), native.arena_bytes(None)) == (0, 0)
    assert native.run(None, None, None, None, None, 0) == Status.INVALID_ARGUMENT
    native.trim(None)
    native.destroy(None)


def test_fewer_threads_than_none_are_refused(from_caller: CompiledModel) -> None:
    native, context = from_caller._runner.native, ctypes.c_void_p(1)
    for threads, status in ((0, Status.OK), (-1, Status.INVALID_ARGUMENT)):
        options = Options(threads=threads)
        assert native.create(ctypes.addressof(context), ctypes.addressof(options)) == status
        assert bool(context) == (status == Status.OK)
        native.destroy(context.value)


def test_a_workspace_too_small_for_the_data_is_told() -> None:
    native = link(handmade.positive(), Machine(handmade.HOST))
    context = Context(native, threads=1)
    x = np.ones(100, np.float32)
    workspace = np.zeros(64, np.uint8)
    begin = -workspace.ctypes.data % 64
    inputs, outputs = (ctypes.c_void_p * 1)(x.ctypes.data), (ctypes.c_void_p * 1)()
    dims = (ctypes.c_int64 * 2)(100, 0)
    places = [ctypes.addressof(array) for array in (inputs, outputs, dims)]
    status = native.run(context.handle, *places, workspace.ctypes.data + begin, 0)
    assert status == Status.WORKSPACE_TOO_SMALL
    assert b"0 bytes" in native.message(context.handle)
