"""Compiled models as Python callables, whether just compiled or loaded from a file."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.runtime.arrays import (
    Array,
    address,
    aligned_empty,
    as_input,
    check_apart,
    check_output,
    copied_from,
    numpy_dtype,
)
from bessemer.runtime.artifact import ArrayInfo, Signature, Status
from bessemer.runtime.bind import bind_symbols
from bessemer.runtime.errors import ArtifactError, ExecutionError, InputError
from bessemer.runtime.library import open_library
from bessemer.runtime.native import Context, NativeModel
from bessemer.runtime.shapes import evaluate_shape

Inputs = Mapping[str, Any] | Sequence[Any]
Outputs = Array | Mapping[str, Array] | Sequence[Array | None]

# Above this, outputs begin at a cache line; below it, the time to get there is worth more.
_LARGE_OUTPUT = 1 << 16


@dataclass(frozen=True)
class Memory:
    """What a model holds, in bytes; `arenas` is the sum over its contexts."""

    weights: int
    arenas: int
    contexts: int


class CompiledModel:
    """A model that runs; safe to call from several threads at once.

    Every call in progress has a context (thread pool and arena) of its own; contexts are made when
    they are needed and kept. Where many Python threads call the same model, `threads=1` is best.
    """

    def __init__(
        self,
        native: NativeModel,
        *,
        weights: Array | None = None,
        weights_path: str = "",
        threads: int = 0,
        saver: Callable[..., list[Path]] | None = None,
    ) -> None:
        """For the compiler and `load`. `weights` are kept alive; `saver` writes the artifact."""
        self._native = native
        self._weights = weights
        self._weights_path = weights_path
        self._threads = threads
        self._saver = saver
        self._names = [info.name for info in native.signature.inputs]
        self._count = len(self._names)
        # Popping from and appending to a list are atomic: no lock is needed.
        self._idle: list[_Call] = []
        self._idle.append(_Call(native, self._context()))

    @property
    def signature(self) -> Signature:
        """Names, dtypes, shapes, symbols, target and precision."""
        return self._native.signature

    @property
    def inputs(self) -> tuple[ArrayInfo, ...]:
        """The inputs, in the order in which a sequence of arrays is taken."""
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[ArrayInfo, ...]:
        """The outputs, in the order of the list that `run` returns."""
        return self.signature.outputs

    @property
    def threads(self) -> int:
        """How many threads one call uses."""
        call = self._take()
        try:
            return self._native.threads(call.context.handle)
        finally:
            self._idle.append(call)

    def run(self, inputs: Inputs, out: Outputs | None = None) -> list[Array]:
        """The outputs for these inputs, given by name or in order.

        C-contiguous arrays of the right dtype are read in place, others are copied first. `out` (by
        name, in order, or the one array of a model with one output; None entries are allocated)
        receives the outputs; it must not overlap the inputs. Without it the outputs are new arrays.
        Raises InputError for arguments that do not fit, ExecutionError where the model refuses
        their contents, MemoryError.
        """
        try:
            if type(inputs) is dict and len(inputs) == self._count:
                arrays = [inputs[name] for name in self._names]
            else:
                arrays = self._in_order(inputs)
        except KeyError:
            arrays = self._in_order(inputs)
        try:
            call = self._idle.pop()
        except IndexError:
            call = _Call(self._native, self._context())
        try:
            return call.run(arrays, out)
        finally:
            self._idle.append(call)

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Runs on arrays in order or by name; the one output, or the list of them where several."""
        if arrays and named:
            raise InputError("Give the inputs either in order or by name, not both.")
        outputs = self.run(named if named else arrays)
        return outputs[0] if len(outputs) == 1 else outputs

    def save(self, path: str | Path, **options: Any) -> list[Path]:
        """Writes the artifact (.so, .o or .a) and its header; the files written.

        Options: `placement` "inside" (default) or "beside" for the weights, `linker` a C compiler.
        Raises CompileError where it cannot be built, ArtifactError where the model was loaded.
        """
        if self._saver is None:
            raise ArtifactError("This model was loaded from a file: copy that file instead.")
        return self._saver(path, **options)

    def workspace_bytes(self, **symbols: int) -> int:
        """The arena that a run needs for these values of the input symbols."""
        names = self.signature.symbols
        wanted = names[: self.signature.input_symbols]
        if set(symbols) != set(wanted):
            raise InputError(f"Give the sizes of {', '.join(wanted) or 'nothing'}.")
        dims = (ctypes.c_int64 * (len(names) + 1))(*[symbols[name] for name in wanted])
        return self._native.workspace_bytes(ctypes.addressof(dims))

    def memory(self) -> Memory:
        """What the model holds now; contexts in the middle of a call are not counted."""
        calls = list(self._idle)
        arenas = sum(self._native.arena_bytes(call.context.handle) for call in calls)
        return Memory(self.signature.weights_bytes, arenas, len(calls))

    def trim(self) -> None:
        """Gives back arenas and contexts that no call is using; the next call makes them anew."""
        call = self._take()
        self._native.trim(call.context.handle)
        self._idle[:] = [call]

    def __repr__(self) -> str:
        def listed(arrays: Sequence[ArrayInfo]) -> str:
            return ", ".join(
                f"{info.name}: {info.dtype}[{', '.join(map(str, info.shape))}]" for info in arrays
            )

        signature = self.signature
        return (
            f"CompiledModel({signature.name}: ({listed(signature.inputs)})"
            f" -> ({listed(signature.outputs)}), {signature.triple})"
        )

    def _context(self) -> Context:
        weights = address(self._weights) if self._weights is not None and self._weights.size else 0
        return Context(self._native, self._threads, weights, self._weights_path)

    def _take(self) -> _Call:
        try:
            return self._idle.pop()
        except IndexError:
            return _Call(self._native, self._context())

    def _in_order(self, inputs: Inputs) -> list[Any]:
        names = self._names
        if isinstance(inputs, Mapping):
            missing = [name for name in names if name not in inputs]
            extra = [str(name) for name in inputs if name not in names]
            if missing or extra:
                raise InputError(_names_problem(names, missing, extra))
            return [inputs[name] for name in names]
        if not isinstance(inputs, Sequence):  # a bare array is none
            raise InputError(
                f"The inputs are a {type(inputs).__name__}: expected a dict by name or a list."
            )
        if len(inputs) != len(names):
            raise InputError(
                f"{len(inputs)} inputs were given, expected {len(names)}: {_quoted(names)}."
            )
        return list(inputs)


def load(
    path: str | Path, *, threads: int = 0, weights: str | Path = "", name: str = ""
) -> CompiledModel:
    """A model from a shared library that `save` or `bessemer compile` has written.

    `threads` 0 means all processors that the process may use. `weights` is the weights' file, where
    it is not beside the library under its name with .weights. `name` chooses a model by its C
    prefix where the library holds several. Raises ArtifactError.
    """
    library = Path(path)
    beside = Path(weights) if weights else library.with_suffix(".weights")
    return CompiledModel(
        open_library(library, name), weights_path=str(beside.resolve()), threads=threads
    )


class _Call:
    """One context and the arrays of pointers that its runs use again and again."""

    def __init__(self, native: NativeModel, context: Context) -> None:
        signature = native.signature
        self.context = context
        self._native = native
        self._signature = signature
        self._run = native.run
        self._infos = signature.inputs
        self._dtypes = [numpy_dtype(info.dtype) for info in signature.inputs]
        self._output_dtypes = [numpy_dtype(info.dtype) for info in signature.outputs]
        self._inputs = (ctypes.c_void_p * (len(self._dtypes) + 1))()
        self._outputs = (ctypes.c_void_p * (len(self._output_dtypes) + 1))()
        self._dims = (ctypes.c_int64 * (len(signature.symbols) + 1))()
        self._arguments = (
            context.handle,
            ctypes.addressof(self._inputs),
            ctypes.addressof(self._outputs),
            ctypes.addressof(self._dims),
            None,
            0,
        )
        self._late = [info.data_dependent for info in signature.outputs]
        self._any_late = any(self._late)
        self._shapes: list[tuple[int, ...]] | None = None
        # What to allocate for the shapes of last time: (shape, dtype, whether it is large).
        self._plan: list[tuple[tuple[int, ...], np.dtype[Any], bool]] = []

    def run(self, values: list[Any], out: Outputs | None) -> list[Array]:
        arrays: list[Array] = []
        shapes = []
        for index, value in enumerate(values):
            if (
                type(value) is not np.ndarray
                or value.dtype != self._dtypes[index]
                or not value.flags.c_contiguous
                or not value.flags.aligned
            ):
                value = as_input(self._infos[index], self._dtypes[index], value)
            arrays.append(value)
            shapes.append(value.shape)
            self._inputs[index] = address(value)
        if shapes != self._shapes:
            self._bind(shapes)
        if out is None:
            outputs = [
                aligned_empty(shape, dtype) if large else np.empty(shape, dtype)
                for shape, dtype, large in self._plan
            ]
        else:
            outputs = self._given(out, arrays)
        for index, output in enumerate(outputs):
            self._outputs[index] = address(output)
        if self._any_late:
            self._clear_late()
        status = self._run(*self._arguments)
        if status:
            raise self._failed(status)
        return self._copied_late(outputs, out) if self._any_late else outputs

    def _bind(self, shapes: list[tuple[int, ...]]) -> None:
        """Sets dims and plan for inputs of these shapes."""
        self._shapes = None
        symbols = bind_symbols(self._signature, shapes)
        for index, name in enumerate(self._signature.symbols[: self._signature.input_symbols]):
            self._dims[index] = symbols[name]
        self._plan = []
        for info, dtype in zip(self._signature.outputs, self._output_dtypes, strict=True):
            # A place holder where the data decides: the run says where the output is.
            shape = (0,) if info.data_dependent else evaluate_shape(info.shape, symbols)
            if any(size < 0 for size in shape):
                raise InputError(
                    f"With {symbols}, output '{info.name}' would have the shape {shape}."
                )
            bytes_needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
            self._plan.append((shape, dtype, bytes_needed >= _LARGE_OUTPUT))
        self._shapes = shapes

    def _clear_late(self) -> None:
        for index, late in enumerate(self._late):
            if late:
                self._outputs[index] = None

    def _given(self, out: Outputs, inputs: list[Array]) -> list[Array]:
        """The arrays to write to, the caller's where there are some."""
        infos = self._signature.outputs
        given = _outputs_in_order(infos, out)
        outputs, apart = [], []
        for info, late, (shape, dtype, _), array in zip(
            infos, self._late, self._plan, given, strict=True
        ):
            if array is None or late:
                outputs.append(np.empty(shape, dtype))
                continue
            check_output(info, dtype, shape, array)
            outputs.append(array)
            apart.append((info.name, array))
        check_apart(apart, list(zip([info.name for info in self._infos], inputs, strict=True)))
        return outputs

    def _copied_late(self, outputs: list[Array], out: Outputs | None) -> list[Array]:
        """The outputs, with those that the run has placed in the arena copied out of it."""
        infos = self._signature.outputs
        symbols = dict(zip(self._signature.symbols, self._dims, strict=False))
        given: list[Array | None] = [None] * len(infos)
        if out is not None:
            given = _outputs_in_order(infos, out)
        for index, (info, dtype) in enumerate(zip(infos, self._output_dtypes, strict=True)):
            if not self._late[index]:
                continue
            shape = evaluate_shape(info.shape, symbols)
            found = copied_from(self._outputs[index] or 0, shape, dtype)
            array = given[index]
            if array is not None:
                check_output(info, dtype, shape, array)
                array[...] = found
                found = array
            outputs[index] = found
        return outputs

    def _failed(self, status: int) -> Exception:
        text = self._native.message(self.context.handle).decode(errors="replace")
        name = self._signature.name
        if status == Status.OUT_OF_MEMORY:
            return MemoryError(f"{name}: {text}")
        return ExecutionError(f"{name}: {text or f'status {status}'}", status)


def _outputs_in_order(infos: Sequence[ArrayInfo], out: Outputs) -> list[Array | None]:
    names = [info.name for info in infos]
    if isinstance(out, Mapping):
        if extra := [str(name) for name in out if name not in names]:
            raise InputError(f"out has {_quoted(extra)}; the outputs are {_quoted(names)}.")
        return [out.get(name) for name in names]
    arrays: list[Array | None] = [out] if isinstance(out, np.ndarray) else list(out)
    if len(arrays) != len(names):
        raise InputError(f"out has {len(arrays)} arrays, the outputs are {_quoted(names)}.")
    return arrays


def _names_problem(names: Sequence[str], missing: Sequence[str], extra: Sequence[str]) -> str:
    parts = []
    if missing:
        parts.append(f"{_quoted(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    if extra:
        parts.append(f"{_quoted(extra)} {'is' if len(extra) == 1 else 'are'} unknown")
    return f"Of the inputs, {' and '.join(parts)}. The model's inputs are {_quoted(names)}."


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
