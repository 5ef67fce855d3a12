"""Runs the compiler as far as the step that `inspect` shows."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from bessemer.compiler.codegen.kernels.parameterize_constants import parameterize_constants
from bessemer.compiler.driver import processor_of
from bessemer.compiler.fit_memory import fit_memory
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.program import MemoryPlan, Program
from bessemer.compiler.options import Options
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.targets.machine import Target

INPUT = "input"
"""What names the graph before the first pass."""


@dataclass(frozen=True, eq=False)
class Scheduled:
    """A model just before code generation."""

    graph: Graph
    program: Program
    plan: MemoryPlan
    target: Target


def graph_after(graph: Graph, options: Options, name: str = "") -> Graph:
    """The graph after the last run of the pass of this name (all of them if there is no name).

    "fold_constants:1" means its first run. A usage error for an unknown name.
    """
    steps = passes_of(options, processor_of(options))
    names = [step.__name__ for step in steps]
    for step in steps[: _count(names, name)]:
        graph = step(graph)
    return graph


def _count(names: list[str], name: str) -> int:
    """How many steps to run so that the one named is the last."""
    if not name:
        return len(names)
    if name == INPUT:
        return 0
    word, _, number = name.partition(":")
    places = [place for place, found in enumerate(names, 1) if found == word]
    wanted = int(number) - 1 if number.isdecimal() else -1
    if not places or wanted >= len(places):
        known = ", ".join([INPUT, *dict.fromkeys(names)])
        raise typer.BadParameter(f"--after {name!r}: the passes are {known}.")
    return places[wanted]


def schedule(graph: Graph, options: Options) -> Scheduled:
    """All stages up to the memory plan. Raises CompileError for what cannot be compiled."""
    target = processor_of(options)
    graph = graph_after(graph, options)
    found = fit_memory(graph, options, target)
    (program,) = parameterize_constants([found.program])
    return Scheduled(found.graph, program, found.plan, target)
