"""A program as text and as rows: what is launched in which order, for which of the user's nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bessemer.compiler.ir.dims import Size, symbol_names
from bessemer.compiler.ir.evaluate import define, evaluate_named
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import (
    Alias,
    BindDims,
    Branch,
    Chain,
    Copy,
    Launch,
    MemoryPlan,
    Program,
    Repeat,
    RequireFinite,
    Steps,
)


def launches(steps: Steps, depth: int = 0) -> Iterator[tuple[int, Launch]]:
    """Every launch, with how many branches and loops it is inside of."""
    for step in steps:
        match step:
            case Launch():
                yield depth, step
            case Chain():
                yield from launches(step.launches, depth + 1)
            case Branch():
                yield from launches(step.then, depth + 1)
                yield from launches(step.otherwise, depth + 1)
            case Repeat():
                yield from launches(step.body, depth + 1)
            case _:
                pass


def group_rows(program: Program) -> list[dict[str, Any]]:
    """A row for every launch: its kernel, what it writes, and where it comes from."""
    return [
        {
            "number": number,
            "kernel": launch.kernel.name,
            "depth": depth,
            "writes": [str(value.type) for value in written(launch)],
            "parallel": str(launch.kernel.parallel_extent),
            "operations": str(launch.kernel.operations),
            "sources": list(launch.sources),
        }
        for number, (depth, launch) in enumerate(launches(program.steps))
    ]


def written(launch: Launch) -> tuple[Value, ...]:
    """The values that a launch writes, without its scratch."""
    outputs = launch.values[len(launch.values) - launch.kernel.outputs :]
    return tuple(value for value in outputs if value not in launch.scratch)


def memory_summary(program: Program, plan: MemoryPlan, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The memory plan in bytes. Where it depends on symbols, their values are taken from `sizes`;
    without all of them only the formulas are there."""
    summary: dict[str, Any] = {
        "arena": "computed in the run" if plan.definitions else str(plan.size),
        "lower_bound": str(plan.lower_bound),
        "weights_bytes": plan.weights_size,
        "values": len(plan.offsets),
    }
    needed = symbol_names(program.expanded(plan.size)) - plan.definitions.keys()
    needed |= symbol_names(program.expanded(plan.lower_bound))
    needed |= set(program.symbols[: program.input_symbols] if plan.definitions else ())
    if needed <= set(sizes):
        arena = plan.arena_bytes(program, sizes)
        bound = evaluate_named(plan.lower_bound, define(sizes, program.derived))
        summary |= {"arena_bytes": arena, "lower_bound_bytes": bound}
        summary["gap"] = (arena - bound) / bound if bound else 0.0
        summary["at"] = {name: sizes[name] for name in sorted(needed)}
    return summary


def place_rows(plan: MemoryPlan) -> list[dict[str, Any]]:
    """A row for every value in the arena, by its offset where that is a number."""
    rows = [
        {
            "offset": offset if isinstance(offset, int) else str(offset),
            "bytes": _plain(value.type.nbytes),
            "type": str(value.type),
            "name": value.name,
            "shares": value in plan.aliases,
        }
        for value, offset in plan.offsets.items()
    ]
    return sorted(rows, key=lambda row: (isinstance(row["offset"], str), row["offset"]))


def _plain(size: Size) -> int | str:
    return size if isinstance(size, int) else str(size)


def print_program(program: Program, plan: MemoryPlan) -> str:
    """The steps as text: one line each, values by where they lie.

    w4096 is a weight and a4096 a place in the arena, in bytes from its start; inputs and outputs
    have their names. In the end, which outputs are written where inputs are, and which of them are
    made elsewhere and copied, as no order of the steps would do.
    """
    places = {value: f"w{offset}" for value, offset in plan.weight_offsets.items()}
    places |= {value: f"a{offset}" for value, offset in plan.offsets.items()}
    places |= {value: repr(value.name) for value in program.inputs}
    outputs = zip(program.outputs, program.output_names, strict=True)
    places |= {value: repr(name) for value, name in outputs}
    places |= {value: places[root] for value, root in plan.aliases.items() if root in places}
    symbols = f"[{', '.join(program.symbols)}]" if program.symbols else ""
    lines = [f"program {program.name}{symbols}", *_lines(program.steps, places, "  ")]
    return "\n".join([*lines, *_updates(program, plan)]) + "\n"


def _updates(program: Program, plan: MemoryPlan) -> Iterator[str]:
    if not program.updates:
        return
    copied = {step.target for step in program.steps if isinstance(step, Copy)}
    names = [program.output_names[k] for k, _ in program.updates if program.outputs[k] in copied]
    yield f"in place: {len(program.updates) - len(names)} of {len(program.updates)} outputs"
    if names:
        yield f"copied: {', '.join(map(repr, names))}"
    yield f"arena: {plan.size} bytes, {plan.lower_bound} of them alive at once"


def _lines(steps: Steps, places: Mapping[Value, str], indent: str) -> Iterator[str]:
    def at(value: Value) -> str:
        return places.get(value, "?")

    for step in steps:
        match step:
            case Launch():
                values = ", ".join(at(value) for value in step.values)
                sizes = f"; {', '.join(map(str, step.sizes))}" if step.sizes else ""
                line = f"{indent}{step.kernel.name}({values}{sizes})"
                yield f"{line:<70}  # from {', '.join(map(repr, step.sources))}"
            case Chain():
                inside = {window.value: f"window{n}" for n, window in enumerate(step.windows)}
                memory = f"{step.shares} shares, windows in {at(step.memory)}"
                yield f"{indent}in {len(step.items)} rounds, {memory}"
                yield from _lines(step.launches, {**places, **inside}, indent + "  ")
            case BindDims():
                yield f"{indent}{', '.join(step.symbols)} = entries of {at(step.value)}"
            case Copy():
                yield f"{indent}copy {at(step.source)} to {at(step.target)}"
            case RequireFinite():
                yield f"{indent}require finite {at(step.value)}"
            case Alias():
                yield f"{indent}alias {at(step.target)} : {step.target.type}"
            case Branch():
                yield f"{indent}if {at(step.condition)}"
                yield from _lines(step.then, places, indent + "  ")
                yield f"{indent}else"
                yield from _lines(step.otherwise, places, indent + "  ")
            case Repeat():
                trips = at(step.trips) if step.trips else "unlimited"
                condition = f" while {at(step.condition)}" if step.condition else ""
                yield f"{indent}repeat {trips}{condition}, iteration in {at(step.iteration)}"
                yield from _lines(step.body, places, indent + "  ")
