"""Differences of four bits and a constant are looked up in a register, those of more are not."""

import numpy as np
import pytest

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer, binary, convert
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import Array, f32, u8, u32
from bessemer.compiler.targets.machine import Target
from bessemer.compiler.targets.x86 import AVX512
from tests.compiled_kernels import HERE, CompiledKernel, assembly

COUNT = 256


def _kernel(lanes: int = 16) -> Kernel:
    """Differences of the bits of bytes and of words: low ones, high ones, and more than four."""
    inputs = [Buffer("bytes", u8, (COUNT,)), Buffer("words", u32, (COUNT,))]
    out = Buffer("out", f32, (5, COUNT))
    builder = KernelBuilder()
    with builder.loop(COUNT, "vector", lanes) as i:
        byte, word = convert(inputs[0][i], u32), inputs[1][i]
        parts = (byte & 15, binary("shr", byte, 4), word & 15, word & 31, binary("shr", word, 4))
        for row, part in enumerate(parts):
            builder.store(out, (row, i), convert(part, f32) - 7.5)
    return Kernel("kernel", (*inputs, out), 1, (), builder.block())


@pytest.mark.parametrize("lanes", [16, 32])
@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
def test_differences_of_few_bits(target: Target, lanes: int, rng: np.random.Generator) -> None:
    byte = np.arange(COUNT, dtype=np.uint8)
    word: Array = rng.integers(0, 1 << 32, COUNT, np.uint32)
    result = CompiledKernel(_kernel(lanes), target)([byte, word, np.zeros((5, COUNT), np.float32)])
    parts = np.stack([byte & 15, byte >> 4, word & 15, word & 31, word >> 4])
    np.testing.assert_array_equal(result.arrays[2], parts.astype(np.float32) - np.float32(7.5))


def test_four_bits_take_one_instruction() -> None:
    text = assembly(_kernel(), AVX512)
    assert text.count("vpermd") + text.count("vpermps") == 3
