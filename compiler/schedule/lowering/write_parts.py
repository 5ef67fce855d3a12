"""Lets kernels store float32 results as three bfloat16 parts themselves, where a separate launch
would split them.

    conv -> f32 -> split -> parts -> conv on tiles
    conv -> parts -> conv on tiles                      and f32 as well if anything else reads it

A matrix unit reads float32 numbers as parts (matrix_tiles_packing.py). A launch that makes them
reads and writes every number once more. If all of a value is stored as vectors of neighbours, each
of these stores becomes three, or four if the float32 numbers are needed, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

from bessemer.compiler.ir import dims, loops, walk_loops
from bessemer.compiler.ir.dims import Symbol
from bessemer.compiler.ir.expr import Buffer, read
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.loops import Block, Statement
from bessemer.compiler.ir.program import Alias, Launch, Step
from bessemer.compiler.ir.types import bf16
from bessemer.compiler.ir.walk_expr import loads_of
from bessemer.compiler.ir.walk_steps import alias_sources, root_of, touched
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_layout import BLOCK, PartsLayout, Split
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import split_parts

_WIDEST = 16
"""Lanes of the widest vector of float32 numbers: of a fragment, or where a loop leaves it open."""

_WORTH_CODE = 1 << 17
"""Values with fewer numbers than this are split by a launch of their own, which takes about 40
microseconds; splitting in the epilogue makes the code of a kernel with register tiles 4 KiB
longer."""


def write_parts(
    steps: Sequence[Step], outputs: Sequence[Value], lowering: Lowering
) -> tuple[Step, ...]:
    """The steps, without the splits that the kernels before them can do."""
    if not lowering.origins.splits:
        return tuple(steps)
    return _Removal(steps, outputs, lowering).steps()


class _Removal:
    """Removes splits from the steps. `reads` counts how often each value is read, in whatever
    shape."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[Value], lowering: Lowering) -> None:
        self.before, self.lowering = steps, lowering
        self.splits = {split.launch: split for split in lowering.origins.splits}
        self.sources = alias_sources(steps)
        self.reads = Counter(map(self.root, outputs))
        for step in steps:
            if not isinstance(step, Alias):
                self.reads.update(map(self.root, touched(step)[0]))

    def root(self, value: Value) -> Value:
        """The value as it was stored, of which this one may be a reshape."""
        return root_of(value, self.sources)

    def steps(self) -> tuple[Step, ...]:
        found: list[Step] = []
        unread: set[Value] = set()
        for step in self.before:
            split = self.splits.get(step) if isinstance(step, Launch) else None
            if split is None or not self._is_done_before(split, found, unread):
                found.append(step)
        return tuple(
            s for s in found if not isinstance(s, Alias) or self.root(s.target) not in unread
        )

    def _is_done_before(self, split: Split, steps: list[Step], unread: set[Value]) -> bool:
        """Changes the kernels that store the value so that they split it, if they can; returns
        whether they do."""
        value = self.root(split.value)
        is_last = self.reads[value] == 1
        changed: dict[int, Launch] = {}
        for place, step in enumerate(steps):
            if value not in map(self.root, touched(step)[1]) or isinstance(step, Alias):
                continue
            launch = None
            if isinstance(step, Launch):
                launch = _with_parts(step, value, split, not is_last, self.lowering)
            if launch is None:
                return False
            changed[place] = launch
        if not changed:
            return False  # an input
        for place, launch in changed.items():
            steps[place] = launch
        self.reads[value] -= 1
        if is_last:
            unread.add(value)
        return True


def _with_parts(
    launch: Launch, value: Value, split: Split, keep: bool, lowering: Lowering
) -> Launch | None:
    """The launch with a kernel that stores the parts, and the value itself if `keep`. None if the
    kernel cannot be changed so."""
    kernel = launch.kernel
    if kernel.has_team:
        return None  # a recurrence: large code, of whose time splitting is nothing
    buffers = dict(zip(launch.values, kernel.buffers, strict=True))
    if len(buffers) < len(launch.values) or value in [*buffers][: -kernel.outputs]:
        return None
    parts = Buffer(f"parts{len(buffers)}", bf16, split.layout.shape)
    stores = _Stores(buffers[value], parts, split.layout, keep)
    try:
        body = stores.block(kernel.body)
    except _Unsuitable:
        return None
    outputs = {} if keep else {value: None}
    made = rewritten(launch, body, {**outputs, split.parts: parts}, "parts", lowering)
    return made if keep else replace(made, replaceable=())


def rewritten(
    launch: Launch,
    body: Block,
    outputs: Mapping[Value, Buffer | None],
    name: str,
    lowering: Lowering,
) -> Launch:
    """The launch with another body, which also writes these `outputs`, or no longer those that have
    no buffer. The kernel's name ends with `name`."""
    kernel = launch.kernel
    buffers = dict(zip(launch.values, kernel.buffers, strict=True))
    written = {v: buffers.pop(v) for v in launch.values[-kernel.outputs :]}
    scratch = {v: written.pop(v) for v in launch.scratch}
    made = lowering.launch(
        launch.nodes,
        buffers,
        {v: buffer for v, buffer in {**written, **outputs}.items() if buffer is not None},
        Computation(
            body,
            kernel.operations,
            name=f"{kernel.name}_{name}",
            scratch=scratch,
            members=kernel.members,
            arguments=dict(zip(kernel.symbols, launch.sizes, strict=True)),
        ),
    )
    return replace(made, sources=launch.sources, replaceable=launch.replaceable)


class _Unsuitable(Exception):
    """Raised for a kernel that stores the value otherwise than as vectors of neighbours, or reads
    what it has stored."""


@dataclass
class _Stores:
    """Replaces stores to `whole` by stores of its parts; with `keep`, adds these before the store,
    which may overwrite what it is computed from."""

    whole: Buffer
    parts: Buffer
    layout: PartsLayout
    keep: bool
    count: int = 0

    def block(self, block: Block, vector: loops.For | None = None) -> Block:
        """The block with its stores changed. Raises _Unsuitable."""
        return tuple(new for statement in block for new in self._statement(statement, vector))

    def _statement(self, statement: Statement, vector: loops.For | None) -> Iterator[Statement]:
        self._check_loads(statement)
        match statement:
            case loops.For(kind="vector"):
                yield self._vector_loop(statement)
            case loops.For() | loops.While() | loops.If():
                yield walk_loops.with_blocks(statement, partial(self.block, vector=vector))
            case loops.Store() if self._is_of(statement):
                if vector is None:
                    raise _Unsuitable
                self.count += 1
                whole = f"whole{self.count}"
                yield loops.Define(whole, statement.value)
                statement = replace(statement, value=read(whole, statement.value.dtype))
                yield from self._stores(statement, vector.index, vector.lanes or _WIDEST)
            case loops.FragmentStore(_, column, _, stores):
                if len(stores) > 1 and self._is_small():
                    raise _Unsuitable
                rows = tuple(tuple(self._row(row, column)) for row in stores)
                yield replace(statement, stores=rows)
            case loops.Prefetch() | loops.Stream() if self._is_of(statement):
                if self.keep:
                    yield statement
            case _ if self._is_of(statement):
                raise _Unsuitable
            case _:
                yield statement

    def _vector_loop(self, loop: loops.For) -> loops.For:
        """A vector loop whose vectors each lie in one block of channels."""
        before = self.count
        body = self.block(loop.body, loop)
        narrow = max(1, BLOCK // (loop.lanes or _WIDEST))
        if self.count == before or not self.layout.channels or loop.interleave <= narrow:
            return replace(loop, body=body)
        if any(isinstance(s, loops.Accumulate) for s in body):
            raise _Unsuitable  # the order of a sum would be another
        return replace(loop, body=body, interleave=narrow)

    def _row(self, row: Sequence[loops.Store], column: Symbol) -> Iterator[loops.Store]:
        for store in row:
            if self._is_of(store):
                yield from self._stores(store, column, _WIDEST)
            else:
                yield store

    def _stores(self, store: loops.Store, index: Symbol, lanes: int) -> Iterator[loops.Store]:
        """The stores of the parts, and the store itself if it is kept."""
        offset = store.buffer.offset(store.indices)
        first = offset - dims.atom(index)
        is_aligned = BLOCK % lanes == 0 and dims.mod(first, lanes) == 0
        if store.guard is not None or dims.coefficient_of(offset, index) != 1:
            raise _Unsuitable
        if self.layout.channels and not is_aligned:
            raise _Unsuitable
        flat = Buffer(self.parts.name, bf16, (dims.product(self.parts.shape),))
        for number, part in enumerate(split_parts(store.value)):
            place = self.layout.offset(offset) + number * self.layout.part_stride
            yield loops.Store(flat, (place,), part)
        if self.keep:
            yield store

    def _is_small(self) -> bool:
        """Whether the value is so small that a separate launch costs less than long straight
        code."""
        count = self.layout.elements
        return isinstance(count, int) and count < _WORTH_CODE

    def _is_of(self, statement: Statement) -> bool:
        """Whether a statement names the buffer."""
        named = (getattr(statement, field.name) for field in fields(statement))
        return any(isinstance(one, Buffer) and one.name == self.whole.name for one in named)

    def _check_loads(self, statement: Statement) -> None:
        for expression in walk_loops.expressions(statement):
            for node in loads_of(expression):
                if node.buffer.name == self.whole.name:
                    raise _Unsuitable
