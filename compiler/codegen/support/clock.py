"""Writes clocks around kernels, and the record of their times, into artifacts that are compiled for
profiling.

`PREFIX_profile` returns the address of the record of the last run that ended:

    i64 begin, i64 end              of the run, in nanoseconds of the monotonic clock
    i64 thread                      that called
    i64 events                      how many there were, also those that found no room
    {i64 runs, i64 nanoseconds}     for every step of `timed_steps`
    i64                             for every symbol of the program, its value at the end
    {i64 step, i64 thread, i64 begin, i64 end}      `EVENTS` of them, in no order

A module has one record, so such a model must not run twice at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from string import Template

EVENTS = 1 << 14
"""The number of events that are kept. The sums count all; the trace of a longer run is cut off."""

_TEXT = """
declare i64 @pthread_self()
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
%bessemer.event = type { i64, i64, i64, i64 }
%bessemer.sum = type { i64, i64 }
%bessemer.profile = type {
  i64, i64, i64, i64, [$steps x %bessemer.sum], [$symbols x i64], [$events x %bessemer.event]
}
@bessemer_times = internal global %bessemer.profile zeroinitializer, align 64
@bessemer_profile_step = internal global i64 0

define ptr @${prefix}_profile() {
  ret ptr @bessemer_times
}

define internal void @bessemer_profile_begin() {
  %count = getelementptr %bessemer.profile, ptr @bessemer_times, i32 0, i32 3
  call void @llvm.memset.p0.i64(ptr %count, i8 0, i64 $cleared, i1 false)
  %thread.at = getelementptr %bessemer.profile, ptr @bessemer_times, i32 0, i32 2
  %thread = call i64 @pthread_self()
  store i64 %thread, ptr %thread.at
  %now = call i64 @bessemer_nanoseconds()
  store i64 %now, ptr @bessemer_times
  ret void
}

define internal void @bessemer_profile_end(ptr %dims) {
  %now = call i64 @bessemer_nanoseconds()
  %end = getelementptr %bessemer.profile, ptr @bessemer_times, i32 0, i32 1
  store i64 %now, ptr %end
  %symbols = getelementptr %bessemer.profile, ptr @bessemer_times, i32 0, i32 5
  call void @llvm.memcpy.p0.p0.i64(ptr %symbols, ptr %dims, i64 $kept, i1 false)
  ret void
}

define internal void @bessemer_profile_event(i64 %step, i64 %begin, i64 %end) {
  %count = getelementptr %bessemer.profile, ptr @bessemer_times, i32 0, i32 3
  %number = atomicrmw add ptr %count, i64 1 monotonic
  %room = icmp ult i64 %number, $events
  br i1 %room, label %keep, label %done
keep:
  %event = getelementptr %bessemer.profile, ptr @bessemer_times, i32 0, i32 6, i64 %number
  %thread.at = getelementptr %bessemer.event, ptr %event, i32 0, i32 1
  %begin.at = getelementptr %bessemer.event, ptr %event, i32 0, i32 2
  %end.at = getelementptr %bessemer.event, ptr %event, i32 0, i32 3
  %thread = call i64 @pthread_self()
  store i64 %step, ptr %event
  store i64 %thread, ptr %thread.at
  store i64 %begin, ptr %begin.at
  store i64 %end, ptr %end.at
  br label %done
done:
  ret void
}

define internal void @bessemer_profile_sum(i64 %step, i64 %begin, i64 %end) {
  %sum = getelementptr %bessemer.profile, ptr @bessemer_times, i32 0, i32 4, i64 %step
  %total.at = getelementptr %bessemer.sum, ptr %sum, i32 0, i32 1
  %runs = load i64, ptr %sum
  %more = add i64 %runs, 1
  store i64 %more, ptr %sum
  %spent = sub i64 %end, %begin
  %total = load i64, ptr %total.at
  %longer = add i64 %total, %spent
  store i64 %longer, ptr %total.at
  ret void
}
"""


class Clocks:
    """Writes clocks through a run body's `let` and `put`; writes nothing unless `on`.

    Steps are numbered in the order in which they are written, which is that of `timed_steps`.
    """

    def __init__(self, on: bool, let: Callable[[str], str], put: Callable[[str], None]) -> None:
        self._on = on
        self._let = let
        self._put = put
        self._steps = 0
        self._is_shared = False
        self._shared: set[str] = set()

    def begin(self) -> None:
        """Called at the start of a run."""
        if self._on:
            self._put("call void @bessemer_profile_begin()")

    def end(self) -> None:
        """Called at the end of a run that did not fail."""
        if self._on:
            self._put("call void @bessemer_profile_end(ptr %dims)")

    def start(self) -> str:
        """Called before a step; the result is for `stop`."""
        self._is_shared = False
        return self._now()

    def stop(self, start: str) -> None:
        """Called after a step. Makes one event of it, unless its threads make events of their
        own."""
        if not self._on:
            return
        times = f"i64 {self._steps}, i64 {start}, i64 {self._now()}"
        self._put(f"call void @bessemer_profile_sum({times})")
        if not self._is_shared:
            self._put(f"call void @bessemer_profile_event({times})")
        self._steps += 1

    def _now(self) -> str:
        return self._let("call i64 @bessemer_nanoseconds()") if self._on else ""

    def share_of(self, kernel: str) -> str:
        """The function that runs a thread's share of a kernel, for the step that has started."""
        if not self._on:
            return kernel
        self._is_shared = True
        self._put(f"store i64 {self._steps}, ptr @bessemer_profile_step")
        self._shared.add(kernel)
        return f"{kernel}_share"

    def text(self, prefix: str, symbols: int) -> str:
        """The record and the functions that fill it, for a program with so many symbols."""
        if not self._on:
            return ""
        text = Template(_TEXT).substitute(
            prefix=prefix,
            steps=self._steps,
            symbols=symbols,
            events=EVENTS,
            cleared=8 + 16 * self._steps,
            kept=8 * symbols,
        )
        return text + "".join(_share_text(name) for name in sorted(self._shared))


def _share_text(kernel: str) -> str:
    """A function that runs a thread's share of a kernel and makes an event of it, for parallel
    launches."""
    return f"""
define internal void @{kernel}_share(ptr %buffers, ptr %dims, i64 %begin, i64 %end) {{
  %step = load i64, ptr @bessemer_profile_step
  %from = call i64 @bessemer_nanoseconds()
  call void @{kernel}(ptr %buffers, ptr %dims, i64 %begin, i64 %end)
  %to = call i64 @bessemer_nanoseconds()
  call void @bessemer_profile_event(i64 %step, i64 %from, i64 %to)
  ret void
}}
"""
