"""Artifacts for GPUs: the file that Python reads, and the C library, on a libcuda that emulates."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import bessemer
from bessemer.compiler.codegen.ptx.device_library.c_header import DeviceStatus
from bessemer.compiler.codegen.ptx.device_library.c_tables import c_size
from bessemer.compiler.device_driver import build_for_device
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array, TensorType, bf16, f32, i64
from bessemer.compiler.options import Options
from bessemer.compiler.targets.nvptx import DEVICES, SM80, SM90A, DeviceTarget
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.save_device import form_of, save_forms
from bessemer.runtime.cuda.driver import DeviceError
from bessemer.runtime.cuda.layout import launches as launches_of
from bessemer.runtime.cuda.program_file import choose_form, pack_forms, read_forms, unpack_forms
from bessemer.runtime.errors import ArtifactError
from emulator.driver import EmulatedDevice, EmulatedDriver
from tests.onnx_check import parsed
from tests.onnx_reader.test_bad_input import WINDOWS

EVERY = tuple(DEVICES.values())


def network() -> Graph:
    """gather(x, i) @ w, its rows' sums taken off: kernels that can fail, weights, a symbol."""
    b = GraphBuilder("net")
    n = symbol("n")
    x = b.input("x", TensorType(f32, (n, 24)))
    index = b.input("i", TensorType(i64, (n,)))
    w = b.constant(np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32))
    with b.source("Gather 'pick'"):
        picked = b.apply("gather", x, index, axis=0)
    y = b.apply("matmul", picked, w)
    total = b.apply("reshape", b.apply("reduce_sum", y, axes=(1,)), shape=(n, 1))
    return b.finish([b.apply("sub", y, b.apply("broadcast_to", total, shape=(n, 40)))], ["y"])


def inputs(n: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 24)).astype(np.float32)
    return {"x": x, "i": rng.integers(0, n, n)}


def expected(given: Mapping[str, Array]) -> Array:
    w = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)
    y = given["x"][given["i"]].astype(np.float64) @ w
    return np.asarray(y - y.sum(1, keepdims=True))


def forms_of(graph: Graph, *targets: DeviceTarget, has_cubin: bool = False) -> list[Any]:
    return [form_of(build_for_device(graph, Options(), t), has_cubin) for t in targets]


def emulated(level: int = 90) -> EmulatedDriver:
    return EmulatedDriver(device=EmulatedDevice(capability=divmod(level, 10)))


# The file


def test_a_file_holds_what_was_put_in(tmp_path: Path) -> None:
    forms = forms_of(network(), *EVERY)
    path = tmp_path / "net.bessemer"
    assert save_forms(forms, path) == [path]
    found = read_forms(path)
    for one, other in zip(forms, found, strict=True):
        assert one.program == other.program
        assert one.weights.tobytes() == other.weights.tobytes()
    assert pack_forms(found) == path.read_bytes()


@pytest.mark.parametrize(("level", "chosen"), [(75, 75), (80, 80), (89, 80), (90, 90), (120, 80)])
def test_the_most_able_level_is_loaded(level: int, chosen: int, tmp_path: Path) -> None:
    path = tmp_path / "net.bessemer"
    save_forms(forms_of(network(), *EVERY), path)
    model = bessemer.load(path, device=0, driver=emulated(level))
    assert model.program.level == chosen
    np.testing.assert_allclose(model.run(inputs(5))[0], expected(inputs(5)), atol=1e-4)
    with pytest.raises(ArtifactError, match="copy that file"):
        model.save(path)


def test_no_level_fits() -> None:
    (form,) = forms_of(network(), SM90A)
    with pytest.raises(DeviceError, match=r"sm_90a.*RTX has compute capability 8\.9"):
        choose_form([form], 89, "RTX")


def test_a_cubin_is_for_its_generation_only() -> None:
    (form,) = forms_of(network(), SM80)
    assembled = type(form)(form.program, form.weights, b"\x7fELF")
    assert assembled.cubin_for(86) == b"\x7fELF"
    assert assembled.cubin_for(90) == b"" == form.cubin_for(80)


def test_a_cubin_that_the_driver_refuses_gives_way_to_the_text(tmp_path: Path) -> None:
    """The emulator reads no cubins, as an old driver reads none of a new assembler."""
    (form,) = forms_of(network(), SM80)
    forms = [type(form)(form.program, form.weights, b"\x7fELF and more")]
    for path in (tmp_path / "net.bessemer", tmp_path / "net.so"):
        save_forms(forms, path)
        model = bessemer.load(path, device=0, driver=emulated(86))
        np.testing.assert_allclose(model.run(inputs(5))[0], expected(inputs(5)), atol=1e-4)
    told = run(path, inputs(5), level=86)
    assert told["statuses"] == [0]
    assert told["calls"].count("cuModuleLoadDataEx") == 2


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    data = pack_forms(forms_of(network(), SM80))
    cases = [
        (data[:40], "cut off"),
        (data[:-1], "checksum"),
        (data[:200] + bytes([data[200] ^ 1]) + data[201:], "checksum"),
        (b"other" + data, "not a model for GPUs"),
    ]
    for damaged, message in cases:
        with pytest.raises(ArtifactError, match=message):
            unpack_forms(damaged)
    with pytest.raises(ArtifactError, match="There is no file"):
        read_forms(tmp_path / "none.bessemer")


CHANGES: list[tuple[str, Any, str]] = [
    ("level", "high", "'high' is no int"),
    ("kernels", [{"is": "Exploit"}], "no DeviceKernel"),
    ("steps", [{"is": "Path", "cmd": "x"}], "nothing that can stand there"),
    ("steps", 7, "7 is no|'7' is no"),
    ("ends", ["__import__('os')"], "shape expression"),
]


@pytest.mark.parametrize(("name", "value", "message"), CHANGES, ids=str)
def test_a_description_that_lies_is_refused(name: str, value: Any, message: str) -> None:
    from_form = rewritten(pack_forms(forms_of(network(), SM80)), lambda p: p | {name: value})
    with pytest.raises(ArtifactError, match=f"description is damaged: .*({message})"):
        unpack_forms(from_form)


def test_a_launch_of_a_kernel_that_is_not_there_is_refused() -> None:
    def change(program: dict[str, Any]) -> dict[str, Any]:
        step = next(step for step in program["steps"] if step["is"] == "LaunchStep")
        step["kernel"] = 99
        return program

    with pytest.raises(ArtifactError, match="there is no kernel 99"):
        unpack_forms(rewritten(pack_forms(forms_of(network(), SM80)), change))


def rewritten(data: bytes, change: Any) -> bytes:
    """A file whose first program is another, with a checksum that fits."""
    (length,) = struct.unpack_from("<Q", data, 56)
    text = json.loads(data[64 : 64 + length])
    text["forms"][0]["program"] = change(text["forms"][0]["program"])
    packed = json.dumps(text).encode()
    body = struct.pack("<Q", len(packed)) + packed + data[64 + length :]
    return data[:16] + struct.pack("<Q", len(body)) + hashlib.sha256(body).digest() + body


# The C library


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library for sm_80."""
    folder = tmp_path_factory.mktemp("library")
    assert build(folder, network(), SM80).exists()
    return folder


@pytest.fixture
def library(built: Path, tmp_path: Path) -> Path:
    """That library, in a folder of the test's own."""
    for name in ("net.so", "net.h"):
        shutil.copy(built / name, tmp_path)
    return tmp_path / "net.so"


def build(folder: Path, graph: Graph, *targets: DeviceTarget) -> Path:
    path = folder / "net.so"
    assert save_forms(forms_of(graph, *targets), path) == [path, folder / "net.h"]
    return path


def run(path: Path, *given: Mapping[str, Array], **settings: Any) -> dict[str, Any]:
    """What the library did in a process with the emulating libcuda."""
    folder = path.parent
    arrays = {f"{k}_{name}": array for k, one in enumerate(given) for name, array in one.items()}
    np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
    settings |= {"sets": len(given)}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.device.run_device_library", str(path), str(folder)]
    done = subprocess.run(
        [*command, json.dumps(settings)], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return found


def results(path: Path) -> dict[str, Array]:
    with np.load(path.parent / "outputs.npz") as file:
        return dict(file)


def test_the_library_runs_and_replays(library: Path) -> None:
    """Four runs of two sizes: the graph is recorded when the size is new."""
    given = [inputs(5), inputs(40, 1)]
    told = run(library, *given, runs=4)
    assert told["created"] == 0
    assert told["statuses"] == [0] * 4, told["log"]
    found = results(library)
    for number in range(4):
        np.testing.assert_allclose(found[f"{number}_y"], expected(given[number % 2]), atol=2e-4)
    calls = told["calls"]
    assert calls.count("cuGraphLaunch") == 4
    assert calls.count("cuGraphInstantiateWithFlags") == 4  # the sizes change every time
    assert (told["contexts"], told["left"]) == (0, 0)  # everything was given back
    again = run(library, given[0], runs=2)
    assert again["calls"].count("cuGraphInstantiateWithFlags") == 1
    assert again["calls"].count("cuGraphLaunch") == 2


def test_the_library_launches_what_python_does(library: Path) -> None:
    told = run(library, inputs(9))
    made = [call for call in told["calls"] if call.startswith("launch ")]
    form = read_forms(library)[0]
    steps = launches_of(form.program.steps)
    kernels = [form.program.kernels[step.kernel].name for step in steps]
    assert [line.split()[1] for line in made] == kernels
    model = bessemer.load(library, device=0, driver=emulated())
    assert model.run(inputs(9))[0].tobytes() == results(library)["0_y"].tobytes()


def test_the_library_has_several_levels_and_tensor_maps(tmp_path: Path) -> None:
    b = GraphBuilder("net")
    x = b.input("x", TensorType(f32, (1, 4, 4, 64)))
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 3, 64, 32)).astype(bf16.numpy)
    image = b.apply("cast", x, dtype=bf16)
    y = b.apply(
        "conv", image, b.constant(w), strides=(1, 1), dilations=(1, 1), low=(1, 1), high=(1, 1),
        groups=1,
    )  # fmt: skip
    graph = b.finish([b.apply("cast", y, dtype=f32)], ["y"])
    library = build(tmp_path, graph, *EVERY)
    given = {"x": rng.standard_normal((1, 4, 4, 64)).astype(np.float32)}
    found = []
    for level in (90, 75):
        told = run(library, given, level=level)
        assert told["statuses"] == [0], (told["log"], told["calls"])
        found.append(results(library)["0_y"])
        is_map = any("TensorMap" in call for call in told["calls"])
        assert is_map == (level == 90)
    exact = windows(given["x"].astype(ml_dtypes.bfloat16).astype(np.float64), w.astype(np.float64))
    for one in found:
        assert np.linalg.norm(one - exact) / np.linalg.norm(exact) < 4e-3


def windows(x: Array, w: Array) -> Array:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [padded[:, r : r + 4, s : s + 4] @ w[r, s] for r in range(3) for s in range(3)]
    return np.asarray(sum(parts))


def test_an_index_out_of_range_is_told_by_the_library(library: Path) -> None:
    wrong = inputs(5) | {"i": np.array([0, 1, 9, 0, 0])}
    told = run(library, wrong, inputs(5), runs=2)
    assert told["statuses"] == [DeviceStatus.INDEX_OUT_OF_RANGE, 0]
    assert "Gather _047pick_047" in told["log"][0] or "'pick': index out of range" in told["log"][0]
    assert told["message"] == ""
    np.testing.assert_allclose(results(library)["1_y"], expected(inputs(5)), atol=1e-4)


FAILURES: list[tuple[dict[str, Any], DeviceStatus, str]] = [
    ({"is_missing": True}, DeviceStatus.NO_DEVICE, "there is no CUDA driver"),
    ({"devices": 0}, DeviceStatus.NO_DEVICE, "no CUDA device 0: the driver finds 0"),
    ({"device": 3}, DeviceStatus.NO_DEVICE, "no CUDA device 3: the driver finds 1"),
    ({"fail": {"cuInit": 100}}, DeviceStatus.NO_DEVICE, "CUDA_ERROR_NO_DEVICE"),
    ({"level": 75}, DeviceStatus.NO_DEVICE, r"capability 7.5; the code is for nvptx:sm_80"),
    ({"fail": {"cuModuleLoadDataEx": 222}}, DeviceStatus.DRIVER_TOO_OLD, "cannot read this code"),
    ({"without": ["cuGraphInstantiateWithFlags"]}, DeviceStatus.DRIVER_TOO_OLD, "has no cuGraph"),
    ({"memory": 2048}, DeviceStatus.OUT_OF_MEMORY, "too little free memory"),
    ({"fail": {"cuStreamCreate": 719}}, DeviceStatus.DEVICE, "CUDA_ERROR_LAUNCH_FAILED (719)"),
]


@pytest.mark.parametrize(("settings", "status", "text"), FAILURES, ids=lambda p: str(p)[:40])
def test_the_library_says_why_it_cannot(
    settings: dict[str, Any], status: DeviceStatus, text: str, library: Path
) -> None:
    told = run(library, inputs(5), **settings)
    assert told["created"] == status
    assert len(told["log"]) == 1
    assert told["log"][0].startswith(f"{int(status)}: ")
    assert text in told["log"][0]
    assert told.get("left", 0) == 0
    assert told.get("contexts", 0) == 0


def test_too_little_memory_for_a_run_leaves_the_context_whole(library: Path) -> None:
    told = run(library, inputs(4000), inputs(5), runs=2, memory=1 << 18)
    assert told["statuses"] == [DeviceStatus.OUT_OF_MEMORY, 0]


def test_an_input_too_small_for_a_window_is_told_by_the_library(tmp_path: Path) -> None:
    graph = as_graph(parsed(WINDOWS))
    library = build(tmp_path, replace(graph, name="net"), SM80)
    sizes = [np.ones((1, 1, length), np.float32) for length in (7, 2, 7)]
    told = run(library, *({"x": x} for x in sizes), runs=3)
    assert told["statuses"] == [0, DeviceStatus.SHAPE_MISMATCH, 0]
    assert "second" in told["log"][0]
    assert "an input is too small: a size is negative" in told["log"][0]


def test_control_flow_is_for_python() -> None:
    """The error names the node."""
    b = GraphBuilder("found")
    x = b.input("x", TensorType(f32, (4, 4)))
    with b.source("NonZero 'where'"):
        (where,) = b.apply_many("nonzero", x, symbol=b.fresh_symbol("found"))
    forms = forms_of(b.finish([where], ["y"]), SM80)
    with pytest.raises(CompileError, match=r"the data decides \(NonZero 'where'\).*\.bessemer"):
        save_forms(forms, Path("found.so"))
    with pytest.raises(CompileError, match="no suffix that says what to build for a GPU"):
        save_forms(forms, Path("found.o"))


def test_the_header_is_c_and_cpp(library: Path) -> None:
    tmp_path = library.parent
    (tmp_path / "user.c").write_text(
        '#include "net.h"\nint main(void) { return net_OK + net_DIM_n + net_INPUT_x; }\n'
    )
    for language in (["-std=c99", "-x", "c"], ["-std=c++11", "-x", "c++"]):
        command = ["cc", "-Wall", "-Wextra", "-Werror", "-pedantic", *language, "-c", "user.c"]
        subprocess.run([*command, "-o", "user.o"], cwd=tmp_path, check=True)


def test_a_c_program_hears_that_there_is_no_driver(library: Path) -> None:
    (library.parent / "user.c").write_text(C_PROGRAM)
    command = ["cc", "-Wall", "-Werror", "user.c", library.name, "-Wl,-rpath,$ORIGIN", "-o", "user"]
    subprocess.run(command, cwd=library.parent, check=True)
    done = subprocess.run(
        [library.parent / "user"], env={"LD_LIBRARY_PATH": ""}, capture_output=True, text=True
    )
    if done.returncode == 0:
        pytest.skip("there is a GPU here")
    assert f"{done.returncode} i x y 40 [n, 24]" in done.stdout
    assert done.returncode == DeviceStatus.NO_DEVICE
    assert "there is no CUDA driver: libcuda.so.1" in done.stdout


C_PROGRAM = """
#include <stdio.h>
#include "net.h"
static void told(void *user, int32_t status, const char *text) {
  (void)status;
  fputs(text, (FILE *)user);
}
int main(void) {
  net_options options = {0, told, stdout};
  net_context *context;
  int32_t status = net_create(&context, &options);
  const net_value *x = net_input_info(net_INPUT_x), *y = net_output_info(0);
  printf("%d %s %s %s %d [%s, %d]\\n", (int)status, net_input_info(1)->name, x->name, y->name,
         (int)y->shape[1], x->dims[0], (int)x->shape[1]);
  net_destroy(context);
  return (int)status;
}
"""


def test_sizes_in_c() -> None:
    assert c_size(7, ()) == "INT64_C(7)"
    text = c_size("min(4*n, 3)//(m%5) - 1", ("n", "m"))
    assert text == (
        "(floored(least((INT64_C(4) * d[0]), INT64_C(3)), modulo(d[1], INT64_C(5))) - INT64_C(1))"
    )
