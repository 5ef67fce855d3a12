"""Artifacts as a C program sees them: header, symbols, threads, memory, weights, other machines."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact import link
from bessemer.compiler.codegen.artifact.elf import check_symbols
from bessemer.compiler.codegen.artifact.header import c_identifier, c_prefix, header_text
from bessemer.compiler.codegen.artifact.link import Code, compile_code, save
from bessemer.compiler.codegen.artifact.machine import Machine
from bessemer.compiler.codegen.support.support import EXPORTS
from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.jit import load_code
from bessemer.runtime.artifact import (
    DYNAMIC_SYMBOL_TABLE,
    STATUS_TEXTS,
    ArrayInfo,
    Placement,
    read_symbols,
)
from bessemer.runtime.model import load
from tests import handmade

C_FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"]
PROGRAMS = Path(__file__).parents[1] / "programs"

needs_c = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")


def compiled(
    folder: Path, source: str, parts: Sequence[Path], compiler: Sequence[str] = ("cc",)
) -> Path:
    """The program `source` of tests/programs, linked with the artifacts."""
    program = folder / source.removesuffix(".c")
    command = [
        *compiler,
        *C_FLAGS,
        "-D_POSIX_C_SOURCE=200809L",
        f"-I{folder}",
        f"-Wl,-rpath,{folder}",
    ]
    command += [str(PROGRAMS / source), *map(str, parts), "-o", str(program), "-lm", "-lpthread"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return program


def output(*command: str | Path) -> str:
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, f"{result.returncode}: {result.stdout}{result.stderr}"
    return result.stdout


# What a C program does with a model.


@needs_c
@pytest.mark.parametrize("suffix", [".so", ".o", ".a"])
@pytest.mark.parametrize("placement", ["inside", "beside"])
def test_a_c_program_runs_the_model(tmp_path: Path, suffix: str, placement: Placement) -> None:
    """programs/relu.c checks results, threads, callbacks, memory and errors; see there."""
    code, weights = handmade.relu()
    files = save(code, weights, tmp_path / f"relu{suffix}", placement)
    program = compiled(tmp_path, "relu.c", files[:1])
    path = [str(tmp_path / "relu.weights")] if placement == "beside" else []
    assert output(program, *path) == "relu: all good\n"


@needs_c
def test_two_models_live_in_one_program(tmp_path: Path) -> None:
    objects = []
    for name, scale in (("first", 1.0), ("second", 10.0)):
        code, weights = handmade.relu(name, scale)
        objects.append(save(code, weights, tmp_path / f"{name}.o")[0])
    assert output(compiled(tmp_path, "two.c", objects)) == "1 2 3 4\n10 20 30 40\n"


@needs_c
def test_sizes_that_the_data_decides_in_c(tmp_path: Path) -> None:
    files = save(handmade.positive(), np.empty(0, np.uint8), tmp_path / "positive.o")
    assert output(compiled(tmp_path, "positive.c", files[:1])) == "positive: all good\n"


@needs_c
def test_a_model_survives_fork_in_c(tmp_path: Path) -> None:
    code, weights = handmade.relu()
    files = save(code, weights, tmp_path / "relu.o")
    assert output(compiled(tmp_path, "fork.c", files[:1])) == "fork: all good\n"


# The symbols.


@needs_nm
@pytest.mark.parametrize("suffix", [".so", ".o", ".a"])
def test_global_names_have_the_prefix_and_the_rest_is_libc(tmp_path: Path, suffix: str) -> None:
    if suffix == ".so" and shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    code, weights = handmade.relu("my_model")
    library = save(code, weights, tmp_path / f"my_model{suffix}")[0]
    dynamic = ["-D"] if suffix == ".so" else []
    lines = output("nm", "-g", *dynamic, library).splitlines()
    rows = [line.split() for line in lines if re.search(r" [A-Za-z] ", line)]
    defined = [row[-1] for row in rows if row[-2] != "U"]
    assert sorted(defined) == [f"my_model_{name}" for name in EXPORTS]
    needed = {row[-1].split("@")[0] for row in rows if row[-2] == "U"}
    libraries = [output("nm", "-D", "--defined-only", _library(name)) for name in ("c", "m")]
    offered = set(re.findall(r" [TWiV] (\w+)", "\n".join(libraries)))
    assert needed <= offered


def _library(name: str) -> str:
    found = output("cc", f"-print-file-name=lib{name}.so.6").strip()
    assert Path(found).is_absolute()
    return found


def test_code_that_calls_something_else_is_refused() -> None:
    made = handmade.relu()[0].signature
    body = "  call void @exit(i32 1)\n  ret i32 0"
    text = handmade.functions("relu", body, more="declare void @exit(i32)")
    with pytest.raises(InternalError, match="calls 'exit', which is in neither libc nor libm"):
        handmade.build(made, text)
    leak = handmade.functions("relu", "  ret i32 0", more="@counter = global i32 0")
    with pytest.raises(InternalError, match="defines the global symbol 'counter'"):
        handmade.build(made, leak)
    check_symbols(handmade.relu()[0].object, "relu")


def test_texts_may_declare_what_another_text_defines() -> None:
    made = handmade.relu()[0].signature
    caller = "declare void @mine()\ndeclare ptr @bessemer_pool(ptr)\ndeclare void @free(ptr)\n"
    own = "declare void @free(ptr)\ndefine internal void @mine() {\n  ret void\n}\n"
    body = handmade.functions("relu", "  call void @mine()\n  ret i32 0", more=caller)
    assert compile_code(made, [body, own], Machine(handmade.HOST)).object


def test_code_that_is_no_ir_is_our_own_mistake() -> None:
    made = handmade.relu()[0].signature
    with pytest.raises(InternalError, match="does not parse"):
        handmade.build(made, "define nonsense")
    invalid = "  %a = add i32 %b, 1\n  %b = add i32 %a, 1\n  ret i32 %a"
    with pytest.raises(InternalError, match="is not valid"):
        handmade.build(made, handmade.functions("relu", invalid))


# Names.


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("resnet-50.v1", "resnet_50_v1"),
        ("50net", "model_50net"),
        ("__init__", "init"),
        ("模型", "model"),
        ("", "model"),
        ("a\nb*/", "a_b"),
    ],
)
def test_identifiers_are_made_of_any_name(name: str, identifier: str) -> None:
    assert c_identifier(name) == identifier


def test_prefixes_stay_clear_of_the_c_library() -> None:
    assert c_prefix("pthread") == "pthread_model"
    assert c_prefix("timer") == "timer_model"
    assert len(c_prefix("n" * 500)) < 64


@needs_c
def test_a_library_may_have_any_name(tmp_path: Path) -> None:
    code, weights = handmade.relu()
    model = load_code(code, weights, Machine(handmade.HOST), 1)
    path = tmp_path / "a,b [2, 3] -Wl,c.so"
    model.save(path)
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(load(path).run([x])[0], model.run([x])[0])


NASTY = [
    "*/ int broken; /*",
    "a\\",
    'quote"',
    "line\nbreak",
    "what??/",
    "COUNT",
    "日本",
    "",
    "x",
    "x ",
]


@needs_c
def test_nasty_names_cannot_break_the_header(tmp_path: Path) -> None:
    code, _ = handmade.relu()
    arrays = tuple(ArrayInfo(name, "float32", ("batch", 4)) for name in NASTY)
    made = replace(code.signature, name="*/ #error", triple="a*/b", inputs=arrays, outputs=arrays)
    (tmp_path / "nasty.h").write_text(header_text(made, 'weights"\\\n.bin'))
    (tmp_path / "nasty.c").write_text(
        '#include "nasty.h"\n#include "nasty.h"\n'
        f"int main(void) {{ return relu_INPUT_COUNT == {len(NASTY)} ? 0 : 1; }}\n"
    )
    for compiler in (["cc", *C_FLAGS], ["cc", "-x", "c++", "-Wall", "-Wextra", "-Werror"]):
        output(*compiler, tmp_path / "nasty.c", "-o", tmp_path / "nasty")
        output(tmp_path / "nasty")
    macros = re.findall(r"#define (relu_\w+) ", header_text(made))
    assert len(set(macros)) == len(macros)


# Files.


def test_the_same_input_gives_the_same_files(tmp_path: Path) -> None:
    contents = []
    for folder in ("a", "a much longer folder name"):
        (tmp_path / folder).mkdir()
        code, weights = handmade.relu()
        for name in ("relu.o", "relu.a", "relu.so"):
            if name != "relu.so" or shutil.which("cc"):
                save(code, weights, tmp_path / folder / name)
        contents.append({p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()})
    assert contents[0] == contents[1]


@needs_c
def test_large_weights_are_found_whole(tmp_path: Path, rng: np.random.Generator) -> None:
    """The weights' bytes lie in the object, aligned to 64, with nothing of them lost or moved."""
    weights = rng.integers(0, 256, 5_000_003, np.uint8)
    made = handmade.signature(
        "blob", [], [ArrayInfo("y", "uint8", (weights.size,))], (), 0, weights
    )
    body = f"""
  %y = load ptr, ptr %outputs
  call void @llvm.memcpy.p0.p0.i64(ptr %y, ptr %weights, i64 {weights.size}, i1 false)
  %address = ptrtoint ptr %weights to i64
  %low = and i64 %address, 63
  %status = trunc i64 %low to i32
  ret i32 %status
"""
    code = handmade.build(made, handmade.functions("blob", body))
    from_disk = save(code, weights, tmp_path / "blob.o")[0].read_bytes()
    assert from_disk.endswith(weights.tobytes())
    assert len(from_disk) < weights.size + len(code.object) + 200
    program = compiled(tmp_path, "blob.c", [tmp_path / "blob.o"])
    output(program, tmp_path / "weights.bin")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "weights.bin", np.uint8), weights)


def test_nothing_stays_where_saving_fails(tmp_path: Path) -> None:
    code, weights = handmade.relu()
    with pytest.raises(CompileError, match="no suffix that says what to build"):
        save(code, weights, tmp_path / "relu.dll")
    with pytest.raises(CompileError, match="Cannot write"):
        save(code, weights, tmp_path / "missing" / "relu.o")
    with pytest.raises(CompileError, match="linker 'no-such-cc' is not installed"):
        save(code, weights, tmp_path / "relu.so", linker="no-such-cc")
    with pytest.raises(CompileError, match="with 'false' failed"):
        save(code, weights, tmp_path / "relu.so", "beside", linker="false")
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_a_linker_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    code, weights = handmade.relu()
    with pytest.raises(CompileError, match="pip install ziglang"):
        save(code, weights, tmp_path / "relu.so")
    assert save(code, weights, tmp_path / "relu.a")[0].exists()


# Other machines.

CROSS_CC = "aarch64-linux-gnu-gcc"


def aarch64_relu() -> tuple[Code, link.Bytes]:
    return handmade.relu(triple=handmade.AARCH64)


def test_an_aarch64_object_needs_no_aarch64_tools(tmp_path: Path) -> None:
    code, weights = aarch64_relu()
    for name in ("relu.o", "relu.a"):
        data = save(code, weights, tmp_path / name)[0].read_bytes()
        start = data.index(b"\x7fELF")
        assert int.from_bytes(data[start + 18 : start + 20], "little") == 183


@pytest.mark.skipif(shutil.which(CROSS_CC) is None, reason=f"needs {CROSS_CC}")
@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-aarch64")
@pytest.mark.parametrize("suffix", [".so", ".a"])
def test_the_c_program_runs_on_aarch64(tmp_path: Path, suffix: str) -> None:
    code, weights = aarch64_relu()
    files = save(code, weights, tmp_path / f"relu{suffix}")
    program = compiled(tmp_path, "relu.c", files[:1], [CROSS_CC])
    libraries = f"LD_LIBRARY_PATH={tmp_path}"
    emulator = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-E", libraries]
    assert output(*emulator, program) == "relu: all good\n"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs ziglang")
@pytest.mark.parametrize("triple", [handmade.HOST, handmade.AARCH64])
def test_zig_links_where_there_is_no_c_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, triple: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    code, weights = handmade.relu(triple=triple)
    library = save(code, weights, tmp_path / "relu.so")[0]
    names = read_symbols(library.read_bytes(), DYNAMIC_SYMBOL_TABLE)
    assert {"relu_run", "relu_create"} <= {symbol.name for symbol in names if symbol.is_defined}


def test_code_for_another_machine_is_not_run_here() -> None:
    other = handmade.X86 if handmade.HOST == handmade.AARCH64 else handmade.AARCH64
    code, weights = handmade.relu(triple=other)
    with pytest.raises(CompileError, match="Save it instead"):
        load_code(code, weights, Machine(other))


def test_every_status_has_a_text() -> None:
    assert list(STATUS_TEXTS) == sorted(STATUS_TEXTS) == list(range(len(STATUS_TEXTS)))
