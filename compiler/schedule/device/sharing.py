"""Decides whether a group of threads can share the loops that an operator writes itself.

The iterations of vector loops are distributed over the threads, so every iteration must store to
elements of its own. All threads execute everything else alike, with barriers in between. Kernels
that repeat until something is found, or that define sizes, run on one thread.
"""

from __future__ import annotations

from bessemer.compiler.ir import dims, loops, walk_loops
from bessemer.compiler.ir.device import WARP, ThreadMapping
from bessemer.compiler.ir.loops import Block, For

SMALL_THREADS = 64
"""Threads of a block in kernels about which little is known."""
MOST_SHARED = 40 << 10
"""Bytes of local arrays that all groups of a block may have together."""
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
    """The threads for a kernel's body. If threads can share its work, a warp runs each iteration of
    the parallel loop, or, if there is no such loop, one block runs all; else a thread does."""
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
    return bool(shared) and all(_stores_are_disjoint(loop) and _is_long(loop) for loop in shared)


def _local_bytes(statements: list[loops.Statement]) -> int:
    total = 0
    for statement in statements:
        if isinstance(statement, loops.Allocate):
            count = dims.product(statement.buffer.shape)
            total += count * statement.buffer.dtype.bytes if isinstance(count, int) else MOST_SHARED
    return total


def _is_long(loop: For) -> bool:
    return not isinstance(loop.extent, int) or loop.extent >= WARP // 2


def _stores_are_disjoint(loop: For) -> bool:
    """Whether every iteration stores to elements of its own, and declares no array."""
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
