"""Checkpoints: the whole state of training in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array

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
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {_KEY: json.dumps({"format": FORMAT, **checkpoint.facts})}
    _write_whole(path, checkpoint.arrays, facts)


def write_parameters(path: Path, arrays: Mapping[str, Array]) -> None:
    """A network's parameters by name as a safetensors file, written whole or not at all."""
    _write_whole(path, arrays, None)


def _write_whole(path: Path, arrays: Mapping[str, Array], facts: dict[str, str] | None) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, part,
                  metadata=facts)  # fmt: skip
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def checkpoint_start(arrays: Sequence[tuple[str, str, Array]], facts: Facts) -> tuple[bytes, bytes]:
    """How a file with these arrays, in this order, begins: before and after the number of steps,
    which takes 20 characters.

    Arrays are (name, element type as safetensors calls it, contents), the widest elements first.
    """
    told = json.dumps({"format": FORMAT, "steps": _HOLE, **facts})
    header: dict[str, Any] = {"__metadata__": {_KEY: told}}
    end = 0
    for name, kind, array in arrays:
        place = [end, end := end + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    before, after = text.split(str(_HOLE).encode())
    return struct.pack("<Q", len(text)) + before, after


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises CompileError for a file that is no checkpoint of training."""
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
