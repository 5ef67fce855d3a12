"""Files of arrays that the command line is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.frontends.cli.models import read_arrays, write_arrays
from bessemer.frontends.train.datasets import read_data


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
