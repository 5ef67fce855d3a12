"""Which kernels that operators write themselves a group of threads can share.

A vector loop is shared out among the threads; so what it stores must be in places of its own for
every iteration. All else the group does alike, with barriers in between: kernels that repeat until
something is found, or that define sizes, are left to one thread.
"""

from __future__ import annotations

from bessemer.compiler.ir import dims, loops, walk_loops
from bessemer.compiler.ir.device import WARP, ThreadMapping
from bessemer.compiler.ir.loops import Block, For

SMALL_THREADS = 64
"""Threads of a block in kernels of which little is known."""
MOST_SHARED = 40 << 10
"""Bytes of local arrays that all groups of a block may have."""
_SHARED = (
    loops.For,
    loops.If,
    loops.Define,
    loops.Assign,
    loops.Accumulate,
    loops.Store,
    loops.Allocate,
    loops.Fail,
    loops.Prefetch,
)


def mapping_of_statements(body: Block) -> ThreadMapping:
    """A warp for every iteration of the parallel loop, or a block for all, where they can share the
    work; else a thread."""
    match body:
        case (For(kind="parallel") as loop,):
            mapping = ThreadMapping(4 * WARP, WARP)
            return mapping if _can_share(loop.body, mapping) else ThreadMapping(SMALL_THREADS, 1)
        case _:
            mapping = ThreadMapping(8 * WARP, 8 * WARP)
            return mapping if _can_share(body, mapping) else ThreadMapping(1, 1)


def _can_share(block: Block, mapping: ThreadMapping) -> bool:
    statements = list(walk_loops.walk(block))
    if not all(isinstance(statement, _SHARED) for statement in statements):
        return False
    if any(isinstance(s, For) and s.kind in ("parallel", "team") for s in statements):
        return False
    if _local_bytes(statements) * mapping.iterations > MOST_SHARED:
        return False
    shared = [s for s in statements if isinstance(s, For) and s.kind == "vector"]
    return bool(shared) and all(_stores_apart(loop) and _is_long(loop) for loop in shared)


def _local_bytes(statements: list[loops.Statement]) -> int:
    total = 0
    for statement in statements:
        if isinstance(statement, loops.Allocate):
            count = dims.product(statement.buffer.shape)
            total += count * statement.buffer.dtype.bytes if isinstance(count, int) else MOST_SHARED
    return total


def _is_long(loop: For) -> bool:
    return not isinstance(loop.extent, int) or loop.extent >= WARP // 2


def _stores_apart(loop: For) -> bool:
    """Whether every iteration stores to places of its own, and declares no array."""
    for statement in walk_loops.walk(loop.body):
        match statement:
            case loops.Allocate():
                return False
            case loops.Store(buffer, indices):
                step = dims.coefficient_of(buffer.offset(indices), loop.index)
                if not isinstance(step, int) or step == 0:
                    return False
            case _:
                pass
    return True
