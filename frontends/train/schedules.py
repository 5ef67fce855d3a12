"""Schedules: the factor of the learning rate at each step, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable

from bessemer.compiler.errors import CompileError
from bessemer.frontends.given_sizes import is_number
from bessemer.frontends.settings import require_count, require_number

Schedule = Callable[[int], float]


def factor_at(schedule: Schedule, step: int) -> float:
    """What the learning rate is multiplied with; CompileError where the schedule gives nonsense."""
    factor = schedule(step)
    if not is_number(factor) or not 0 <= factor < math.inf:
        raise CompileError(f"The schedule gives {factor!r} for step {step}; numbers from 0 on fit.")
    return factor


def constant() -> Schedule:
    """Always 1."""
    return lambda step: 1.0


def steps(every: int, factor: float = 0.1) -> Schedule:
    """Times `factor` after every so many steps."""
    require_count("steps", "every", every, 1)
    require_number("steps", "factor", factor)
    return lambda step: factor ** (step // every)


def exponential(factor: float) -> Schedule:
    """Times `factor` after each step."""
    require_number("exponential", "factor", factor)
    return lambda step: float(factor**step)


def cosine(total: int, lowest: float = 0.0) -> Schedule:
    """Half a cosine from 1 down to `lowest` at step `total` (Loshchilov & Hutter 2017)."""
    require_count("cosine", "total", total, 1)
    require_number("cosine", "lowest", lowest)

    def rate(step: int) -> float:
        done = min(step, total) / total
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * done))

    return rate


def warm_up(count: int, then: Schedule | None = None) -> Schedule:
    """A straight line up to 1 over `count` steps, then another schedule from its beginning."""
    require_count("warm_up", "count", count, 0)
    after = then or constant()
    return lambda step: (step + 1) / count if step < count else after(step - count)
