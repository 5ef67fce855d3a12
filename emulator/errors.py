"""What the emulator finds wrong with a kernel: one class for every kind of fault."""

from __future__ import annotations


class EmulationError(Exception):
    """A kernel did what no GPU promises to bear, or what the emulator does not know."""


class PtxSyntaxError(EmulationError):
    """The text is not PTX that the parser reads."""


class UnsupportedInstruction(EmulationError):
    """An instruction, or a form of it, that the emulator does not have."""


class OutOfBounds(EmulationError):
    """An access outside of every allocation, of the block's shared memory or of the
    thread's local memory.
    """


class Misaligned(EmulationError):
    """An address that is not a multiple of the access's size or of what the instruction demands."""


class Uninitialised(EmulationError):
    """A read of memory that nothing wrote."""


class Race(EmulationError):
    """Two accesses of shared memory, one of them a write, that no barrier puts in order."""


class UnfinishedRead(EmulationError):
    """The result of an asynchronous operation was touched before its wait."""


class DivergentCollective(EmulationError):
    """An instruction for whole warps or warpgroups that some of the threads never reach."""


class BarrierMisuse(EmulationError):
    """A barrier that is used before its initialisation, arrived at too often, or given
    unlike counts.
    """


class TransactionMismatch(EmulationError):
    """An mbarrier that was told to expect other bytes than came."""


class Deadlock(EmulationError):
    """All threads wait, and nothing is under way that could wake one."""


class BadTensorMap(EmulationError):
    """A tensor map whose fields break the rules of cuTensorMapEncode, or bytes that are
    no tensor map.
    """


class BadLaunch(EmulationError):
    """A launch that the driver would refuse."""
