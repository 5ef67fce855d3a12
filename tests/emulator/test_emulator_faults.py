"""Faults planted into the PTX of real kernels: the emulator must find each in one of
four schedules at least.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest

from bessemer.compiler.device_driver import DeviceCompilation, build_for_device
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import TensorType, dtype_of
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import SM80, SM90A
from bessemer.runtime.cuda.model import DeviceModel
from emulator.driver import EmulatedDriver
from emulator.errors import EmulationError
from emulator.schedule import FOUR_SCHEDULES
from tests.emulator.emulated import Array

BF16 = np.dtype(ml_dtypes.bfloat16)
Case = tuple[DeviceCompilation, tuple[Array, ...], Array]


def _product(m: int, n: int, k: int, dtype: np.dtype[np.generic]) -> tuple[Graph, Array, Array]:
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n)))
    b = GraphBuilder("product")
    given = b.input("x", TensorType(dtype_of(x), x.shape))
    return (
        b.finish([b.apply("matmul", given, b.constant(w))], ["y"]),
        x,
        x.astype(float) @ w.astype(float),
    )


def _softmax(b: GraphBuilder, x: Value) -> Value:
    def over_rows(name: str, value: Value) -> Value:
        reduced = b.apply("reshape", b.apply(name, value, axes=(1,)), shape=(x.type.shape[0], 1))
        return b.apply("broadcast_to", reduced, shape=x.type.shape)

    e = b.apply("exp", b.apply("sub", x, over_rows("reduce_max", x)))
    return b.apply("div", e, over_rows("reduce_sum", e))


@functools.cache
def kernel(name: str) -> Case:
    """A compiled graph of one kernel, its inputs, and what it should give."""
    if name in ("simt", "mma", "wgmma"):
        shape, dtype, target = {
            "simt": ((65, 40, 80), np.dtype(np.float32), SM80),
            "mma": ((70, 72, 200), BF16, SM80),
            "wgmma": ((70, 72, 576), BF16, SM90A),
        }[name]
        graph, x, expected = _product(*shape, dtype)
        return build_for_device(graph, Options(), target), (x,), expected
    rng = np.random.default_rng(2)
    b = GraphBuilder(name)
    if name == "softmax":
        x = rng.standard_normal((3, 1500)).astype(np.float32)
        value = _softmax(b, b.input("x", TensorType(dtype_of(x), x.shape)))
        e = np.exp(x.astype(float))
        expected = e / e.sum(1, keepdims=True)
    else:
        x = rng.standard_normal(4500).astype(np.float32)
        value = b.apply("relu", b.input("x", TensorType(dtype_of(x), x.shape)))
        expected = np.maximum(x, 0)
    return build_for_device(b.finish([value], ["y"]), Options(), SM80), (x,), expected


def run(case: Case, ptx: str) -> list[str]:
    """What each of the four schedules finds: an error's class, "wrong result", or "" for nothing.

    Input and output are arrays on the device: memory of their own, whose ends the emulator knows.
    """
    compiled, inputs, expected = case
    program = replace(compiled.artifact, ptx=ptx)
    found = []
    for schedule in FOUR_SCHEDULES:
        model = DeviceModel(program, compiled.weights, EmulatedDriver(schedule))
        result = model.place(np.zeros(expected.shape, inputs[0].dtype))
        try:
            model.run([model.place(one) for one in inputs], [result])
        except EmulationError as error:
            found.append(type(error).__name__)
            continue
        actual = model.fetch(result).astype(float)
        difference = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
        found.append("" if difference < 1e-2 else "wrong result")
    return found


@pytest.mark.parametrize("name", ["simt", "mma", "wgmma", "softmax", "pointwise"])
def test_the_kernels_as_they_are_pass(name: str) -> None:
    assert run(kernel(name), kernel(name)[0].artifact.ptx) == [""] * 4


Edit = Callable[[re.Match[str]], str]


def _remove(_: re.Match[str]) -> str:
    return ""


def _change_number(by: int) -> Edit:
    """The match's last group is a number."""
    return lambda match: (
        match[0][: -len(match[match.lastindex or 0]) - 1]
        + f"{int(match[match.lastindex or 0]) + by};"
    )


@dataclass(frozen=True)
class Fault:
    """The `number`th place in kernel `kernel` that matches `pattern` is edited (-1: the last)."""

    kernel: str
    pattern: str
    edit: Edit = _remove
    number: int = 0

    def plant(self, ptx: str) -> str:
        match = list(re.finditer(self.pattern, ptx))[self.number]
        return ptx[: match.start()] + self.edit(match) + ptx[match.end() :]


def _constant_of(pattern: str, by: int) -> tuple[str, Edit]:
    """The `mov` of the register that `pattern` ends with lies before it: changes the
    number there.
    """
    return rf"mov\.b32\s+(%r\d+), (\d+);(?=[\s\S]*?{pattern}\1;)", _change_number(by)


BARRIER = r"bar\.sync\s+0;"
WARP_BARRIER = r"bar\.warp\.sync\s+-1;"
WAIT = r"cp\.async\.wait_group\s+([1-9]\d*);"
EXPECT = r"mbarrier\.arrive\.expect_tx\.shared\.b64 %rd\d+, \[[^\]]*\], "
ARRIVE = r"mbarrier\.arrive\.shared\.b64[^;]*;"
TRY_WAIT = r"(mbarrier\.try_wait\.parity\.shared\.b64) (%p\d+), (\[[^\]]*\]), (%r\d+);"


def _turn_parity(match: re.Match[str]) -> str:
    wait, result, barrier, parity = match.groups()
    turned = f"{{.reg .b32 turned; xor.b32 turned, {parity}, 1; {wait} {result}, {barrier}, turned;"
    return turned + "}"


def _do_not_wait(match: re.Match[str]) -> str:
    return f"setp.eq.u32 {match[2]}, 0, 0;"


FAULTS = {
    "simt: a copy's wait leaves one group more": Fault("simt", WAIT, _change_number(1)),
    "simt: the loop's barrier removed": Fault("simt", BARRIER),
    "simt: the barrier before the slabs removed": Fault("simt", BARRIER, number=1),
    "simt: the last wait removed": Fault("simt", r"cp\.async\.wait_group\s+0;"),
    "simt: one row too many is stored": Fault(
        "simt", r"setp\.gt\.u64\s+%p\d+, %rd\d+, (64);", _change_number(1)
    ),
    "mma: a copy's wait leaves one group more": Fault("mma", WAIT, _change_number(1)),
    "mma: the loop's barrier removed": Fault("mma", BARRIER),
    "mma: one row too many is loaded": Fault(
        "mma", r"setp\.lt\.u32\s+%p\d+, %r\d+, (70);", _change_number(1)
    ),
    "mma: a warp's barrier removed": Fault("mma", WARP_BARRIER),
    "mma: a commit removed": Fault("mma", r"cp\.async\.commit_group;", number=1),
    "wgmma: too few bytes expected": Fault("wgmma", *_constant_of(EXPECT, -4096)),
    "wgmma: too many bytes expected": Fault("wgmma", *_constant_of(EXPECT, 4096)),
    "wgmma: nobody releases a stage": Fault("wgmma", ARRIVE),
    "wgmma: the producer awaits the wrong phase": Fault("wgmma", TRY_WAIT, _turn_parity, 0),
    "wgmma: the consumer awaits the wrong phase": Fault("wgmma", TRY_WAIT, _turn_parity, 1),
    "wgmma: the producer does not wait": Fault("wgmma", TRY_WAIT, _do_not_wait, 0),
    "wgmma: the consumer does not wait": Fault("wgmma", TRY_WAIT, _do_not_wait, 1),
    "wgmma: a stage is released too early": Fault(
        "wgmma", r"wgmma\.wait_group\.sync\.aligned\s+(1);", _change_number(1)
    ),
    "wgmma: the last wait removed": Fault("wgmma", r"wgmma\.wait_group\.sync\.aligned\s+0;"),
    "wgmma: the fence of registers removed": Fault("wgmma", r"wgmma\.fence\.sync\.aligned;"),
    "wgmma: the fence of mbarriers removed": Fault(
        "wgmma", r"fence\.mbarrier_init\.release\.cluster;"
    ),
    "wgmma: the barrier behind mbarrier.init removed": Fault("wgmma", BARRIER),
    "softmax: the first barrier removed": Fault("softmax", BARRIER),
    "softmax: the second barrier removed": Fault("softmax", BARRIER, number=1),
    "softmax: one vector too many": Fault(
        "softmax", r"setp\.gt\.u64\s+%p\d+, %rd\d+, (1499);", _change_number(4)
    ),
    "pointwise: one vector too many": Fault(
        "pointwise", r"setp\.gt\.u32\s+%p\d+, %r\d+, (1124);", _change_number(1)
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_found(name: str) -> None:
    fault = FAULTS[name]
    case = kernel(fault.kernel)
    planted = fault.plant(case[0].artifact.ptx)
    assert planted != case[0].artifact.ptx
    found = run(case, planted)
    assert any(one not in ("", "wrong result") for one in found), found
