"""From a graph to a program and its memory plan, within a budget of bytes if one is given.

Rematerialization (schedule/memory/recompute.py) works with an estimate of the arena's size; only
the memory plan gives the exact size. If the arena comes out larger than the budget,
rematerialization is asked again, for a smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Size, symbol_names
from bessemer.compiler.ir.evaluate import define, evaluate_named
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.program import MemoryPlan, Program
from bessemer.compiler.memory_plan.plan_memory import plan_memory
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.chain_launches import chain_launches
from bessemer.compiler.schedule.in_place_updates import with_updates
from bessemer.compiler.schedule.memory.recompute import Planner, Recomputation
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.machine import Target

TYPICAL = 64
"""The assumed value of a symbol without a hint."""
TRIES = 5
"""How often rematerialization is asked for less, each time with the schedule of the whole graph."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A program with its plan. `choice` says what is computed again, for a training step or a
    budget."""

    graph: Graph
    program: Program
    plan: MemoryPlan
    choice: Recomputation | None = None


def fit_memory(graph: Graph, options: Options, target: Target) -> Fitted:
    """The program and its plan, with `options.memory` as the most bytes of the arena.

    Raises CompileError, with the smallest that was found, where that is too little.
    """
    sizes = dict(options.sizes)
    if options.memory and (unknown := [name for name in graph.symbols if name not in sizes]):
        raise CompileError(
            f"memory={options.memory} wants a number for {', '.join(unknown)}: "
            f"give sizes={{{unknown[0]!r}: ...}}, or --at {unknown[0]}=... on the command line."
        )
    if options.optimize < 2 or not (options.memory or graph.updates):
        return _built(graph, None, options, target)

    def count(size: Size) -> int:
        return _number(size, sizes)

    planner = Planner(graph, count)
    if not options.memory:
        choice = planner.plan(None)
        return _built(choice.graph, choice, options, target)
    return _within(planner, options, target, sizes)


def _within(planner: Planner, options: Options, target: Target, sizes: Mapping[str, int]) -> Fitted:
    wanted = options.memory
    least: int | None = None
    for _ in range(TRIES):
        choice = planner.plan(wanted)
        found = _built(choice.graph, choice, options, target)
        _require_known(found, options.memory, sizes)
        arena = found.plan.arena_bytes(found.program, sizes)
        if arena <= options.memory:
            return found
        is_best = least is None or arena < least
        least = arena if least is None else min(arena, least)
        if choice.peak > wanted and not is_best:
            break
        wanted = min(wanted, choice.peak) * options.memory // arena
    # Far below the least budget, a plan may take more than the one without a budget does.
    choice = planner.plan(None)
    free = _built(choice.graph, choice, options, target)
    arena = free.plan.arena_bytes(free.program, sizes)
    least = arena if least is None else min(arena, least)
    raise CompileError(
        f"memory={options.memory} is too little: the smallest plan found takes {least} bytes. A "
        f"smaller batch needs less, in proportion."
    )


def _require_known(found: Fitted, memory: int, sizes: Mapping[str, int]) -> None:
    """Raises CompileError where the arena's size depends on what the data decides."""
    names = define(sizes, {**found.program.derived, **found.plan.definitions})
    if unknown := sorted(symbol_names(found.plan.size) - names.keys()):
        raise CompileError(
            f"memory={memory} cannot be kept: the arena's size depends on {', '.join(unknown)}, "
            f"which the data decides during the run. Compile without memory."
        )


def _built(graph: Graph, choice: Recomputation | None, options: Options, target: Target) -> Fitted:
    graph = with_updates(graph)
    program = build_program(graph, target, options.optimize, options.precision, options.tuning)
    if options.optimize == 2 and not options.profile:
        program = chain_launches(program, target)
    return Fitted(graph, program, plan_memory(program), choice)


def _number(size: Size, sizes: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    return evaluate_named(size, {name: sizes.get(name, TYPICAL) for name in symbol_names(size)})
