"""Compiled models on a GPU, as Python callables."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from bessemer.runtime.argument_order import in_order, outputs_in_order
from bessemer.runtime.arrays import Array, check_output, numpy_dtype
from bessemer.runtime.artifact import ArrayInfo, Signature
from bessemer.runtime.bind import bind_symbols
from bessemer.runtime.cuda.arguments import (
    Argument,
    DeviceArray,
    as_argument,
    check_shape,
    on_device,
)
from bessemer.runtime.cuda.artifact import (
    ALIGNMENT,
    DeviceProgram,
    DeviceStep,
    is_straight,
    segments,
)
from bessemer.runtime.cuda.device import Memory, check_level
from bessemer.runtime.cuda.driver import DeviceMemoryError, Driver
from bessemer.runtime.cuda.images import load_image
from bessemer.runtime.cuda.layout import (
    FAULT_BYTES,
    Layout,
    arena_size,
    check_required,
    launches,
    lay_out,
)
from bessemer.runtime.cuda.run import ArenaTooSmall, DeviceRun
from bessemer.runtime.errors import ArtifactError, InputError
from bessemer.runtime.shapes import evaluate_shape

MOST_GRAPHS = 16
"""Recorded runs that are kept, for as many combinations of shapes and addresses."""
WIDEST_ACCESS = 16
_STATIC_SHARED = 48 << 10


@dataclass
class _Bound:
    """What follows from the inputs' shapes."""

    symbols: dict[str, int]
    layout: Layout


class DeviceModel:
    """A model on a GPU; `run` takes and gives what CompiledModel's does, and device arrays too.

    Calls from several threads come one after the other. Weights and working memory stay on the
    device until `close`.
    """

    def __init__(
        self,
        program: DeviceProgram,
        weights: Array,
        driver: Driver,
        device: int = 0,
        *,
        cubin: bytes = b"",
        saver: Callable[[str | Path], list[Path]] | None = None,
    ) -> None:
        """Takes a device and puts the code and the weights there. Raises DeviceError. `cubin` is
        the program's PTX, assembled; `saver` writes the artifact."""
        self.program = program
        self._saver = saver
        self._driver = driver
        self._lock = threading.Lock()
        driver.open(device)
        check_level(program, driver, device)
        self._stream = driver.create_stream()
        self._module = load_image(driver, cubin, program.ptx) if program.kernels else 0
        self._functions = [self._function(k.name, k.shared_bytes) for k in program.kernels]
        self._weights = driver.allocate(max(weights.nbytes, ALIGNMENT))
        if weights.nbytes:
            driver.copy_in(self._weights, weights, self._stream)
            driver.synchronize(self._stream)
        self._segments = segments(program.steps)
        # Only where a step can fail at all are there cells to clear and to look at.
        can_fail = any(kernel.messages for kernel in program.kernels)
        self._numbers = {id(step): k for k, step in enumerate(launches(program.steps))}
        self._fault_count = 2 * len(self._numbers) if can_fail else 0
        self._block, self._size, self._arena = 0, 0, 0
        self._bound: OrderedDict[tuple[tuple[int, ...], ...], _Bound] = OrderedDict()
        self._graphs: OrderedDict[tuple[object, ...], int] = OrderedDict()

    def _function(self, name: str, shared: int) -> int:
        function = self._driver.function(self._module, name)
        if shared > _STATIC_SHARED:
            self._driver.allow_shared(function, shared)
        return function

    @property
    def signature(self) -> Signature:
        """Names, dtypes, shapes, symbols, target and precision."""
        return self.program.signature

    @property
    def inputs(self) -> tuple[ArrayInfo, ...]:
        """The inputs, in the order in which a sequence of arrays is taken."""
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[ArrayInfo, ...]:
        """The outputs, in the order of the list that `run` returns."""
        return self.signature.outputs

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """Runs on arrays in order or by name; the one output, or the list of them where several."""
        if arrays and named:
            raise InputError("Give the inputs either in order or by name, not both.")
        outputs = self.run(named if named else arrays)
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, inputs: Any, out: Any = None) -> list[Any]:
        """The outputs for these inputs, given by name or in order.

        Arrays of the device (`__cuda_array_interface__`, DLPack) are read in place where they begin
        at a multiple of 16 bytes; others are copied there. `out` receives outputs: NumPy arrays or
        the device's; without it they are new NumPy arrays. Work of other streams on device arrays
        must be done before. Raises InputError for arguments that do not fit, ExecutionError where
        the model refuses their contents, DeviceError where the device fails.
        """
        signature = self.signature
        values = in_order([info.name for info in signature.inputs], inputs)
        arrays = [as_argument(i, v) for i, v in zip(signature.inputs, values, strict=True)]
        given = outputs_in_order(signature.outputs, out)
        with self._lock:
            self._driver.activate()
            bound = self._bind(tuple(tuple(array.shape) for array in arrays))
            targets = self._targets(bound, given)
            return self._run(arrays, bound, targets)

    def enqueue(self, inputs: Any, out: Any) -> None:
        """Starts a run on device arrays only and does not wait for it: `synchronize` does.

        The arrays must stay as they are until then, and the model must be one whose run the
        shapes decide; failures of its kernels (an index out of range) are not told.
        """
        signature = self.signature
        values = in_order([info.name for info in signature.inputs], inputs)
        arrays = [as_argument(i, v) for i, v in zip(signature.inputs, values, strict=True)]
        with self._lock:
            self._driver.activate()
            bound = self._bind(tuple(tuple(array.shape) for array in arrays))
            targets = self._targets(bound, outputs_in_order(signature.outputs, out))
            if not all(_is_in_place(array) for array in (*arrays, *targets)):
                raise InputError("enqueue takes device arrays that begin at multiples of 16 bytes.")
            self._started(arrays, bound, targets)

    def synchronize(self) -> None:
        """Waits for what `enqueue` has started; raises DeviceError where the device failed."""
        with self._lock:
            self._driver.activate()
            self._driver.synchronize(self._stream)

    def place(self, array: Array) -> DeviceArray:
        """A copy of an array on the device, for `run` and `enqueue`; it lives as long as what
        this gives."""
        found = np.ascontiguousarray(array)
        with self._lock:
            self._driver.activate()
            memory = Memory(self._driver, max(found.nbytes, WIDEST_ACCESS))
            if found.nbytes:
                self._driver.copy_in(memory.address, found, self._stream)
                self._driver.synchronize(self._stream)
        return DeviceArray(memory.address, array.shape, array.dtype, memory)

    def fetch(self, array: DeviceArray) -> Array:
        """A copy of a device array in the host's memory, when all before is done."""
        found = np.empty(array.shape, array.dtype)
        with self._lock:
            self._driver.activate()
            if found.nbytes:
                self._driver.copy_out(found, array.address, self._stream)
            self._driver.synchronize(self._stream)
        return found

    def save(self, path: str | Path) -> list[Path]:
        """Writes the artifact, which `bessemer.load` reads; the files written."""
        if self._saver is None:
            raise ArtifactError("This model was loaded from a file: copy that file instead.")
        return self._saver(path)

    def workspace_bytes(self) -> int:
        """The device memory in use besides the weights."""
        return self._size

    def close(self) -> None:
        """Gives the device's memory back; the model cannot run any more."""
        with self._lock:
            self._driver.activate()
            self._forget_graphs()
            for address in (self._block, self._weights):
                if address:
                    self._driver.free(address)
            self._block = self._weights = self._size = 0
            if self._module:
                self._driver.unload_module(self._module)
            self._driver.destroy_stream(self._stream)

    def __repr__(self) -> str:
        return f"DeviceModel({self.signature.name}, {self.signature.target})"

    # Shapes and memory

    def _bind(self, shapes: tuple[tuple[int, ...], ...]) -> _Bound:
        found = self._bound.get(shapes)
        if found is None:
            symbols = bind_symbols(self.signature, shapes)
            check_required(self.program, symbols)
            arena = max(self._arena, arena_size(self.program, symbols))
            found = _Bound(symbols, lay_out(self.program, shapes, symbols, arena))
            self._bound[shapes] = found
            while len(self._bound) > MOST_GRAPHS:
                self._bound.popitem(last=False)
        if found.layout.size > self._size:
            self._grow(found.layout.size)
        return found

    def _grow(self, size: int) -> None:
        self._forget_graphs()
        if self._block:
            self._driver.free(self._block)
            self._block = self._size = 0
        try:
            self._block = self._driver.allocate(size)
        except DeviceMemoryError as error:
            raise DeviceMemoryError(
                f"'{self.signature.name}' needs {size >> 20} MiB on the device for these shapes, "
                f"besides {self.signature.weights_bytes >> 20} MiB of weights: {error}"
            ) from None
        self._size = size

    def _forget_graphs(self) -> None:
        for graph in self._graphs.values():
            self._driver.destroy_graph(graph)
        self._graphs.clear()

    def _targets(self, bound: _Bound, given: Sequence[Any]) -> list[Argument]:
        """The arrays to write to: the caller's, or new ones of the host."""
        targets: list[Argument] = []
        infos = self.signature.outputs
        for info, shape, array in zip(infos, bound.layout.shapes, given, strict=True):
            dtype = numpy_dtype(info.dtype)
            device = None if array is None else on_device(info, array)
            if array is None or info.data_dependent:
                targets.append(np.empty(shape, dtype))
            elif device is not None:
                check_shape(info, shape, device)
                targets.append(device)
            else:
                check_output(info, dtype, shape, array)
                targets.append(array)
        return targets

    # Running

    def _run(self, arrays: Sequence[Argument], bound: _Bound, targets: list[Argument]) -> list[Any]:
        driver = self._driver
        try:
            run = self._started(arrays, bound, targets)
        except ArenaTooSmall as error:
            return self._again(arrays, targets, error.size)
        faults = np.zeros(max(self._fault_count, 1), np.int32)
        driver.copy_out(faults, self._block + bound.layout.faults, self._stream)
        found = self._collected(run, targets)
        driver.synchronize(self._stream)
        run.check_faults(faults)
        return found

    def _started(
        self, arrays: Sequence[Argument], bound: _Bound, targets: Sequence[Argument]
    ) -> DeviceRun:
        """A run whose steps are all under way."""
        layout = bound.layout
        inputs = [
            self._brought(array, self._block + place)
            for array, place in zip(arrays, layout.inputs, strict=True)
        ]
        outputs = [
            array.address if _is_in_place(array) else self._block + place
            for array, place in zip(targets, layout.outputs, strict=True)
        ]
        if self._fault_count:
            size = FAULT_BYTES * self._fault_count // 2
            self._driver.fill(self._block + layout.faults, 0, size, self._stream)
        run = DeviceRun(
            self.program,
            self._driver,
            self._functions,
            self._stream,
            self._block,
            self._weights,
            layout,
            inputs,
            outputs,
            dict(bound.symbols),
            layout.inputs[0] if layout.inputs else layout.faults,
            self._numbers,
        )
        self._carry_out(run)
        return run

    def _brought(self, array: Argument, place: int) -> int:
        """Where an input can be read: it is copied, if it is not there already."""
        if _is_in_place(array):
            return array.address
        if isinstance(array, DeviceArray):
            if array.nbytes:
                self._driver.copy(place, array.address, array.nbytes, self._stream)
        elif array.nbytes:
            self._driver.copy_in(place, array, self._stream)
        return place

    def _carry_out(self, run: DeviceRun) -> None:
        """The steps: what can be recorded is recorded the first time, and then replayed."""
        for number, steps in enumerate(self._segments):
            if not is_straight(steps[0]):
                run.steps(steps)
                continue
            places = tuple(run.inputs), tuple(run.outputs)
            key = (number, tuple(run.symbols.items()), *places)
            graph = self._graphs.get(key)
            if graph is None:
                graph = self._recorded(run, steps)
                self._graphs[key] = graph
                while len(self._graphs) > MOST_GRAPHS * len(self._segments):
                    self._driver.destroy_graph(self._graphs.popitem(last=False)[1])
            else:
                self._graphs.move_to_end(key)
            self._driver.replay(graph, self._stream)

    def _recorded(self, run: DeviceRun, steps: Sequence[DeviceStep]) -> int:
        self._driver.begin_capture(self._stream)
        try:
            run.steps(steps)
        except BaseException:
            self._driver.destroy_graph(self._driver.end_capture(self._stream))
            raise
        return self._driver.end_capture(self._stream)

    def _again(self, arrays: Sequence[Argument], targets: list[Argument], arena: int) -> list[Any]:
        """The same run with a larger arena: sizes that the data decided asked for it."""
        self._arena = arena + arena // 4
        self._bound.clear()
        bound = self._bind(tuple(tuple(array.shape) for array in arrays))
        return self._run(arrays, bound, targets)

    def _collected(self, run: DeviceRun, targets: list[Argument]) -> list[Any]:
        """The outputs; those for the host are on their way when this returns."""
        found: list[Any] = []
        places = zip(self.signature.outputs, targets, run.outputs, strict=True)
        for number, (info, array, address) in enumerate(places):
            if info.data_dependent:
                shape = evaluate_shape(info.shape, run.symbols)
                array = np.empty(shape, numpy_dtype(info.dtype))
                address = run.address(self.program.dependent_outputs[number])
            if not _is_in_place(array) and array.nbytes:
                if isinstance(array, DeviceArray):
                    self._driver.copy(array.address, address, array.nbytes, self._stream)
                else:
                    self._driver.copy_out(array, address, self._stream)
            found.append(array)
        return found


def _is_in_place(array: Argument) -> TypeGuard[DeviceArray]:
    return isinstance(array, DeviceArray) and array.address % WIDEST_ACCESS == 0
