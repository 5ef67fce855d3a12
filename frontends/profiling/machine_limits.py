"""The limits of this machine for rooflines, measured: multiply-adds, and each level of memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bessemer.compiler.targets.machine import Target
from bessemer.frontends.profiling.bandwidth import Level, measure_levels, prepare_mover
from bessemer.frontends.profiling.peak import measure_peak, prepare_peak
from bessemer.frontends.profiling.traffic import Traffic


@dataclass(frozen=True)
class Limits:
    """What so many threads can do at most, per second: float32 operations, and bytes by level.
    They have a processor each.

    An instruction that adds several products to a sum starts as often as one that adds one does.
    """

    threads: int
    peak: float
    levels: tuple[Level, ...]

    def level(self, size: float) -> Level:
        """The nearest level that holds so many bytes, with room for as many others."""
        for level in self.levels:
            shared = level.number in (0, 3)
            if size / (1 if shared else self.threads) <= level.bytes / 2:
                return level
        return self.levels[-1]

    def floor(
        self, operations: float, traffic: Traffic, weights: float, products: int = 1
    ) -> float:
        """The seconds that a kernel takes at least: its arithmetic, so many `products` an
        instruction, or its bytes.

        A model with `weights` bytes of constants reads them from where all of them fit; what its
        kernels hand to each other comes from where one kernel's arrays fit.
        """
        own = traffic.moved - traffic.weights
        arrays, constants = self.level(own), self.level(max(weights, own))
        moving = traffic.weights / constants.read
        moving += (traffic.read - traffic.weights) / arrays.read + traffic.written / arrays.write
        return max(operations / (products * self.peak), moving)


def measure_limits(target: Target, threads: int) -> Limits:
    """Measures for about half a second; the target must be this machine. More threads than the
    process may use processors can do no more than so many."""
    threads = min(threads, len(os.sched_getaffinity(0)))
    peak, mover = prepare_peak(target), prepare_mover(target)
    levels = tuple(measure_levels(mover, threads))
    rate = max(measure_peak(peak, threads, 400_000) for _ in range(5))
    return Limits(threads, rate, levels)
