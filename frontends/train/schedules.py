"""Schedules: what the learning rate is multiplied with at each step, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """Always 1."""
    return lambda step: 1.0


def steps(every: int, factor: float = 0.1) -> Schedule:
    """Times `factor` after every so many steps."""
    return lambda step: factor ** (step // every)


def exponential(factor: float) -> Schedule:
    """Times `factor` after each step."""
    return lambda step: float(factor**step)


def cosine(total: int, lowest: float = 0.0) -> Schedule:
    """Half a cosine from 1 down to `lowest` at step `total` (Loshchilov & Hutter 2017)."""

    def rate(step: int) -> float:
        done = min(step, total) / total
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * done))

    return rate


def warm_up(count: int, then: Schedule | None = None) -> Schedule:
    """A straight line up to 1 over `count` steps, then another schedule from its beginning."""
    after = then or constant()
    return lambda step: (step + 1) / count if step < count else after(step - count)
