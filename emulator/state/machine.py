"""The state of some blocks (CTAs) that run side by side: registers, memories, who waits
for what.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from emulator.errors import UnfinishedRead
from emulator.language.layout import SharedLayout
from emulator.language.syntax import Kernel
from emulator.schedule import Schedule
from emulator.state.arrays import UNSIGNED, Array
from emulator.state.async_state import AsyncCopies, BulkStores, Warpgroup
from emulator.state.device_memory import DeviceMemory
from emulator.state.mbarrier_state import Mbarriers
from emulator.state.memory import ALLOCATED, WRITTEN, Memory
from emulator.state.races import Races
from emulator.state.shared_memory import SharedMemory

Triple = tuple[int, int, int]


class Lanes:
    """Some threads of the machine: their numbers in rising order, and how to index a
    register by them.
    """

    __slots__ = ("count", "index", "where")

    def __init__(self, index: Array) -> None:
        self.index = index
        self.count = len(index)
        first = int(index[0]) if self.count else 0
        together = self.count > 0 and int(index[-1]) - first + 1 == self.count
        self.where: slice | Array = slice(first, first + self.count) if together else index


@dataclass(frozen=True)
class LaunchShape:
    """`parameters` are the bytes of the kernel's parameter space."""

    grid: Triple
    block: Triple
    dynamic_shared: int
    parameters: bytes

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]


@dataclass
class Flight:
    """An asynchronous operation on its way; `land` makes it happen."""

    name: str
    land: Callable[[], None]


@dataclass
class NamedBarrier:
    """One of the sixteen barriers of a block: who has come, who sleeps, how many warps
    it waits for.
    """

    warps: int = 0
    expected: int = 0
    sleepers: list[Array] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    votes: list[Array] = field(default_factory=list)
    tell: Callable[[Machine, NamedBarrier], None] | None = None


class Machine:
    """`blocks` are the numbers, in the grid, of the CTAs that run here; threads are
    padded to whole warps.
    """

    def __init__(
        self,
        kernel: Kernel,
        shape: LaunchShape,
        blocks: Array,
        memory: DeviceMemory,
        symbols: dict[str, int],
        layout: SharedLayout,
        local_bytes: int,
        schedule: Schedule,
    ) -> None:
        self.kernel = kernel
        self.shape = shape
        self.memory = memory
        self.schedule = schedule
        self.random = np.random.default_rng(schedule.seed or 0)
        self.symbols = symbols
        self.blocks = len(blocks)
        self.block_threads = -(-shape.threads // 32) * 32
        self.threads = self.blocks * self.block_threads
        self.block_warps = self.block_threads // 32
        self._name_threads(blocks)
        self._make_registers(kernel)
        self.shared = SharedMemory(self.blocks, layout)
        self.local_stride = -(-local_bytes // 16) * 16
        self.local = Memory(self.threads * self.local_stride, "local address")
        self.local.state[:] = ALLOCATED
        self.parameters = Memory(len(shape.parameters), "parameter offset")
        self.parameters.data[: len(shape.parameters)] = np.frombuffer(shape.parameters, np.uint8)
        self.parameters.state[: len(shape.parameters)] = WRITTEN
        self.races: Races | None = None
        self.flights: list[Flight] = []
        self.barriers: dict[tuple[int, int], NamedBarrier] = {}
        self.carry = np.zeros(self.threads, np.bool_)
        self.mbarriers = Mbarriers(self.shared, self.wake)
        self.copies = AsyncCopies(self.threads, self.shared, self.lands_at_once)
        self.bulk_stores: dict[int, BulkStores] = {}
        self.stores_issued: dict[int, int] = {}
        self.warpgroups: dict[int, Warpgroup] = {}
        # Registers that a wgmma under way uses, and those written since the last wgmma.fence: by
        # thread.
        self.pending: dict[int, Array] = {}
        self.unfenced: dict[int, Array] = {}

    def watch(self, races: Races) -> None:
        """From now on `races` sees all accesses to shared memory, and what orders them."""
        self.races = self.mbarriers.races = self.copies.races = races

    def _name_threads(self, blocks: Array) -> None:
        each = np.arange(self.block_threads, dtype=np.int64)
        thread = np.tile(each, self.blocks)
        number = np.repeat(blocks, self.block_threads)
        self.block = np.repeat(np.arange(self.blocks, dtype=np.int64), self.block_threads)
        self.thread = thread
        self.lane = thread % 32
        self.warp = np.arange(self.threads, dtype=np.int64) // 32
        self.exists = thread < self.shape.threads
        self.done = ~self.exists
        self.blocked = np.zeros(self.threads, np.bool_)
        self.pc = np.zeros(self.threads, np.int64)
        self.woken = False
        # Instructions, counted for every thread.
        self.executed = 0
        self.jumps = 0
        self.spins = False
        # How often threads asked in vain whether something is over, since the last landing.
        self.restless = 0
        self.again: Array | None = None
        self.parked: dict[int, Array] = {}
        self.specials = self._special_registers(thread, number)

    def _special_registers(self, thread: Array, number: Array) -> dict[str, Array]:
        found: dict[str, Array] = {
            "laneid": self.lane,
            "warpid": thread // 32,
            "nwarpid": np.full_like(thread, self.block_warps),
            "smid": number % 132,
            "nsmid": np.full_like(thread, 132),
            "gridid": np.zeros_like(thread),
            "dynamic_smem_size": np.full_like(thread, self.shape.dynamic_shared),
            "lanemask_eq": 1 << self.lane,
            "lanemask_lt": (1 << self.lane) - 1,
            "lanemask_le": (2 << self.lane) - 1,
            "lanemask_gt": 0xFFFFFFFF & ~((2 << self.lane) - 1),
            "lanemask_ge": 0xFFFFFFFF & ~((1 << self.lane) - 1),
        }
        x, y, z = (self._coordinate(thread, self.shape.block, axis) for axis in range(3))
        bx, by, bz = (self._coordinate(number, self.shape.grid, axis) for axis in range(3))
        for axis, own, block in zip("xyz", (x, y, z), (bx, by, bz)):
            place = "xyz".index(axis)
            found[f"tid.{axis}"] = own
            found[f"ctaid.{axis}"] = block
            found[f"ntid.{axis}"] = np.full_like(thread, self.shape.block[place])
            found[f"nctaid.{axis}"] = np.full_like(thread, self.shape.grid[place])
        return {name: values.astype(np.uint32) for name, values in found.items()}

    @staticmethod
    def _coordinate(number: Array, extents: Triple, axis: int) -> Array:
        before = extents[0] if axis == 1 else extents[0] * extents[1] if axis == 2 else 1
        result: Array = number // before % extents[axis]
        return result

    def _make_registers(self, kernel: Kernel) -> None:
        self.registers: list[Array] = []
        for width in kernel.register_widths:
            register = np.zeros(self.threads, UNSIGNED[width])
            if width > 1:
                # A register that nothing wrote must not look like a good zero.
                register[:] = UNSIGNED[width].type(0xA5A5A5A5FFC0BAD1 & ((1 << width) - 1))
            self.registers.append(register)

    def wake(self, threads: Array) -> None:
        self.blocked[threads] = False
        self.woken = True

    def describe_waits(self) -> str:
        """The barriers that some wait at, for the report of a standstill."""
        named = "".join(
            (
                f"; barrier {key[1]} of block {key[0]} has {32 * one.warps} of {32 * one.expected} "
                f"threads"
            )
            for key, one in self.barriers.items()
        )
        return named + self.mbarriers.describe()

    def check_end(self) -> None:
        """All threads have ended: nothing asynchronous may be left that they should
        have waited for.
        """
        if self.flights:
            raise UnfinishedRead(f"all threads have ended, but {self.flights[0].name} is under way")
        self.mbarriers.check_end(len(self.flights))
        if self.pending:
            raise UnfinishedRead("all threads have ended, but a wgmma was never waited for")
        for stores in self.bulk_stores.values():
            for store in (one for group in stores.unwritten for one in group):
                store.write()
        if any(stores.unread for stores in self.bulk_stores.values()):
            raise UnfinishedRead("all threads have ended, but a bulk store was never waited for")

    def start_flight(self, name: str, land: Callable[[], None]) -> None:
        """An asynchronous operation begins: it happens now or later, as the schedule says."""
        if self.lands_at_once():
            land()
        else:
            self.flights.append(Flight(name, land))

    def lands_at_once(self) -> bool:
        """Whether an asynchronous operation that begins is over at once."""
        when = self.schedule.async_
        return when == "early" or (when == "mixed" and bool(self.random.random() < 0.5))

    def land_one(self) -> None:
        """Any operation under way may be the next to finish."""
        place = 0
        if self.schedule.seed is not None:
            place = int(self.random.integers(len(self.flights)))
        self.flights.pop(place).land()
