"""Statements on a matrix unit's tiles: text, meaning, machine code, mistakes."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims, loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.text.parse_loops import parse_kernel
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.types import bf16, f32, i8, i32, u8
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.targets import x86
from tests.amx_emulation import emulator, needs_emulator
from tests.compiled_kernels import CompiledKernel, assembly


def small() -> Kernel:
    """One product of tiles in all its statements."""
    a, b = Buffer("a", u8, (512,)), Buffer("b", i8, (1024,))
    out = Buffer("out", i32, (256,))
    builder = KernelBuilder()
    rows = dims.minimum(16, dims.symbol("m"))
    builder.append(TileSetup((rows,) * 6 + (16, 16)))
    builder.append(TileZero(0))
    with builder.loop(2) as i:
        builder.append(TileLoad(4, a, i * 8, 24))
        builder.append(TileLoad(6, b, 0, 64))
        builder.append(TileMac(0, 4, 6, u8, i8))
    builder.append(TileStore(0, out, 0, 16))
    return Kernel("small", (a, b, out), 1, ("m",), builder.block())


def test_tiles_have_a_text_that_reads_back() -> None:
    text = print_kernel(small())
    assert "tiles rows [min(16, m), " in text
    assert "load tile 4 from a at 8*i1 stride 24" in text
    assert "multiply tiles 0 += 4 : u8 * 6 : i8" in text
    assert print_kernel(parse_kernel(text)) == text


@needs_emulator
def test_tiles_may_have_fewer_rows(rng: np.random.Generator) -> None:
    kernel = small()
    verify_kernel(kernel)
    a = rng.integers(0, 256, 512).astype(np.uint8)
    b = rng.integers(-128, 128, 1024).astype(np.int8)
    expected = np.full((16, 16), 5, np.int64)
    right = b.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16).astype(np.int64)
    for row in range(7):
        both = a[row * 24 : row * 24 + 64].astype(np.int64) + a[row * 24 + 8 : row * 24 + 72]
        expected[row] = both @ right
    emulator()
    out = np.full(256, 5, np.int32)
    for result in (
        run_kernel(kernel, [a, b, out], {"m": 7}).outputs[0],
        CompiledKernel(kernel, x86.AMX)([a, b, out], {"m": 7}).arrays[2],
    ):
        np.testing.assert_array_equal(result.reshape(16, 16), expected)


A, B, OUT = Buffer("a", bf16, (512,)), Buffer("b", bf16, (512,)), Buffer("out", f32, (256,))
SETUP = TileSetup((16,) * 8)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ((TileZero(0),), "tiles are set up once, before"),
        ((SETUP, SETUP), "tiles are set up once, before"),
        ((TileSetup((16,) * 7),), "eight tiles have 1 to 16 rows"),
        ((TileSetup((17,) * 8),), "eight tiles have 1 to 16 rows"),
        ((SETUP, TileZero(8)), "there are eight tiles"),
        ((SETUP, TileMac(0, 1, 1, bf16, bf16)), "three different tiles"),
        ((SETUP, TileMac(0, 1, 2, f32, f32)), "no product of tiles of f32"),
        ((SETUP, TileMac(0, 1, 2, u8, bf16)), "no product of tiles of u8"),
        ((SETUP, TileStore(0, A, 0, 32)), "a is an input"),
        ((SETUP, TileLoad(0, Buffer("c", f32, (1,)), 0, 32)), "there is no buffer c"),
        ((SETUP, TileLoad(0, A, dims.symbol("n"), 32)), "symbol n"),
    ],
)
def test_wrong_tiles_are_found(body: loops.Block, problem: str) -> None:
    with pytest.raises(InternalError, match=problem):
        verify_kernel(Kernel("wrong", (A, B, OUT), 1, (), body))


def test_tiles_need_a_matrix_unit() -> None:
    kernel = Kernel("tiles", (A, B, OUT), 1, (), (SETUP,))
    with pytest.raises(InternalError, match="needs tiles, which x86_64-avx512 lacks"):
        assembly(kernel, x86.AVX512)
