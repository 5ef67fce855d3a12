"""The statement for a tile of a contraction: text, meaning, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.ir import dims, expr, loops, walk_loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Contract, Kernel
from bessemer.compiler.ir.operands import Axis, Operand, Tile, Window
from bessemer.compiler.ir.text.parse_loops import parse_kernel
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import DType, bf16, f16, f32, f64, i8, i32, u8
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import split_array
from bessemer.compiler.targets import x86
from tests.compiled_kernels import assembly

M, N, K, BATCH = dims.symbol("m"), 5, 7, 3


def product(tile: Tile | None = None, dtype: str = "f32", limit: int = K) -> Kernel:
    """out[b, r, c] = relu(a[b, r, :] . w[c, :] + bias[c]), in tiles."""
    tile = tile or Tile("simt", 4, 2, 4)
    a, w = Buffer("a", f32, (BATCH * M * K,)), Buffer("w", f32, (N * K,))
    bias, out = Buffer("bias", f32, (N,)), Buffer("out", f32, (BATCH * M * N,))
    builder = KernelBuilder()
    tiles_n = dims.ceildiv(N, tile.columns)
    tiles = dims.ceildiv(M, tile.rows) * tiles_n
    with builder.loop(BATCH * tiles, "parallel") as block:
        row, column = builder.index(M), builder.index(N)
        total = expr.fragment_element("sums", 0, f32)
        r, c, b = dims.atom(row), dims.atom(column), block // tiles
        value = expr.binary("max", total + bias[c,], 0.0)
        builder.append(
            Contract(
                "sums",
                f32,
                Operand(a, 0, (Axis(M, K),), (Axis(K, 1),), (Axis(BATCH, M * K),)),
                Operand(w, 0, (Axis(N, K),), (Axis(K, 1),), (Axis(BATCH, 0),)),
                (b,),
                row,
                block % tiles // tiles_n * tile.rows,
                column,
                block % tiles_n * tile.columns,
                0,
                limit,
                (loops.Store(out, (b * M * N + r * N + c,), value),),
                tile,
            )
        )
    return Kernel("product", (a, w, bias, out), 1, ("m",), builder.block())


def image() -> tuple[Kernel, Contract]:
    """A convolution with borders, a stride along one axis and a dilation along the other."""
    x, w = Buffer("x", f32, (2 * 5 * 6 * 3,)), Buffer("w", f32, (3 * 2 * 3 * 4,))
    out = Buffer("out", f32, (2 * 3 * 6 * 4,))
    builder = KernelBuilder()
    with builder.loop(dims.ceildiv(2 * 3 * 6, 8), "parallel") as block:
        row, column = builder.index(2 * 3 * 6), builder.index(4)
        contract = Contract(
            "sums",
            f32,
            Operand(
                x,
                -1 * 18 - 1 * 3,
                (Axis(2, 90), Axis(3, 2 * 18), Axis(6, 3)),
                (Axis(3, 18), Axis(2, 2 * 3), Axis(3, 1)),
                (),
                (Window(1, 0, 2, 1, 1, 5), Window(2, 1, 1, 2, 1, 6)),
            ),
            Operand(w, 0, (Axis(4, 1),), (Axis(18, 4),)),
            (),
            row,
            block * 8,
            column,
            0,
            0,
            18,
            (
                loops.Store(
                    out,
                    (dims.atom(row) * 4 + dims.atom(column),),
                    expr.fragment_element("sums", 0, f32),
                ),
            ),
            Tile("mma", 8, 8, 16, 2, (1, 1)),
            "tf32",
        )
        builder.append(contract)
    return Kernel("image", (x, w, out), 1, (), builder.block()), contract


@pytest.mark.parametrize("make", [product, lambda: image()[0]], ids=["product", "image"])
def test_a_contraction_has_a_text_that_reads_back(make: Callable[[], Kernel]) -> None:
    kernel = make()
    text = print_kernel(kernel)
    read = parse_kernel(text)
    assert print_kernel(read) == text
    assert walk_loops.structure(read.body) == walk_loops.structure(kernel.body)
    verify_kernel(read)


def test_the_text_says_what_is_multiplied() -> None:
    text = print_kernel(image()[0])
    assert "contract sums : f32 row i2 below 36 from 8*i1 column i3 below 4 from 0" in text
    assert "tile mma 8 x 8 x 16 stages 2 warps 1 x 1 products tf32 left x at -21 outer" in text
    assert "window 1, 0 step 2 dilation 1 low 1 below 5 window 2, 1 step 1" in text
    with pytest.raises(CompileError, match="one of simt, mma, wgmma"):
        parse_kernel(text.replace("tile mma", "tile abacus"))


def in_parts(kernel: Kernel) -> Kernel:
    """The product with its operands as three bf16 numbers each."""

    def change(operand: Operand) -> Operand:
        count = dims.product(operand.buffer.shape)
        buffer = Buffer(operand.buffer.name, bf16, (3 * count,))
        return replace(operand, buffer=buffer, parts=count)

    (loop,) = kernel.body
    assert isinstance(loop, loops.For)
    (contract,) = loop.body
    assert isinstance(contract, Contract)
    left, right = change(contract.left), change(contract.right)
    new = replace(contract, left=left, right=right, products="bf16x3")
    buffers = (left.buffer, right.buffer, *kernel.buffers[2:])
    return replace(kernel, buffers=buffers, body=(replace(loop, body=(new,)),))


def test_three_numbers_stand_for_one(rng: np.random.Generator) -> None:
    kernel = in_parts(product())
    verify_kernel(kernel)
    text = print_kernel(kernel)
    assert "parts 21*m right w" in text
    read = parse_kernel(text)
    assert walk_loops.structure(read.body) == walk_loops.structure(kernel.body)
    a = rng.standard_normal((BATCH, 6, K)).astype(np.float32)
    w, bias = (rng.standard_normal(s).astype(np.float32) for s in ((N, K), (N,)))
    parts = [split_array(x.reshape(-1)).reshape(-1) for x in (a, w)]
    result = run_kernel(kernel, [*parts, bias], {"m": 6}).outputs[0]
    expected = np.maximum(a.astype(np.float64) @ w.T.astype(np.float64) + bias, 0)
    np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(InternalError, match="an operand in parts is multiplied as exact"):
        verify_kernel(parse_kernel(text.replace("products bf16x3", "products exact")))


@pytest.mark.parametrize("limit", [K, 4, 0])
def test_a_tiled_product_is_the_product(limit: int, rng: np.random.Generator) -> None:
    kernel = product(limit=limit)
    verify_kernel(kernel)
    a = rng.standard_normal((BATCH, 6, K)).astype(np.float32)
    w, bias = (rng.standard_normal(s).astype(np.float32) for s in ((N, K), (N,)))
    result = run_kernel(kernel, [a.reshape(-1), w.reshape(-1), bias], {"m": 6}).outputs[0]
    products = a.astype(np.float64)[..., :limit] @ w.T.astype(np.float64)[:limit]
    expected = np.maximum(products + bias, 0)
    np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6)


def test_windows_read_zeros_beyond_the_border(rng: np.random.Generator) -> None:
    kernel, _ = image()
    verify_kernel(kernel)
    x = rng.integers(-8, 8, (2, 5, 6, 3)).astype(np.float32)
    w = rng.integers(-8, 8, (3, 2, 3, 4)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros((2, 3, 6, 4))
    for p, q, i, j in np.ndindex(3, 6, 3, 2):
        expected[:, p, q] += padded[:, 2 * p + i, q + 2 * j] @ w[i, j]
    result = run_kernel(kernel, [x.reshape(-1), w.reshape(-1)], {}).outputs[0]
    np.testing.assert_array_equal(result.reshape(expected.shape), expected)


def test_tf32_numbers_have_ten_bits_behind_the_point() -> None:
    kernel, _ = image()
    x = np.zeros(180, np.float32)
    x[0] = 1 + 2**-10 + 2**-12
    w = np.ones(72, np.float32)
    result = run_kernel(kernel, [x, w], {}).outputs[0]
    assert result.max() == np.float32(1 + 2**-10)


_, GOOD = image()
WRONG = [
    (replace(GOOD, tile=Tile("simt", 0, 8, 8)), "a tile of"),
    (replace(GOOD, tile=Tile("simt", 6, 8, 8, 1, (4, 1))), "cannot share 6 x 8 sums"),
    (replace(GOOD, row=dims.Symbol("r", 35)), "35 rows, but 36 in x"),
    (replace(GOOD, row=dims.Symbol("r", None)), "the row has no extent"),
    (replace(GOOD, batch=(0,)), "1 batch indices, 0 batch axes"),
    (replace(GOOD, left=replace(GOOD.left, depth=(Axis(9, 1),), windows=())), "depths 9 and 18"),
    (replace(GOOD, left=replace(GOOD.left, windows=(Window(3, 0, 1, 1, 0, 5),))), "axes 3 and 0"),
    (replace(GOOD, left=replace(GOOD.left, windows=(Window(1, 0, 0, 1, 0, 5),))), "of step 0"),
    (replace(GOOD, dtype=f64), "no sums of f64 from f32 and f32"),
    (replace(GOOD, stores=()), "the sums are not stored"),
    (replace(GOOD, sums="x"), "the name x is in use"),
    (replace(GOOD, depth_end=dims.symbol("k")), "the symbol k"),
    (replace(GOOD, stores=(replace(GOOD.stores[0], buffer=GOOD.left.buffer),)), "x is an input"),
]


@pytest.mark.parametrize(("contract", "problem"), WRONG, ids=[problem for _, problem in WRONG])
def test_wrong_contractions_are_found(contract: Contract, problem: str) -> None:
    kernel, _ = image()
    (loop,) = kernel.body
    assert isinstance(loop, loops.For)
    body = (replace(loop, body=(contract,)),)
    with pytest.raises(InternalError, match=problem):
        verify_kernel(replace(kernel, body=body))


@pytest.mark.parametrize("types", [(bf16, f16, f32), (i8, u8, i32), (f64, f64, f64)])
def test_operands_may_be_narrower_than_their_sums(types: tuple[DType, ...]) -> None:
    x, w, out = (replace(b, dtype=t) for b, t in zip(image()[0].buffers, types, strict=True))
    store = replace(GOOD.stores[0], buffer=out, value=expr.fragment_element("sums", 0, types[2]))
    contract = replace(
        GOOD,
        dtype=types[2],
        left=replace(GOOD.left, buffer=x),
        right=replace(GOOD.right, buffer=w),
        stores=(store,),
        products="exact",
    )
    (loop,) = image()[0].body
    assert isinstance(loop, loops.For)
    kernel = Kernel("typed", (x, w, out), 1, (), (replace(loop, body=(contract,)),))
    verify_kernel(kernel)
    left, right = np.ones(180, types[0].numpy), np.full(72, 2, types[1].numpy)
    assert run_kernel(kernel, [left, right], {}).outputs[0].max() == 36


def test_processors_have_no_such_tiles() -> None:
    with pytest.raises(InternalError, match="no code for Contract"):
        assembly(image()[0], x86.AVX2)
