"""The content of models in memory as bytes, for the compile cache's key (model_content.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from bessemer.compiler.ir.graph import Graph
from bessemer.frontends.builder.network import Network
from bessemer.frontends.fingerprint import fingerprint


def content_in_memory(model: onnx.ModelProto | Graph | Network) -> bytes | None:
    """Bytes that are equal for equal models; None for what is none of these."""
    match model:
        case Network():
            return fingerprint(model.graph)
        case Graph():
            return fingerprint(model)
        case onnx.ModelProto():
            return bytes(model.SerializeToString(deterministic=True))
        case _:
            return None


def external_files(path: Path) -> list[str]:
    """The files that a model's tensors lie in. Raises ValueError for what is not a model."""
    try:
        proto = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(error) from None
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
