"""Finds the outputs of data-dependent size that a run may write directly into the caller's memory.

Before the run their sizes are not known, so the memory plan has a place in the arena for each. A
caller who expects them to be about as large as in the run before can offer memory for them (`rooms`
of the context), and then need not copy them.
"""

from __future__ import annotations

from bessemer.compiler.codegen.kernels.set_symbols import set_by_steps
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import Branch, MemoryPlan, Program, Repeat
from bessemer.compiler.ir.walk_steps import touched


def data_dependent_outputs(program: Program, plan: MemoryPlan) -> dict[Value, int]:
    """The number of each such output, by the value in whose memory it lies. All values that share
    that memory have the same size, and neither they nor their sizes are set in a loop or a branch,
    where sizes may change."""
    members: dict[Value, list[Value]] = {}
    for value, root in plan.aliases.items():
        members.setdefault(root, []).append(value)
    regions = [step for step in program.steps if isinstance(step, (Branch, Repeat))]
    used = {value for step in regions for values in touched(step) for value in values}
    inside = {plan.aliases.get(value, value) for value in used}
    changing = set_by_steps(regions)
    found: dict[Value, int] = {}
    for number, output in enumerate(program.outputs):
        root = plan.aliases.get(output, output)
        size = program.expanded(output.type.nbytes)
        if root not in plan.offsets or root in inside or dims.symbol_names(size) & changing:
            continue
        shared = [root, *members.get(root, ())]
        alike = all(value.type.nbytes == output.type.nbytes for value in shared)
        if alike and program.capacities.keys().isdisjoint(shared):
            found.setdefault(root, number)
    return found
