"""Checkpoints: the whole state of training in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bessemer.compiler.codegen.training.library_parts import SAFETENSORS
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array, TensorType
from bessemer.runtime.whole_file import folder_beside, whole_file

_KEY = "bessemer"
FORMAT = 1
_HOLE = 10**19 + 7
Facts = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Arrays by name, and what else there is to know, as JSON has it."""

    arrays: Mapping[str, Array]
    facts: Mapping[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the file in one step: whatever happens, the old one or the new one is there."""
    facts = {_KEY: json.dumps({"format": FORMAT, **checkpoint.facts})}
    _write_whole(path, checkpoint.arrays, facts)


def check_writable(path: Path) -> None:
    """Raises CompileError where no checkpoint can be written, before there is one to lose."""
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with folder_beside(path):
            pass
    except OSError as error:
        raise CompileError(f"Cannot write {path}: {error.strerror or error}") from None


def write_parameters(path: Path, arrays: Mapping[str, Array]) -> None:
    """A network's parameters by name as a safetensors file, written whole or not at all."""
    _write_whole(path, arrays, None)


def _write_whole(path: Path, arrays: Mapping[str, Array], facts: dict[str, str] | None) -> None:
    rows = [(name, SAFETENSORS[array.dtype.name], array) for name, array in arrays.items()]
    rows.sort(key=lambda row: (-row[2].itemsize, row[0]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, part.open("wb") as file:
            file.write(_header(rows, facts))
            for _, _, array in rows:
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise CompileError(f"Cannot write {path}: {error.strerror or error}") from None


def _header(rows: Sequence[tuple[str, str, Array]], facts: Mapping[str, str] | None) -> bytes:
    """The length of what says which array lies where, and that."""
    header: dict[str, Any] = {"__metadata__": facts} if facts else {}
    end = 0
    for name, kind, array in rows:
        place = [end, end := end + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def checkpoint_start(arrays: Sequence[tuple[str, str, Array]], facts: Facts) -> tuple[bytes, bytes]:
    """How a file with these arrays, in this order, begins: before and after the number of steps,
    which takes 20 characters.

    Arrays are (name, element type as safetensors calls it, contents), the widest elements first.
    """
    told = json.dumps({"format": FORMAT, "steps": _HOLE, **facts})
    before, after = _header(arrays, {_KEY: told}).split(str(_HOLE).encode())
    return before, after


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises CompileError for a file that is not a checkpoint of training."""
    try:
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CompileError(f"{path} cannot be read as a checkpoint: {error}") from None
    if _KEY not in metadata:
        raise CompileError(f"{path} has arrays, but nothing that says how training went on.")
    facts = json.loads(metadata[_KEY])
    if facts.pop("format", None) != FORMAT:
        raise CompileError(f"{path} was written by another version of Bessemer.")
    return Checkpoint(arrays, facts)


def state_in(
    found: Checkpoint, wanted: Sequence[tuple[str, TensorType]], path: str | Path
) -> dict[str, Array]:
    """The arrays of these names and types. Raises CompileError where one is not there."""
    for name, type in wanted:
        array = found.arrays.get(name)
        if array is None or array.shape != type.static_shape or array.dtype != type.dtype.numpy:
            what = "is missing" if array is None else f"is {array.dtype}{list(array.shape)}"
            raise CompileError(
                f"{path} is of another network or optimizer: {name} {what}, not {type}."
            )
    return {name: found.arrays[name] for name, _ in wanted}
