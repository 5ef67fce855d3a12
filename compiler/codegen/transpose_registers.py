"""Transposes squares of registers: takes one lane from each vector, then the next lane from each.

    a0 a1 a2 a3        a0 b0 c0 d0
    b0 b1 b2 b3   ->   a1 b1 c1 d1
    ...                ...

Two vectors at a time are interleaved block by block, and then the results, in blocks twice as long.
Within 16 bytes that is one instruction on every machine. So if each column is stored separately
anyway, blocks are only interleaved within 16 bytes, and the columns come in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.codegen.lanes import shuffle
from bessemer.compiler.codegen.values import Value
from bessemer.compiler.codegen.writer import Writer

COUNTS = (16, 8, 4, 3, 2)
"""How many vectors can be transposed."""
_CHUNK_BYTES = 16

Columns = tuple[list[int], Value]
"""Some columns, and the vector that holds them, one after the other."""


def transpose_registers(
    w: Writer, rows: Sequence[Value], together: int, in_order: bool
) -> list[Columns]:
    """The columns of `rows`, whose elements are blocks of `together` lanes. With `in_order` the
    columns are in order, so that the vectors form one sequence.

    For three rows, whose blocks must have one lane, only that sequence is made; there, columns may
    begin in one vector and end in the next.
    """
    lanes = rows[0].lanes
    if len(rows) == 3:
        return [([], third) for third in _of_three(w, rows)]
    columns = list(range(lanes // together))
    groups: list[list[Columns]] = [[(columns, row)] for row in rows]
    block = together
    while len(groups) > 1:
        inside = 0 if in_order else _CHUNK_BYTES // rows[0].kind.bytes // block
        pairs = zip(groups[::2], groups[1::2], strict=True)
        groups = [
            [half for a, b in zip(*pair) for half in _halves(w, a, b, block, inside)]
            for pair in pairs
        ]
        block *= 2
    return groups[0]


def _halves(w: Writer, a: Columns, b: Columns, block: int, inside: int) -> list[Columns]:
    """Two vectors with the same columns, interleaved: the results for the first and for the second
    half of each part of `inside` blocks (of the whole vector, if that is less than 2)."""
    columns, left = a
    right = b[1]
    size = inside if 2 <= inside <= len(columns) else len(columns)
    if size == 1:
        return [(columns, shuffle(w, left, right, range(2 * left.lanes)))]
    found = []
    for half in (0, 1):
        chosen = [
            start + half * size // 2 + k
            for start in range(0, len(columns), size)
            for k in range(size // 2)
        ]
        order = [
            side * left.lanes + at * block + lane
            for at in chosen
            for side in (0, 1)
            for lane in range(block)
        ]
        found.append(([columns[at] for at in chosen], shuffle(w, left, right, order)))
    return found


def _of_three(w: Writer, rows: Sequence[Value]) -> list[Value]:
    """Three vectors, one after the other: a0 b0 c0 a1 b1 c1 ..."""
    a, b, c = rows
    lanes = a.lanes
    found = []
    for third in range(3):
        sources = [divmod(at, 3) for at in range(third * lanes, (third + 1) * lanes)]
        both = shuffle(w, a, b, [lane + lanes * (row == 1) for lane, row in sources])
        order = [at if row < 2 else lanes + lane for at, (lane, row) in enumerate(sources)]
        found.append(shuffle(w, both, c, order))
    return found
