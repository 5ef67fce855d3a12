"""Finds accesses of shared memory that no synchronisation puts in order, by vector clocks.

Every warp has a clock that moves on when the warp releases (arrives at a barrier, an mbarrier ...).
`known[u, e]` is the last tick of party e of which warp u has learnt. An access of party e at tick c
comes before what warp u does now if known[u, e] >= c. Parties beside the warps: the wgmma
operations of a warpgroup and the bulk stores of a warp (they read shared memory, and are numbered),
the cp.async groups of a warp and the phases of the mbarriers (by which copies into shared memory
become known). The verdict does not depend on the order that this run happened to take.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emulator.errors import Race
from emulator.state.arrays import Array

MOST_MBARRIERS = 64


@dataclass(frozen=True)
class Parties:
    """How many parties of each kind a block has, and their columns in `known`. The
    first `readers` may read.
    """

    warps: int
    warpgroups: int
    storers: int
    copiers: int
    mbarriers: int

    @property
    def readers(self) -> int:
        return self.warps + self.warpgroups + self.storers

    @property
    def all(self) -> int:
        return self.readers + self.copiers + self.mbarriers

    def wgmma(self, warp: Array | int) -> Array | int:
        return self.warps + warp % self.warps // 4

    def store(self, warp: Array | int) -> Array | int:
        return self.warps + self.warpgroups + warp % self.warps

    def copy(self, warp: Array | int) -> Array | int:
        return self.readers + warp % self.warps

    def mbarrier(self, slot: int) -> int:
        return self.readers + self.copiers + slot

    def name(self, party: int) -> str:
        if party < self.warps:
            return f"warp {party}"
        if party < self.warps + self.warpgroups:
            return f"a wgmma of warpgroup {party - self.warps}"
        if party < self.readers:
            return f"a bulk store of warp {party - self.warps - self.warpgroups}"
        if party < self.readers + self.copiers:
            return f"a cp.async of warp {party - self.readers}"
        return "a bulk copy that completes on an mbarrier"


class Races:
    """`granule`: bytes that are watched together; no store of the kernel may be narrower.

    Offsets count over all blocks' shared memories; warps are numbered over the whole machine.
    """

    def __init__(self, parties: Parties, warps: int, shared_bytes: int, granule: int) -> None:
        self.parties = parties
        self.granule = granule
        granules = shared_bytes // granule
        self.known = np.zeros((warps, parties.all), np.int32)
        self._rows = np.arange(warps)
        self._own = self._rows % parties.warps
        self.known[self._rows, self._own] = 1
        self._fenced = np.zeros_like(self.known)
        self._write_party = np.zeros(granules, np.int16)
        self._write_clock = np.zeros(granules, np.int32)
        self._write_lane = np.zeros(granules, np.int16)
        self._write_atomic = np.zeros(granules, np.bool_)
        self._read_clock = np.zeros((granules, parties.readers), np.int32)

    def _granules(self, offsets: Array, size: int) -> Array:
        """The granules of `size` bytes from every offset: one row an offset."""
        first = offsets // self.granule
        count = max(1, size // self.granule)
        if count == 1:
            return first[:, None]
        result: Array = first[:, None] + np.arange(count)
        return result

    def read(self, warps: Array, lanes: Array, offsets: Array, size: int) -> None:
        """Threads (warp, lane) read `size` bytes at `offsets`."""
        places = self._granules(offsets, size)
        self._check_writes(places, warps, lanes, "read")
        own = self.known[warps, self._own[warps]]
        self._read_clock[places, self._own[warps][:, None]] = own[:, None]

    def write(
        self, warps: Array, lanes: Array, offsets: Array, size: int, atomic: bool = False
    ) -> None:
        """Threads (warp, lane) write; atomic accesses are in order among themselves."""
        places = self._granules(offsets, size)
        what = "atomic access" if atomic else "write"
        self._check_writes(places, warps, lanes, what, atomic)
        self._check_reads(places, warps, what)
        self._stamp(places, self._own[warps], self.known[warps, self._own[warps]], lanes)
        self._write_atomic[places] = atomic
        if not atomic and (self._write_party[places] != self._own[warps][:, None]).any():
            wrong = np.argwhere(self._write_party[places] != self._own[warps][:, None])[0]
            self._report(int(places[tuple(wrong)]), "write", "write", "another warp")

    def start_read(self, warp: int, party: int, number: int, offsets: Array) -> None:
        """An asynchronous operation of `warp`, the `number`th of its party, will read from
        `offsets`. They name every granule once, by any of its bytes.
        """
        places = offsets.reshape(-1, 1) // self.granule
        self._check_writes(places, np.full(len(places), warp), None, self.parties.name(party))
        self._check_fences(places[:, 0], warp, self.parties.name(party))
        self._read_clock[places[:, 0], party] = number

    def start_write(self, warp: int, party: int, number: int, offsets: Array) -> None:
        """A copy that `warp` issues will write; it is over for those who know `number`
        of `party`.
        """
        places = offsets.reshape(-1, 1) // self.granule
        warps = np.full(len(places), warp)
        name = self.parties.name(party)
        self._check_writes(places, warps, None, name)
        self._check_reads(places, warps, name)
        self._stamp(places, np.full(len(places), party), np.full(len(places), number), None)

    def start_writes(
        self, warps: Array, parties: Array, numbers: Array, offsets: Array, size: int
    ) -> None:
        """As `start_write`, for one copy of `size` bytes a thread."""
        places = self._granules(offsets, size)
        self._check_writes(places, warps, None, "a cp.async")
        self._check_reads(places, warps, "a cp.async")
        self._stamp(places, parties, numbers, None)

    def _stamp(self, places: Array, parties: Array, clocks: Array, lanes: Array | None) -> None:
        self._write_party[places] = parties[:, None]
        self._write_clock[places] = clocks[:, None]
        self._write_lane[places] = -1 if lanes is None else lanes[:, None]
        self._write_atomic[places] = False

    def _check_writes(
        self, places: Array, warps: Array, lanes: Array | None, what: str, atomic: bool = False
    ) -> None:
        party, clock = self._write_party[places], self._write_clock[places]
        wrong = clock > self.known[warps[:, None], party]
        if lanes is not None:
            own = self._own[warps][:, None]
            # Lanes of one warp are in order only through bar.warp.sync or a barrier.
            same = (party == own) & (clock == self.known[warps, self._own[warps]][:, None])
            wrong |= same & (self._write_lane[places] != lanes[:, None])
        if atomic:
            wrong &= ~self._write_atomic[places]
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0])
            self._report(int(places[place]), what, "write", self.parties.name(int(party[place])))

    def _check_reads(self, places: Array, warps: Array, what: str) -> None:
        readers = self.parties.readers
        wrong = self._read_clock[places] > self.known[warps, :readers][:, None, :]
        if wrong.any():
            row, column, party = np.argwhere(wrong)[0]
            self._report(int(places[row, column]), what, "read", self.parties.name(int(party)))

    def _report(self, granule: int, what: str, before: str, who: str) -> None:
        raise Race(
            f"shared memory race: {what} of byte {granule * self.granule:#x} (over all blocks) "
            f"is not in order with a {before} by {who}"
        )

    def now(self, warp: int) -> int:
        """The warp's tick."""
        return int(self.known[warp, self._own[warp]])

    def knows(self, warps: Array, other: int, tick: int) -> bool:
        """Whether all `warps` have learnt of what `other`, of their block, did at `tick`."""
        return bool((self.known[warps, self._own[other]] >= tick).all())

    def fence(self, warps: Array) -> None:
        """fence.proxy.async: what `warps` wrote or have learnt of is there for the
        asynchronous engines.
        """
        self._fenced[warps] = self.known[warps]

    def _check_fences(self, places: Array, warp: int, who: str) -> None:
        """What threads wrote, or brought by cp.async, needs a fence by their warp, or by this one
        after it has learnt of it.
        """
        party, clock = self._write_party[places], self._write_clock[places]
        parties = self.parties
        is_copy = (party >= parties.readers) & (party < parties.readers + parties.copiers)
        ordinary = ((party < parties.warps) | is_copy) & (clock > 0)
        writer = warp - self._own[warp] + np.where(is_copy, party - parties.readers, party)
        by_writer = self._fenced[np.where(ordinary, writer, warp), party] >= clock
        missing = ordinary & ~by_writer & (self._fenced[warp, party] < clock)
        if missing.any():
            place = int(places[np.argmax(missing)])
            raise Race(
                f"{who} reads byte {place * self.granule:#x} (over all blocks), which was "
                "written by a thread without a fence.proxy.async after it"
            )

    def _tick(self, warps: Array) -> None:
        self.known[warps, self._own[warps]] += 1

    def meet(self, warps: Array) -> None:
        """All `warps`, shaped (groups, members), meet at barriers, each group at its own."""
        joined = self.known[warps].max(axis=1, keepdims=True)
        self.known[warps] = joined
        self._tick(warps.reshape(-1))

    def join(self, arrived: Array, waiting: Array) -> None:
        """`arrived` warps release and `waiting` ones acquire at one barrier."""
        joined = self.known[arrived].max(axis=0)
        self.known[waiting] = np.maximum(self.known[waiting], joined)
        self._tick(np.unique(np.concatenate([arrived, waiting])))

    def release(self, warp: int) -> Array:
        """What `warp` knows now, for whoever acquires it."""
        row: Array = self.known[warp].copy()
        self._tick(np.array([warp]))
        return row

    def acquire(self, warps: Array, row: Array) -> None:
        self.known[warps] = np.maximum(self.known[warps], row)
        self._tick(warps)

    def learn(self, warps: Array, parties: Array | int, numbers: Array | int) -> None:
        """`warps` (all different) waited until `numbers` of `parties` were over."""
        self.known[warps, parties] = np.maximum(self.known[warps, parties], numbers)

    def sync_lanes(self, warps: Array) -> None:
        """The lanes of `warps` (all different) meet."""
        self._tick(warps)
