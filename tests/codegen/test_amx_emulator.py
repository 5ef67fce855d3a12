"""The emulator of AMX, instruction by instruction, against NumPy."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import (
    Machine,
    compile_object,
    place_object,
)
from bessemer.compiler.ir.types import Array
from bessemer.compiler.targets import x86
from tests.amx_emulation import counts, emulator, library_path, needs_emulator, reset

pytestmark = needs_emulator
bfloat16 = ml_dtypes.bfloat16

_DECLARATIONS = """
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.sttilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8 immarg)
declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)
declare void @llvm.x86.tileloaddt164(i8 immarg, ptr, i64)
declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)
"""
PRODUCTS = ("tdpbf16ps", "tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud")


def compiled(body: str) -> tuple[Callable[..., None], Any]:
    """void f(ptr %a, ptr %b, ptr %c, ptr %config, i64 %n) as machine code."""
    products = "".join(
        f"declare void @llvm.x86.{name}(i8 immarg, i8 immarg, i8 immarg)\n" for name in PRODUCTS
    )
    lines = "".join(f"  {line.strip()}\n" for line in body.strip().splitlines())
    lines = lines.replace("!", "call void @llvm.x86.")
    head = "define void @f(ptr %a, ptr %b, ptr %c, ptr %config, i64 %n)"
    text = f"{_DECLARATIONS}{products}{head} {{\n{lines}  ret void\n}}\n"
    machine = Machine(x86.TRIPLE, x86.AMX.cpu, x86.AMX.feature_text)
    engine = place_object(compile_object(text, machine), machine)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)
    return function(engine.get_function_address("f")), engine


def run(body: str, a: Array, b: Array, c: Array, config: Array, n: int = 0) -> None:
    """Runs tile instructions; `!` stands for the call of an intrinsic."""
    emulator()
    function, _engine = compiled(body)
    function(*(array.ctypes.data for array in (a, b, c, config)), n)


def configuration(rows: list[int], widths: list[int]) -> Array:
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16:32].view(np.uint16)[: len(widths)] = widths
    config[48 : 48 + len(rows)] = rows
    return config


def test_tiles_are_loaded_and_stored_at_any_stride() -> None:
    rng = np.random.default_rng(1)
    source = rng.integers(0, 256, 4000).astype(np.uint8)
    out = np.zeros((16, 100), np.uint8)
    body = """
      !ldtilecfg(ptr %config)
      !tileloadd64(i8 3, ptr %a, i64 %n)
      !tilestored64(i8 3, ptr %c, i64 100)
      !tilerelease()
    """
    for which in (body, body.replace("tileloadd64", "tileloaddt164")):
        for rows, width, stride in ((16, 64, 70), (5, 64, 200), (16, 12, 64), (3, 20, 0)):
            out[:] = 7
            config = configuration([1, 1, 1, rows], [64, 64, 64, width])
            run(which, source, source, out, config, stride)
            expected = np.full_like(out, 7)
            for row in range(rows):
                expected[row, :width] = source[row * stride : row * stride + width]
            np.testing.assert_array_equal(out, expected)


def test_the_configuration_is_stored_as_it_was_loaded_until_it_is_released() -> None:
    config = configuration([16, 2, 3, 4, 5, 6, 7, 8], [64, 4, 8, 12, 16, 20, 24, 28])
    out = np.full((2, 64), 9, np.uint8)
    body = """
      !ldtilecfg(ptr %config)
      !sttilecfg(ptr %c)
      !tilerelease()
      %second = getelementptr i8, ptr %c, i64 64
      !sttilecfg(ptr %second)
    """
    run(body, out, out, out, config)
    np.testing.assert_array_equal(out[0], config)
    assert not out[1].any()


def test_zero_clears_one_tile_and_setting_up_clears_all() -> None:
    ones = np.ones((16, 64), np.uint8)
    out = np.full((3, 16, 64), 9, np.uint8)
    body = """
      !ldtilecfg(ptr %config)
      !tileloadd64(i8 0, ptr %a, i64 64)
      !tileloadd64(i8 7, ptr %a, i64 64)
      !tilezero(i8 7)
      !tilestored64(i8 0, ptr %c, i64 64)
      %second = getelementptr i8, ptr %c, i64 1024
      !tilestored64(i8 7, ptr %second, i64 64)
      !ldtilecfg(ptr %config)
      %third = getelementptr i8, ptr %c, i64 2048
      !tilestored64(i8 0, ptr %third, i64 64)
    """
    run(body, ones, ones, out, configuration([16] * 8, [64] * 8))
    assert out[0].all() and not out[1].any() and not out[2].any()


def product(name: str, a: Array, b: Array, c: Array) -> Array:
    """c += a . b by one instruction; a is [rows, depth bytes], b [depth / 4, columns * 4 bytes]."""
    rows, pairs, width = len(c), len(b), b.shape[1] * b.itemsize
    config = configuration([1, 1, rows, 1, rows, 1, pairs], [4, 4, width, 4, 4 * pairs, 4, width])
    out = c.copy()
    body = f"""
      !ldtilecfg(ptr %config)
      !tileloadd64(i8 2, ptr %c, i64 {width})
      !tileloadd64(i8 4, ptr %a, i64 {4 * pairs})
      !tileloadd64(i8 6, ptr %b, i64 {width})
      !{name}(i8 2, i8 4, i8 6)
      !tilestored64(i8 2, ptr %c, i64 {width})
      !tilerelease()
    """
    run(body, a, b, out, config)
    return out


def unpacked(b: Array, group: int) -> Array:
    """[depth / group, columns * group] as [depth, columns]."""
    return b.reshape(len(b), -1, group).transpose(0, 2, 1).reshape(len(b) * group, -1)


@pytest.mark.parametrize("name", PRODUCTS[1:])
@pytest.mark.parametrize("shape", [(16, 16, 16), (1, 16, 16), (7, 3, 5), (16, 1, 1)], ids=str)
def test_products_of_bytes_wrap(name: str, shape: tuple[int, int, int]) -> None:
    rows, fours, columns = shape
    rng = np.random.default_rng(rows)
    kinds = [np.int8 if sign == "s" else np.uint8 for sign in name[4:6]]
    a = rng.integers(0, 256, (rows, 4 * fours)).astype(np.uint8).view(kinds[0])
    b = rng.integers(0, 256, (fours, 4 * columns)).astype(np.uint8).view(kinds[1])
    c = rng.integers(-(2**31), 2**31, (rows, columns)).astype(np.int32)
    c[0, 0] = 2**31 - 1
    exact = c.astype(np.int64) + a.astype(np.int64) @ unpacked(b, 4).astype(np.int64)
    np.testing.assert_array_equal(product(name, a, b, c), exact.astype(np.int32))


@pytest.mark.parametrize("shape", [(16, 16, 16), (1, 16, 16), (7, 3, 5), (16, 1, 1)], ids=str)
def test_products_of_bfloat16(shape: tuple[int, int, int]) -> None:
    """As the manual says: sums of even and of odd products, each rounded, then both, then c."""
    rows, pairs, columns = shape
    rng = np.random.default_rng(pairs)
    a = rng.standard_normal((rows, 2 * pairs)).astype(bfloat16)
    b = rng.standard_normal((pairs, 2 * columns)).astype(bfloat16)
    c = rng.standard_normal((rows, columns)).astype(np.float32)
    even = np.zeros((rows, columns), np.float32)
    odd = np.zeros((rows, columns), np.float32)
    for k in range(pairs):
        for part, total in enumerate((even, odd)):
            left = a[:, 2 * k + part].astype(np.float64)[:, None]
            total[:] = total + left * b[k, part::2].astype(np.float64)
    np.testing.assert_array_equal(product("tdpbf16ps", a, b, c), c + (even + odd))


def test_products_of_bfloat16_take_and_make_no_denormals() -> None:
    tiny = np.float32(2.0**-130)
    a = np.zeros((4, 2), bfloat16)
    b = np.zeros((1, 2), bfloat16)
    a[:, 0] = [1.0, tiny, 2.0**-70, np.inf]
    b[0, 0] = 2.0**-70
    c = np.array([[0.0], [tiny], [0.0], [1.0]], np.float32)
    result = product("tdpbf16ps", a, b, c)[:, 0]
    np.testing.assert_array_equal(result, np.array([2.0**-70, 0, 0, np.inf], np.float32))


def test_products_of_bfloat16_keep_ieee_infinities_and_nan() -> None:
    a = np.array([[np.inf, 0], [np.inf, 1], [np.nan, 0], [1, 2]], bfloat16)
    b = np.array([[1, 1, 0, 0, -1, np.inf]], bfloat16)
    result = product("tdpbf16ps", a, b, np.zeros((4, 3), np.float32))
    nan, inf = np.nan, np.inf
    expected = [[inf, nan, nan], [inf, nan, nan], [nan, nan, nan], [3, 0, inf]]
    np.testing.assert_array_equal(result, np.array(expected, np.float32))


def test_every_thread_has_tiles_of_its_own() -> None:
    function, _engine = compiled("""
      !ldtilecfg(ptr %config)
      !tileloadd64(i8 0, ptr %a, i64 64)
      !tilestored64(i8 0, ptr %c, i64 64)
      !tilerelease()
    """)
    emulator()
    config = configuration([16], [64])
    failures: list[int] = []

    def work(number: int) -> None:
        mine = np.full((16, 64), number, np.uint8)
        for _ in range(200):
            out = np.zeros_like(mine)
            function(mine.ctypes.data, 0, out.ctypes.data, config.ctypes.data, 0)
            if not np.array_equal(mine, out):
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_instructions_are_counted() -> None:
    a = np.ones((16, 64), np.uint8)
    reset()
    body = """
      !ldtilecfg(ptr %config)
      !tilezero(i8 0)
      !tileloadd64(i8 1, ptr %a, i64 64)
      !tileloadd64(i8 2, ptr %a, i64 64)
      !tdpbuud(i8 0, i8 1, i8 2)
      !tdpbuud(i8 0, i8 2, i8 1)
      !tdpbuud(i8 0, i8 1, i8 2)
      !tilestored64(i8 0, ptr %c, i64 64)
      !tilerelease()
    """
    run(body, a, a, np.zeros((16, 16), np.int32), configuration([16] * 8, [64] * 8))
    assert list(counts().values()) == [1, 0, 2, 1, 1, 1, 3]


_REFUSED = {
    "a product that names a tile twice": ("!tdpbf16ps(i8 0, i8 1, i8 1)", {}),
    "a product into its own operand": ("!tdpbssd(i8 1, i8 1, i8 2)", {}),
    "rows that differ": ("!tdpbf16ps(i8 0, i8 1, i8 2)", {"rows": [16, 8, 16]}),
    "depths that differ": ("!tdpbf16ps(i8 0, i8 1, i8 2)", {"rows": [16, 16, 15]}),
    "widths that differ": ("!tdpbf16ps(i8 0, i8 1, i8 2)", {"widths": [32, 64, 64]}),
    "a tile without a shape": ("!tilezero(i8 5)", {}),
    "tiles that are not set up": ("!tilerelease()\n!tilezero(i8 0)", {}),
}
_IMPOSSIBLE = [
    "configuration([17], [64])", "configuration([16], [65])", "configuration([0], [64])"
]  # fmt: skip
_CHILD = """
import os, sys
import numpy as np
from tests.codegen.test_amx_emulator import compiled, configuration, run
compiled("")  # LLVM begins here, not in every child
a = np.zeros((16, 64), np.uint8)
for body, config in {cases!r}:
    begun, said = os.pipe()
    child = os.fork()
    if not child:
        os.write(said, b"begun")
        run(body, a, a, a, eval(config))
        os.write(said, b" survived")
        os._exit(0)
    os.close(said)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(os.read(begun, 100).decode(), status)
"""


@pytest.fixture(scope="module")
def ends() -> dict[str, str]:
    """What each forbidden program says, and the signal that ends its process; all are children of
    one process, which has the emulator and nothing else."""
    library_path()
    cases = [("!ldtilecfg(ptr %config)", config) for config in _IMPOSSIBLE]
    for body, changed in _REFUSED.values():
        rows, widths = changed.get("rows", [16] * 3), changed.get("widths", [64] * 3)
        cases.append((f"!ldtilecfg(ptr %config)\n{body}", f"configuration({rows}, {widths})"))
    parent = subprocess.run(
        [sys.executable, "-c", _CHILD.format(cases=cases)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip([*_IMPOSSIBLE, *_REFUSED], parent.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("what", sorted(_REFUSED))
def test_what_the_processor_refuses_is_illegal_here_too(what: str, ends: dict[str, str]) -> None:
    assert ends[what] == f"begun {-signal.SIGILL}"


@pytest.mark.parametrize("config", _IMPOSSIBLE)
def test_an_impossible_configuration_is_a_protection_fault(
    config: str, ends: dict[str, str]
) -> None:
    assert ends[config] == f"begun {-signal.SIGSEGV}"
