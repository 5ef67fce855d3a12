"""Inserts barriers where threads of a group read what others have stored.

Outside of vector loops all threads of a group execute the same, except that only one stores; the
iterations of a vector loop are distributed over the threads. So threads must wait between a store
to a buffer and a later access to it, and between a load and a later store. A statement outside of
vector loops, or a whole vector loop, is one phase. A barrier precedes each phase that conflicts
with what was loaded or stored since the last barrier. Every branch is assumed to be taken, and
every loop to be repeated.

`Barrier` is the loop language's statement for teams: here the team is the group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bessemer.compiler.ir import expr, loops, walk_loops
from bessemer.compiler.ir.loops import Block, Statement

BARRIER = loops.Barrier(0)


@dataclass(frozen=True)
class Accesses:
    """Names of the buffers that are loaded from and stored to."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()

    def union(self, other: Accesses) -> Accesses:
        """The accesses of both."""
        return Accesses(self.reads | other.reads, self.writes | other.writes)

    def meets(self, later: Accesses) -> bool:
        """Whether a barrier is needed between these accesses and the later ones."""
        return bool(self.writes & (later.reads | later.writes) or self.reads & later.writes)


NOTHING = Accesses()


def with_barriers(block: Block, kept: frozenset[str]) -> Block:
    """The block with barriers. `kept` are arrays in registers, of which every thread has its own
    elements."""
    return _Inserter(kept).block(block, NOTHING)[0]


class _Inserter:
    def __init__(self, kept: frozenset[str]) -> None:
        self.kept = kept

    def block(self, block: Block, pending: Accesses) -> tuple[Block, Accesses]:
        """The block with barriers, and the accesses since the last one at its end; `pending` are
        those at its start."""
        found: list[Statement] = []
        for statement in block:
            own = self.accesses(statement)
            if pending.meets(own):
                found.append(BARRIER)
                pending = NOTHING
            statements, pending = self.statement(statement, own, pending)
            found += statements
        return tuple(found), pending

    def statement(
        self, statement: Statement, own: Accesses, pending: Accesses
    ) -> tuple[list[Statement], Accesses]:
        match statement:
            case loops.Barrier():
                return [BARRIER], NOTHING
            case loops.For(kind="vector"):
                return [statement], pending.union(own)
            case loops.For() | loops.While() if own.meets(own):
                # Iterations meet each other: every one begins alone.
                body, _ = self.block(statement.body, NOTHING)
                ends = (BARRIER,) if isinstance(statement, loops.While) else ()
                return [replace(statement, body=(BARRIER, *body, *ends))], pending.union(own)
            case loops.For() | loops.While() | loops.If():
                changed = walk_loops.with_blocks(
                    statement, lambda inner: self.block(inner, pending)[0]
                )
                return [changed], pending.union(own)
            case loops.Store() if own.reads & own.writes:
                return self._with_barrier(statement), pending.union(own)
            case _:
                return [statement], pending.union(own)

    def _with_barrier(self, store: loops.Store) -> list[Statement]:
        """A store whose value reads the buffer that it stores to: all threads read before one of
        them writes."""
        name = f"{store.buffer.name}_before"
        value = expr.read(name, store.value.dtype)
        return [loops.Define(name, store.value), BARRIER, replace(store, value=value)]

    def accesses(self, statement: Statement) -> Accesses:
        """The accesses of a statement and of the blocks in it."""
        reads: set[str] = set()
        writes: set[str] = set()
        for inner in walk_loops.walk((statement,)):
            reads |= {load.buffer.name for load in walk_loops.loads_by(inner)}
            if isinstance(inner, loops.Store):
                writes.add(inner.buffer.name)
        return Accesses(frozenset(reads) - self.kept, frozenset(writes) - self.kept)
