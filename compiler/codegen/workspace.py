"""How much memory a run needs, and where in it values lie, as functions of the inputs' sizes."""

from __future__ import annotations

from bessemer.compiler.codegen.sizes import SizeWriter
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.program import MemoryPlan, Program

# No dimension symbol is called so.
_START, _UNIT = "start of part {}", "unit of part {}"


def arena_sizes(plan: MemoryPlan) -> dict[str, Size]:
    """Where the parts of the arena start, and what they count in: to be computed once a run."""
    found: dict[str, Size] = {}
    for part, (start, unit) in enumerate(zip((0, *plan.ends), plan.units)):
        if not (isinstance(start, int) and isinstance(unit, int)):
            found[_START.format(part)] = start
            found[_UNIT.format(part)] = unit
    return found


def arena_offset(plan: MemoryPlan, value: Value) -> Size:
    """Where a value lies in the arena, by the names of `arena_sizes`."""
    offset = plan.offsets[value]
    if isinstance(offset, int):
        return offset
    part, position = plan.parts[value]
    return dims.symbol(_START.format(part)) + dims.symbol(_UNIT.format(part)) * position


def workspace_text(program: Program, plan: MemoryPlan, prefix: str) -> str:
    """`i64 PREFIX_workspace(ptr dims)` as LLVM IR: the bytes known from the inputs' shapes,
    0 where the data decides."""
    known = program.symbols[: program.input_symbols]
    lines: list[str] = []

    def let(text: str) -> str:
        lines.append(f"  %w{len(lines)} = {text}")
        return f"%w{len(lines) - 1}"

    def symbol(name: str) -> str:
        place = let(f"getelementptr i64, ptr %dims, i64 {known.index(name)}")
        return let(f"load i64, ptr {place}")

    size = program.expanded(plan.size)
    result = SizeWriter(let, symbol).value(size if dims.symbol_names(size) <= set(known) else 0)
    text = "\n".join(lines)
    return (
        f"define internal i64 @{prefix}_workspace(ptr %dims) nounwind {{\n{text}\n"
        f"  ret i64 {result}\n}}\n"
    )
