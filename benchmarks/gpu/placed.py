"""A program on a device with its inputs and outputs there, to be launched, recorded and timed.

The model's own `run` moves arrays and takes locks; here nothing is between the events but the
kernels.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from bessemer.compiler.ir.types import Array
from bessemer.runtime.arrays import numpy_dtype
from bessemer.runtime.bind import bind_symbols
from bessemer.runtime.cuda.artifact import ALIGNMENT, is_straight
from bessemer.runtime.cuda.driver import DeviceError, Driver
from bessemer.runtime.cuda.images import load_image
from bessemer.runtime.cuda.layout import arena_size, launches, lay_out
from bessemer.runtime.cuda.program_file import Form
from bessemer.runtime.cuda.run import DeviceRun

ROUNDS = 11
_SECONDS = 2e-3
"""How long a recorded row of runs should take, for the clock's sake."""
_FREE_SHARED = 48 << 10


class Placed:
    """A form of a model with arrays for its inputs; the device is open already."""

    def __init__(self, form: Form, driver: Driver, level: int, arrays: Sequence[Array]) -> None:
        program = form.program
        self.driver, self.program = driver, program
        self._held: list[int] = []
        self.stream = driver.create_stream()
        cubin = form.cubin_for(level)
        self._module = 0
        try:
            self._place(form, cubin, arrays)
        except BaseException:
            self.close()
            raise

    def _place(self, form: Form, cubin: bytes, arrays: Sequence[Array]) -> None:
        driver, program = self.driver, self.program
        self._module = load_image(driver, cubin, program.ptx) if program.kernels else 0
        shapes = [array.shape for array in arrays]
        symbols = bind_symbols(program.signature, shapes)
        arena = arena_size(program, symbols)
        layout = lay_out(program, shapes, symbols, arena)
        block = self._memory(layout.size)
        weights = self._memory(form.weights.nbytes)
        self._put(weights, form.weights)
        for array, place in zip(arrays, layout.inputs, strict=True):
            self._put(block + place, array)
        driver.fill(block + layout.faults, 0, max(layout.symbols - layout.faults, 1), self.stream)
        self.shapes = layout.shapes
        self.bytes = layout.size + form.weights.nbytes
        self.run = DeviceRun(
            program,
            driver,
            self._functions(),
            self.stream,
            block,
            weights,
            layout,
            [block + place for place in layout.inputs],
            [block + place for place in layout.outputs],
            symbols,
            arena,
            {id(step): number for number, step in enumerate(launches(program.steps))},
        )

    def _memory(self, size: int) -> int:
        self._held.append(self.driver.allocate(max(size, ALIGNMENT)))
        return self._held[-1]

    def _put(self, address: int, array: Array) -> None:
        if array.nbytes:
            self.driver.copy_in(address, np.ascontiguousarray(array), self.stream)
            self.driver.synchronize(self.stream)

    def _functions(self) -> list[int]:
        found = []
        for kernel in self.program.kernels:
            found.append(self.driver.function(self._module, kernel.name))
            if kernel.shared_bytes > _FREE_SHARED:
                self.driver.allow_shared(found[-1], kernel.shared_bytes)
        return found

    def launch(self) -> None:
        """One run, not waited for."""
        self.run.steps(self.program.steps)

    def outputs(self) -> list[Array]:
        """The outputs, when all before is done; raises ExecutionError where a kernel refused."""
        found = []
        infos = self.program.signature.outputs
        for info, shape, address in zip(infos, self.shapes, self.run.outputs, strict=True):
            found.append(np.empty(shape, numpy_dtype(info.dtype)))
            if found[-1].nbytes:
                self.driver.copy_out(found[-1], address, self.stream)
        self.driver.synchronize(self.stream)
        return found

    def close(self) -> None:
        """Gives everything back; a device that has failed takes nothing, and says so again."""
        with suppress(DeviceError):
            for address in self._held:
                self.driver.free(address)
            if self._module:
                self.driver.unload_module(self._module)
            self.driver.destroy_stream(self.stream)

    # Time, in seconds

    def seconds_of_launches(self, rounds: int = ROUNDS) -> float:
        """The median time of a run between two events, launched kernel by kernel."""
        return self._median(self.launch, rounds)

    def seconds_of_replay(self, alone: float, rounds: int = ROUNDS) -> float | None:
        """The median time of a run in a replayed graph of several in a row; None for a program that
        needs the host in between. `alone` is about what a run takes."""
        if not all(is_straight(step) for step in self.program.steps):
            return None
        times = 1 if rounds == 1 else max(1, min(200, round(_SECONDS / max(alone, 1e-6))))
        self.driver.begin_capture(self.stream)
        try:
            for _ in range(times):
                self.launch()
        finally:
            graph = self.driver.end_capture(self.stream)
        found = self._median(lambda: self.driver.replay(graph, self.stream), rounds) / times
        self.driver.destroy_graph(graph)
        return found

    def _median(self, work: Callable[[], None], rounds: int) -> float:
        return median_seconds(self.driver, self.stream, work, rounds)


def median_seconds(
    driver: Driver, stream: int, work: Callable[[], None], rounds: int = ROUNDS
) -> float:
    """The median of so many times between two events around some work on the stream."""
    start, end = driver.create_event(), driver.create_event()
    found = []
    # The first is for the caches, the clock and what is made on first use.
    for _ in range(rounds + (rounds > 1)):
        driver.record(start, stream)
        work()
        driver.record(end, stream)
        found.append(driver.elapsed(start, end) * 1e-3)
    for event in (start, end):
        driver.destroy_event(event)
    return statistics.median(found[-rounds:])


def copy_bandwidth(driver: Driver, most: int = 1 << 30, rounds: int = ROUNDS) -> float:
    """Bytes read and written a second by the driver's own copy from the device to itself."""
    size = min(most, driver.memory()[0] // 8) // ALIGNMENT * ALIGNMENT
    stream = driver.create_stream()
    source, target = driver.allocate(size), driver.allocate(size)
    driver.fill(source, 1, size, stream)
    seconds = median_seconds(
        driver, stream, lambda: driver.copy(target, source, size, stream), rounds
    )
    for address in (source, target):
        driver.free(address)
    driver.destroy_stream(stream)
    return 2 * size / seconds
