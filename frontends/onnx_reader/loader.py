"""Gets a `ModelProto` out of whatever the user has: a path, bytes, or the proto itself."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.mapped_file import MappedFile
from bessemer.frontends.onnx_reader import limits
from bessemer.frontends.onnx_reader.detached_weights import cut_weights

Source = str | Path | bytes | onnx.ModelProto


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A parsed model. `folder` is where external data may lie; None when the model has no path.

    `label` names the model in messages. `detached_weights` are the bytes of initializers that the
    proto lacks, each with its tensor.
    """

    proto: onnx.ModelProto
    folder: Path | None
    label: str
    detached_weights: tuple[tuple[onnx.TensorProto, memoryview], ...] = ()


def load_model(source: Source, detach_weights: bool = False, mapped: bool = False) -> LoadedModel:
    """Parses a model; raises CompileError for a file that is missing, too large or not ONNX.

    With `detach_weights` the bytes of large initializers are not in the proto, but beside it: in
    memory, or `mapped` in the file, which must stay as it is as long as they are in use.
    """
    match source:
        case onnx.ModelProto():
            loaded = LoadedModel(source, None, source.graph.name or "model")
        case bytes():
            loaded = _parse(source, None, "the model's bytes", detach_weights)
        case _:
            path = Path(source)
            content = _read_file(path, mapped)
            loaded = _parse(content, path.resolve().parent, str(path), detach_weights)
    _check_model(loaded)
    return loaded


def _read_file(path: Path, mapped: bool) -> bytes | MappedFile:
    if "\0" in str(path):
        raise CompileError(f"{str(path)!r} is not a file name: it contains a NUL character")
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise CompileError(f"{path}: cannot be read: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CompileError(f"{path}: not a regular file; give the path of an .onnx file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limits.FILE_BYTES:
            raise CompileError(
                f"{path}: {status.st_size} bytes are more than a protobuf file can hold (2 GiB);"
                " keep the weights in external data"
            )
        if mapped and status.st_size:
            with suppress(OSError):  # there are file systems that map no files
                return MappedFile(file.fileno(), status.st_size)
        return file.read()


def _parse(
    data: bytes | MappedFile, folder: Path | None, label: str, detach_weights: bool
) -> LoadedModel:
    if not data:
        raise CompileError(f"{label}: empty, so not an ONNX model")
    if data[:4] == b"\x7fELF":
        raise CompileError(f"{label}: machine code, not an ONNX model; give the file it came from")
    if len(data) > limits.FILE_BYTES:
        raise CompileError(f"{label}: over 2 GiB; keep the weights in external data")
    weights: dict[int, memoryview] = {}
    if detach_weights:
        rest, weights = cut_weights(data)
    else:
        rest = data[:]
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(rest)
    except DecodeError as error:
        raise CompileError(
            f"{label}: not an ONNX model, or a damaged one ({error}); export or download it again"
        ) from None
    tensors = proto.graph.initializer
    detached_weights = tuple((tensors[place], raw) for place, raw in weights.items())
    return LoadedModel(proto, folder, label, detached_weights)


def _check_model(loaded: LoadedModel) -> None:
    proto = loaded.proto
    if not proto.HasField("graph"):
        raise CompileError(f"{loaded.label}: has no graph, so it is not an ONNX model")
    if not proto.opset_import:
        raise CompileError(
            f"{loaded.label}: names no operator set (opset_import), so the meaning of its"
            " operators is not known; export it again"
        )
    if proto.training_info:
        raise CompileError(
            f"{loaded.label}: carries training_info, which is not supported;"
            " export the inference graph"
        )
