"""What a model is, in bytes: the part of the compile cache's key that stands for the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from bessemer.compiler.ir.graph import Graph
from bessemer.frontends.builder.network import Network
from bessemer.frontends.fingerprint import fingerprint

_CHUNK = 1 << 18
# Without this word in a file, none of its tensors lies outside it.
_EXTERNAL = b"location"


def content_of(model: str | Path | bytes | onnx.ModelProto | Graph | Network) -> bytes | None:
    """Bytes that are equal for equal models; None for what cannot be read: reading tells why."""
    match model:
        case Network():
            return fingerprint(model.graph)
        case Graph():
            return fingerprint(model)
        case onnx.ModelProto():
            return bytes(model.SerializeToString(deterministic=True))
        case bytes():
            return model
        case str() | Path():
            return _content_of_file(Path(model))
        case _:
            return None


def _content_of_file(path: Path) -> bytes | None:
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    has_external, tail = False, b""
    try:
        # Opening a named pipe would wait for a writer.
        if not path.is_file():
            return None
        with path.open("rb", buffering=0) as file:
            # One buffer, over and over: new memory would take longer than reading.
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
                across = tail + buffer[: len(_EXTERNAL)]
                has_external |= _EXTERNAL in across or buffer.find(_EXTERNAL, 0, count) >= 0
                tail = bytes(buffer[max(0, count - len(_EXTERNAL) + 1) : count])
        if has_external:
            # Gigabytes as a rule: size and time stand for their content.
            for location in _external_files(path):
                found = (path.resolve().parent / location).stat()
                digest.update(repr((location, found.st_size, found.st_mtime_ns)).encode())
    except (OSError, ValueError, DecodeError):
        return None
    return digest.digest()


def _external_files(path: Path) -> list[str]:
    proto = onnx.ModelProto.FromString(path.read_bytes())
    return sorted(
        {
            entry.value
            for tensor in _tensors(proto)
            for entry in tensor.external_data
            if entry.key == "location"
        }
    )


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """All tensors, wherever they are: in graphs, subgraphs, functions, attributes."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for child in (value,) if isinstance(value, Message) else value:
                yield from _tensors(child)
