"""Tensors whose bytes lie in a file beside the model.

The file's name comes from the model, so from a stranger. It is opened one path component at a time,
following no symbolic link, and judged by its open descriptor: a regular file with one name (a hard
link could be any file of the machine), large enough for what the tensor claims.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.mapped_file import MappedFile
from bessemer.compiler.ir.types import Array

KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})


@dataclass(frozen=True, eq=False)
class ExternalFiles:
    """The files of one model's folder that have been opened, each mapped once, read-only."""

    folder: Path | None
    mapped: dict[str, MappedFile | bytes]

    def read(self, tensor: onnx.TensorProto, where: str, bytes_wanted: int) -> Array:
        """The tensor's bytes, as an array of uint8 over the mapped file; raises CompileError."""
        entries = _entries(tensor, where)
        data = self._map(entries["location"], where)
        offset = _number(entries, "offset", where, 0)
        length = _number(entries, "length", where, len(data) - offset)
        if length != bytes_wanted:
            raise CompileError(
                f"{where}: its external data is {length} bytes long, its type and shape need"
                f" {bytes_wanted}"
            )
        if offset + length > len(data):
            raise CompileError(
                f"{where}: bytes {offset} to {offset + length} of {entries['location']!r} are"
                f" asked for, but the file has {len(data)}; is it complete?"
            )
        if "checksum" in entries and hashlib.sha1(data).hexdigest() != entries["checksum"]:
            raise CompileError(f"{where}: {entries['location']!r} does not have its checksum")
        return np.frombuffer(data, dtype=np.uint8, count=length, offset=offset)

    def _map(self, location: str, where: str) -> MappedFile | bytes:
        if location not in self.mapped:
            if self.folder is None:
                raise CompileError(
                    f"{where}: lies in the file {location!r}, but a model given as bytes has no"
                    " folder; give the model's path"
                )
            self.mapped[location] = _open(self.folder, location, where)
        return self.mapped[location]


def _entries(tensor: onnx.TensorProto, where: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key not in KEYS or entry.key in entries:
            raise CompileError(f"{where}: external data has an unknown key {entry.key!r}")
        entries[entry.key] = entry.value
    if "location" not in entries:
        raise CompileError(f"{where}: external data without a location")
    if entries.get("basepath"):
        raise CompileError(f"{where}: external data with a basepath, which is not allowed")
    return entries


def _number(entries: dict[str, str], key: str, where: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise CompileError(f"{where}: external data has the {key} {text!r}")
    return int(text)


def _components(location: str, where: str) -> list[str]:
    parts = location.split("/")
    suspicious = not location or location.startswith(("/", "\\", "~")) or ":" in location
    if suspicious or "\0" in location or "\\" in location or ".." in parts:
        raise CompileError(
            f"{where}: external data at {location!r}; only a path inside the model's folder is"
            " allowed"
        )
    return [part for part in parts if part not in ("", ".")]


def _open(folder: Path, location: str, where: str) -> MappedFile | bytes:
    parts = _components(location, where)
    if not parts:
        raise CompileError(f"{where}: external data at {location!r}, which names no file")
    follow = os.O_RDONLY | os.O_CLOEXEC
    opened = [os.open(folder, follow | os.O_DIRECTORY)]
    try:
        for part in parts[:-1]:
            flags = follow | os.O_DIRECTORY | os.O_NOFOLLOW
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        flags = follow | os.O_NOFOLLOW | os.O_NONBLOCK
        opened.append(os.open(parts[-1], flags, dir_fd=opened[-1]))
        return _map_descriptor(opened[-1], location, where)
    except OSError as error:
        raise CompileError(
            f"{where}: its external data {location!r} cannot be opened in {folder}"
            f" ({error.strerror}); symbolic links are not followed"
        ) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _map_descriptor(descriptor: int, location: str, where: str) -> MappedFile | bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise CompileError(f"{where}: external data {location!r} is not a regular file")
    if status.st_nlink != 1:
        raise CompileError(
            f"{where}: external data {location!r} is a hard link, which may be a file outside"
            " the model's folder; copy it instead"
        )
    if status.st_size == 0:
        return b""
    return MappedFile(descriptor, status.st_size)
