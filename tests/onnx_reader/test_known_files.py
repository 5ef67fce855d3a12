"""What was found out about a file is known until the file changes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import bessemer
from bessemer.compiler import known_files
from bessemer.compiler.ir.types import Array
from bessemer.compiler.known_files import KNOWN_FILES, forget_files, known_of_file
from bessemer.frontends import model_content, zoo
from bessemer.frontends.onnx_writer.write import write_onnx


class Readings:
    """Reads a file, and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def __call__(self) -> list[str]:
        self.count += 1
        return [self.path.read_text()]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that have just been written are taken for old ones."""
    monkeypatch.setattr(known_files, "_SETTLED", -60.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("first")
    return path


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once_for_each_content_and_question(tmp_path: Path, file: Path) -> None:
    readings = Readings(file)
    for what in ("text", "text", "other"):
        assert known_of_file(tmp_path / "cache", file, what, readings) == ["first"]
    assert readings.count == 2


@pytest.mark.usefixtures("settled")
def test_a_file_of_the_same_size_and_time_is_another_one(tmp_path: Path, file: Path) -> None:
    readings, before = Readings(file), file.stat()
    known_of_file(tmp_path / "cache", file, "text", readings)
    other = tmp_path / "other"
    other.write_text("other")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, file)
    assert known_of_file(tmp_path / "cache", file, "text", readings) == ["other"]


def test_a_file_that_changed_a_moment_ago_is_read_again(tmp_path: Path, file: Path) -> None:
    readings = Readings(file)
    for count in (1, 2):
        known_of_file(tmp_path / "cache", file, "text", readings)
        assert readings.count == count
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damaged", ["", "{", "3", '{"a": 1}', "[3]", "[]"])
def test_what_is_kept_and_damaged_is_found_out_again(
    tmp_path: Path, file: Path, damaged: str
) -> None:
    readings = Readings(file)
    known_of_file(tmp_path / "cache", file, "text", readings)
    (kept,) = (tmp_path / "cache" / KNOWN_FILES).iterdir()
    kept.write_text(damaged)
    assert known_of_file(tmp_path / "cache", file, "text", readings) == ["first"]
    assert readings.count == 2


@pytest.mark.usefixtures("settled")
def test_files_that_came_first_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "_MOST", 3)
    for number in range(5):
        path = tmp_path / str(number)
        path.write_text(str(number))
        assert known_of_file(tmp_path / "cache", path, "text", Readings(path)) == [str(number)]
    assert len(list((tmp_path / "cache" / KNOWN_FILES).iterdir())) == 3


@pytest.mark.usefixtures("settled")
def test_files_of_others_stay(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_files, "_MOST", 1)
    folder = tmp_path / KNOWN_FILES
    folder.mkdir()
    own = [folder / "own.json", folder / "other"]
    for path in own:
        path.write_text("")
    for what in ("text", "other"):
        known_of_file(tmp_path, file, what, Readings(file))
    assert len(list(folder.iterdir())) == 3
    forget_files(tmp_path)
    assert sorted(folder.iterdir()) == sorted(own)
    for path in own:
        path.unlink()
    known_of_file(tmp_path, file, "text", Readings(file))
    forget_files(tmp_path)
    assert not folder.exists()


@pytest.mark.usefixtures("settled")
def test_a_model_s_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESSEMER_CACHE_DIR", str(tmp_path / "cache"))
    path, hashed = tmp_path / "mlp.onnx", []
    hash_file = model_content._digest_and_external_files

    def counted(path: Path) -> list[str]:
        hashed.append(path)
        return hash_file(path)

    monkeypatch.setattr(model_content, "_digest_and_external_files", counted)
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    outputs: list[Array] = []
    for seed in (0, 0, 1):
        if len(outputs) != 1:
            write_onnx(zoo.mlp(6, (5,), 3, seed=seed).graph, path)
        outputs.append(bessemer.compile(path).run([x])[0])
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[1], outputs[2])
    assert hashed == [path, path]
