"""What the asynchronous engines of a machine have under way, besides the copies that
mbarriers count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from emulator.state.arrays import Array
from emulator.state.races import Races
from emulator.state.shared_memory import SharedMemory


@dataclass
class CopyBatch:
    """The cp.async of one instruction: for each thread the number of its group, where
    to, and the words.
    """

    threads: Array
    groups: Array
    offsets: Array
    words: list[Array]
    size: int
    landed: Array


class AsyncCopies:
    """cp.async: every thread has its own groups. `committed` counts them; `known` those
    that were waited for.
    """

    def __init__(
        self, threads: int, shared: SharedMemory, lands_at_once: Callable[[], bool]
    ) -> None:
        self._threads, self._shared, self._lands_at_once = threads, shared, lands_at_once
        self.races: Races | None = None
        self.committed = np.zeros(threads, np.int64)
        self.waited = np.zeros(threads, np.int64)
        self.issued = np.zeros(threads, np.bool_)
        self.batches: list[CopyBatch] = []

    def add(self, batch: CopyBatch) -> None:
        self.issued[batch.threads] = True
        if self._lands_at_once():
            self._land(batch, np.ones(len(batch.threads), np.bool_))
        else:
            self.batches.append(batch)

    def _land(self, batch: CopyBatch, which: Array) -> None:
        which = which & ~batch.landed
        if which.any():
            words = [word[which] for word in batch.words]
            self._shared.store(batch.offsets[which], words, batch.size)
            batch.landed |= which

    def finish(self, threads: Array, groups: Array) -> None:
        """The groups below `groups` of `threads` are over."""
        limit = np.zeros(self._threads, np.int64)
        limit[threads] = groups
        for batch in self.batches:
            self._land(batch, batch.groups < limit[batch.threads])
        self.batches = [batch for batch in self.batches if not batch.landed.all()]
        self.waited[threads] = np.maximum(self.waited[threads], groups)
        races = self.races
        if races is not None:
            warps = np.unique(threads // 32)
            # A warp knows what the last of its lanes that copy knows.
            rows = np.where(self.issued, self.waited, np.iinfo(np.int32).max).reshape(-1, 32)
            least = rows.min(axis=1)[warps]
            known = np.where(least == np.iinfo(np.int32).max, 0, least)
            races.learn(warps, races.parties.copy(warps), known)


@dataclass
class Product:
    """A wgmma on its way."""

    number: int
    perform: Callable[[], None]
    registers: frozenset[int]


@dataclass
class Warpgroup:
    """The wgmma of one warpgroup: not committed, committed in groups, and how many were
    issued in all.
    """

    open: list[Product] = field(default_factory=list)
    groups: list[list[Product]] = field(default_factory=list)
    issued: int = 0


@dataclass
class BulkStore:
    """Reads shared memory at some time before wait_group.read, and writes before wait_group."""

    fetch: Callable[[], Array]
    put: Callable[[Array], None]
    content: Array | None = None
    done: bool = False

    def read(self) -> None:
        if self.content is None:
            self.content = self.fetch()

    def write(self) -> None:
        self.read()
        if not self.done and self.content is not None:
            self.done = True
            self.put(self.content)


@dataclass
class BulkStores:
    """The bulk stores of one thread: those of the open group, and the groups committed, each with
    the number of its last store; `unwritten` are groups that have only been read.
    """

    open: list[BulkStore] = field(default_factory=list)
    groups: list[tuple[int, list[BulkStore]]] = field(default_factory=list)
    unwritten: list[list[BulkStore]] = field(default_factory=list)

    @property
    def unread(self) -> bool:
        """Whether there are stores that nobody has waited for."""
        return bool(self.open) or any(group for _, group in self.groups)
