"""The content of a model as bytes: the model's part of the compile cache's key.

A file is recognized without onnx, so that loading a model from the cache need not import it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from bessemer.compiler.known_files import known_of_file
from bessemer.frontends.import_on_use import import_on_use

if TYPE_CHECKING:
    from bessemer.frontends.models_in import Model

_CHUNK = 1 << 18
# Without this word in a file, none of its tensors lies outside it.
_EXTERNAL = b"location"


def content_of(model: Model, folder: Path | None) -> bytes | None:
    """Bytes that are equal for equal models; None for what cannot be read: reading tells why.

    `folder` is the compile cache's, which remembers files.
    """
    if isinstance(model, bytes):
        return model
    if isinstance(model, (str, Path)):
        return _content_of_file(Path(model), folder)
    found: bytes | None = import_on_use("content_in_memory").content_in_memory(model)
    return found


def _content_of_file(path: Path, folder: Path | None) -> bytes | None:
    try:
        # Opening a named pipe would wait for a writer.
        if not path.is_file():
            return None
        facts = known_of_file(folder, path, "model", lambda: _digest_and_external_files(path))
        digest = hashlib.sha256(facts[0].encode())
        # Gigabytes as a rule: size and time stand for their content.
        for location in facts[1:]:
            found = (path.resolve().parent / location).stat()
            digest.update(repr((location, found.st_size, found.st_mtime_ns)).encode())
    except (OSError, ValueError):
        return None
    return digest.digest()


def _digest_and_external_files(path: Path) -> list[str]:
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    has_external, tail = False, b""
    with path.open("rb", buffering=0) as file:
        # One buffer, over and over: new memory would take longer than reading.
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            across = tail + buffer[: len(_EXTERNAL)]
            has_external |= _EXTERNAL in across or buffer.find(_EXTERNAL, 0, count) >= 0
            tail = bytes(buffer[max(0, count - len(_EXTERNAL) + 1) : count])
    external = import_on_use("content_in_memory").external_files(path) if has_external else []
    return [digest.hexdigest(), *external]
