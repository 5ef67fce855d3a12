"""Files of arrays in the safetensors form, as the training writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder import Dense, Input, Network
from bessemer.frontends.train.checkpoint import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
    write_parameters,
)
from bessemer.frontends.train.trainer import Trainer

ARRAYS = {
    "größe": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "flag": np.array(True),
    "none": np.zeros((0, 4), np.float64),
    "half": np.arange(3, dtype=ml_dtypes.bfloat16),
    "count": np.array([2**62, -1]),
}


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write_parameters(path, ARRAYS)
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    numbers = {name: array for name, array in ARRAYS.items() if name != "half"}
    write_parameters(path, numbers)
    found = load_file(path)
    assert found.keys() == numbers.keys()
    for name, array in numbers.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
    write_checkpoint(path, Checkpoint(numbers, {"steps": 3, "text": "ä"}))
    again = read_checkpoint(path)
    assert again.facts == {"steps": 3, "text": "ä"}
    assert all(np.array_equal(again.arrays[name], array) for name, array in numbers.items())
    assert sorted(os.listdir(tmp_path)) == ["file.safetensors", "plain"]


def test_every_array_lies_where_its_type_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    for name in ("a", "ab", "abc", "abcd"):
        write_parameters(path, {name: np.ones(3, np.uint8), "wide": np.ones(2), **ARRAYS})
        whole = path.read_bytes()
        size = int.from_bytes(whole[:8], "little")
        assert size % 8 == 0
        arrays = json.loads(whole[8 : 8 + size])
        width = {"F64": 8, "I64": 8, "F32": 4, "BF16": 2}
        for entry in arrays.values():
            assert entry["data_offsets"][0] % width.get(entry["dtype"], 1) == 0


def test_a_checkpoint_of_another_version_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file.state"
    save_file({"x": np.ones(2)}, path, {"bessemer": json.dumps({"format": 99})})
    with pytest.raises(CompileError, match="another version"):
        read_checkpoint(path)


def test_a_checkpoint_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(CompileError, match="Cannot write"):
            write_parameters(folder / "x.safetensors", ARRAYS)
        with pytest.raises(CompileError, match="Cannot write"):
            write_checkpoint(folder / "x.state", Checkpoint({}, {}))


def test_a_training_that_cannot_be_kept_is_told_before_its_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    network = Network(Dense(1), Input("x", ("batch", 2)))
    trainer = Trainer(network, lambda y: y.mean(), [])
    for place in (tmp_path / "file" / "x.state", tmp_path):
        with pytest.raises(CompileError, match="Cannot write"):
            trainer.fit({"x": np.ones((4, 2), np.float32)}, checkpoint=place)
    assert trainer.steps == 0
