"""Runs a compiled model: binds shapes, allocates outputs, keeps a pool of idle contexts.

A call goes through the entry (entry.py) where it looks like the last one, and through `Runner.run`,
which takes and explains everything, where it does not.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.runtime.argument_order import Inputs, Outputs, in_order, outputs_in_order
from bessemer.runtime.arrays import (
    Array,
    address,
    are_apart,
    as_input,
    check_apart,
    check_output,
    copy_from,
    numpy_dtype,
)
from bessemer.runtime.artifact import ArrayInfo, Status
from bessemer.runtime.bind import bind_symbols
from bessemer.runtime.entry import (
    LARGE_OUTPUT,
    MOST_ARRAYS,
    Plan,
    PlanTable,
    PythonSide,
    Run,
    data_dependent_row,
    is_supported,
    make_run,
    sizes_after,
)
from bessemer.runtime.errors import ExecutionError, InputError
from bessemer.runtime.native import Context, NativeModel
from bessemer.runtime.output_pool import OutputPool
from bessemer.runtime.shapes import evaluate_shape

MOST_PLANS = 1024
"""Shapes of inputs, one after the other, after which what was found out for them is forgotten."""


class Runner:
    """A model's functions with its weights and contexts; safe to call from several threads."""

    def __init__(
        self, native: NativeModel, weights: Array | None, weights_path: str, threads: int
    ) -> None:
        """`weights` are kept alive. The first context is made at once, to raise what it raises."""
        signature = native.signature
        self.native = native
        self._weights = weights
        self._weights_path = weights_path
        self._threads = threads
        self._infos = signature.inputs
        self._names = [info.name for info in signature.inputs]
        self._dtypes = [numpy_dtype(info.dtype) for info in signature.inputs]
        self._output_dtypes = [numpy_dtype(info.dtype) for info in signature.outputs]
        self._data_dependent = [info.data_dependent for info in signature.outputs]
        self._has_data_dependent = any(self._data_dependent)
        sources = dict(signature.updates)
        self._sources = [sources.get(index) for index in range(len(signature.outputs))]
        self._updates = {
            (signature.outputs[output].name, self._names[given])
            for output, given in signature.updates
        }
        # A copy of these would not be where their outputs are.
        self._continued = {room.given for room in signature.rooms}
        self._plan: Plan | None = None
        self._plans: dict[tuple[tuple[int, ...], ...], Plan] = {}
        self._pool = OutputPool(len(self._data_dependent))
        self._table: PlanTable | None = None
        self._calls: dict[int, Call] = {}
        # By address, as the entry takes them. Popping from and appending to a list are atomic: no
        # lock is needed.
        self._idle: list[int] = []
        self._idle.append(self._new_call().handle)

    def entry(self, documentation: str) -> Run | None:
        """`run` as machine code, where there is one; it owns the runner, which knows its table."""
        signature, function = self.native.signature, self.native.python_entry
        sizes = sizes_after(signature)
        counts = len(self._dtypes), len(self._output_dtypes), len(sizes)
        if not function or max(counts) > MOST_ARRAYS or not is_supported():
            return None
        rows = {
            index: data_dependent_row(info.shape, self._output_dtypes[index], sizes)
            for index, info in enumerate(signature.outputs)
            if info.data_dependent
        }
        self._table = PlanTable(
            _forms(self._infos, self._dtypes),
            _forms(signature.outputs, self._output_dtypes),
            len(signature.symbols),
            rows,
        )
        output_names = [info.name for info in signature.outputs]
        return make_run(
            function,
            self._table,
            list(zip(self._names, self._dtypes, strict=True)),
            list(zip(output_names, self._output_dtypes, strict=True)),
            PythonSide(self._idle, self._plan_or_run, self.run, self._fail, self._pool.blocks),
            documentation,
        )

    def _plan_or_run(self, *given: Any, **named: Any) -> list[Array] | None:
        """As `run`; None where the entry may do it from now on: nothing but the inputs' shapes is
        new. That is faster, and outputs whose size the data decides need not be copied."""
        if unknown := named.keys() - {"inputs", "out"}:
            raise TypeError(
                f"run() has no argument '{min(unknown)}'; inputs by name are a dict, "
                f"run({{'{next(iter(self._names), 'x')}': array}})."
            )
        if given and len(given) + len(named) <= 2 and named.keys() <= {"out"}:
            values = in_order(self._names, given[0])
            arrays, plan = self._arrays(values), self._plan
            as_given = all(array is value for array, value in zip(arrays, values))
            if as_given and self._plan_of(arrays) is not plan:
                return None
        return self.run(*given, **named)

    def run(self, inputs: Inputs, out: Outputs | None = None) -> list[Array]:
        """As CompiledModel.run."""
        arrays = self._arrays(inputs)
        plan = self._plan_of(arrays)
        places = [address(array) for array in arrays]
        if out is None:
            outputs = self._allocated(plan)
            targets = [address(output) for output in outputs]
        else:
            outputs, targets = self._given(plan, out, arrays, places)
        return self._called(places, targets, plan.symbols, outputs, out)

    def _called(
        self,
        places: Sequence[int],
        targets: Sequence[int],
        sizes: Sequence[int],
        outputs: list[Array],
        out: Outputs | None,
    ) -> list[Array]:
        """The outputs of a run that reads at `places`, writes at `targets` and has these sizes."""
        call = self.take()
        try:
            call.inputs[: len(places)] = [*places]
            call.outputs[: len(targets)] = [
                None if is_dependent else target
                for is_dependent, target in zip(self._data_dependent, targets, strict=True)
            ]
            call.dims[: len(sizes)] = [*sizes]
            status = self.native.run(*call.arguments)
            if status:
                self._fail(call.handle, status)
            return (
                self._copied_data_dependent(call, outputs, out)
                if self._has_data_dependent
                else outputs
            )
        finally:
            self.give_back(call)

    def take(self) -> Call:
        """An idle context; return it with `give_back`."""
        try:
            return self._calls[self._idle.pop()]
        except IndexError:
            return self._new_call()

    def give_back(self, call: Call) -> None:
        """Returns the context of a finished call to the pool."""
        self._idle.append(call.handle)

    def arena_bytes(self) -> list[int]:
        """The bytes of the idle contexts' arenas."""
        return [self.native.arena_bytes(handle) for handle in list(self._idle)]

    def trim(self) -> None:
        """Releases all idle contexts but one, that one's arena, and the pool."""
        self._pool.clear()
        call = self.take()
        self.native.trim(call.handle)
        while True:
            try:
                del self._calls[self._idle.pop()]
            except IndexError:
                break
        self.give_back(call)

    def _new_call(self) -> Call:
        weights = address(self._weights) if self._weights is not None and self._weights.size else 0
        context = Context(self.native, self._threads, weights, self._weights_path)
        call = Call(
            context,
            len(self._dtypes),
            len(self._data_dependent),
            len(self.native.signature.symbols),
        )
        self._calls[call.handle] = call
        return call

    def _arrays(self, inputs: Inputs) -> list[Array]:
        """The inputs in order, each readable as the code reads it."""
        values = in_order(self._names, inputs)
        for index, value in enumerate(values):
            if (
                type(value) is not np.ndarray
                or value.dtype != self._dtypes[index]
                or not (value.flags.c_contiguous or index in self._continued)
                or not value.flags.aligned
            ):
                values[index] = as_input(self._infos[index], self._dtypes[index], value)
        return values

    def _plan_of(self, arrays: Sequence[Array]) -> Plan:
        """The plan for inputs like these."""
        shapes, plan = tuple([array.shape for array in arrays]), self._plan
        if plan is not None and shapes == plan.inputs:
            return plan
        plan = self._plans.get(shapes)
        if plan is None:
            plan = self._bind(shapes)
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            self._plans[shapes] = plan
        self._plan = plan
        if self._table is not None:
            self._table.set_plan(plan)
        return plan

    def _bind(self, shapes: tuple[tuple[int, ...], ...]) -> Plan:
        """The plan for inputs of these shapes."""
        signature = self.native.signature
        symbols = bind_symbols(signature, shapes)
        outputs: list[tuple[int, ...]] = []
        known: dict[tuple[int | str, ...], tuple[int, ...]] = {}
        for info in signature.outputs:
            # A place holder where the data decides: the run says where the output is.
            shape = (0,) if info.data_dependent else known.get(info.shape)
            if shape is None:
                shape = known[info.shape] = evaluate_shape(info.shape, symbols)
            if any(size < 0 for size in shape):
                given = ", ".join(f"{name}={size}" for name, size in symbols.items())
                raise InputError(
                    f"An input is too small: with {given}, output '{info.name}' would have the "
                    f"shape {shape}."
                )
            outputs.append(shape)
        values = [symbols.get(name, 0) for name in signature.symbols]
        return Plan(shapes, tuple(values), tuple(outputs))

    def _allocated(self, plan: Plan) -> list[Array]:
        return [
            self._empty(shape, dtype)
            for shape, dtype in zip(plan.outputs, self._output_dtypes, strict=True)
        ]

    def _empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        is_large = math.prod(shape) * dtype.itemsize >= LARGE_OUTPUT
        return self._pool.empty(shape, dtype) if is_large else np.empty(shape, dtype)

    def _given(
        self, plan: Plan, out: Outputs, inputs: list[Array], places: list[int]
    ) -> tuple[list[Array], list[int]]:
        """The arrays to write to, the caller's where there are some, and where they begin; inputs
        are at `places`."""
        infos = self.native.signature.outputs
        given = outputs_in_order(infos, out)
        outputs, targets, apart = [], [], []
        ranges = [(place, place + array.nbytes) for place, array in zip(places, inputs)]
        for info, is_dependent, dtype, shape, array, source in zip(
            infos,
            self._data_dependent,
            self._output_dtypes,
            plan.outputs,
            given,
            self._sources,
            strict=True,
        ):
            if array is None or is_dependent:
                outputs.append(np.empty(shape, dtype))
                targets.append(address(outputs[-1]))
                continue
            is_update = source is not None and array is inputs[source] and array.shape == shape
            if source is not None and is_update and array.flags.writeable:
                place = places[source]
            else:
                check_output(info, dtype, shape, array)
                place = address(array)
                ranges.append((place, place + array.nbytes))
            outputs.append(array)
            targets.append(place)
            apart.append((info.name, array))
        if not are_apart(ranges):
            check_apart(apart, list(zip(self._names, inputs, strict=True)), self._updates)
        return outputs, targets

    def _copied_data_dependent(
        self, call: Call, outputs: list[Array], out: Outputs | None
    ) -> list[Array]:
        """The outputs, with those that the run has placed in the arena copied out of it."""
        signature = self.native.signature
        infos = signature.outputs
        symbols = dict(zip(signature.symbols, call.dims, strict=False))
        given = outputs_in_order(infos, out)
        for index, (info, dtype) in enumerate(zip(infos, self._output_dtypes, strict=True)):
            if not self._data_dependent[index]:
                continue
            shape = evaluate_shape(info.shape, symbols)
            found = self._empty(shape, dtype)
            copy_from(call.outputs[index] or 0, found)
            array = given[index]
            if array is not None:
                check_output(info, dtype, shape, array)
                array[...] = found
                found = array
            outputs[index] = found
        return outputs

    def _fail(self, handle: int, status: int) -> None:
        text = self.native.message(handle).decode(errors="replace")
        name = self.native.signature.name
        if status == Status.OUT_OF_MEMORY:
            raise MemoryError(f"{name}: {text}")
        raise ExecutionError(f"{name}: {text or f'status {status}'}", status)


class Call:
    """One context and the arrays that a call of `run` uses with it."""

    def __init__(self, context: Context, inputs: int, outputs: int, symbols: int) -> None:
        self._context = context
        self.handle = context.handle
        self.inputs = (ctypes.c_void_p * (inputs + 1))()
        self.outputs = (ctypes.c_void_p * (outputs + 1))()
        self.dims = (ctypes.c_int64 * (symbols + 1))()
        places = [ctypes.addressof(array) for array in (self.inputs, self.outputs, self.dims)]
        self.arguments = (context.handle, *places, None, 0)


def _forms(infos: Sequence[ArrayInfo], dtypes: Sequence[np.dtype[Any]]) -> list[tuple[int, int]]:
    """Of each array the rank and the bytes of an element."""
    return [(len(info.shape), dtype.itemsize) for info, dtype in zip(infos, dtypes, strict=True)]
