"""The compile cache: entries are found again, damaged ones compiled anew, processes share them."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.driver import build
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array
from bessemer.compiler.known_files import KNOWN_FILES
from bessemer.frontends import models_in, zoo
from bessemer.frontends.builder import Network
from bessemer.frontends.onnx_writer.write import write_onnx
from bessemer.runtime.model import CompiledModel
from bessemer.runtime.whole_file import folder_beside
from tests.compiled_kernels import HERE

ROOT = Path(__file__).resolve().parents[2]
FILES = ("manifest.json", "model.o", "model.weights")


class Compilations:
    """Counts the compilations that really happen."""

    def __init__(self) -> None:
        self.count = 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    monkeypatch.setenv("BESSEMER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compilations]:
    counter = Compilations()

    def counting(*arguments: Any, **hooks: Any) -> object:
        counter.count += 1
        return build(*arguments, **hooks)

    monkeypatch.setattr("bessemer.frontends.models_in.build", counting)
    yield counter


def network(seed: int = 0) -> Network:
    return zoo.mlp(6, (5,), 3, seed=seed)


X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)


def compiled(model: Any, optimize: int = 0, **options: Any) -> CompiledModel:
    """A model compiled in the shortest way: the cache keeps whatever it gets."""
    result: CompiledModel = bessemer.compile(model, optimize=optimize, **options)
    return result


def output(model: Any, **options: Any) -> Array:
    result: Array = compiled(model, **options)(X)
    return result


def entries(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.exists() else ()
    return sorted(entry for entry in found if entry.name != KNOWN_FILES)


def test_the_second_compilation_is_read(folder: Path, compilations: Compilations) -> None:
    first = output(network())
    assert compilations.count == 1
    (entry,) = entries(folder)
    assert sorted(path.name for path in entry.iterdir()) == sorted(FILES)
    np.testing.assert_array_equal(output(network()), first)
    assert compilations.count == 1


def test_what_changes_the_code_changes_the_entry(folder: Path, compilations: Compilations) -> None:
    choices: list[tuple[int, dict[str, Any]]] = [
        (0, {}),
        (1, {}),
        (0, {"optimize": 2}),
        (0, {"dims": {"batch": 2}}),
        (0, {"target": HERE[0].name}),
    ]
    for count, (seed, options) in enumerate(choices, start=1):
        output(network(seed), **options)
        assert compilations.count == count == len(entries(folder))
    # Threads are a matter of the run.
    output(network(), threads=2)
    assert len(entries(folder)) == compilations.count


def test_a_file_its_bytes_and_its_model(
    folder: Path, compilations: Compilations, tmp_path: Path
) -> None:
    model = write_onnx(network().graph, tmp_path / "mlp.onnx")
    first = output(tmp_path / "mlp.onnx")
    for same in (tmp_path / "mlp.onnx", str(tmp_path / "mlp.onnx")):
        np.testing.assert_array_equal(output(same), first)
    assert compilations.count == 1
    # Another file with other weights in the same place.
    write_onnx(network(1).graph, tmp_path / "mlp.onnx")
    assert not np.array_equal(output(tmp_path / "mlp.onnx"), first)
    np.testing.assert_array_equal(output(model), first)


def test_external_weights_count(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mlp.onnx"
    outputs = []
    for seed in (0, 1):
        model = write_onnx(network(seed).graph)
        (tmp_path / "weights.bin").unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        outputs.append(output(path))
    assert not np.array_equal(outputs[0], outputs[1])


def damages(data: bytes) -> Iterator[bytes]:
    yield b""
    yield data[: len(data) // 2]
    yield data[:-1]
    yield data + b"\0"
    for place in range(0, len(data), max(1, len(data) // 5)):
        yield data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_entry_is_compiled_again(
    folder: Path, compilations: Compilations, name: str
) -> None:
    expected = output(network())
    (entry,) = entries(folder)
    intact = {path.name: path.read_bytes() for path in entry.iterdir()}
    for number, damaged in enumerate(damages(intact[name]), start=2):
        # A new file, as one that is changed in place changes under the models that map it.
        (entry / name).unlink()
        (entry / name).write_bytes(damaged)
        np.testing.assert_array_equal(output(network()), expected)
        assert compilations.count == number, f"{name} damaged as {damaged[:300]!r} was loaded"
        assert {path.name: path.read_bytes() for path in entry.iterdir()} == intact
    assert entries(folder) == [entry]


@pytest.mark.parametrize("name", FILES)
def test_an_entry_without_a_file_is_compiled_again(
    folder: Path, compilations: Compilations, name: str
) -> None:
    expected = output(network())
    (entry,) = entries(folder)
    (entry / name).unlink()
    np.testing.assert_array_equal(output(network()), expected)
    assert compilations.count == 2
    np.testing.assert_array_equal(output(network()), expected)
    assert compilations.count == 2


def test_an_entry_under_another_ones_name_is_compiled_again(
    folder: Path, compilations: Compilations
) -> None:
    expected = [output(network(seed)) for seed in (0, 1)]
    first, second = entries(folder)
    shutil.rmtree(first)
    shutil.copytree(second, first)
    for seed in (0, 1):
        np.testing.assert_array_equal(output(network(seed)), expected[seed])
    assert compilations.count == 3


def test_a_manifest_that_is_json_but_not_ours(folder: Path, compilations: Compilations) -> None:
    expected = output(network())
    (entry,) = entries(folder)
    odd: list[object] = [None, [], {}, {"sha256": 3, "signature": 4}]
    for count, content in enumerate(odd, start=2):
        (entry / "manifest.json").write_text(json.dumps(content))
        np.testing.assert_array_equal(output(network()), expected)
        assert compilations.count == count


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: Compilations
) -> None:
    (tmp_path / "file").write_text("")
    # Of a name that is too long nobody can tell whether it is there, as where a folder is locked.
    for place in (str(tmp_path / "file"), "", str(tmp_path / ("x" * 300))):
        monkeypatch.setenv("BESSEMER_CACHE_DIR", place)
        np.testing.assert_array_equal(output(network()), output(network()))
    assert compilations.count == 6
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_who_has_no_home_has_no_cache(
    monkeypatch: pytest.MonkeyPatch, compilations: Compilations
) -> None:
    """As in a container whose user is a number without a name."""
    for name in ("BESSEMER_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    np.testing.assert_array_equal(output(network()), output(network()))
    assert compilations.count == 2


def test_compiling_without_the_cache_leaves_nothing(folder: Path) -> None:
    output(network(), cache=False)
    assert entries(folder) == []


def used(entry: Path, time: float) -> None:
    os.utime(entry / "manifest.json", (time, time))


def test_the_entry_that_was_not_used_for_longest_makes_room(
    folder: Path, compilations: Compilations, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = [zoo.mlp(600, (440,), 3, seed=seed) for seed in range(4)]  # above 1 MiB of weights each
    made: list[Path] = []
    for net in large[:3]:
        compiled(net)
        (new,) = set(entries(folder)) - set(made)
        made.append(new)
        used(new, 1000.0 + len(made))
    compiled(large[0])  # a use: the second is now the oldest
    assert compilations.count == 3
    monkeypatch.setenv("BESSEMER_CACHE_MIB", "3")
    compiled(large[3])
    left = set(entries(folder))
    assert made[0] in left and made[1] not in left and len(left) == 2
    monkeypatch.setenv("BESSEMER_CACHE_MIB", "0")
    compiled(large[1])
    assert len(entries(folder)) == 1  # the newest stays
    compiled(large[1])
    assert compilations.count == 5


def test_what_a_crash_has_left_is_removed(folder: Path) -> None:
    left = folder / f".{'0' * 64}.1.2.part"
    left.mkdir(parents=True)
    (left / "model.weights").write_bytes(b"half of the wei")
    with folder_beside(folder / "another process's") as part:
        output(network())
        assert [path for path in entries(folder) if path.name.startswith(".")] == [part]
    assert len(entries(folder)) == 1


def test_a_limit_that_is_no_number_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_CACHE_MIB", "many")
    with pytest.raises(bessemer.CompileError, match="BESSEMER_CACHE_MIB='many'"):
        output(network())


SCRIPT = """
import sys
import numpy as np
import bessemer
from bessemer.frontends import zoo
x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
sys.stdin.read()
for seed in (0, 1, 2):
    model = bessemer.compile(zoo.mlp(6, (5,), 3, seed=seed), optimize=0)
    sys.stdout.buffer.write(model(x).tobytes())
"""


def test_processes_share_a_cache(folder: Path, compilations: Compilations) -> None:
    """Two start together on an empty cache; a third finds what they have left."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    results = []
    for process in processes:
        assert process.stdout is not None
        results.append(process.stdout.read())
        assert process.wait(300) == 0
    assert len(entries(folder)) == 3
    expected = b"".join(output(network(seed)).tobytes() for seed in (0, 1, 2))
    assert results == [expected, expected]
    assert compilations.count == 0


def test_a_file_that_changes_while_it_is_compiled_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    read = models_in.as_graph

    def changing(*arguments: Any, **options: Any) -> Graph:
        write_onnx(network(1).graph, path)
        return read(*arguments, **options)

    write_onnx(network(0).graph, path)
    with monkeypatch.context() as patch:
        patch.setattr(models_in, "as_graph", changing)
        compiled(path)
    assert entries(folder) == []
    write_onnx(network(0).graph, path)
    np.testing.assert_array_equal(output(path), output(network(0)))


LOADED = """
import sys
import bessemer
bessemer.compile("examples/lenet.onnx")
unneeded = {"onnx", "bessemer.compiler.driver", "bessemer.frontends.builder"}
print(sorted((unneeded | {"bessemer.runtime.cuda.model"}) & {*sys.modules}))
"""


def test_what_is_in_the_cache_is_loaded_without_onnx_and_the_compiler(folder: Path) -> None:
    bessemer.compile("examples/lenet.onnx")
    assert len(entries(folder)) == 1
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
