"""An mbarrier object: arrivals and bytes that the current phase waits for, and what its
completion makes known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from emulator.errors import BarrierMisuse, Race, TransactionMismatch
from emulator.state.arrays import Array
from emulator.state.races import MOST_MBARRIERS, Races
from emulator.state.shared_memory import SharedMemory

MOST_BYTES = (1 << 20) - 1


@dataclass
class Mbarrier:
    """`initialiser` is the warp that made it, at its tick `born`.

    `phase` counts the completed phases; `flying` the copies under way that will report to the
    current one; `gathered` is what the arrivals of this phase release, `known` those of all before.
    """

    slot: int
    expected: int
    pending: int
    initialiser: int
    born: int
    bytes: int = 0
    phase: int = 0
    flying: int = 0
    fenced: bool = False
    gathered: Array | None = None
    known: Array | None = None
    sleepers: list[Array] = field(default_factory=list)


class Mbarriers:
    """All mbarriers of a machine, by the offset of their 8 bytes in the machine's shared memory;
    `wake` lets threads go on that sleep."""

    def __init__(self, shared: SharedMemory, wake: Callable[[Array], None]) -> None:
        self._shared, self._wake = shared, wake
        self.races: Races | None = None
        self.all: dict[int, Mbarrier] = {}
        self._slots: dict[int, int] = {}

    def create(self, offset: int, count: int, thread: int) -> None:
        if offset in self.all:
            raise BarrierMisuse(
                "mbarrier.init of an mbarrier that is in use (mbarrier.inval first)"
            )
        if not 1 <= count < 1 << 20:
            raise BarrierMisuse(f"mbarrier.init with a count of {count}")
        block = offset // self._shared.stride
        slot = self._slots.setdefault(block, 0)
        if slot >= MOST_MBARRIERS:
            raise BarrierMisuse(f"more than {MOST_MBARRIERS} mbarriers in a block")
        self._slots[block] = slot + 1
        races, warp = self.races, thread // 32
        born = 0 if races is None else races.now(warp)
        self.all[offset] = Mbarrier(slot, count, count, warp, born)

    def find(self, offset: int) -> Mbarrier:
        if offset not in self.all:
            raise BarrierMisuse(
                f"{self._shared.place(offset)} is used as an mbarrier before mbarrier.init "
                "(or after mbarrier.inval)"
            )
        return self.all[offset]

    def use(self, offset: int, warps: Array) -> Mbarrier:
        """The mbarrier, for `warps` that must have learnt of its initialisation."""
        one = self.find(offset)
        races = self.races
        if races is not None and not races.knows(warps, one.initialiser, one.born):
            raise Race(
                f"the mbarrier at {self._shared.place(offset)} is used by a "
                "warp that no barrier has told of its mbarrier.init"
            )
        return one

    def arrive(self, offset: int, warp: int, count: int, row: Array | None = None) -> int:
        """`warp` arrives `count` times; gives the number of the phase. `row`: what the
        arrival releases.
        """
        one = self.use(offset, np.array([warp]))
        phase = one.phase
        one.pending -= count
        if one.pending < 0:
            raise BarrierMisuse(
                f"the mbarrier at {self._shared.place(offset)} waits for {one.expected} arrivals "
                "and gets more"
            )
        if self.races is not None:
            row = self.races.release(warp) if row is None else row
            one.gathered = row if one.gathered is None else np.maximum(one.gathered, row)
        self._try_complete(offset, one)
        return phase

    def expect(self, offset: int, size: int) -> None:
        one = self.find(offset)
        one.bytes += size
        if abs(one.bytes) > MOST_BYTES:
            raise TransactionMismatch(
                f"an mbarrier expects {one.bytes} bytes: at most {MOST_BYTES}"
            )

    def launch(self, offset: int, warp: int) -> int:
        """A copy that will report to the mbarrier starts; gives the phase it belongs to."""
        one = self.use(offset, np.array([warp]))
        if not one.fenced:
            raise BarrierMisuse(
                "a copy uses an mbarrier that no fence.mbarrier_init (or fence.proxy.async) "
                "has made visible to it"
            )
        one.flying += 1
        return one.phase

    def complete(self, offset: int, size: int, phase: int) -> None:
        """A copy that started in `phase` has brought its bytes."""
        one = self.find(offset)
        if one.phase != phase:
            raise TransactionMismatch(
                f"{size} bytes come to the mbarrier at {self._shared.place(offset)} after its "
                "phase was over: expect_tx was told too few"
            )
        one.flying -= 1
        one.bytes -= size
        self._try_complete(offset, one)

    def _try_complete(self, offset: int, one: Mbarrier) -> None:
        if one.pending or one.bytes:
            return
        if one.flying:
            raise TransactionMismatch(
                f"the mbarrier at {self._shared.place(offset)} completes its phase while "
                f"{one.flying} copies are under way: expect_tx was told too few bytes"
            )
        one.phase += 1
        one.pending = one.expected
        self._publish(one)
        for threads in one.sleepers:
            self._wake(threads)
        one.sleepers.clear()

    def _publish(self, one: Mbarrier) -> None:
        races = self.races
        if races is None:
            return
        row = one.gathered if one.gathered is not None else np.zeros_like(races.known[0])
        row = row.copy()
        row[races.parties.mbarrier(one.slot)] = one.phase
        one.known = row if one.known is None else np.maximum(one.known, row)

    def acquire(self, one: Mbarrier, warps: Array) -> None:
        if self.races is not None and one.known is not None:
            self.races.acquire(warps, one.known)

    def check_end(self, flights: int) -> None:
        """At the end of all threads nothing may be outstanding."""
        for offset, one in self.all.items():
            if one.bytes and not flights:
                raise TransactionMismatch(
                    f"at the end the mbarrier at {self._shared.place(offset)} has "
                    + (
                        f"{one.bytes} bytes to come: expect_tx was told too many"
                        if one.bytes > 0
                        else f"{-one.bytes} bytes more than it was told to expect"
                    )
                )

    def describe(self) -> str:
        """Who waits for what, for the report of a standstill."""
        return "".join(
            f"; the mbarrier at {self._shared.place(offset)}, phase {one.phase}, waits for "
            f"{one.pending} arrivals and {one.bytes} bytes"
            for offset, one in self.all.items()
            if one.sleepers
        )

    def starves(self) -> bool:
        """Somebody sleeps at an mbarrier that lacks nothing but bytes."""
        return any(one.sleepers and one.bytes and not one.pending for one in self.all.values())

    def fence(self, warps: Array) -> None:
        """The threads of `warps` make the mbarriers that they initialised visible to
        the asynchronous engines.
        """
        for one in self.all.values():
            if not one.fenced and one.initialiser in warps:
                one.fenced = True
