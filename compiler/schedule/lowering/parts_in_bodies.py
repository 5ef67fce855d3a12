"""The bodies of kernels that store a value as a matrix unit reads it, or read what is stored so: in
parts or by blocks of channels (matrix_tiles_layout.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

from bessemer.compiler.ir import dims, loops, walk_loops
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Expression, Load, load, read
from bessemer.compiler.ir.loops import Block, Statement
from bessemer.compiler.ir.walk_expr import transform
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_layout import PartsLayout
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import split_parts

_WIDEST = 16
"""Lanes of the widest vector of float32 numbers: of a fragment, or where a loop leaves it open."""

_WORTH_CODE = 1 << 17
"""Values with fewer numbers than this are split by a launch of their own, which takes about 40
microseconds; splitting in the epilogue makes the code of a kernel with register tiles 4 KiB
longer."""


def with_stores(
    body: Block, whole: Buffer, parts: Buffer, layout: PartsLayout, keep: bool
) -> Block | None:
    """The body, storing to `parts` what it stores to `whole`; with `keep`, to both. None if it
    stores otherwise than as vectors of neighbours, or reads what it has stored."""
    try:
        return _Stores(whole, parts, layout, keep).block(body)
    except _Unsuitable:
        return None


def with_loads(body: Block, whole: Buffer, parts: Buffer, layout: PartsLayout) -> Block | None:
    """The body, reading from `parts` what it reads from `whole`, a value of one part. None if it
    reads it otherwise than as vectors of neighbours in a contraction's epilogue."""
    try:
        return _Loads(whole, parts, layout).block(body)
    except _Unsuitable:
        return None


class _Unsuitable(Exception):
    """Raised for a body that cannot be changed so."""


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
        if _loads(statement, self.whole):
            raise _Unsuitable
        match statement:
            case loops.For(kind="vector"):
                yield self._vector_loop(statement)
            case loops.For() | loops.While() | loops.If():
                yield walk_loops.with_blocks(statement, partial(self.block, vector=vector))
            case loops.Store() if _names(statement, self.whole):
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
            case loops.Prefetch() | loops.Stream() if _names(statement, self.whole):
                if self.keep:
                    yield statement
            case _ if _names(statement, self.whole):
                raise _Unsuitable
            case _:
                yield statement

    def _vector_loop(self, loop: loops.For) -> loops.For:
        """A vector loop whose vectors each lie in one block of channels."""
        before = self.count
        body = self.block(loop.body, loop)
        narrow = max(1, self.layout.block // (loop.lanes or _WIDEST))
        if self.count == before or not self.layout.channels or loop.interleave <= narrow:
            return replace(loop, body=body)
        return replace(loop, body=body, interleave=narrow)

    def _row(self, row: Sequence[loops.Store], column: Symbol) -> Iterator[loops.Store]:
        for store in row:
            if store.buffer.name == self.whole.name:
                yield from self._stores(store, column, _WIDEST)
            else:
                yield store

    def _stores(self, store: loops.Store, index: Symbol, lanes: int) -> Iterator[loops.Store]:
        """The stores of the parts, and the store itself if it is kept."""
        if store.guard is not None:
            raise _Unsuitable
        first = _place(store.buffer.offset(store.indices), self.layout, index, lanes)
        flat = Buffer(self.parts.name, self.parts.dtype, (dims.product(self.parts.shape),))
        parts = split_parts(store.value) if self.layout.form.parts > 1 else [store.value]
        for number, part in enumerate(parts):
            yield loops.Store(flat, (first + number * self.layout.part_stride,), part)
        if self.keep:
            yield store

    def _is_small(self) -> bool:
        """Whether the value is so small that a separate launch costs less than long straight
        code."""
        count = self.layout.elements
        return self.layout.form.parts > 1 and isinstance(count, int) and count < _WORTH_CODE


def _place(offset: Size, layout: PartsLayout, index: Symbol, lanes: int) -> Size:
    """Where a layout has the elements from an offset on, as a vector along `index`. Raises
    _Unsuitable unless they are neighbours there, too."""
    is_aligned = layout.block % lanes == 0 and dims.mod(offset - dims.atom(index), lanes) == 0
    if dims.coefficient_of(offset, index) != 1 or (layout.channels and not is_aligned):
        raise _Unsuitable
    return layout.offset(offset)


@dataclass(frozen=True, eq=False)
class _Loads:
    """Replaces loads from `whole`, in the epilogue of a contraction, by loads of its one part
    from flat `parts`."""

    whole: Buffer
    parts: Buffer
    layout: PartsLayout

    def block(self, block: Block) -> Block:
        """The block with its loads changed. Raises _Unsuitable."""
        return tuple(self._statement(statement) for statement in block)

    def _statement(self, statement: Statement) -> Statement:
        if isinstance(statement, loops.FragmentStore):
            change = partial(transform, rule=partial(self._moved, statement.column))
            return walk_loops.map_expressions((statement,), change)[0]
        if _names(statement, self.whole) or _loads(statement, self.whole):
            raise _Unsuitable
        return walk_loops.with_blocks(statement, self.block)

    def _moved(self, column: Symbol, node: Expression) -> Expression | None:
        if not isinstance(node, Load) or node.buffer.name != self.whole.name:
            return None
        place = _place(node.buffer.offset(node.indices), self.layout, column, _WIDEST)
        return load(self.parts, (place,), node.guard)


def _names(statement: Statement, buffer: Buffer) -> bool:
    """Whether a statement names a buffer, other than in its expressions."""
    named = (getattr(statement, field.name) for field in fields(statement))
    return any(isinstance(one, Buffer) and one.name == buffer.name for one in named)


def _loads(statement: Statement, buffer: Buffer) -> bool:
    """Whether a statement itself loads from a buffer."""
    return any(one.buffer.name == buffer.name for one in walk_loops.loads_by(statement))
