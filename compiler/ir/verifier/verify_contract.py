"""Checks `Contract` and `Attend` statements; verify_loops.py checks their names and expressions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import Attend, Contract
from bessemer.compiler.ir.operands import Axis, Operand, Tile
from bessemer.compiler.ir.types import DType, bf16, f16, f32, f64, i8, i16, i32, u8

_OPERANDS: dict[DType, tuple[DType, ...]] = {
    f32: (f32, bf16, f16),
    f64: (f64,),
    i32: (i8, u8, i16),
}


def contract_problems(tile: Contract | Attend) -> Iterator[str]:
    """What is wrong with a statement."""
    return _contract_problems(tile) if isinstance(tile, Contract) else _attend_problems(tile)


def _contract_problems(contract: Contract) -> Iterator[str]:
    yield from _tile_problems(contract.tile)
    left, right = contract.left, contract.right
    for symbol, operand, word in ((contract.row, left, "row"), (contract.column, right, "column")):
        if symbol.extent is None:
            yield f"the {word} has no extent"
        elif symbol.extent != operand.outer_extent:
            yield f"{symbol.extent} {word}s, but {operand.outer_extent} in {operand.buffer.name}"
        yield from _operand_problems(contract, operand)
    depths: tuple[Size, Size] = (left.depth_extent, right.depth_extent)
    if depths[0] != depths[1]:
        yield f"operands of the depths {depths[0]} and {depths[1]}"
    types = (left.buffer.dtype, right.buffer.dtype)
    if not all(dtype in _OPERANDS.get(contract.dtype, ()) for dtype in types):
        yield f"no sums of {contract.dtype} from {types[0]} and {types[1]}"
    in_parts = [operand.parts != 0 for operand in (left, right)]
    if contract.products == "bf16x3" and all(in_parts):
        if types != (bf16, bf16):
            yield f"parts of {types[0]} and {types[1]}"
    elif any(in_parts):
        yield f"an operand in parts is multiplied as {contract.products}"
    elif contract.products != "exact" and types != (f32, f32):
        yield f"only f32 is multiplied as {contract.products}"
    if not contract.stores:
        yield "the sums are not stored"


def _attend_problems(attend: Attend) -> Iterator[str]:
    for contract in attend.products:
        stored = contract if contract.stores else replace(contract, stores=attend.stores)
        weights = replace(attend.queries, depth=(Axis(attend.key.extent or 0, 0),))
        left = attend.queries if contract.sums == attend.scores else weights
        yield from _contract_problems(replace(stored, left=left))
    if attend.score.dtype is not f32:
        yield f"scores of {attend.score.dtype}"
    if attend.tile.columns < (attend.column.extent if isinstance(attend.column.extent, int) else 0):
        yield f"{attend.column.extent} columns in a tile of {attend.tile.columns}"


def _tile_problems(tile: Tile) -> Iterator[str]:
    numbers = (tile.rows, tile.columns, tile.depth, tile.stages, *tile.warps)
    if min(numbers) < 1:
        yield f"a tile of {numbers}"
    if tile.rows % tile.warps[0] or tile.columns % tile.warps[1]:
        yield f"{tile.warps} warps cannot share {tile.rows} x {tile.columns} sums"


def _operand_problems(contract: Contract, operand: Operand) -> Iterator[str]:
    if len(operand.batch) != len(contract.batch):
        yield f"{len(contract.batch)} batch indices, {len(operand.batch)} batch axes"
    for window in operand.windows:
        if not (0 <= window.outer < len(operand.outer) and 0 <= window.depth < len(operand.depth)):
            yield f"a window of the axes {window.outer} and {window.depth}"
        if window.step < 1 or window.dilation < 1:
            yield f"a window of step {window.step} and dilation {window.dilation}"
