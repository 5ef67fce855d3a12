"""Files that the command line is given, and those that it cannot write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.frontends.cli.models import read_arrays, write_arrays
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.frontends.train.datasets import read_data
from tests.command_line import run_command
from tests.onnx_check import parsed


@pytest.mark.parametrize("read", [read_arrays, read_data])
def test_what_is_no_npz_file_is_told(read: Callable[[Path], object], tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(CompileError, match=r"one\.npy holds one array without a name"):
        read(tmp_path / "one.npy")
    for name in ("broken.npz", "empty.npz", "missing.npz"):
        with pytest.raises(CompileError, match=rf"{name}: cannot be read as an \.npz file"):
            read(tmp_path / name)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"Cannot write .*out\.npz: No such file"):
        write_arrays(tmp_path / "missing" / "out.npz", {"x": np.zeros(3)})


def test_machine_code_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_bytes(b"\x7fELF and more")
    with pytest.raises(CompileError, match=r"x\.so: machine code, not an ONNX model"):
        read_onnx(tmp_path / "x.so")


def test_compile_tells_before_it_begins_what_it_cannot_write(tmp_path: Path) -> None:
    model = tmp_path / "x.onnx"
    onnx.save(parsed("g (float[2] x) => (float[2] y) { y = Relu (x) }"), model)
    code, _, err = run_command("compile", model, "-o", tmp_path / "missing" / "x.o")
    assert code == 1 and "there is no folder" in err and "[1/6]" not in err
    code, _, err = run_command("compile", model, "-o", tmp_path / "x.so", "--linker", "no-such-cc")
    assert code == 1 and "'no-such-cc' is not installed" in err and "[1/6]" not in err
