"""Large pages for large arenas, and the state of a training in one piece."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import bessemer
import bessemer.compiler.ops
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import Array, TensorType, f32
from bessemer.frontends.train.state_memory import side_by_side
from bessemer.runtime.arrays import address


def _advised() -> int:
    """Bytes of this process for which large pages are wished."""
    found = size = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1]) << 10
        if line.startswith("VmFlags:") and "hg" in line.split():
            found += size
    return found


def _has_large_pages() -> bool:
    """Whether the kernel has them and tells which memory wishes for them."""
    maps = Path("/proc/self/smaps")
    known = maps.exists() and "VmFlags:" in maps.read_text()
    return known and Path("/sys/kernel/mm/transparent_hugepage/enabled").exists()


def _wished_by_a_run() -> int:
    """Bytes more for which large pages are wished after a run with an arena of 5.7 MB."""
    builder = GraphBuilder("two products")
    shapes = ((700, 32), (32, 2048), (2048, 32))
    x, wide, back = (builder.input(n, TensorType(f32, s)) for n, s in zip("xwb", shapes))
    hidden = builder.apply("tanh", builder.apply("matmul", x, wide))
    model = bessemer.compile(builder.finish([builder.apply("matmul", hidden, back)], ["y"]))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) * 0.1 for shape in shapes]
    before = _advised()
    (y,) = model.run(arrays)
    wanted = np.tanh(arrays[0].astype(np.float64) @ arrays[1]) @ arrays[2]
    np.testing.assert_allclose(y, wanted, atol=1e-4)
    return _advised() - before


@pytest.mark.skipif(not _has_large_pages(), reason="this kernel has no large pages to wish for")
def test_a_large_arena_is_in_large_pages() -> None:
    # In a process of its own: here the arena may come to lie where an earlier one has lain.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        assert process.submit(_wished_by_a_run).result() >= 4 << 20


def test_arrays_side_by_side_are_copies_at_cache_lines() -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "step": np.array(7, np.int64),
        "b": rng.standard_normal(17),
    }
    found = side_by_side(arrays)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].flags.c_contiguous and address(found[name]) % 64 == 0
        np.testing.assert_array_equal(found[name], array)
    found["a"][...] = 0
    assert arrays["a"].any() and found["b"].all()
