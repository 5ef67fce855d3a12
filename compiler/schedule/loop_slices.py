"""Stacks the slices that the iterations of a loop compute, as the scan outputs of an ONNX Loop are.

If the data decides how many iterations there are, the memory for the slices is not known
beforehand. Such a loop first runs with room for a few slices. Mostly these are all, and are the
result. Otherwise the remaining iterations are counted without computing their slices, and the loop
runs again from its beginning, with room for all slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.dims import Size, product, symbol
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.program import BindDims, Branch, Launch, Repeat, Step
from bessemer.compiler.ir.types import TensorType, i64
from bessemer.compiler.schedule.grouping.fuse import as_index, index_symbols
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering
from bessemer.compiler.schedule.needed_steps import needed_steps
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import flat

_KEPT_BYTES = 4 << 20
"""What the slices of a trial may take in the arena of every run, whether they are needed or not."""
_FEWEST, _MOST, _TYPICAL = 16, 1024, 64
"""Iterations of a trial; the last where the bytes of a slice are not known."""


@dataclass(frozen=True, eq=False)
class Loop:
    """The steps of a loop: `start` before it, `computed` in each iteration, and `advance`, which
    prepares the next iteration.

    It continues while `going` is true (None: there is no condition), for at most `trips` iterations
    (None: there is no limit). `scans` are pairs of an iteration's slice and the value in which
    these are stacked.
    """

    node: Node
    trips: Value | None
    going: Value | None
    iteration: Value
    start: tuple[Step, ...]
    computed: tuple[Step, ...]
    advance: tuple[Step, ...]
    scans: tuple[tuple[Value, Value], ...]

    def repeated(self, steps: Sequence[Step], count: str, trips: Value | None = None) -> Repeat:
        """The iterations with these steps in each, at most `trips` of them if that is given. The
        symbol `count` gets their number."""
        most, sources = self.trips if trips is None else trips, self.node.sources
        return Repeat(most, self.going, self.iteration, tuple(steps), count, sources)

    def collecting(self, lowering: Lowering, count: str = "") -> list[Step]:
        """The loop from its beginning, with memory for all slices."""
        stores = [_store(part, whole, self, lowering) for part, whole in self.scans]
        return [*self.start, self.repeated((*self.computed, *stores, *self.advance), count)]

    def counting(self, count: str) -> list[Step]:
        """The part of the loop that is needed to count its iterations."""
        return [*self._deciding(self.start), self.repeated(self.deciding(), count)]

    def deciding(self) -> list[Step]:
        """The steps of an iteration that are needed to decide whether another one follows."""
        return self._deciding((*self.computed, *self.advance))

    def _deciding(self, steps: Sequence[Step]) -> list[Step]:
        assert self.going is not None
        kept = needed_steps((*self.start, *self.computed, *self.advance), self.going)
        return [step for step in steps if step in kept]


@dataclass(frozen=True, eq=False)
class Trial:
    """Memory for the slices of `most` iterations. The run reads that number from the value
    `trips`."""

    trips: Value
    most: int
    rooms: tuple[Value, ...]


def trial_of(loop: Loop) -> Trial:
    """A trial of as many iterations as take a few megabytes, if the sizes of the slices are
    known."""
    types = [part.type for part, _ in loop.scans]
    size, most = dims.total([type_.nbytes for type_ in types]), _TYPICAL
    if isinstance(size, int):
        most = min(max(_KEPT_BYTES // max(size, 1), _FEWEST), _MOST)
    rooms = (Value(type_.with_shape((most, *type_.shape))) for type_ in types)
    return Trial(Value(TensorType(i64, ())), most, tuple(rooms))


def tried(loop: Loop, trial: Trial, names: tuple[str, str, str], lowering: Lowering) -> list[Step]:
    """The steps of a loop if only the data decides how many slices there are.

    `names` are symbols for three numbers of iterations: those of the trial, those after it, and
    all.
    """
    assert loop.going is not None
    first, more, count = names
    pairs = [(part, room) for (part, _), room in zip(loop.scans, trial.rooms, strict=True)]
    stores = [_store(part, room, loop, lowering) for part, room in pairs]
    steps = (*loop.computed, *stores, *loop.advance)
    taken: list[Step] = [
        *_counted(symbol(first), count, loop.node, lowering),
        *(
            _take_over(room, whole, loop.node, lowering)
            for (_, whole), room in zip(loop.scans, trial.rooms, strict=True)
        ),
    ]
    behind = Value(TensorType(i64, ()))
    shift = _shift(behind, first, loop, lowering)
    again = [
        Repeat(None, loop.going, behind, (shift, *loop.deciding()), more, loop.node.sources),
        *_counted(symbol(first) + symbol(more), count, loop.node, lowering),
        *loop.collecting(lowering),
    ]
    return [
        *loop.start,
        loop.repeated(steps, first, trial.trips),
        Branch(loop.going, tuple(again), tuple(taken), loop.node.sources),
    ]


def _store(part: Value, whole: Value, loop: Loop, lowering: Lowering) -> Launch:
    """The launch that writes an iteration's slice to its place among all."""
    symbols = index_symbols(part.type.shape)
    index = as_index(symbols, part.type.shape)
    source = Buffer("in0", part.type.dtype, part.type.shape)
    counter = flat(source) if part is loop.iteration else Buffer("in1", i64, (1,))
    out = Buffer("out0", part.type.dtype, whole.type.shape)
    now = expr.as_index(expr.load(counter, (0,)))
    offset = now * product(part.type.shape) + source.offset(index)
    value = expr.load(flat(source), (source.offset(index),))
    nest = lowering.nest(Piece(flat(out), offset, value, symbols))
    return lowering.launch(
        [loop.node],
        {part: flat(source), loop.iteration: counter},
        {whole: flat(out)},
        Computation(nest.body, nest.operations),
    )


def _counted(size: Size, count: str, node: Node, lowering: Lowering) -> list[Step]:
    """The steps that give the symbol `count` the value of a size."""
    number = Value(TensorType(i64, (1,)))
    out = flat(Buffer("out0", i64, (1,)))
    nest = lowering.nest(Piece(out, 0, expr.index_value(size), ()))
    made = Computation(nest.body, nest.operations)
    stored = lowering.launch([node], {}, {number: out}, made)
    return [stored, BindDims(number, (count,), node.sources)]


def _shift(behind: Value, first: str, loop: Loop, lowering: Lowering) -> Launch:
    """The launch that computes the number of an iteration, `first` + `behind`."""
    source, out = flat(Buffer("in0", i64, ())), flat(Buffer("out0", i64, ()))
    number = expr.load(source, (0,)) + expr.index_value(symbol(first))
    nest = lowering.nest(Piece(out, 0, number, ()))
    made = Computation(nest.body, nest.operations)
    return lowering.launch([loop.node], {behind: source}, {loop.iteration: out}, made)


def _take_over(room: Value, whole: Value, node: Node, lowering: Lowering) -> Launch:
    """The launch that copies the slices of the trial to the result."""
    symbols = index_symbols(whole.type.shape)
    source = Buffer("in0", room.type.dtype, room.type.shape)
    out = flat(Buffer("out0", whole.type.dtype, whole.type.shape))
    offset = source.offset(as_index(symbols, whole.type.shape))
    nest = lowering.nest(Piece(out, offset, expr.load(flat(source), (offset,)), symbols))
    made = Computation(nest.body, nest.operations)
    return lowering.launch([node], {room: flat(source)}, {whole: out}, made)
