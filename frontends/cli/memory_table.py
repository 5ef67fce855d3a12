"""The memory plan of a training step as a table."""

from __future__ import annotations

from dataclasses import asdict

from bessemer.frontends.cli.output import format_bytes, print_json, print_table, write
from bessemer.frontends.train.memory_plan import MemoryPlan


def show_plan(plan: MemoryPlan, as_json: bool = False) -> None:
    """Bytes that each layer's values keep from the forward to the backward half, and those that
    are computed again in place of that; then what the step takes in all."""
    if as_json:
        print_json(asdict(plan))
        return
    kept, again = dict(plan.kept), dict(plan.again)
    rows = [
        [name, *(format_bytes(part[name]) if name in part else "" for part in (kept, again))]
        for name in dict.fromkeys((*kept, *again))
    ]
    rows.append(["all", *(format_bytes(sum(part.values())) for part in (kept, again))])
    print_table(("layer", "kept", "computed again"), rows, right="lrr")
    gap = plan.arena / plan.lower_bound - 1 if plan.lower_bound else 0.0
    arena = f"arena        {format_bytes(plan.arena)}, {gap:.1%} above the lower bound"
    if again:
        arena += f", about {format_bytes(plan.arena_before)} if nothing were computed again"
    write(arena)
    write(f"operations   +{plan.extra:.1%}")
    write(f"state        {format_bytes(plan.state)}, {format_bytes(plan.in_place)} of it in place")
