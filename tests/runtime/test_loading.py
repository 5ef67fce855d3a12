"""Artifacts in processes of their own: saved, loaded without the compiler, forked, damaged."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.link import save
from bessemer.compiler.codegen.artifact.machine import Machine
from bessemer.compiler.jit import load_code
from bessemer.runtime.artifact import Placement
from bessemer.runtime.errors import ArtifactError
from bessemer.runtime.model import CompiledModel, load
from tests import handmade

EMPTY = np.empty(0, np.uint8)


@pytest.fixture(scope="module")
def relu() -> CompiledModel:
    code, weights = handmade.relu()
    return load_code(code, weights, Machine(handmade.HOST), threads=2)


@pytest.mark.parametrize("placement", ["inside", "beside"])
def test_a_saved_model_runs_without_the_compiler(
    relu: CompiledModel, rng: np.random.Generator, tmp_path: Path, placement: Placement
) -> None:
    path = tmp_path / "relu.so"
    written = relu.save(path, placement=placement)
    names = ["relu.so", "relu.h"] + ["relu.weights"] * (placement == "beside")
    assert [part.name for part in written] == names
    assert sorted(part.name for part in tmp_path.iterdir()) == sorted(names)
    x = rng.standard_normal((6, 4), np.float32)
    np.save(tmp_path / "x.npy", x)
    shown = _python(
        f"""
import sys
import numpy as np
import bessemer
model = bessemer.load({str(path)!r})
np.save({str(tmp_path / "y.npy")!r}, model(np.load({str(tmp_path / "x.npy")!r})))
unneeded = {{"llvmlite", "onnx", "networkx", "bessemer.compiler", "bessemer.runtime.cuda.model"}}
print(sorted(unneeded & set(sys.modules)))
"""
    )
    assert shown == "[]"
    np.testing.assert_array_equal(
        np.load(tmp_path / "y.npy"), np.maximum(x, 0) * np.arange(1, 5, dtype=np.float32)
    )


def test_a_loaded_model_describes_itself_and_cannot_be_saved(
    relu: CompiledModel, tmp_path: Path
) -> None:
    relu.save(tmp_path / "relu.so")
    model = load(tmp_path / "relu.so", threads=1)
    assert model.signature == relu.signature
    assert "relu: (x: float32[batch, 4]) -> (y: float32[batch, 4])" in repr(model)
    with pytest.raises(ArtifactError, match="copy that file"):
        model.save(tmp_path / "again.so")


def test_a_file_that_took_anothers_place_is_the_one_that_is_loaded(tmp_path: Path) -> None:
    x = np.ones((1, 4), np.float32)
    for scale in (1.0, 2.0, 3.0):
        code, weights = handmade.relu("relu", scale)
        save(code, weights, tmp_path / "model.so")
        np.testing.assert_array_equal(load(tmp_path / "model.so")(x), scale * np.arange(1, 5)[None])


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    for name, scale in (("one", 1.0), ("two", 2.0)):
        code, weights = handmade.relu("relu", scale)
        save(code, weights, tmp_path / f"{name}.so", "beside")
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(load(tmp_path / "two.so")(x), [[2, 4, 6, 8]])
    with pytest.raises(ArtifactError, match=r"one\.weights belongs to another model"):
        load(tmp_path / "two.so", weights=tmp_path / "one.weights")
    with pytest.raises(ArtifactError, match=r"none\.weights cannot be opened: No such file"):
        load(tmp_path / "two.so", weights=tmp_path / "none.weights")
    whole = (tmp_path / "two.weights").read_bytes()
    (tmp_path / "two.weights").write_bytes(whole[:-1])
    with pytest.raises(ArtifactError, match="has 79 bytes, 80 were expected"):
        load(tmp_path / "two.so")


def test_weights_beside_are_given_back(tmp_path: Path) -> None:
    """Their mapping goes with the model; of a file that is refused nothing stays open."""
    code, weights = handmade.relu()
    save(code, weights, tmp_path / "relu.so", "beside")
    whole = (tmp_path / "relu.weights").read_bytes()
    (tmp_path / "short.weights").write_bytes(whole[:-1])
    (tmp_path / "wrong.weights").write_bytes(b"X" + whole[1:])
    open_files = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        load(tmp_path / "relu.so")
        for refused in ("short.weights", "wrong.weights"):
            with pytest.raises(ArtifactError):
                load(tmp_path / "relu.so", weights=tmp_path / refused)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < open_files + 10
    assert ".weights" not in Path("/proc/self/maps").read_text()


def test_files_that_are_no_artifact_are_refused(relu: CompiledModel, tmp_path: Path) -> None:
    relu.save(tmp_path / "relu.so")
    whole = (tmp_path / "relu.so").read_bytes()
    foreign = whole[:18] + b"\xf3\x00" + whole[20:]
    for name, data, problem in [
        ("missing.so", None, "There is no file"),
        ("empty.so", b"", "Cannot read"),
        ("text.so", b"hello, world" * 20, "not a 64-bit little-endian ELF file"),
        ("cut.so", whole[: len(whole) // 2], "cut off or damaged"),
        ("foreign.so", foreign, "is for machine 243, this machine is"),
        ("nameless.so", whole.replace(b"relu_metadata", b"relu_metadatX"), "holds no model"),
    ]:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ArtifactError, match=problem):
            load(tmp_path / name)
    with pytest.raises(ArtifactError, match="holds no model 'other'; it has relu"):
        load(tmp_path / "relu.so", name="other")


def test_bfloat16_is_uint16_where_ml_dtypes_is_missing(tmp_path: Path) -> None:
    save(handmade.copy("bfloat16", 2, (3,), "3"), EMPTY, tmp_path / "copy.so")
    shown = _python(
        f"""
import sys
sys.modules["ml_dtypes"] = None
import numpy as np
from bessemer.runtime.model import load
y = load({str(tmp_path / "copy.so")!r})(np.array([1, 2, 3], np.uint16))
print(y.dtype, y.tolist())
"""
    )
    assert shown == "uint16 [1, 2, 3]"


def test_a_child_of_fork_runs_the_model(tmp_path: Path) -> None:
    # In a process of its own: this one has threads of other tests.
    code, weights = handmade.relu()
    save(code, weights, tmp_path / "relu.so")
    done = _python(
        f"""
import os
import numpy as np
from bessemer.runtime.model import load
model = load({str(tmp_path / "relu.so")!r}, threads=2)
x = np.ones((100, 4), np.float32)
before = model(x)
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(model(x), before) for _ in range(10))
        os._exit(0 if same else 1)
    children.append(child)
    assert np.array_equal(model(x), before)
print([os.waitpid(child, 0)[1] for child in children])
"""
    )
    assert done == "[0, 0, 0]"


def test_a_library_means_its_own_functions(relu: CompiledModel, tmp_path: Path) -> None:
    # Another model's library has the same names, and is there for everybody.
    for folder, scale in (("first", 2.0), ("second", 3.0)):
        (tmp_path / folder).mkdir()
        save(*handmade.relu(scale=scale), tmp_path / folder / "relu.so")
    shown = _python(
        f"""
import ctypes, os
import numpy as np
from bessemer.runtime.model import load
ctypes.CDLL({str(tmp_path / "first" / "relu.so")!r}, mode=os.RTLD_GLOBAL)
model = load({str(tmp_path / "second" / "relu.so")!r})
print([float(model(np.ones((1, 4), np.float32))[0, 0]) for _ in range(3)])
"""
    )
    assert shown == "[3.0, 3.0, 3.0]"


def test_python_ends_while_threads_run_the_model(tmp_path: Path) -> None:
    code, weights = handmade.relu()
    save(code, weights, tmp_path / "relu.so")
    shown = _python(
        f"""
import threading
import numpy as np
from bessemer.runtime.model import load
model = load({str(tmp_path / "relu.so")!r}, threads=2)
x = np.ones((100_000, 4), np.float32)
started = threading.Barrier(4)
def work():
    model(x)
    started.wait()
    while True:
        model(x)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
started.wait()
print("ends")
"""
    )
    assert shown == "ends"


def _python(script: str) -> str:
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
