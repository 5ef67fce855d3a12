"""Finds the steps of a loop that decide how often it runs, without the rest of what it computes.

    while going: going, x = step(x)                           counts the iterations
    while going: going, x = step(x); y = f(x); ys[i] = y      collects what they compute

What is only collected is not needed to find out how much of it there will be (loop_slices.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import Step
from bessemer.compiler.ir.walk_steps import alias_sources, root_of, sets_symbols, touched


def needed_steps(steps: Sequence[Step], wanted: Value) -> set[Step]:
    """The steps of a loop on which `wanted` depends, in this iteration or in a later one, and those
    that give values to sizes."""
    sources = alias_sources(steps)

    def roots(values: Sequence[Value]) -> set[Value]:
        return {root_of(value, sources) for value in values}

    kept: set[Step] = set()
    needed = roots([wanted])
    is_complete = False
    while not is_complete:
        is_complete = True
        for step in reversed(steps):
            reads, writes = touched(step)
            if step in kept or not (sets_symbols(step) or needed & roots(writes)):
                continue
            kept.add(step)
            needed |= roots(reads)
            is_complete = False
    return kept
