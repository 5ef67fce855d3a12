"""Kernels that store three parts of what they compute: which do, and that nothing else changes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import bf16, f32
from bessemer.compiler.options import Options, Precision, Tuning
from bessemer.compiler.schedule import program
from bessemer.compiler.targets import x86
from bessemer.frontends.cli.compiler_steps import schedule
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.amx_emulation import emulator, needs_emulator
from tests.compiled_kernels import HERE, CompiledKernel, assembly
from tests.schedule.test_matrix_tiles_networks import Sketch, loaded, runs_to, uses_tiles


def maps(dtype: Any) -> Sketch:
    """A border, Winograd's method, a residual sum that is also read as it is, pooling."""
    net = Sketch((1, 64, 9, 10), dtype)
    before = net.conv(64, 64, 1)
    net.add("Conv", net.weights(32, 64, 5, 1), net.weights(32), pads=[2, 0, 2, 0])
    net.add("Relu")
    net.conv(32, 64, 3)
    net.add("Add", before)
    after = net.add("Relu")
    net.conv(64, 128, 1)
    net.add("Sigmoid")
    net.conv(128, 64, 1)
    net.add("Add", after)
    net.add("MaxPool", kernel_shape=[2, 2], strides=[1, 1])
    net.conv(64, 64, 1)
    return net


def rows(dtype: Any) -> Sketch:
    """A norm, whose kernel goes over its rows more than once; a gate; a softmax, whose kernel reads
    again what it has stored. Any number of rows."""
    net = Sketch(("n", 96), dtype)
    net.add("LayerNormalization", net.weights(96), net.weights(96), axis=-1)
    net.add("MatMul", net.weights(96, 256))
    product = net.last
    net.add("Erf")
    net.add("Mul", product)
    net.add("MatMul", net.weights(256, 96))
    net.add("Softmax", axis=-1)
    net.add("MatMul", net.weights(96, 64))
    return net


NETWORKS = {"maps": maps, "rows": rows}


@cache
def together(name: str) -> Compilation:
    """The network with parts written by kernels; the tests share it."""
    return compiled(name)


def compiled(
    name: str, tuning: Tuning | None = None, precision: Precision = "float32"
) -> Compilation:
    options = Options(
        target="x86_64-amx", precision=precision, verify=True, tuning=tuning or Tuning()
    )
    return build(read_onnx(NETWORKS[name](np.float32).model()), options)


def names(made: Compilation) -> list[str]:
    return [step.kernel.name for step in made.program.steps if isinstance(step, Launch)]


def split_by_a_pass(made: Compilation) -> list[str]:
    """What made the values that a pass splits: a kernel's name, or ""."""
    steps = [step for step in made.program.steps if isinstance(step, Launch)]
    makers = {v: s.kernel.name for s in steps for v in s.values[-s.kernel.outputs :]}
    splits = [step for step in steps if step.kernel.name.startswith("split")]
    return [makers.get(step.values[0], "") for step in splits]


def test_only_what_is_read_again_is_split_by_a_pass() -> None:
    made = together("maps")
    assert uses_tiles(made) == 3
    assert split_by_a_pass(made) == []
    assert sum("_parts" in kernel for kernel in names(made)) == 3
    softmax = split_by_a_pass(together("rows"))
    assert len(softmax) == 1 and "exp" in softmax[0]


@needs_emulator
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("maps", "float32"),
        pytest.param("rows", "float32", marks=pytest.mark.slow),
        pytest.param("maps", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_the_bits_are_those_of_a_pass(
    name: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator()
    made = together(name) if precision == "float32" else compiled(name, precision=precision)
    monkeypatch.setattr(program, "write_parts", lambda steps, outputs, lowering: tuple(steps))
    apart = compiled(name, precision=precision)
    assert any("_parts" in kernel for kernel in names(made))
    assert not any("_parts" in kernel for kernel in names(apart))
    rng = np.random.default_rng(2)
    shape = [d if isinstance(d, int) else 37 for d in made.program.inputs[0].type.shape]
    x = rng.standard_normal(shape).astype(np.float32)
    for at, value in enumerate([np.inf, np.nan, 3.4028235e38, -3.39e38, 1e-37, 1e-42]):
        place = (0, 3, 0, at) if len(shape) == 4 else (5 * at, 3)
        x[place] = value
    one, two = (runs_to(loaded(either), x) for either in (made, apart))
    assert np.isfinite(one).any() and np.isnan(one).any()
    np.testing.assert_array_equal(one.view(np.uint32), two.view(np.uint32))


def test_maps_that_only_tiles_and_epilogues_read_lie_in_blocks() -> None:
    """In bfloat16: a padded map, one that is added to another's sums, one of 128 channels, and what
    a pooling stores; not what the pooling reads."""
    options = Options(target="x86_64-amx", precision="bfloat16")
    program = schedule(read_onnx(maps(np.float32).model()), options).program
    launches = [step for step in program.steps if isinstance(step, Launch)]
    written = [v.type for s in launches for v in s.values[-s.kernel.outputs :]]
    blocks = [type.shape for type in written if type.dtype is bf16 and type.shape[-1] == 32]
    assert blocks == [
        (2, 1, 131, 32),
        (1, 11, 12, 32),
        (2, 1, 91, 32),
        (4, 1, 91, 32),
        (2, 1, 73, 32),
    ]


def test_a_tuning_decides_against_tiles() -> None:
    signatures = {d.signature for d in together("rows").program.decisions if "tiles" in d.choice}
    assert len(signatures) == 3
    without = compiled("rows", Tuning({key: {"tiles": 0} for key in signatures}))
    assert not uses_tiles(without)
    assert not any("parts" in kernel or "split" in kernel for kernel in names(without))


@pytest.mark.parametrize(("lanes", "interleave"), [(8, 1), (8, 4), (16, 1), (16, 2)])
def test_a_quotient_that_all_lanes_share_leaves_neighbours_neighbours(
    lanes: int, interleave: int, rng: np.random.Generator
) -> None:
    """Blocks of 32, 40 apart; the last one not whole."""
    count, first = 75, dims.symbol("first")
    source, out = Buffer("source", f32, (count,)), Buffer("out", f32, (200,))
    builder = KernelBuilder()
    with builder.loop(count, "vector", lanes, interleave) as i:
        at = 32 * first + i
        place = dims.floordiv(at, 32) * 8 + at - 40 * first
        builder.store(out, (place,), source[i] + source[dims.floordiv(i, 32)])
    kernel = Kernel("blocks", (source, out), 1, ("first",), builder.block())
    x = rng.standard_normal(count).astype(np.float32)
    expected = np.zeros(200, np.float32)
    k = np.arange(count)
    expected[k // 32 * 40 + k % 32] = x + x[k // 32]
    sizes = {"first": 3}
    for target in HERE:
        result = CompiledKernel(kernel, target)([x, np.zeros(200, np.float32)], sizes).arrays[1]
        np.testing.assert_array_equal(result, expected)
    written = expected != 0
    meant = run_kernel(kernel, [x], sizes).outputs[0]
    np.testing.assert_array_equal(meant[written], expected[written])
    text = assembly(kernel, x86.AVX512)
    assert "scatter" not in text and "gather" not in text
