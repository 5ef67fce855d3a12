"""Files that the command line is given, and those that it cannot write."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.options import Options
from bessemer.frontends.array_files import read_arrays, write_arrays
from bessemer.frontends.models_in import build_model
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.command_line import run_command
from tests.onnx_check import parsed


def test_what_is_no_npz_file_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", x=np.array([None, 2], dtype=object))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("one, two")
    with pytest.raises(CompileError, match=r"one\.npy holds one array without a name"):
        read_arrays(tmp_path / "one.npy")
    for name in ("broken.npz", "empty.npz", "text.npz", "objects.npz"):
        with pytest.raises(CompileError, match=rf"{name} is not an \.npz file of arrays"):
            read_arrays(tmp_path / name)
    with pytest.raises(CompileError, match=r"missing\.npz cannot be read: No such file"):
        read_arrays(tmp_path / "missing.npz")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"Cannot write .*out\.npz: No such file"):
        write_arrays(tmp_path / "missing" / "out.npz", {"x": np.zeros(3)})


def test_machine_code_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_bytes(b"\x7fELF and more")
    with pytest.raises(CompileError, match=r"x\.so: machine code, not an ONNX model"):
        read_onnx(tmp_path / "x.so")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = relu(x), as x.onnx."""
    onnx.save(parsed("g (float[n] x) => (float[n] y) { y = Relu (x) }"), tmp_path / "x.onnx")
    return tmp_path / "x.onnx"


@pytest.mark.parametrize(
    "command",
    [
        *("compile -o FILE.o", "run --outputs FILE.npz", "tune -o FILE.json --seconds 0"),
        *("profile --trace FILE.json", "profile --save FILE.json"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work_begins(
    command: str, model: Path, tmp_path: Path
) -> None:
    for place, reason in (("missing/y", "there is no folder"), ("here", "it is a folder")):
        verb, *words = command.replace("FILE", str(tmp_path / place)).split()
        (tmp_path / "here").with_suffix(Path(command.split()[2]).suffix).mkdir(exist_ok=True)
        code, out, err = run_command(verb, model, *words)
        assert code == 1 and reason in err and "[1/" not in err and out == ""


def test_a_folder_that_is_not_writable_is_told_before_the_work_begins(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, who may write anywhere.
    monkeypatch.setattr("os.access", lambda _, mode: mode != os.W_OK)
    code, out, err = run_command("tune", model, "-o", tmp_path / "x.json", "--seconds", "0")
    assert (code, out) == (1, "") and "is not writable" in err


def test_a_linker_that_is_not_there_is_told_before_the_work_begins(model: Path) -> None:
    code, _, err = run_command("compile", model, "-o", model.with_suffix(".so"), "--linker", "nocc")
    assert code == 1 and "'nocc' is not installed" in err and "[1/6]" not in err


def test_inputs_that_cannot_be_read_are_told_before_the_work_begins(model: Path) -> None:
    for verb in ("run", "profile", "verify"):
        code, _, err = run_command(verb, model, "--inputs", model.with_suffix(".npz"))
        assert code == 1 and "x.npz cannot be read: No such file" in err and "[1/" not in err


def test_a_full_disk_is_told_of_dumps(model: Path, tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "00-input.txt").symlink_to("/dev/full")
    with pytest.raises(CompileError, match=r"Cannot write dumps to .*dump: No space left"):
        build_model(model, Options(dump=tmp_path / "dump"))
