"""Chains launches that pass large values to each other, so that they run alternately, in rounds: in
each round, every launch computes some of its items (depth-first tiling, or fused-layer tiling).

    expand      to memory            round 0: expand a few rows, depthwise on these, project these
    depthwise   from it, to it       round 1: the next rows of each
    project     from it              ...

A value that is larger than a share of the last-level cache would go to memory and come back.
Between two launches of a chain only a sliding window of it exists, as wide as the results of one
round need. Index arithmetic (spans.py) shows which items read and write what. Rows that a
convolution's windows share with the round before are kept; those before a thread's first round are
computed again. So the results do not depend on the threads, and the kernels are the same with and
without a chain.

On one core of a Zen 5, MobileNetV2 with eight images takes 0.80 times as long with chains,
EfficientNet-B0 0.83. One image of 224 x 224 gains nothing, because its values stay in the
last-level cache.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.loops import Block, Kernel, Stream
from bessemer.compiler.ir.program import Chain, Launch, Program, Step, Window
from bessemer.compiler.ir.types import Array, TensorType, u8
from bessemer.compiler.ir.walk_loops import walk, with_blocks
from bessemer.compiler.ir.walk_steps import alias_sources, root_of, touched
from bessemer.compiler.schedule.contraction.row_blocks import LARGE
from bessemer.compiler.schedule.spans import Span, spans_of
from bessemer.compiler.targets.machine import CACHE_LINE, Target

LONGEST = 6
"""Launches in a chain: a search tries every length, and MobileNetV2's best have 2 and 3."""
SHARES = 16
"""The most shares that the threads divide among them, each with windows of its own."""
MOST_ROUNDS = 1024
"""More rounds than this gain nothing, but take longer to find."""


def chain_launches(program: Program, target: Target) -> Program:
    """The program, with chains in place of launches that pass large values to each other."""
    if not target.last_cache:
        return program
    planner = _Planner(program, target)
    if not planner.large:
        return program
    return replace(program, steps=tuple(planner.steps()))


@dataclass(frozen=True, eq=False)
class _Moved:
    """A window with its places round by round, as in `Window`."""

    value: Value
    size: int
    begins: Array
    kept: Array


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Launches that can run alternately. `saved` is the number of bytes that then are not stored in
    memory."""

    launches: tuple[Launch, ...]
    items: Array  # [round, launch, (begin, end)]
    windows: tuple[_Moved, ...]
    saved: int

    @property
    def room(self) -> int:
        """The bytes of all windows."""
        return sum(window.size for window in self.windows)


class _Planner:
    def __init__(self, program: Program, target: Target) -> None:
        self.program = program
        self.target = target
        self._spans: dict[Kernel, dict[str, Span] | None] = {}
        self._kept: dict[Kernel, Kernel] = {}
        touching = _touching(program.steps)
        self._readers = touching.readers
        whole = {*program.outputs, *touching.others}
        self._sources = alias_sources(program.steps)
        self._written_over = {
            self._root(program.outputs[output]): program.inputs[given]
            for output, given in program.updates
        }
        self.least = target.last_cache // LARGE
        self.large = {
            value
            for value, number in touching.writers.items()
            if number == 1
            and self._readers[value]
            and value not in whole
            and _bytes(value) >= self.least
        }

    def steps(self) -> Iterator[Step]:
        """The steps with those chains that together save the most bytes."""
        steps = self.program.steps
        saved = [0] * (len(steps) + 1)
        chosen: dict[int, _Candidate] = {}
        for place in reversed(range(len(steps))):
            saved[place] = saved[place + 1]
            for chain in self._chains(place):
                worth = chain.saved + saved[place + len(chain.launches)]
                if worth > saved[place]:
                    saved[place], chosen[place] = worth, chain
        place = 0
        while place < len(steps):
            found = chosen.get(place)
            yield self._chain(found) if found else steps[place]
            place += len(found.launches) if found else 1

    def _chains(self, first: int) -> Iterator[_Candidate]:
        """The chains that begin with step number `first`."""
        launches: list[Launch] = []
        for step in self.program.steps[first : first + LONGEST]:
            if not isinstance(step, Launch) or not (launches or step.values[-1] in self.large):
                return
            if not self._goes_by_items(step):
                return
            launches.append(step)
            inside = [launch.values[-1] for launch in launches[:-1]]
            if self._reads_after_writing(launches):
                return
            if inside and all(set(self._readers[value]) <= set(launches) for value in inside):
                found = self._plan(launches)
                if found is None:
                    return
                yield found
            if step.values[-1] not in self.large:
                return

    def _reads_after_writing(self, launches: Sequence[Launch]) -> bool:
        """Whether the last launch may overwrite an input that another launch reads: in a later
        round, that launch would find it changed. (The last launch itself reads each element before
        it overwrites it.)"""
        over = self._written_over.get(self._root(launches[-1].values[-1]))
        return over is not None and any(
            self._root(value) is over for launch in launches[:-1] for value in launch.values
        )

    def _root(self, value: Value) -> Value:
        return root_of(value, self._sources)

    def _goes_by_items(self, launch: Launch) -> bool:
        kernel = launch.kernel
        if kernel.outputs != 1 or launch.scratch or launch.sizes:
            return False
        if kernel not in self._spans:
            self._spans[kernel] = spans_of(kernel, self.least)
        return self._spans[kernel] is not None

    def _plan(self, launches: Sequence[Launch]) -> _Candidate | None:
        """The launches in as few rounds as leave other values room in the second-level cache; None
        if even with one item per round the windows are larger than that cache, and than a share of
        the last one. (With windows of 1.6 times that cache four images of 120 x 120 x 192 take 0.84
        times as long as without.)"""
        inside = {launch.values[-1] for launch in launches[:-1]}
        values = {v for launch in launches for v in launch.values if v in self.program.weights}
        saved, weights = sum(map(_bytes, inside)), sum(map(_bytes, values))
        room = self.target.l2_bytes * 5 // 8 - weights
        most = max(self.target.l2_bytes - weights, self.target.last_cache // SHARES)

        def chain(rounds: int) -> _Candidate:
            return _Candidate(tuple(launches), *self._in_rounds(launches, rounds), saved)

        numbers = _numbers(launches[-1].kernel.parallel_extent)
        first = bisect_left(numbers, True, key=lambda rounds: chain(rounds).room <= room)
        found = chain(numbers[min(first, len(numbers) - 1)])
        return found if found.room <= most else None

    def _in_rounds(
        self, launches: Sequence[Launch], rounds: int
    ) -> tuple[Array, tuple[_Moved, ...]]:
        """The items of every round, and the windows. They are found from the last launch to the
        first."""
        extent = dims.number(launches[-1].kernel.parallel_extent)
        bounds = np.arange(rounds + 1) * extent // rounds
        items = np.zeros((rounds, len(launches), 2), np.int64)
        items[:, -1] = np.stack([bounds[:-1], bounds[1:]], 1)
        windows: list[_Moved] = []
        for number in reversed(range(len(launches) - 1)):
            value, kernel = launches[number].values[-1], launches[number].kernel
            span = self._span(kernel, kernel.buffers[-1].name)
            low, high = self._wanted(value, launches[number + 1 :], items[:, number + 1 :])
            items[:, number, 0] = np.searchsorted(span.high, low)
            items[:, number, 1] = np.searchsorted(span.low, high, "right")
            low = np.minimum(low, span.low[items[:, number, 0]])
            high = np.maximum(high, span.high[items[:, number, 1] - 1])
            windows.append(_window(value, low, high))
        return items, tuple(reversed(windows))

    def _wanted(self, value: Value, readers: Sequence[Launch], items: Array) -> tuple[Array, Array]:
        """The first and the last element of a value that each round reads."""
        lows, highs = [], []
        for number, reader in enumerate(readers):
            for buffer, each in zip(reader.kernel.buffers, reader.values):
                if each is value:
                    span = self._span(reader.kernel, buffer.name)
                    lows.append(span.low[items[:, number, 0]])
                    highs.append(span.high[items[:, number, 1] - 1])
        return np.min(lows, 0), np.max(highs, 0)

    def _span(self, kernel: Kernel, buffer: str) -> Span:
        spans = self._spans[kernel]
        assert spans is not None
        return spans[buffer]

    def _chain(self, chain: _Candidate) -> Chain:
        """A chain as a step of the program."""
        shares = max(1, min(SHARES, len(chain.items), chain.saved // chain.room))
        items = tuple(tuple((a, b) for a, b in each) for each in chain.items.tolist())
        windows = tuple(
            Window(w.value, w.size, tuple(w.begins.tolist()), tuple(w.kept.tolist()))
            for w in chain.windows
        )
        memory = Value(TensorType(u8, (shares * chain.room,)))
        *inside, last = chain.launches
        launches = (*map(self._keeping, inside), last)
        return Chain(launches, items, windows, memory, shares)

    def _keeping(self, launch: Launch) -> Launch:
        """The launch with a kernel without streaming stores, because the results are read soon."""
        kernel = launch.kernel
        if not any(isinstance(statement, Stream) for statement in walk(kernel.body)):
            return launch
        if kernel not in self._kept:
            body = _without_streams(kernel.body)
            self._kept[kernel] = replace(kernel, name=f"{kernel.name}_kept", body=body)
        return replace(launch, kernel=self._kept[kernel])


@dataclass(frozen=True, eq=False)
class _Touching:
    """Who reads and writes values: the launches that read each value, the number of those that
    write it, and the values that other steps touch (copies, or launches inside of branches and
    loops)."""

    readers: dict[Value, list[Launch]] = field(default_factory=dict)
    writers: Counter[Value] = field(default_factory=Counter)
    others: set[Value] = field(default_factory=set)


def _touching(steps: Sequence[Step]) -> _Touching:
    found = _Touching()
    for step in steps:
        reads, writes = touched(step)
        if not isinstance(step, Launch):
            found.others.update(reads, writes)
            continue
        for value in reads:
            found.readers.setdefault(value, []).append(step)
        for value in writes:
            found.readers.setdefault(value, [])
        found.writers.update(writes)
    return found


def _window(value: Value, low: Array, high: Array) -> _Moved:
    """The window that holds the elements from `low` to `high` of each round. It begins at a cache
    line."""
    size = value.type.dtype.bytes
    begins = low * size // CACHE_LINE * CACHE_LINE
    ends = (high + 1) * size
    kept = np.maximum(np.concatenate([[0], ends[:-1] - begins[1:]]), 0)
    room = -(-int((ends - begins).max()) // CACHE_LINE) * CACHE_LINE
    return _Moved(value, room, begins, kept)


def _numbers(extent: Size) -> list[int]:
    """The numbers of rounds to try for so many items, in ascending order."""
    assert isinstance(extent, int)
    most = min(extent, MOST_ROUNDS)
    found = [SHARES]
    while found[-1] < most:
        found.append(found[-1] * 5 // 4)
    return [*found[:-1], most]


def _bytes(value: Value) -> int:
    size = value.type.nbytes
    return size if isinstance(size, int) else 0


def _without_streams(block: Block) -> Block:
    kept = (statement for statement in block if not isinstance(statement, Stream))
    return tuple(with_blocks(statement, _without_streams) for statement in kept)
