"""Writes the statements for a matrix unit's tiles (Intel's AMX): one instruction each, on tiles of
fixed numbers.

The shapes of the tiles are set once when the kernel begins, on the thread that runs it, and
released when it ends. That takes about 50 ns. Tiles that stay in use would make every switch
between threads slower.
"""

from __future__ import annotations

from typing import TypeAlias

from bessemer.compiler.codegen.kernels.expressions import indices
from bessemer.compiler.codegen.kernels.state import KernelState
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import walk_loops
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.types import bf16, i8

TileStatement: TypeAlias = TileZero | TileLoad | TileStore | TileMac

_ROW_BYTES = 64
# The configuration: a byte for the palette, 8 x 16 bits of bytes a row from 16 on, 8 bytes of rows
# from 48 on.
_CONFIGURATION_BYTES = 64
_WIDTHS, _ROWS = 16, 48


def begin(state: KernelState, body: Block) -> bool:
    """Sets up the tiles if the kernel uses any; returns whether it does."""
    setups = [s for s in walk_loops.walk(body) if isinstance(s, TileSetup)]
    if not setups:
        return False
    if "amx-tile" not in state.target.features:
        raise InternalError(f"{state.kernel.name} needs tiles, which {state.target.name} lacks")
    (setup,) = setups
    w = state.writer
    image = bytearray(_CONFIGURATION_BYTES)
    image[0] = 1
    for tile, rows in enumerate(setup.rows):
        image[_WIDTHS + 2 * tile] = _ROW_BYTES
        image[_ROWS + tile] = rows if isinstance(rows, int) else 0
    place = state.stack(_CONFIGURATION_BYTES, _CONFIGURATION_BYTES)
    elements = ", ".join(f"i8 {byte}" for byte in image)
    w.line(f"store <{len(image)} x i8> <{elements}>, ptr {place}, align {len(image)}")
    for tile, rows in enumerate(setup.rows):
        if not isinstance(rows, int):
            count = indices(state).scalar(rows)
            byte = w.compute(f"trunc {count.typed} to i8", i8, 1, count.level)
            at = w.here(f"getelementptr i8, ptr {place}, i64 {_ROWS + tile}", i8)
            w.line(f"store i8 {byte.text}, ptr {at.text}, align 1")
    _call(state, "ldtilecfg", f"ptr {place}", "ptr")
    return True


def end(state: KernelState) -> None:
    """Releases the tiles."""
    _call(state, "tilerelease", "", "")


def emit(state: KernelState, statement: TileStatement) -> None:
    """Writes one statement on tiles."""
    match statement:
        case TileZero(tile):
            _call(state, "tilezero", f"i8 {tile}", "i8 immarg")
        case TileLoad(tile, buffer, offset, stride):
            _move(state, "tileloadd64", tile, buffer, offset, stride)
        case TileStore(tile, buffer, offset, stride):
            _move(state, "tilestored64", tile, buffer, offset, stride)
            state.writer.forget(buffer.name)
        case TileMac(total, a, b):
            arguments = f"i8 {total}, i8 {a}, i8 {b}"
            _call(state, _product(statement), arguments, "i8 immarg, i8 immarg, i8 immarg")


def _product(mac: TileMac) -> str:
    if mac.left is bf16:
        return "tdpbf16ps"
    signs = ["s" if dtype is i8 else "u" for dtype in (mac.left, mac.right)]
    return f"tdpb{''.join(signs)}d"


def _move(
    state: KernelState, name: str, tile: int, buffer: Buffer, offset: Size, stride: Size
) -> None:
    pointer = indices(state).address(buffer, state.size(offset))
    distance = indices(state).scalar(state.size(stride) * buffer.dtype.bytes)
    arguments = f"i8 {tile}, ptr {state.writer.at(pointer)}, {distance.typed}"
    _call(state, name, arguments, "i8 immarg, ptr, i64")


def _call(state: KernelState, name: str, arguments: str, types: str) -> None:
    state.writer.declarations.add(f"declare void @llvm.x86.{name}({types})")
    state.writer.line(f"call void @llvm.x86.{name}({arguments})")
