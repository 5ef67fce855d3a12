"""Writes how much memory a run needs, and where values are in it, as functions of the inputs'
sizes."""

from __future__ import annotations

from bessemer.compiler.codegen.support.sizes import DECLARATIONS, StraightCode
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import MemoryPlan, Program

# No dimension symbol is called so.
_START, _UNIT = "start of part {}", "unit of part {}"


def run_sizes(program: Program, plan: MemoryPlan) -> dict[str, Size]:
    """The sizes that a run computes once, in order: those derived from symbols, places in the arena
    that follow from the inputs' sizes, the starts of the arena's parts, and the units in which
    these count."""
    found = {**program.derived, **plan.definitions}
    for part, (start, unit) in enumerate(zip((0, *plan.ends), plan.units)):
        if not (isinstance(start, int) and isinstance(unit, int)):
            found[_START.format(part)] = start
            found[_UNIT.format(part)] = unit
    return found


def arena_offset(plan: MemoryPlan, value: Value) -> Size:
    """The place of a value in the arena, in terms of the names of `run_sizes`."""
    offset = plan.offsets[value]
    if isinstance(offset, int) or value not in plan.parts:
        return offset
    part, position = plan.parts[value]
    return dims.symbol(_START.format(part)) + dims.symbol(_UNIT.format(part)) * position


def early_sizes(program: Program, plan: MemoryPlan) -> dict[str, Size]:
    """The sizes of `run_sizes` that PREFIX_places computes; none if the run computes no places."""
    if not plan.definitions:
        return {}
    known = set(program.symbols[: program.input_symbols])
    derived = {
        name: size
        for name, size in program.derived.items()
        if dims.symbol_names(program.expanded(size)) <= known
    }
    return {**derived, **plan.definitions}


def array_sizes(program: Program) -> list[Size]:
    """The bytes of each input and output, in terms of the inputs' sizes. Arrays of known or
    data-dependent size are left out."""
    known = set(program.symbols[: program.input_symbols])
    sizes = [program.expanded(value.type.nbytes) for value in (*program.inputs, *program.outputs)]
    return [
        size
        for size in dict.fromkeys(sizes)
        if not isinstance(size, int) and dims.symbol_names(size) <= known
    ]


def workspace_text(program: Program, plan: MemoryPlan, prefix: str) -> str:
    """Two functions as LLVM IR.

    `i64 PREFIX_workspace(ptr dims)` returns the bytes that the inputs' shapes need: 0 if the data
    decides, -1 if a dim is negative, or these bytes or those of an input or output do not fit in 64
    bits.

    `i1 PREFIX_places(ptr dims, ptr sizes)`, which exists if the run computes places, stores each of
    `early_sizes` at its number among `run_sizes`, and returns whether one does not fit in 64 bits.
    """
    known = program.symbols[: program.input_symbols]
    writer = StraightCode(known)
    size = program.expanded(plan.size)
    if plan.definitions and dims.symbol_names(size) <= set(plan.definitions):
        numbers = {name: number for number, name in enumerate(run_sizes(program, plan))}
        sizes = writer.let(f"alloca [{len(numbers)} x i64], align 16")
        writer.overflows.append(writer.let(f"call i1 @{prefix}_places(ptr %dims, ptr {sizes})"))
        for name in dims.symbol_names(size):
            place = writer.let(f"getelementptr i64, ptr {sizes}, i64 {numbers[name]}")
            writer.names[name] = writer.let(f"load i64, ptr {place}")
    elif not dims.symbol_names(size) <= set(known):
        size = 0
    result = writer.sizes.value(size)
    for array in array_sizes(program):
        writer.sizes.value(array)
    for dim in map(dims.symbol, known):
        writer.overflows.append(writer.let(f"icmp slt i64 {writer.sizes.value(dim)}, 0"))
    result = writer.let(f"select i1 {writer.overflown()}, i64 -1, i64 {result}")
    own = writer.function(f"i64 @{prefix}_workspace(ptr %dims)", f"ret i64 {result}")
    return DECLARATIONS + (_places_text(program, plan, prefix) if plan.definitions else "") + own


def _places_text(program: Program, plan: MemoryPlan, prefix: str) -> str:
    writer = StraightCode(program.symbols[: program.input_symbols])
    numbers = {name: number for number, name in enumerate(run_sizes(program, plan))}
    for name, size in early_sizes(program, plan).items():
        register = writer.sizes.value(size)
        writer.names[name] = register
        place = writer.let(f"getelementptr i64, ptr %sizes, i64 {numbers[name]}")
        writer.put(f"store i64 {register}, ptr {place}")
    end = f"ret i1 {writer.overflown()}"
    return writer.function(f"i1 @{prefix}_places(ptr %dims, ptr %sizes)", end)
