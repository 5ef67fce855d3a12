"""Weights are in memory once while a model is compiled, wherever the file has them."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bessemer.compiler.ir.mapped_file import MappedFile, forget
from bessemer.frontends.compile import compile
from bessemer.frontends.models_in import as_graph

SIZE, LAYERS = 1024, 8
WEIGHTS = LAYERS * SIZE * SIZE * 4
_COMPILE = """
import sys
from pathlib import Path
from bessemer.compiler.options import Options
from bessemer.frontends.cli.bench_worker import peak_memory
from bessemer.frontends.models_in import build_model

small, large = sys.argv[1:]
build_model(small, Options())
before = peak_memory()
assert build_model(large, Options()).weights.nbytes
print(peak_memory() - before)
"""


def _model(folder: Path, size: int, external: bool, transposed: bool) -> Path:
    """Products one after the other, each of a weight of its own."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(LAYERS):
        array = rng.random((size, size), np.float32) / np.float32(size)
        weights.append(numpy_helper.from_array(array, f"w{layer}"))
        names = [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"]
        nodes.append(helper.make_node("Gemm", *names, transB=int(transposed)))
    info = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (4, size))
        for name in ("x0", f"x{LAYERS}")
    ]
    graph = helper.make_graph(nodes, "products", info[:1], info[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / f"{size}.onnx"
    onnx.save(model, path, save_as_external_data=external, location=f"{size}.data")
    return path


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("external", [False, True])
def test_a_compilation_keeps_its_weights_once(
    tmp_path: Path, external: bool, transposed: bool
) -> None:
    files = [str(_model(tmp_path, size, external, transposed)) for size in (64, SIZE)]
    command = [sys.executable, "-c", _COMPILE, *files]
    paths = os.pathsep.join(path or "." for path in sys.path)
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.5 * WEIGHTS


def test_what_is_forgotten_is_read_again(tmp_path: Path) -> None:
    given = np.arange(5000, dtype=np.int32)
    path = tmp_path / "numbers"
    path.write_bytes(b"head" + given.tobytes())
    with path.open("rb") as file:
        mapped = MappedFile(file.fileno(), 4 + given.nbytes)
    found = np.frombuffer(memoryview(mapped)[4:], np.uint8).view(np.int32).reshape(50, 100).T
    for _ in range(2):
        np.testing.assert_array_equal(found, given.reshape(50, 100).T)
        forget(found)


def test_what_the_user_has_changed_is_not_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(8192))
    private = np.memmap(path, np.uint8, "c")
    private[:] = 7
    for array in (private, np.asarray(private)[100:], np.ones(3)):
        before = array.copy()
        forget(array)
        np.testing.assert_array_equal(array, before)


def test_locked_memory_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(range(256)) * 16)
    with path.open("rb") as file:
        mapped = MappedFile(file.fileno(), 4096)
    found = np.frombuffer(mapped, np.uint8)
    if ctypes.CDLL(None).mlock(ctypes.c_void_p(found.ctypes.data), ctypes.c_size_t(4096)):
        pytest.skip("this process may not lock memory")
    forget(found)
    assert found.tobytes() == path.read_bytes()


def test_a_file_that_cannot_be_mapped_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    path = _model(tmp_path, 64, external=False, transposed=False)
    expected = compile(path, cache=False).run({"x0": np.ones((4, 64), np.float32)})
    monkeypatch.setattr("bessemer.frontends.onnx_reader.loader.MappedFile", refuse)
    found = compile(path, cache=False).run({"x0": np.ones((4, 64), np.float32)})
    np.testing.assert_array_equal(found[0], expected[0])


def test_a_graph_does_not_depend_on_its_file(tmp_path: Path) -> None:
    path = _model(tmp_path, 64, external=False, transposed=False)
    graph = as_graph(path)
    expected = compile(path, cache=False).run({"x0": np.ones((4, 64), np.float32)})
    path.write_bytes(b"")
    found = compile(graph, cache=False).run({"x0": np.ones((4, 64), np.float32)})
    np.testing.assert_array_equal(found[0], expected[0])
