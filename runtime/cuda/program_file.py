"""A model for GPUs in one file: PTX for one or several levels, cubins where they were made, weights
and the steps of a run. Nothing in it is run or unpickled to read it.

    16 bytes   MAGIC
    8 + 32     the length of what follows, little-endian, and its SHA-256
    8          the length of the JSON text that follows, then parts that the text points to

The JSON text is {"format": 1, "forms": [{"program", "ptx", "cubin", "weights"}]}; parts are
[offset, length] behind the text. Forms with equal weights share them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from bessemer.runtime.arrays import Array
from bessemer.runtime.artifact import Signature
from bessemer.runtime.cuda.artifact import DeviceProgram
from bessemer.runtime.cuda.driver import DeviceError
from bessemer.runtime.cuda.plain_data import from_plain, to_plain
from bessemer.runtime.cuda.program_check import check_program
from bessemer.runtime.cuda.program_place import MAGIC, program_place
from bessemer.runtime.errors import ArtifactError
from bessemer.runtime.whole_file import whole_file

FORMAT = 2
SUFFIX = ".bessemer"
_HEAD = struct.Struct("<16sQ32s")
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class Form:
    """A model for one level of GPUs; `cubin` is its PTX assembled for that level, if it was."""

    program: DeviceProgram
    weights: Array
    cubin: bytes = b""

    def runs_on(self, level: int) -> bool:
        """Whether a device of this level (its compute capability times ten) takes it."""
        return level == self.program.level if self.program.exact else level >= self.program.level

    def cubin_for(self, level: int) -> bytes:
        """The cubin, if such a device runs it: it is for its generation only."""
        return self.cubin if level // 10 == self.program.level // 10 else b""


def choose_form(forms: Sequence[Form], level: int, device: str) -> Form:
    """The most able form that a device of this level runs; raises DeviceError where none does."""
    fitting = [form for form in forms if form.runs_on(level)]
    if not fitting:
        there = ", ".join(form.program.signature.target for form in forms)
        raise DeviceError(
            f"'{forms[0].program.signature.name}' was compiled for {there}; {device} has compute "
            f"capability {level // 10}.{level % 10}. Compile it for that device."
        )
    return max(fitting, key=lambda form: (form.program.level, form.program.exact))


PartPlaces = list[tuple[int, int, int]]
"""Where in a file the PTX, the cubin and the weights of each form begin."""


def pack_forms(forms: Sequence[Form]) -> bytes:
    """The file's bytes; the same forms give the same bytes."""
    return pack_with_places(forms)[0]


def pack_with_places(forms: Sequence[Form]) -> tuple[bytes, PartPlaces]:
    """The file's bytes, and where in them the parts are. Behind each is a zero byte at least."""
    parts = _Parts()
    entries: list[dict[str, Any]] = [
        {
            "program": _program_data(form.program),
            "ptx": parts.add(form.program.ptx.encode()),
            "cubin": parts.add(form.cubin),
            "weights": parts.add(form.weights.tobytes()),
        }
        for form in forms
    ]
    text = json.dumps({"format": FORMAT, "forms": entries}, separators=(",", ":")).encode()
    text += b" " * (-(_HEAD.size + _LENGTH.size + len(text)) % _ALIGNMENT)
    body = b"".join((_LENGTH.pack(len(text)), text, *parts.parts))
    start = _HEAD.size + _LENGTH.size + len(text)
    found = [(start + e["ptx"][0], start + e["cubin"][0], start + e["weights"][0]) for e in entries]
    return _HEAD.pack(MAGIC, len(body), sha256(body).digest()) + body, found


class _Parts:
    """The parts behind the text, each of them once."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._known: dict[bytes, list[int]] = {}
        self._end = 0

    def add(self, part: bytes) -> list[int]:
        key = sha256(part).digest()
        if key not in self._known:
            self._known[key] = [self._end, len(part)]
            filled = part + b"\0" * (_ALIGNMENT - len(part) % _ALIGNMENT)
            self.parts.append(filled)
            self._end += len(filled)
        return self._known[key]


def _program_data(program: DeviceProgram) -> dict[str, Any]:
    kept = {one.name: to_plain(getattr(program, one.name)) for one in fields(program)}
    del kept["ptx"]
    return kept | {"signature": json.loads(program.signature.to_json())}


def write_forms(forms: Sequence[Form], path: Path) -> None:
    """Writes the file, whole or not at all."""
    with whole_file(path) as part:
        part.write_bytes(pack_forms(forms))


def read_forms(path: Path) -> tuple[Form, ...]:
    """The forms in a file; raises ArtifactError where it is missing, damaged, or none of ours."""
    start, size = program_place(path) or (0, -1)
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
    except FileNotFoundError:
        raise ArtifactError(f"There is no file {path}.") from None
    except OSError as error:
        raise ArtifactError(f"Cannot read {path}: {error}") from None
    try:
        return unpack_forms(data)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None


def unpack_forms(data: bytes) -> tuple[Form, ...]:
    """The forms in the bytes of a file; raises ArtifactError."""
    if data[: len(MAGIC)] != MAGIC:
        raise ArtifactError("The file is not a model for GPUs compiled by Bessemer.")
    if len(data) < _HEAD.size + _LENGTH.size:
        raise ArtifactError("The file is cut off.")
    _, length, digest = _HEAD.unpack_from(data)
    body = data[_HEAD.size : _HEAD.size + length]
    if len(body) != length or sha256(body).digest() != digest:
        raise ArtifactError("The file is cut off or damaged: its checksum is another.")
    try:
        return tuple(_forms(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"The file's description is damaged: {error}") from None


def _forms(body: bytes) -> Iterator[Form]:
    (length,) = _LENGTH.unpack_from(body)
    described = json.loads(body[_LENGTH.size : _LENGTH.size + length])
    if described["format"] != FORMAT:
        raise ArtifactError(
            f"The file has format {described['format']}, this Bessemer reads format {FORMAT}. "
            "Compile the model again."
        )
    rest = memoryview(body)[_LENGTH.size + length :]

    def part(place: list[int]) -> memoryview:
        start, size = place
        if not 0 <= start <= start + size <= len(rest):
            raise ValueError(f"there are no {size} bytes at {start}")
        return rest[start : start + size]

    if not described["forms"]:
        raise ValueError("it holds no form")
    for entry in described["forms"]:
        program = _program(entry["program"], str(part(entry["ptx"]), "utf-8"))
        weights = np.frombuffer(part(entry["weights"]), np.uint8)
        if weights.nbytes != program.signature.weights_bytes:
            raise ValueError(f"{weights.nbytes} bytes of weights")
        yield Form(program, weights, bytes(part(entry["cubin"])))


def _program(data: dict[str, Any], ptx: str) -> DeviceProgram:
    signature = Signature.from_json(json.dumps(data["signature"]))
    hints = get_type_hints(DeviceProgram)
    names = [one.name for one in fields(DeviceProgram) if one.name not in ("signature", "ptx")]
    found = {name: from_plain(hints[name], data[name]) for name in names}
    program = replace(DeviceProgram(signature, 0, False, ptx, (), ()), **found)
    check_program(program)
    return program
