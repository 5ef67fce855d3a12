"""Whole networks ahead of time: what C programs get from .so, .o and .a, here and on aarch64."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.link import save
from bessemer.compiler.codegen.support.support import EXPORTS
from bessemer.compiler.driver import Compilation
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options
from bessemer.frontends import zoo
from bessemer.frontends.builder import Network
from bessemer.frontends.models_in import build_model
from bessemer.frontends.onnx_writer.write import write_onnx
from bessemer.runtime.artifact import Placement
from tests.onnxruntime_sessions import session_of
from tests.short_networks import short_resnet

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "programs" / "any.c"
C_FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"]
CROSS_CC = "aarch64-linux-gnu-gcc"
BATCHES = (1, 5)

needs_c = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
needs_nm = pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
needs_aarch64 = pytest.mark.skipif(
    shutil.which(CROSS_CC) is None or shutil.which("qemu-aarch64") is None,
    reason=f"needs {CROSS_CC} and qemu-aarch64",
)


@dataclass(frozen=True, eq=False)
class Case:
    """A network, its code, and what onnxruntime computes for each batch size."""

    network: Network
    compilation: Compilation
    inputs: dict[int, Array]
    expected: dict[int, Array]

    @property
    def name(self) -> str:
        return self.compilation.code.signature.prefix

    def save(
        self, folder: Path, suffix: str, placement: Placement = "inside", linker: str = ""
    ) -> list[Path]:
        made = self.compilation
        return save(made.code, made.weights, folder / f"{self.name}{suffix}", placement, linker)


NETWORKS = {
    "lenet": lambda: zoo.lenet(seed=1),
    "mlp": lambda: zoo.mlp(50, (130, 33), 7, seed=2),
    "resnet": lambda: short_resnet(size=32, small_images=True, seed=3),
}


def compiled_network(name: str, target: str = "") -> Case:
    network = NETWORKS[name]()
    generator = np.random.default_rng(4)
    shape = [size for size in network.inputs[0].type.shape if isinstance(size, int)]
    inputs = {batch: generator.standard_normal((batch, *shape), np.float32) for batch in BATCHES}
    session = session_of(write_onnx(network.graph))
    name_of_input = session.get_inputs()[0].name
    expected = {
        batch: np.asarray(session.run(None, {name_of_input: x})[0]) for batch, x in inputs.items()
    }
    return Case(network, build_model(network, Options(target=target)), inputs, expected)


@pytest.fixture(scope="module", params=list(NETWORKS))
def case(request: pytest.FixtureRequest) -> Case:
    return compiled_network(request.param)


def program_of(case: Case, folder: Path, parts: Sequence[Path], compiler: str = "cc") -> Path:
    """tests/programs/any.c with the artifact linked in."""
    program = folder / "any"
    macros = [f"-DMODEL={case.name}", f'-DHEADER="{case.name}.h"']
    libraries = ["-lm", "-lpthread", f"-Wl,-rpath,{folder}"]
    run(compiler, *C_FLAGS, *macros, f"-I{folder}", PROGRAM, *parts, *libraries, "-o", program)
    return program


def run(*command: str | Path, data: bytes = b"") -> bytes:
    done = subprocess.run(command, input=data, capture_output=True, timeout=300)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout!r} {done.stderr.decode()}"
    return done.stdout


def outputs_in_c(case: Case, program: Sequence[str | Path], weights: str, batch: int) -> Array:
    """The output under 1 thread and 2, which are the same bits."""
    x, y = case.inputs[batch], case.expected[batch]
    results = [
        run(*program, str(threads), weights, str(y.nbytes), str(batch), data=x.tobytes())
        for threads in (1, 2)
    ]
    assert results[0] == results[1]
    return np.frombuffer(results[0], np.float32).reshape(y.shape)


def relative_error(actual: Array, expected: Array) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@needs_c
@pytest.mark.parametrize(
    ("suffix", "placement"),
    [(".so", "inside"), (".so", "beside"), (".o", "beside"), (".a", "inside")],
)
def test_a_network_in_a_c_program(
    case: Case, tmp_path: Path, suffix: str, placement: Placement
) -> None:
    files = case.save(tmp_path, suffix, placement)
    program = program_of(case, tmp_path, files[:1])
    weights = "" if placement == "inside" else str(tmp_path / f"{case.name}.weights")
    for batch in BATCHES:
        shown = outputs_in_c(case, [program], weights, batch)
        assert relative_error(shown, case.expected[batch]) < 2e-6


# What does not depend on the network is tested with one.
one_network = pytest.mark.parametrize("case", ["mlp"], indirect=True)


@needs_c
@one_network
def test_a_program_is_told_that_the_weights_are_missing(case: Case, tmp_path: Path) -> None:
    files = case.save(tmp_path, ".o", "beside")
    program = program_of(case, tmp_path, files[:1])
    for path, text in (
        ("", "the weights are in a file of their own"),
        (str(tmp_path / "none"), "cannot be opened: No such file"),
    ):
        command = [str(program), "1", path, "4", "1"]
        done = subprocess.run(command, input=b"0" * 8, capture_output=True, timeout=300)
        assert done.returncode == 3
        assert "status 4" in done.stderr.decode() and text in done.stderr.decode()


@needs_nm
@needs_c
@pytest.mark.parametrize("case", ["resnet"], indirect=True)
@pytest.mark.parametrize("suffix", [".so", ".o", ".a"])
def test_global_names_have_the_prefix_and_the_rest_is_libc(
    case: Case, tmp_path: Path, suffix: str
) -> None:
    library = case.save(tmp_path, suffix)[0]
    dynamic = ["-D"] if suffix == ".so" else []
    rows = [line.split() for line in run("nm", "-g", *dynamic, library).decode().splitlines()]
    symbols = [(row[-2], row[-1].split("@")[0]) for row in rows if len(row) > 1]
    defined = [name for kind, name in symbols if kind not in "Uwv"]
    needed = {name for kind, name in symbols if kind in "Uwv"}
    assert sorted(defined) == sorted(f"{case.name}_{name}" for name in EXPORTS)
    assert needed and needed <= names_in_libraries()
    if suffix == ".so" and shutil.which("readelf"):
        wanted = re.findall(r"NEEDED.*\[(\w+)", run("readelf", "-d", library).decode())
        assert set(wanted) <= {"libc", "libm", "libpthread"}


def names_in_libraries() -> set[str]:
    names: set[str] = set()
    for library in ("libc.so.6", "libm.so.6", "libpthread.so.0"):
        path = run("cc", f"-print-file-name={library}").decode().strip()
        if Path(path).is_absolute():
            text = run("nm", "-D", "--defined-only", path).decode()
            names |= set(re.findall(r" [TWiV] (\w+)", text))
    return names


@needs_c
def test_the_same_network_twice_in_one_program(tmp_path: Path) -> None:
    """Kernels of the same names in both, under two prefixes: nothing clashes, results agree."""
    network = zoo.mlp(8, (16,), 4)
    for name in ("one", "two"):
        made = build_model(replace_name(network, name), Options())
        save(made.code, made.weights, tmp_path / f"{name}.o")
    source = tmp_path / "both.c"
    source.write_text(BOTH)
    objects = [tmp_path / "one.o", tmp_path / "two.o"]
    run("cc", *C_FLAGS, source, *objects, "-lm", "-lpthread", "-o", tmp_path / "both")
    assert run(tmp_path / "both") == b"same\n"


def replace_name(network: Network, name: str) -> Any:
    return replace(network.graph, name=name)


BOTH = """
#include <stdio.h>
#include <string.h>
#include "one.h"
#include "two.h"
int main(void) {
  float x[8] = {1, -2, 3, -4, 5, -6, 7, -8}, y[4] = {0}, z[4] = {0};
  const void *inputs[] = {x};
  void *first[] = {y}, *second[] = {z};
  int64_t dims[] = {1};
  one_context *one;
  two_context *two;
  if (one_create(&one, NULL) || two_create(&two, NULL)) return 1;
  if (one_run(one, inputs, first, dims, NULL, 0)) return 2;
  if (two_run(two, inputs, second, dims, NULL, 0)) return 3;
  one_destroy(one);
  two_destroy(two);
  if (y[0] == 0.0f || memcmp(y, z, sizeof y)) return 4;
  printf("same\\n");
  return 0;
}
"""


@needs_aarch64
@pytest.mark.parametrize(("name", "suffix"), [("lenet", ".a"), ("mlp", ".so"), ("resnet", ".o")])
def test_a_network_on_aarch64(tmp_path: Path, name: str, suffix: str) -> None:
    case = compiled_network(name, "aarch64-linux")
    files = case.save(tmp_path, suffix)
    program = program_of(case, tmp_path, files[:1], CROSS_CC)
    emulator = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-E", f"LD_LIBRARY_PATH={tmp_path}"]
    for batch in BATCHES:
        shown = outputs_in_c(case, [*emulator, program], "", batch)
        assert relative_error(shown, case.expected[batch]) < 2e-6


BLOCKED = (
    "llvmlite",
    "onnx",
    "networkx",
    "rich",
    "typer",
    "bessemer.compiler",
    "bessemer.frontends",
)

LOADED = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import numpy as np
import bessemer
model = bessemer.load({library!r}, threads=2)
np.save({output!r}, model(np.load({input!r})))
"""


@needs_c
@one_network
@pytest.mark.parametrize("placement", ["inside", "beside"])
def test_loading_needs_neither_llvm_nor_onnx(
    case: Case, tmp_path: Path, placement: Placement
) -> None:
    library = case.save(tmp_path, ".so", placement)[0]
    np.save(tmp_path / "x.npy", case.inputs[5])
    places = {"library": library, "input": tmp_path / "x.npy", "output": tmp_path / "y.npy"}
    script = LOADED.format(blocked=BLOCKED, **{key: str(path) for key, path in places.items()})
    subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
        check=True,
    )
    assert relative_error(np.load(tmp_path / "y.npy"), case.expected[5]) < 2e-6


@one_network
@pytest.mark.parametrize("suffix", [".so", ".o", ".a"])
def test_a_save_that_fails_leaves_what_was_there(case: Case, tmp_path: Path, suffix: str) -> None:
    if suffix == ".so":
        if shutil.which("cc") is None:
            pytest.skip("needs a C compiler")
        case.save(tmp_path, ".so", "beside")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(CompileError, match="with 'false' failed"):
            case.save(tmp_path, ".so", "beside", linker="false")
    else:
        case.save(tmp_path, suffix, "beside")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        path = tmp_path / f"{case.name}{suffix}"
        assert saved_on_a_full_disk(path) == "CompileError\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


FULL_DISK = """
import resource
from bessemer.compiler.codegen.artifact.link import save
from bessemer.compiler.errors import CompileError
from tests import handmade
import numpy as np
code, _ = handmade.relu()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save(code, np.zeros(16, np.uint8), {path!r}, "inside")
except CompileError:
    print("CompileError")
"""


def saved_on_a_full_disk(path: Path) -> str:
    """What becomes of a model saved to this path where no file can have more than 1000 bytes."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK.format(path=str(path))],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b with a long name"):
        folder.mkdir()
        made = build_model(zoo.mlp(50, (130, 33), 7, seed=2), Options())
        files = save(made.code, made.weights, folder / "mlp.a", "beside")
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]


TEXTS = """
import hashlib
from bessemer.compiler import driver
from bessemer.compiler.codegen.artifact import parts
from bessemer.compiler.options import Options
from bessemer.frontends import zoo
from bessemer.frontends.models_in import build_model
# Nobody asks for machine code.
parts.compile_object = lambda *_: b""
driver.shared_objects = driver.interface_object = driver.compile_code = lambda *_: None
for net in (zoo.densenet(121, 10, size=32, growth=4, stages=(2, 2)), zoo.mlp(50, (130, 33), 7)):
    made = build_model(net, Options())
    print(hashlib.sha256("".join(made.texts).encode()).hexdigest())
"""


def test_the_code_does_not_depend_on_the_process() -> None:
    """Every process goes through a set of names in its own order; no code may follow it. LLVM knows
    no such sets."""
    found = [
        subprocess.run(
            [sys.executable, "-c", TEXTS],
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert found[0] and found[0] == found[1] == found[2]
