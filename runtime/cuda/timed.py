"""Models on a GPU whose kernels are timed one by one, each between two events.

A kernel is measured in its place in a run: what it reads has just been computed. It is recorded
many times into one graph, so that what a launch costs the host does not count.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from math import ceil
from typing import Any

from bessemer.runtime.cuda.artifact import LaunchStep, is_straight
from bessemer.runtime.cuda.driver import DeviceError, Driver
from bessemer.runtime.cuda.model import DeviceModel
from bessemer.runtime.cuda.run import DeviceRun


@dataclass(frozen=True)
class Effort:
    """A time is the median of `replays` graphs, each of about so many milliseconds, of at most
    `most` launches."""

    milliseconds: float = 0.5
    replays: int = 5
    most: int = 64


NORMAL = Effort()


@dataclass
class Times:
    """Seconds by a launch's number (its position among all launches of the program), or why there
    are none."""

    seconds: dict[int, float] = field(default_factory=dict)
    errors: dict[int, DeviceError] = field(default_factory=dict)


class TimedModel(DeviceModel):
    """A model whose kernels are measured."""

    _measuring: _Measuring | None = None

    def measure(self, inputs: Any, wanted: Collection[int], effort: Effort = NORMAL) -> Times:
        """What these launches take in a run with these inputs, those that the run comes past.

        The run ends at a launch that the driver refuses, which has an error in place of a time.
        Raises DeviceError where nothing can be run any more.
        """
        self._measuring = measuring = _Measuring(frozenset(wanted), effort, Times())
        try:
            self.run(inputs)
        except DeviceError:
            if not measuring.times.errors:
                raise
        finally:
            self._measuring = None
        return measuring.times

    def whole(self, inputs: Sequence[Any], out: Sequence[Any], effort: Effort = NORMAL) -> float:
        """Seconds of a run on the device's arrays: that of its graph, where it is one. `out` has
        None for outputs that have no place there."""
        driver, stream = self._driver, self._stream
        straight = len(self._segments) == 1 and is_straight(self._segments[0][0])
        if not straight or any(array is None for array in out):
            runs = [
                elapsed(driver, stream, lambda: self.run(inputs, out))
                for _ in range(effort.replays + 1)
            ]
            return statistics.median(runs[1:])
        self.enqueue(inputs, out)
        graph = next(reversed(self._graphs.values()))
        return replayed(driver, stream, graph, effort)

    def _carry_out(self, run: DeviceRun) -> None:
        if self._measuring is None:
            super()._carry_out(run)
            return
        known = {f.name: getattr(run, f.name) for f in fields(DeviceRun)}
        timed = _TimedRun(**known, measuring=self._measuring)
        timed.steps(self.program.steps)


@dataclass
class _Measuring:
    wanted: frozenset[int]
    effort: Effort
    times: Times


@dataclass
class _TimedRun(DeviceRun):
    measuring: _Measuring

    def _launch(self, step: LaunchStep) -> None:
        number, times = self.numbers[id(step)], self.measuring.times
        if number not in self.measuring.wanted or step.sets:
            super()._launch(step)
            return
        try:
            super()._launch(step)
            self.driver.synchronize(self.stream)
            if number not in times.seconds:
                times.seconds[number] = self._measured(step)
        except DeviceError as error:
            times.errors[number] = error
            raise

    def _measured(self, step: LaunchStep) -> float:
        effort = self.measuring.effort
        with self._recorded(step, 1) as graph:
            once = replayed(self.driver, self.stream, graph, Effort(0.0, 1))
        count = _times_in(effort, once)
        with self._recorded(step, count) as graph:
            return replayed(self.driver, self.stream, graph, Effort(0.0, effort.replays)) / count

    @contextmanager
    def _recorded(self, step: LaunchStep, count: int) -> Iterator[int]:
        """A graph of so many launches, one after the other."""
        driver, stream = self.driver, self.stream
        driver.begin_capture(stream)
        try:
            for _ in range(count):
                super()._launch(step)
        except BaseException:
            driver.destroy_graph(driver.end_capture(stream))
            raise
        graph = driver.end_capture(stream)
        try:
            yield graph
        finally:
            driver.destroy_graph(graph)


def _times_in(effort: Effort, seconds: float) -> int:
    """How often something is repeated that takes so long."""
    return min(effort.most, max(1, ceil(effort.milliseconds / 1e3 / max(seconds, 1e-9))))


def replayed(driver: Driver, stream: int, graph: int, effort: Effort) -> float:
    """Seconds of a graph: the median of so many times, the first one left out."""

    def times(count: int) -> float:
        def work() -> None:
            for _ in range(count):
                driver.replay(graph, stream)

        return elapsed(driver, stream, work) / count

    count = _times_in(effort, times(1))
    return statistics.median(times(count) for _ in range(effort.replays))


def elapsed(driver: Driver, stream: int, work: Callable[[], object]) -> float:
    """Seconds of what a call puts on a stream."""
    start, end = driver.create_event(), driver.create_event()
    try:
        driver.record(start, stream)
        work()
        driver.record(end, stream)
        return driver.elapsed(start, end) / 1e3
    finally:
        driver.destroy_event(start)
        driver.destroy_event(end)
