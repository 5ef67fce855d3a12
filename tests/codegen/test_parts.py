"""Code compiled in parts: merged object files, and models that are put together from them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest

from bessemer.compiler.codegen.artifact import parts
from bessemer.compiler.codegen.artifact.link import interface_object, shared_objects
from bessemer.compiler.codegen.artifact.machine import (
    Machine,
    compile_object,
    machine_of,
    place_object,
)
from bessemer.compiler.codegen.artifact.merge_objects import merge_objects
from bessemer.compiler.codegen.artifact.one_section import in_one_section
from bessemer.compiler.codegen.support.support import shared_texts
from bessemer.compiler.driver import Compilation, build, kernels_of
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from bessemer.compiler.targets.choose import parse_target
from bessemer.frontends import zoo
from bessemer.runtime.artifact import SYMBOL_TABLE, read_sections, read_symbols
from tests.compiled_kernels import HERE

HOST = Machine(llvm.get_process_triple())
ARM = Machine("aarch64-unknown-linux-gnu")

# Functions and tables of one name in both, a constant that goes to a mergeable section, a call and
# an address across, and one of libm's functions in both.
FIRST = """
@table = internal constant [4 x i64] [i64 1, i64 2, i64 3, i64 4]
declare hidden double @inner(double, ptr)
declare double @exp(double)
define internal double @helper(double %x) noinline {
  %r = fadd double %x, 0.125
  ret double %r
}
define double @outer(double %x, i64 %k) {
  %at = getelementptr i64, ptr @table, i64 %k
  %a = call double @inner(double %x, ptr %at)
  %b = call double @helper(double %a)
  %c = call double @exp(double %b)
  ret double %c
}
"""
SECOND = """
@table = internal constant [2 x double] [double 10.0, double 1000.0]
declare double @exp(double)
define internal double @helper(double %x) noinline {
  %r = fmul double %x, 3.0
  ret double %r
}
define hidden double @inner(double %x, ptr %place) {
  %n = load i64, ptr %place
  %odd = and i64 %n, 1
  %at = getelementptr double, ptr @table, i64 %odd
  %t = load double, ptr %at
  %h = call double @helper(double %x)
  %e = call double @exp(double %h)
  %f = uitofp i64 %n to double
  %s = fadd double %e, %f
  %r = fdiv double %s, %t
  ret double %r
}
"""


def _expected(x: float, k: int) -> float:
    n = k + 1
    return float(np.exp((np.exp(3.0 * x) + n) / (1000.0 if n % 2 else 10.0) + 0.125))


def _merged(machine: Machine) -> bytes:
    return merge_objects([compile_object(text, machine) for text in (FIRST, SECOND)])


def test_merged_files_are_linked_and_run() -> None:
    engine = place_object(_merged(HOST), HOST)
    kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_int64)
    outer = kind(engine.get_function_address("outer"))
    for k in range(4):
        assert outer(0.25, k) == pytest.approx(_expected(0.25, k), rel=1e-14)


# One page is free where functions fit, the next free one is 5 GiB below: constants lie there, if
# they are placed on their own.
FAR_APART = """
import ctypes, sys
from pathlib import Path
from bessemer.compiler.codegen.artifact.machine import place_object
from tests.codegen.test_parts import HOST
PRIVATE_ANONYMOUS_UNRESERVED, NOTHING, PAGE = 0x4022, 0, 4096
code = Path(sys.argv[1]).read_bytes()
place_object(code, HOST)
libc = ctypes.CDLL(None)
libc.mmap.restype, libc.munmap.argtypes = ctypes.c_size_t, [ctypes.c_size_t, ctypes.c_size_t]
libc.mmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
def taken(size):
    return libc.mmap(0, size, NOTHING, PRIVATE_ANONYMOUS_UNRESERVED, -1, 0)
pages = [taken(PAGE) for _ in range(20000)]
large = taken(5 << 30)
while taken(PAGE) > large:
    pass
libc.munmap(pages[10000], PAGE)
engine = place_object(code, HOST)
kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_int64)
print(kind(engine.get_function_address("outer"))(0.25, 3))
"""


def test_code_finds_its_constants_where_memory_is_in_pieces(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "merged.o"
    path.write_bytes(_merged(HOST))
    command = [sys.executable, "-c", FAR_APART, str(path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(_expected(0.25, 3), rel=1e-14)


# Addresses of foreign functions and own ones, in code and in a table.
ADDRESSES = """
@functions = internal constant [3 x ptr] [ptr @log, ptr @twice, ptr @exp]
declare double @exp(double)
declare double @log(double)
define internal double @twice(double %x) noinline {
  %r = fmul double %x, 2.0
  ret double %r
}
define double @looked_up(double %x, i64 %k) {
  %at = getelementptr ptr, ptr @functions, i64 %k
  %f = load ptr, ptr %at
  %r = call double %f(double %x)
  ret double %r
}
define double @chosen(double %x, i64 %k) {
  %c = icmp eq i64 %k, 0
  %f = select i1 %c, ptr @log, ptr @exp
  %r = call double %f(double %x)
  ret double %r
}
"""


def test_addresses_of_functions_are_found() -> None:
    engine = place_object(compile_object(ADDRESSES, HOST), HOST)
    kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_int64)
    looked_up, chosen = (
        kind(engine.get_function_address(name)) for name in ("looked_up", "chosen")
    )
    wanted = [np.log(0.75), 1.5, np.exp(0.75)]
    assert [looked_up(0.75, k) for k in range(3)] == pytest.approx(wanted, rel=1e-14)
    assert [chosen(0.75, k) for k in (0, 2)] == pytest.approx(wanted[::2], rel=1e-14)


COUNTER = """
@counter = internal global i64 0
define i64 @count() {
  %before = load i64, ptr @counter
  %after = add i64 %before, 1
  store i64 %after, ptr @counter
  ret i64 %after
}
"""


def test_code_with_variables_keeps_its_sections() -> None:
    code = compile_object(COUNTER, HOST)
    with pytest.raises(InternalError, match=r"The code has variables, in \.bss"):
        in_one_section(code)
    engine = place_object(code, HOST)
    count = ctypes.CFUNCTYPE(ctypes.c_int64)(engine.get_function_address("count"))
    assert [count(), count()] == [1, 2]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_system_linker_takes_a_merged_file(tmp_path: Path) -> None:
    (tmp_path / "merged.o").write_bytes(_merged(HOST))
    command = ["cc", "-shared", "-Wl,--fatal-warnings", "-o", "merged.so", "merged.o", "-lm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(tmp_path / "merged.so"))
    library.outer.restype = ctypes.c_double
    library.outer.argtypes = [ctypes.c_double, ctypes.c_int64]
    assert library.outer(0.5, 2) == pytest.approx(_expected(0.5, 2), rel=1e-14)


@pytest.mark.parametrize("machine", [HOST, ARM], ids=["here", "aarch64"])
def test_only_what_was_visible_is(machine: Machine) -> None:
    symbols = list(read_symbols(_merged(machine), SYMBOL_TABLE))
    outer = {symbol.name: symbol.is_defined for symbol in symbols if symbol.is_global}
    assert outer == {"outer": True, "exp": False}
    names = [symbol.name for symbol in symbols if not symbol.is_global]
    assert names.count("helper") == names.count("helper.2") == names.count("inner") == 1


def test_a_name_that_two_parts_define_is_refused() -> None:
    code = compile_object(SECOND, HOST)
    with pytest.raises(InternalError, match="two parts define b'inner'"):
        merge_objects([code, code])


def test_one_file_alone_stays_as_good_as_it_was() -> None:
    code = compile_object(SECOND.replace("hidden ", ""), HOST)
    once = merge_objects([code])
    assert merge_objects([once]) == once
    kept = {section.name: section.size for section in read_sections(code) if section.size}
    again = {section.name: section.size for section in read_sections(once) if section.size}
    assert again.items() >= {k: v for k, v in kept.items() if k[1:] not in _TABLES}.items()


_TABLES = ("strtab", "symtab", "llvm_addrsig")


def _built(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, part: int, target: str = HERE[0].name
) -> Compilation:
    monkeypatch.setattr(parts, "PART", part)
    return build(graph, Options(target=target))


def _recurrent() -> Graph:
    """A recurrence, whose members meet at barriers, beside other kernels."""
    b = GraphBuilder("recurrent")
    hidden = 256
    x = b.input("x", TensorType(f32, (7, 1, 4 * hidden)))
    state = b.constant(np.zeros((1, hidden), np.float32))
    rng = np.random.default_rng(4)
    weights = b.constant(rng.standard_normal((hidden, 4 * hidden), np.float32) / 16)
    y, *_ = b.apply_many("lstm", b.apply("exp", x), weights, state, state)
    last = b.constant(rng.standard_normal((hidden, 40), np.float32))
    return b.finish([b.apply("matmul", y, last)], ["y"])


@pytest.mark.parametrize(
    ("graph", "shape"),
    [(zoo.lenet(seed=1).graph, (5, 1, 28, 28)), (_recurrent(), (7, 1, 1024))],
    ids=["lenet", "recurrent"],
)
def test_a_model_in_parts_computes_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, graph: Graph, shape: tuple[int, ...]
) -> None:
    whole, parted = (_built(graph, monkeypatch, part) for part in (1 << 40, 1))
    x = np.random.default_rng(2).standard_normal(shape, np.float32) / 4
    outputs = [
        load_code(made.code, made.weights, machine_of(made.target), threads=2)(x)
        for made in (whole, parted)
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    texts = [
        [section.name for section in read_sections(made.code.object)].count(".text")
        for made in (whole, parted)
    ]
    apart = [kernel for kernel in kernels_of(parted.program.steps) if not kernel.has_team]
    shared = len(shared_texts(whole.target.triple, whole.target.features)) + 1  # the C API
    assert texts == [1 + shared, 1 + shared + len(apart)] and len(apart) > 1
    assert (graph.name == "recurrent") == (len(kernels_of(parted.program.steps)) > len(apart))


@pytest.mark.parametrize("target", ["x86_64-avx2", "aarch64-neon"])
def test_parts_are_the_same_whichever_is_ready_first(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    first, second = (_built(zoo.lenet(seed=1).graph, monkeypatch, 1, target) for _ in range(2))
    assert first.code.object == second.code.object


def test_what_all_models_share_is_compiled_once() -> None:
    target = parse_target("x86_64-avx2")
    machine = machine_of(target)
    first, second = (shared_objects(target.triple, target.features, machine) for _ in range(2))
    assert len(first) == len(second) == 2
    assert all(a is b for a, b in zip(first, second, strict=True))
    (without_python,) = shared_objects(target.triple, target.features, machine, has_entry=False)
    assert without_python is first[0]
    assert interface_object("a", machine) is interface_object("a", machine)
    assert interface_object("a", machine) != interface_object("b", machine)
