"""The C function behind `run`: Python's call, straight into the machine code.

Every artifact has, beside its C API, a function PREFIX_python_N that CPython can call. It compares
the inputs with what the last call was given (types, dtypes, layout, shapes), makes the outputs or
takes the caller's, takes an idle context and runs, in a few hundred nanoseconds. Whatever it does
not expect it hands on, untouched, to Python code that looks closer and explains.

Outputs whose size the data decides are written where they shall stay, if they are not much larger
than in the run before: ROOMS has how many bytes each gets, 0 where it is better copied.

The function needs nothing of Python when it is linked: it works on two tables made here. OBJECTS
are Python objects (the elements of a NumPy array of objects, which owns them); WORDS are numbers:
the addresses of the functions of Python and NumPy that it calls, and the plan, which says what
the last call looked like. compiler/codegen/support/entry.py writes the function.
"""

from __future__ import annotations

import ctypes
import math
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bessemer.runtime.arrays import Array, address
from bessemer.runtime.artifact import Signature

VERSION = 6
"""Part of the function's name: an artifact whose tables look different is not called this way."""

MOST_ARRAYS = 256
"""Of each of inputs, outputs and sizes; models with more are called from Python code."""

LARGE_OUTPUT = 1 << 16
"""Bytes from which on outputs begin at a cache line, in memory of earlier ones (output_pool.py);
below, the time to get there is worth more."""

# The functions that the entry calls, by name, in the order of their words.
PYTHON_FUNCTIONS = (
    "PyDict_Size",
    "PyDict_GetItemWithError",
    "PyList_Size",
    "PyList_GetItem",
    "PyTuple_Size",
    "PyTuple_GetItem",
    "PyList_New",
    "PyList_SetItem",
    "PyList_SetSlice",
    "PyList_Append",
    "PyLong_AsVoidPtr",
    "PyLong_FromLong",
    "PyErr_Clear",
    "PyObject_Vectorcall",
    "PyEval_SaveThread",
    "PyEval_RestoreThread",
    "Py_IncRef",
    "Py_DecRef",
)
# And those of NumPy's C API, with their places in its table (numpy/__multiarray_api.h).
NUMPY_FUNCTIONS = {"PyArray_NewFromDescr": 94, "PyArray_SetBaseObject": 282}
_ARRAY_TYPE = 2  # the place of PyArray_Type, to check the table by
_LOW = 0xFFFFFFFF

# The words before the plan. `generation` numbers the plans, 0 where there is none; `symbols` and
# `shapes` are where, in words from the start, the plan's symbols and its outputs begin.
WORDS = (
    *("generation", "input_count", "output_count", "symbol_count", "symbols", "shapes"),
    *PYTHON_FUNCTIONS,
    *NUMPY_FUNCTIONS,
)
# The objects before those of the inputs (names, then dtypes) and of the outputs (dtypes, then
# names). `none` is None, `out` the name of the parameter.
OBJECTS = (
    *("words", "rooms", "dict", "list", "tuple", "array", "memory", "none", "out"),
    *("idle", "first", "fallback", "failed", "blocks"),
)

Run = Callable[..., list[Array]]


@dataclass(frozen=True)
class Plan:
    """What a call looks like: shapes of the inputs, values of the symbols, shapes of the outputs.

    Of outputs whose size the data decides the shape says nothing.
    """

    inputs: tuple[tuple[int, ...], ...]
    symbols: tuple[int, ...]
    outputs: tuple[tuple[int, ...], ...]


class PlanTable:
    """One model's words. Whoever holds it may set plans without holding the function."""

    def __init__(
        self,
        inputs: Sequence[tuple[int, int]],
        outputs: Sequence[tuple[int, int]],
        symbols: int,
        dependent: Mapping[int, Sequence[int]],
    ) -> None:
        """Inputs and outputs are (rank, bytes of an element). `dependent` has the rows
        (`data_dependent_row`) of the outputs of data-dependent size."""
        self._data_dependent = dependent
        self._inputs, self._outputs = inputs, outputs
        symbols_at = len(WORDS) + sum(2 + rank for rank, _ in inputs)
        outputs_at = symbols_at + symbols
        total = outputs_at + sum(2 + rank for rank, _ in outputs)
        head = [0, len(inputs), len(outputs), symbols, symbols_at, outputs_at, *_functions()]
        self.words = np.zeros(total, np.int64)
        self.words[: len(WORDS)] = head
        self._generation = 0

    def set_plan(self, plan: Plan) -> None:
        """From now on calls that look like this one are the function's own."""
        body: list[int] = []
        for shape, (_, element) in zip(plan.inputs, self._inputs, strict=True):
            body += _row(shape, element)
        body += plan.symbols
        for index, (shape, (_, element)) in enumerate(
            zip(plan.outputs, self._outputs, strict=True)
        ):
            body += self._data_dependent.get(index) or _row(shape, element)
        ranks = [rank for rank, _ in self._inputs]
        if [*map(len, plan.inputs)] != ranks:  # a scalar that came with axes
            return
        self._generation += 1
        words = self.words.copy()
        words[0] = self._generation
        words[len(WORDS) :] = body
        # In one go, which no other thread and no destructor can interrupt.
        ctypes.memmove(address(self.words), address(words), words.nbytes)


def sizes_after(signature: Signature) -> tuple[str, ...]:
    """What the entry knows when a run has ended: the symbols, and what follows from them that an
    output needs whose size the data decides."""
    shapes = [info.shape for info in signature.outputs if info.data_dependent]
    named = [size for shape in shapes for size in shape if isinstance(size, str)]
    return (*dict.fromkeys((*signature.symbols, *named)),)


def _row(shape: Sequence[int], element: int) -> list[int]:
    """The words of an array whose size is known: its bytes, the rank, the shape."""
    return [math.prod(shape) * element, len(shape), *shape]


def data_dependent_row(
    shape: Sequence[int | str], dtype: np.dtype[Any], sizes: Sequence[str]
) -> list[int]:
    """The words of an output whose size the run finds out: minus the bytes of an element, the rank,
    and for every axis its size, or ~i where it is number i of `sizes_after`."""
    axes = [~sizes.index(size) if isinstance(size, str) else size for size in shape]
    return [-dtype.itemsize, len(shape), *axes]


@dataclass(frozen=True)
class PythonSide:
    """What the machine code shares with Python, or leaves to it.

    `idle` holds the addresses of idle contexts; the code takes one from its end and
    puts it back. `blocks` are those of an OutputPool. What does not look as planned is for `first`,
    and if that returns None and it still does not, for `fallback`. `failed(context, status)`
    raises.
    """

    idle: list[int]
    first: Callable[..., list[Array] | None]
    fallback: Run
    failed: Callable[[int, int], None]
    blocks: list[Array]


def make_run(
    function: int,
    table: PlanTable,
    inputs: Sequence[tuple[str, np.dtype[Any]]],
    outputs: Sequence[tuple[str, np.dtype[Any]]],
    python: PythonSide,
    documentation: str,
) -> Run:
    """The function that is at the address `function`, PREFIX_python_N, for one model.

    `inputs` and `outputs` are names and dtypes. The result owns the table and the Python side,
    invisibly to the collector of cycles: neither may own the result.
    """
    kinds = (dict, list, tuple, np.ndarray, np.dtype(np.uint8), None, sys.intern("out"))
    shared = (python.idle, python.first, python.fallback, python.failed, python.blocks)
    fixed = (np.zeros(len(outputs), np.int64), *kinds, *shared)
    names, dtypes = [name for name, _ in inputs], [dtype for _, dtype in inputs]
    output_names, output_dtypes = [name for name, _ in outputs], [dtype for _, dtype in outputs]
    everything = (table.words, *fixed, *names, *dtypes, *output_dtypes, *output_names)
    objects = np.empty(len(everything), object)
    for index, found in enumerate(everything):
        objects[index] = found
    objects.flags.writeable = False
    return _builtin(function, objects, documentation)


@cache
def is_supported() -> bool:
    """Whether this Python and this NumPy keep their objects where the function looks for them."""
    if platform.python_implementation() != "CPython" or object.__basicsize__ != 16:
        return False  # a debugging or a free-threaded build has more in front
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    probe = np.zeros((3, 5), np.float32)
    words = (ctypes.c_int64 * 9).from_address(id(probe))
    shape = (ctypes.c_int64 * 2).from_address(words[4])
    kind = (ctypes.c_char * 8).from_address(id(probe.dtype) + 24).raw
    return (
        (words[1], words[2], words[7]) == (id(np.ndarray), address(probe), id(probe.dtype))
        and (words[3] & _LOW, words[8] & _LOW) == (2, probe.flags.num)
        and tuple(shape) == (3, 5)
        and (kind[:3], int.from_bytes(kind[4:], sys.byteorder)) == (b"ff=", probe.dtype.num)
        and _array_api()[_ARRAY_TYPE] == id(np.ndarray)
    )


@cache
def _array_api() -> Any:
    """NumPy's table of C functions."""
    core = sys.modules.get("numpy._core._multiarray_umath") or sys.modules.get(
        "numpy.core._multiarray_umath"
    )
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = pointer(getattr(core, "_ARRAY_API"), None)  # noqa: B009 (a private name)
    return (ctypes.c_int64 * (max(NUMPY_FUNCTIONS.values()) + 1)).from_address(table)


@cache
def _functions() -> tuple[int, ...]:
    """The addresses of the functions, in the order of WORDS."""
    python = [
        ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0
        for name in PYTHON_FUNCTIONS
    ]
    return (*python, *[_array_api()[place] for place in NUMPY_FUNCTIONS.values()])


class _MethodDef(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("documentation", ctypes.c_char_p),
    )


_FASTCALL_KEYWORDS = 0x80 | 0x02


def _builtin(function: int, objects: Array, documentation: str) -> Run:
    """A Python function that is called with `objects`."""
    text = f"run($self, inputs, out=None)\n--\n\n{documentation}"
    definition = _MethodDef(b"run", function, _FASTCALL_KEYWORDS, text.encode())
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    _DEFINITIONS.append(definition)
    made: Run = make(ctypes.addressof(definition), objects, None)
    return made


# Functions may outlive their models, and point to these.
_DEFINITIONS: list[_MethodDef] = []
