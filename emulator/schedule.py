"""Which of the many legal orders a run takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """One legal order of blocks, warps and asynchronous engines.

    `seed` None: the threads that are furthest behind go first; else warps go in a random order.
    `async_` says when copies and wgmma take effect: when issued, at the latest moment that their
    waits allow, or each by chance. `races` checks the order of accesses to shared memory (by vector
    clocks, so one run per kernel finds what any order could: the other runs may leave it out).
    `ctas` is how many blocks run side by side (None: as many as keep the arrays short).
    """

    seed: int | None = None
    async_: Literal["early", "late", "mixed"] = "early"
    races: bool = True
    ctas: int | None = None


FOUR_SCHEDULES = (
    Schedule(),
    Schedule(async_="late"),
    Schedule(seed=1, async_="late"),
    Schedule(seed=2, async_="mixed"),
)
"""What a kernel must bear before it is called tested."""
