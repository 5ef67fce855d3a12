"""What a training step keeps in memory, and for which layers.

Between the forward and the backward half lie the values that both need; the plan says which of them
are kept and which are computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bessemer.compiler.fit_memory import TYPICAL, fit_memory
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options, Precision
from bessemer.compiler.pass_order import passes_of
from bessemer.compiler.targets.choose import host_target


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one step. `kept` and `again` are (layer, bytes), in the order of computation: what
    the arena keeps from the forward to the backward half, and what is computed twice instead.

    `arena` is what the step takes beside its inputs, `lower_bound` the most that is alive at once,
    `arena_before` an estimate of the arena if nothing were computed again. `in_place` are the
    bytes of the state that is written over, of `state` in all. `extra` is the share of operations
    that come on top.
    """

    arena: int
    lower_bound: int
    arena_before: int
    kept: tuple[tuple[str, int], ...]
    again: tuple[tuple[str, int], ...]
    state: int
    in_place: int
    extra: float

    @property
    def line(self) -> str:
        """The plan in one line."""
        text = f"arena {_mebibytes(self.arena)}"
        if self.again:
            text += f" in place of about {_mebibytes(self.arena_before)}"
        text += f"; {_mebibytes(sum(size for _, size in self.kept))} kept for the backward half"
        if self.again:
            more = _mebibytes(sum(size for _, size in self.again))
            text += f", {more} computed again (+{self.extra:.1%} operations)"
        return text


def memory_plan(
    graph: Graph, sizes: Mapping[str, int], memory: int = 0, precision: Precision = "float32"
) -> MemoryPlan:
    """The plan of a step's graph for a budget (0: none), with numbers for its symbols; sizes that
    the data decides are taken for TYPICAL.

    Raises CompileError where the budget is too small.
    """
    options = Options(precision=precision, memory=memory, sizes=tuple(sizes.items()))
    target = host_target()
    start = graph
    sizes = {name: sizes[name] for name in graph.symbols}
    for step in passes_of(options, target):
        graph = step(graph)
    found = fit_memory(graph, options, target)
    choice, plan = found.choice, found.plan
    sizes = {name: sizes.get(name, TYPICAL) for name in found.program.symbols}
    own = {start.inputs[place] for _, place in start.updates}
    names = [value.name for value in own]
    state = [value for value in start.inputs if value.name in names]
    producers = graph.producers() | found.graph.producers()

    def layers(values: Iterable[tuple[Value, int]]) -> tuple[tuple[str, int], ...]:
        rows: dict[str, int] = {}
        for value, size in values:
            node = producers.get(value)
            name = node.sources[-1] if node is not None and node.sources else "the loss"
            rows[name] = rows.get(name, 0) + size
        return tuple(rows.items())

    arena = plan.arena_bytes(found.program, sizes)
    return MemoryPlan(
        arena=arena,
        lower_bound=evaluate_named(found.program.expanded(plan.lower_bound), sizes),
        arena_before=choice.peak_before if choice else arena,
        kept=layers(choice.kept) if choice else (),
        again=layers(choice.again) if choice else (),
        state=sum(evaluate_named(v.type.nbytes, sizes) for v in state),
        in_place=sum(evaluate_named(v.type.nbytes, sizes) for v in own),
        extra=choice.operations / max(choice.all_operations, 1) if choice else 0.0,
    )


def sizes_of(graph: Graph, arrays: Mapping[str, Array]) -> dict[str, int]:
    """What the symbols in the inputs' shapes are for these arrays."""
    found: dict[str, int] = {}
    for value in graph.inputs:
        if value.name in arrays:
            shapes = zip(value.type.shape, arrays[value.name].shape)
            found |= {str(size): n for size, n in shapes if str(size) in graph.symbols}
    return found


def _mebibytes(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"
