"""Stores of neighbours, one after the other in a vector loop, as one store of all.

    vector c:  out[2*c] = a[c];  out[2*c + 1] = b[c]

Each alone would write its lanes to places that are apart; woven, they are whole vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.codegen.kernels.conversions import to_memory
from bessemer.compiler.codegen.kernels.expressions import evaluate, indices
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.codegen.lanes import shuffle, splat
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.ir import loops
from bessemer.compiler.ir.expr import Buffer, Expression, Load
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.walk_expr import children

COUNTS = (4, 2)
"""How many stores can be woven into one."""


def emit(state: KernelState, block: Block, begin: int) -> int:
    """Emits the stores of a block that can be woven, from a place on; how many these are."""
    if state.vectors is None or state.mask is not None or state.special is not None:
        return 0
    for count in COUNTS:
        stores = [s for s in block[begin : begin + count] if isinstance(s, loops.Store)]
        if len(stores) == count and _are_neighbours(state, stores):
            _emit(state, stores)
            return count
    return 0


def _are_neighbours(state: KernelState, stores: Sequence[loops.Store]) -> bool:
    """Whether lane l of store k belongs to place l * count + k, and no store is read by another."""
    buffer = stores[0].buffer
    if any(s.guard is not None or s.buffer.name != buffer.name for s in stores):
        return False
    offsets = [s.buffer.offset(s.indices) for s in stores]
    if any(state.size(offset - offsets[0]) != k for k, offset in enumerate(offsets)):
        return False
    if indices(state).stride(state.size(offsets[0])) != len(stores):
        return False
    return not any(_reads(store.value, buffer) for store in stores)


def _reads(root: Expression, buffer: Buffer) -> bool:
    seen: set[Expression] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, Load) and node.buffer.name == buffer.name:
            return True
        stack += children(node)
    return False


def _emit(state: KernelState, stores: Sequence[loops.Store]) -> None:
    w, buffer = state.writer, stores[0].buffer
    values: list[Value] = []
    for store in stores:
        raw = to_memory(state, evaluate(state, store.value), buffer.dtype)
        values.append(splat(w, raw, state.width))
    while len(values) > 1:
        half = len(values) // 2
        values = [_woven(state, values[k], values[k + half]) for k in range(half)]
    w.forget(buffer.name)
    offset = state.size(buffer.offset(stores[0].indices))
    pointer = indices(state).address(buffer, offset)
    w.line(f"store {values[0].typed}, ptr {w.at(pointer)}, align {buffer.dtype.bytes}")


def _woven(state: KernelState, even: Value, odd: Value) -> Value:
    """even[0], odd[0], even[1], odd[1], ..."""
    lanes = even.lanes
    return shuffle(state.writer, even, odd, [k // 2 + lanes * (k % 2) for k in range(2 * lanes)])
