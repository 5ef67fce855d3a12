"""Every intrinsic that kernels for GPUs may name, compiled once in a process that may die."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bessemer.compiler.codegen.ptx.intrinsics import GENERIC, NVIDIA, check_intrinsics
from bessemer.compiler.errors import InternalError

_FLOATS = {"ceil", "fabs", "floor", "roundeven", "sqrt", "trunc"}
_OPERANDS = {"copysign": 2, "fma": 3, "maxnum": 2}
_PAIRS = {"smax", "smin", "umax", "umin"}
_COUNTS = {"ctlz", "cttz"}


def calls_of(name: str) -> list[tuple[str, str, str]]:
    """(declaration, call, type of the result) of one of LLVM's own, for the types that we use."""
    found = []
    if name in _FLOATS | _OPERANDS.keys():
        count = _OPERANDS.get(name, 1)
        for llvm, suffix in (("float", "f32"), ("double", "f64"), ("<4 x float>", "v4f32")):
            types = ", ".join([llvm] * count)
            given = ", ".join([f"{llvm} %{suffix}"] * count)
            symbol = f"@llvm.{name}.{suffix}"
            found.append((f"declare {llvm} {symbol}({types})", f"{symbol}({given})", llvm))
    if name in _PAIRS | _COUNTS | {"abs", "ctpop"}:
        for bits in (8, 16, 32, 64):
            llvm, symbol = f"i{bits}", f"@llvm.{name}.i{bits}"
            second = llvm if name in _PAIRS else "i1"
            more = "" if name == "ctpop" else f", {second}"
            last = f", {llvm} %i{bits}" if name in _PAIRS else ", i1 false"
            given = f"{llvm} %i{bits}" + ("" if name == "ctpop" else last)
            found.append((f"declare {llvm} {symbol}({llvm}{more})", f"{symbol}({given})", llvm))
    if name == "vector.reduce.or":
        symbol = "@llvm.vector.reduce.or.v4i1"
        found.append((f"declare i1 {symbol}(<4 x i1>)", f"{symbol}(<4 x i1> %mask)", "i1"))
    if name == "masked.load":
        symbol, kind = "@llvm.masked.load.v4f32.p0", "<4 x float>"
        call = f"{symbol}(ptr align 4 %p, <4 x i1> %mask, {kind} %v4f32)"
        found.append((f"declare {kind} {symbol}(ptr, <4 x i1>, {kind})", call, kind))
    if name == "masked.gather":
        symbol, kind = "@llvm.masked.gather.v4f32.v4p0", "<4 x float>"
        call = f"{symbol}(<4 x ptr> align 4 %places, <4 x i1> %mask, {kind} %v4f32)"
        found.append((f"declare {kind} {symbol}(<4 x ptr>, <4 x i1>, {kind})", call, kind))
    if name == "masked.store":
        symbol, kind = "@llvm.masked.store.v4f32.p0", "<4 x float>"
        call = f"{symbol}({kind} %v4f32, ptr align 4 %p, <4 x i1> %mask)"
        found.append((f"declare void {symbol}({kind}, ptr, <4 x i1>)", call, "void"))
    if name == "masked.scatter":
        symbol, kind = "@llvm.masked.scatter.v4f32.v4p0", "<4 x float>"
        call = f"{symbol}({kind} %v4f32, <4 x ptr> align 4 %places, <4 x i1> %mask)"
        found.append((f"declare void {symbol}({kind}, <4 x ptr>, <4 x i1>)", call, "void"))
    if name.startswith("bar"):
        symbol, given = f"@llvm.nvvm.{name}", "i32 -1" if "warp" in name else "i32 0"
        found.append((f"declare void {symbol}(i32)", f"{symbol}({given})", "void"))
    if name.startswith("read."):
        found.append((f"declare i32 @llvm.nvvm.{name}()", f"@llvm.nvvm.{name}()", "i32"))
    if name.startswith("shfl."):
        symbol = f"@llvm.nvvm.{name}"
        call = f"{symbol}(i32 -1, i32 %i32, i32 1, i32 31)"
        found.append((f"declare i32 {symbol}(i32, i32, i32, i32)", call, "i32"))
    return found


def module_of(name: str) -> str:
    """A kernel that uses an intrinsic on values that nobody knows and stores what it gives."""
    declarations, body = [], []
    for number, (declaration, call, kind) in enumerate(calls_of(name)):
        declarations.append(declaration)
        result = "" if kind == "void" else f"%r{number} = "
        body.append(f"  {result}call {kind} {call}")
        if kind != "void":
            body.append(f"  store volatile {kind} %r{number}, ptr %p, align 16")
    loads = [
        ("float", "f32"), ("double", "f64"), ("<4 x float>", "v4f32"), ("i8", "i8"),
        ("i16", "i16"), ("i32", "i32"), ("i64", "i64"), ("<4 x i1>", "mask"),
        ("<4 x ptr>", "places"),
    ]  # fmt: skip
    given = [f"  %{n} = load volatile {kind}, ptr %p, align 16" for kind, n in loads]
    head = "define ptx_kernel void @k(ptr %p) {"
    return "\n".join([*declarations, head, *given, *body, "  ret void", "}"])


_COMPILE_ALL = """
import json, sys
from bessemer.compiler.codegen.ptx.module import compiled
from bessemer.compiler.targets.nvptx import DEVICES
for name, text in json.load(sys.stdin).items():
    for target in DEVICES.values():
        print(f"llvm.{name} for {target.name}", flush=True)
        assert ".entry k" in compiled(text, target)
"""


def test_every_intrinsic_compiles(root: Path) -> None:
    names = sorted(GENERIC | NVIDIA)
    assert [name for name in names if not calls_of(name)] == []
    texts = json.dumps({name: module_of(name) for name in names})
    command = [sys.executable, "-c", _COMPILE_ALL]
    done = subprocess.run(command, input=texts, cwd=root, text=True, capture_output=True)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"the process ended at {last}: {done.stderr[-500:]}"


def test_another_intrinsic_is_refused() -> None:
    with pytest.raises(InternalError, match=r"llvm\.exp\.f32 is not on the list"):
        check_intrinsics(["declare float @llvm.exp.f32(float)"])
