"""Writes `Contract` and `Attend` statements; parse_contract reads them back.

contract sums : f32 row i2 below 100 from 64*i1 column i3 below 30 from 0 depth 0..64 batch [i0]
    tile simt 64 x 64 x 16 stages 3 warps 2 x 2 products exact
    left in0 at 0 outer [100 by 64] depth [64 by 1] batch [2 by 6400]
    right in1 at 0 outer [30 by 1] depth [64 by 30] batch [2 by 0]
  out[i0, i2, i3] = max(sums@0, 0.0)

The first four are one line.
"""

from __future__ import annotations

from collections.abc import Iterator

from bessemer.compiler.ir.dims import Symbol
from bessemer.compiler.ir.loops import Attend, Contract
from bessemer.compiler.ir.operands import Axis, Operand, Window
from bessemer.compiler.ir.text.text_expr import ExpressionText


def contract_lines(contract: Contract, text: ExpressionText) -> Iterator[str]:
    """The lines of a statement without its stores."""
    size, tile = text.size, contract.tile

    def index(word: str, symbol: Symbol, begin: str) -> str:
        extent = "none" if symbol.extent is None else size(symbol.extent)
        return f"{word} {symbol} below {extent} from {begin}"

    yield " ".join(
        (
            f"contract {contract.sums} : {contract.dtype}",
            index("row", contract.row, size(contract.row_begin)),
            index("column", contract.column, size(contract.column_begin)),
            f"depth {size(contract.depth_begin)}..{size(contract.depth_end)}",
            f"batch [{', '.join(map(size, contract.batch))}]",
            f"tile {tile.level} {tile.rows} x {tile.columns} x {tile.depth}",
            f"stages {tile.stages} warps {tile.warps[0]} x {tile.warps[1]}",
            f"products {contract.products}",
            f"left {_operand(contract.left, text)}",
            f"right {_operand(contract.right, text)}",
        )
    )


def attend_lines(attend: Attend, text: ExpressionText) -> Iterator[str]:
    """The line of an attention without its stores."""
    size, tile = text.size, attend.tile

    def index(word: str, symbol: Symbol) -> str:
        extent = "none" if symbol.extent is None else size(symbol.extent)
        return f"{word} {symbol} below {extent}"

    yield " ".join(
        (
            f"attend {attend.results} by {attend.scores}",
            f"{index('row', attend.row)} from {size(attend.row_begin)}",
            index("key", attend.key),
            *(() if attend.key_end is None else (f"until {size(attend.key_end)}",)),
            index("column", attend.column),
            f"batch [{', '.join(map(size, attend.batch))}]",
            f"tile {tile.level} {tile.rows} x {tile.columns} x {tile.depth}",
            f"stages {tile.stages} warps {tile.warps[0]} x {tile.warps[1]}",
            f"queries {_operand(attend.queries, text)}",
            f"keys {_operand(attend.keys, text)}",
            f"values {_operand(attend.values, text)}",
            f"score {text.write(attend.score, attend.score.dtype)}",
        )
    )


def _operand(operand: Operand, text: ExpressionText) -> str:
    def axes(word: str, listed: tuple[Axis, ...]) -> str:
        pairs = (f"{text.size(axis.extent)} by {text.size(axis.stride)}" for axis in listed)
        return f"{word} [{', '.join(pairs)}]"

    def window(one: Window) -> str:
        return (
            f"window {one.outer}, {one.depth} step {one.step} dilation {one.dilation} "
            f"low {one.low} below {text.size(one.extent)}"
        )

    head = f"{text.buffer(operand.buffer)} at {text.size(operand.base)}"
    listed = (
        axes("outer", operand.outer),
        axes("depth", operand.depth),
        axes("batch", operand.batch),
        *map(window, operand.windows),
        *((f"parts {text.size(operand.parts)}",) if operand.parts != 0 else ()),
    )
    return " ".join((head, *listed))
