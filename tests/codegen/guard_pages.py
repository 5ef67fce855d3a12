"""Runs models with every array right before, or right behind, a page that cannot be accessed.

`python -m tests.codegen.guard_pages NAME...` says what it runs, line by line: after an access
outside of an array, the last line is what made it.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array
from bessemer.compiler.memory_plan import plan_memory
from bessemer.compiler.memory_plan.live_ranges import LiveRange
from bessemer.runtime.arrays import address, numpy_dtype
from bessemer.runtime.model import CompiledModel
from bessemer.runtime.native import Context
from bessemer.runtime.shapes import evaluate_shape
from tests.codegen.guard_page_cases import CASES, Case

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Fenced:
    """Bytes between unreadable pages: they begin behind one where `is_first`, else they end (at a
    multiple of 64 bytes where `aligned`) at the other."""

    def __init__(self, count: int, aligned: bool = False, is_first: bool = False) -> None:
        pages = -(-count // PAGE) * PAGE
        self._map = mmap.mmap(-1, PAGE + pages + PAGE)
        whole = np.frombuffer(self._map, np.uint8)
        self.start = address(whole) + PAGE
        free = pages - (-(-count // 64) * 64 if aligned else count)
        first = PAGE if is_first else PAGE + free
        self.bytes: Array = whole[first : first + count]
        self.close(-PAGE)
        self.close(pages)

    def close(self, place: int) -> None:
        """No access to the page that begins so many bytes behind the first page."""
        assert _libc.mprotect(self.start + place, PAGE, 0) == 0

    @staticmethod
    def copy(array: Array, aligned: bool = False, is_first: bool = False) -> Fenced:
        made = Fenced(array.nbytes, aligned, is_first)
        made.bytes[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return made


class Fences:
    """Where a plan made here has pages between values, if it is one of known sizes."""

    def __init__(self) -> None:
        self.arena: list[int] = []

    def place(
        self, wanted: Sequence[tuple[Value, int]], ranges: Mapping[Value, LiveRange]
    ) -> tuple[dict[Value, int], int]:
        """In place of `place_values`: every value ends at a page of its own."""
        places: dict[Value, int] = {}
        self.arena, end = [], 0
        for value, size in wanted:
            end += -(-size // PAGE) * PAGE
            places[value] = end - size
            self.arena.append(end)
            end += PAGE
        return places, end


@contextmanager
def fences() -> Iterator[Fences]:
    """Models that are compiled inside have fences between the values in their arena."""
    made = Fences()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_memory, "place_values", made.place)
        yield made


def run_fenced(
    model: CompiledModel,
    inputs: Sequence[Array],
    symbols: Mapping[str, int],
    made: Fences,
    is_first: bool = False,
) -> list[Array]:
    """The outputs of a model, all of whose sizes follow from `symbols`."""
    native = model._runner.native
    signature, kept = native.signature, model._runner._weights
    weights = Fenced.copy(np.zeros(0) if kept is None else kept, True, is_first)
    context = Context(native, 2, address(weights.bytes) if weights.bytes.size else 0)
    given = [Fenced.copy(array, False, is_first) for array in inputs]
    shapes = [evaluate_shape(info.shape, symbols) for info in signature.outputs]
    dtypes = [numpy_dtype(info.dtype) for info in signature.outputs]
    counts = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in zip(shapes, dtypes)]
    results = [Fenced(count, False, is_first) for count in counts]
    dims = (ctypes.c_int64 * (len(signature.symbols) + 1))(*symbols.values())
    arena = Fenced(native.workspace_bytes(ctypes.addressof(dims)), aligned=True)
    for place in () if symbols else made.arena:
        arena.close(place)
    pointers = [
        (ctypes.c_void_p * (len(arrays) + 1))(*[address(array.bytes) for array in arrays])
        for arrays in (given, results)
    ]
    ins, outs = (ctypes.addressof(each) for each in pointers)
    space = address(arena.bytes), arena.bytes.size
    status = native.run(context.handle, ins, outs, ctypes.addressof(dims), *space)
    assert not status, native.message(context.handle)
    return [
        result.bytes.view(dtype).reshape(shape).copy()
        for result, dtype, shape in zip(results, dtypes, shapes)
    ]


def check(case: Case) -> None:
    """Fenced runs of a case compute what others do, to the last bit."""
    with fences() as made:
        model = bessemer.compile(case.model(), threads=1, cache=False)
        for symbols in case.sizes:
            sys.stdout.write(f"{case.name} {symbols}\n")
            sys.stdout.flush()
            inputs = case.inputs(model.signature, symbols)
            expected = model.run(inputs)
            for is_first in (False, True):
                found = run_fenced(model, inputs, symbols, made, is_first)
                for ours, wanted in zip(found, expected, strict=True):
                    assert ours.shape == wanted.shape and ours.tobytes() == wanted.tobytes()


if __name__ == "__main__":
    for chosen in CASES if len(sys.argv) < 2 else [c for c in CASES if c.name in sys.argv[1:]]:
        check(chosen)
