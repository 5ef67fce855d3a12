"""One run of a device program: its steps as calls of the driver.

Where a step depends on what the device has computed (control flow, sizes that the data decides),
the host reads that back first.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.runtime.arrays import Array, numpy_dtype
from bessemer.runtime.artifact import Status
from bessemer.runtime.cuda.artifact import (
    BindStep,
    BranchStep,
    CopyStep,
    DeviceProgram,
    DeviceStep,
    FiniteStep,
    LaunchStep,
    Place,
    RepeatStep,
)
from bessemer.runtime.cuda.driver import Driver, number, pointer
from bessemer.runtime.cuda.layout import (
    FAULT_BYTES,
    Layout,
    arena_size,
    check_required,
    launches,
)
from bessemer.runtime.cuda.tensor_maps import encode
from bessemer.runtime.errors import ExecutionError, InputError
from bessemer.runtime.shapes import evaluate

LARGEST_GRID = (1 << 31) - 1


@dataclass
class DeviceRun:
    """What the steps of one run see: where everything is, and the symbols so far.

    `inputs` and `outputs` are addresses; `capacity` is the arena's size. `numbers` are those of the
    launches, by identity: each has its own fault cells.
    """

    program: DeviceProgram
    driver: Driver
    functions: Sequence[int]
    stream: int
    block: int
    weights: int
    layout: Layout
    inputs: Sequence[int]
    outputs: Sequence[int]
    symbols: dict[str, int]
    capacity: int
    numbers: Mapping[int, int]

    def steps(self, steps: Sequence[DeviceStep]) -> None:
        """Does them, in order."""
        for step in steps:
            match step:
                case LaunchStep():
                    self._launch(step)
                case CopyStep():
                    self._copy(step)
                case BindStep():
                    self._bind(step)
                case FiniteStep():
                    self._require_finite(step)
                case BranchStep():
                    taken = step.then if self._truth(step.condition) else step.otherwise
                    self.steps(taken)
                case RepeatStep():
                    self._repeat(step)

    def address(self, place: Place) -> int:
        """Where a value is now."""
        match place.space:
            case "arena":
                return self.block + evaluate(place.offset, self.symbols)
            case "weights":
                return self.weights + evaluate(place.offset, self.symbols)
            case "input":
                return self.inputs[place.number]
            case "output":
                return self.outputs[place.number]

    def check_faults(self, cells: Array) -> None:
        """Raises ExecutionError for the first failure that the fault cells tell of."""
        if not cells.any():
            return
        for position, step in enumerate(launches(self.program.steps)):
            messages = self.program.kernels[step.kernel].messages
            code = int(cells[2 * position]) if messages else 0
            if code:
                message = messages[code - 1]
                where = f"{step.where}: " if step.where else ""
                name = self.program.signature.name
                raise ExecutionError(f"{name}: {where}{message}", Status.INDEX_OUT_OF_RANGE)

    # Launches

    def _launch(self, step: LaunchStep) -> None:
        kernel = self.program.kernels[step.kernel]
        grid = evaluate(step.grid, self.symbols)
        if grid <= 0:
            return
        if grid * kernel.threads > LARGEST_GRID:
            raise InputError(f"{step.where or kernel.name}: a tensor is too large for one launch.")
        buffers = [self.address(place) for place in step.buffers]
        # What has no value yet is 0: the kernel gives it one, or does not look at it.
        unknown = dict.fromkeys(self.program.signature.symbols, 0)
        sizes = [evaluate(entry, ChainMap(self.symbols, unknown)) for entry in step.symbols]
        parameters = [pointer(address) for address in buffers]
        parameters += [number(size) for size in sizes]
        if kernel.messages:
            fault = self.layout.faults + FAULT_BYTES * self.numbers[id(step)]
            parameters.append(pointer(self.block + fault))
        if kernel.sets:
            parameters.append(pointer(self.block + self.layout.symbols))
        parameters += [
            encode(self.driver, plan, buffers[plan.buffer], self.symbols)
            for plan in step.tensor_maps
        ]
        self.driver.launch(
            self.functions[step.kernel],
            (grid, 1, 1),
            (kernel.threads, 1, 1),
            kernel.shared_bytes,
            self.stream,
            parameters,
        )
        if step.sets:
            self._read_symbols(step)

    def _read_symbols(self, step: LaunchStep) -> None:
        cells = self.read(self.block + self.layout.symbols, len(step.symbols), np.dtype(np.int64))
        faults = 2 * len(self.numbers)
        self.check_faults(self.read(self.block + self.layout.faults, faults, np.dtype(np.int32)))
        self._set({name: int(cells[position]) for position, name in step.sets})

    # Steps of the host

    def read(self, address: int, count: int, dtype: np.dtype[np.generic]) -> Array:
        """So many elements of the device's memory, when all before is done."""
        array = np.empty(count, dtype)
        self.driver.copy_out(array, address, self.stream)
        self.driver.synchronize(self.stream)
        return array

    def _set(self, values: dict[str, int]) -> None:
        self.symbols |= values
        check_required(self.program, self.symbols)
        needed = arena_size(self.program, self.symbols)
        if needed > self.capacity:
            raise ArenaTooSmall(needed)

    def _copy(self, step: CopyStep) -> None:
        source, target = self.address(step.source), self.address(step.target)
        size = evaluate(step.size, self.symbols)
        if source != target and size:
            self.driver.copy(target, source, size, self.stream)

    def _bind(self, step: BindStep) -> None:
        values = self.read(self.address(step.source), len(step.symbols), np.dtype(np.int64))
        if (values < 0).any():
            is_check = any(name.startswith("check") for name in step.symbols)
            wrong = "the sizes contradict it" if is_check else "a size is negative"
            raise ExecutionError(f"{step.where}: {wrong}", Status.SHAPE_MISMATCH)
        self._set({name: int(v) for name, v in zip(step.symbols, values, strict=True) if name})

    def _require_finite(self, step: FiniteStep) -> None:
        # Nothing has taken the place of an input yet: what else went wrong is told now, too.
        faults = 2 * len(self.numbers)
        self.check_faults(self.read(self.block + self.layout.faults, faults, np.dtype(np.int32)))
        value = self.read(self.address(step.source), 1, numpy_dtype(step.dtype))
        if not np.isfinite(value.astype(np.float64)).all():
            message = f"{step.name} is not finite: nothing was updated"
            raise ExecutionError(f"{self.program.signature.name}: {message}", Status.NOT_FINITE)

    def _truth(self, place: Place) -> bool:
        return bool(self.read(self.address(place), 1, np.dtype(np.uint8))[0])

    def _repeat(self, step: RepeatStep) -> None:
        trips = None
        count = 0
        counter = np.zeros(1, np.int64)
        while True:
            if step.trips is not None:
                trips = int(self.read(self.address(step.trips), 1, np.dtype(np.int64))[0])
            if trips is not None and count >= trips:
                break
            if step.condition is not None and not self._truth(step.condition):
                break
            counter[0] = count
            self.driver.copy_in(self.address(step.iteration), counter, self.stream)
            self.driver.synchronize(self.stream)
            self.steps(step.body)
            count += 1
        if step.count:
            self._set({step.count: count})


class ArenaTooSmall(Exception):
    """The data asks for a larger arena; the run begins anew with one of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size
