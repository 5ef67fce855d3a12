"""Lets recurrences store their results in packed panels themselves, where a separate launch would
pack them.

    lstm_gradient -> gates -> pack -> panels -> product: the gradient of a weight
    lstm_gradient -> gates, panels           -> product

The gradient of a recurrence computes some columns of a step's rows at a time: whole rows of a panel
(contraction/packing.py). If a core's own cache does not hold the gates of all steps, it takes less
time to store them twice than to read them again. (Zen 5, a training step of an LSTM of 256, 16
sequences of 100 steps: 40.0 -> 39.6 ms, on two threads 25.75 -> 25.4.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bessemer.compiler.ir import dims, loops, walk_loops
from bessemer.compiler.ir.dims import Symbol
from bessemer.compiler.ir.expr import Buffer, less
from bessemer.compiler.ir.loops import Block, Statement
from bessemer.compiler.ir.program import Launch, Step
from bessemer.compiler.ir.walk_steps import alias_sources, root_of, touched
from bessemer.compiler.schedule.lowering.lowering import Lowering, PackedRows
from bessemer.compiler.schedule.lowering.write_parts import rewritten
from bessemer.compiler.schedule.nests.streaming_stores import deserves_streaming_stores


def write_panels(steps: Sequence[Step], lowering: Lowering) -> tuple[Step, ...]:
    """The steps, without the packs that the recurrences before them can do."""
    sources = alias_sources(steps)
    found: list[Step] = []
    for step in steps:
        rows = lowering.origins.packs.get(step) if isinstance(step, Launch) else None
        if isinstance(step, Launch) and rows is not None:
            rows = replace(rows, value=root_of(rows.value, sources))
            if _is_written_before(step, rows, found, lowering):
                continue
        found.append(step)
    return tuple(found)


def _is_written_before(
    pack: Launch, rows: PackedRows, steps: list[Step], lowering: Lowering
) -> bool:
    """Changes the recurrence that stores these rows so that it stores the panels, too, if it can;
    returns whether it does."""
    for place, step in enumerate(steps):
        if not isinstance(step, Launch) or rows.value not in touched(step)[1]:
            continue
        kernel = step.kernel
        if not kernel.has_team or len({*step.values}) < len(step.values):
            return False
        whole = kernel.buffers[step.values.index(rows.value)]
        if not deserves_streaming_stores(whole, lowering.target):
            return False
        (packed,) = (v for v in pack.values[-pack.kernel.outputs :] if v not in pack.scratch)
        panels = Buffer(f"panels{len(step.values)}", packed.type.dtype, packed.type.shape)
        try:
            body = _Panels(whole, panels, rows.first).team(kernel.body)
        except _Unsuitable:
            return False
        steps[place] = rewritten(step, body, {packed: panels}, "panels", lowering)
        return True
    return False


class _Unsuitable(Exception):
    """Raised for a kernel that stores the value otherwise than as vectors inside of panels."""


@dataclass(frozen=True, eq=False)
class _Panels:
    """Stores to `panels` [matrices, panels, rows, width] behind all stores to `whole` [...,
    columns], of the rows from `first` on that these matrices have."""

    whole: Buffer
    panels: Buffer
    first: int

    def team(self, body: Block) -> Block:
        """The body of a team's kernel with these stores, which are streaming ones. Raises
        _Unsuitable."""
        (team,) = body
        if not isinstance(team, loops.For):
            raise _Unsuitable
        return (replace(team, body=(loops.Stream(self.panels), *self._block(team.body, None))),)

    def _block(self, block: Block, lane: Symbol | None) -> Block:
        """A block inside of a vector loop along `lane`, or of none."""
        return tuple(new for statement in block for new in self._statement(statement, lane))

    def _statement(self, statement: Statement, lane: Symbol | None) -> Iterator[Statement]:
        match statement:
            case loops.For() | loops.While() | loops.If():
                if isinstance(statement, loops.For) and statement.kind == "vector":
                    lane = statement.index
                yield walk_loops.with_blocks(statement, lambda block: self._block(block, lane))
            case loops.Store() if statement.buffer.name == self.whole.name:
                yield statement
                yield from self._stored_again(statement, lane)
            case _:
                yield statement

    def _stored_again(self, store: loops.Store, lane: Symbol | None) -> Block:
        matrices, panels, count, width = map(dims.number, self.panels.shape)
        *rows, columns = map(dims.number, self.whole.shape)
        *_, column = store.indices
        if lane is None or store.guard is not None or columns != panels * width:
            raise _Unsuitable
        panel, within = dims.floordiv(column, width), dims.mod(column, width)
        if dims.coefficient_of(panel, lane) != 0 or dims.coefficient_of(within, lane) != 1:
            raise _Unsuitable
        row = dims.floordiv(self.whole.offset(store.indices) - column, columns)
        at = row - self.first
        place = (dims.floordiv(at, count), panel, dims.mod(at, count), within)
        stored: Block = (loops.Store(self.panels, place, store.value),)
        end = self.first + matrices * count
        if end < math.prod(rows):
            stored = (loops.If(less(row, end), stored),)
        return (loops.If(less(self.first - 1, row), stored),) if self.first else stored
