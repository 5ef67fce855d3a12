"""Weights stay where the file was read or mapped: protobuf would copy every one of them, twice.

A model is a tree of messages, and a message a row of fields: number and kind, length, content. The
`raw_data` of the graph's large initializers is cut out before protobuf gets the rest, which is
small. Whatever is not as exporters write it stays in: protobuf reads it or says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bessemer.compiler.ir.mapped_file import MappedFile

LARGE = 1 << 14
"""Bytes from which on a tensor is worth the trouble."""

# Numbers of fields, from onnx.proto: of a model, a graph, a tensor.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_PLAIN = frozenset({1, 2, 8, _RAW_DATA, 12, 16})
"""dims, data_type, name, doc_string, metadata_props: nothing else says where elements are."""
_MESSAGE = 2


@dataclass(frozen=True)
class _Field:
    """A field of a message: the bytes from `start` on, its content from `inner` to `end`."""

    number: int
    kind: int
    start: int
    inner: int
    end: int


class _UnusualError(Exception):
    """Not what protobuf's writers make."""


def cut_weights(model: bytes | MappedFile) -> tuple[bytes, dict[int, memoryview]]:
    """The model without the bytes of its large initializers; and these, by the initializer's place
    in the graph, as views of `model`."""
    try:
        fields = _fields(model, 0, len(model))
        (graph,) = (f for f in fields if f.number == _GRAPH and f.kind == _MESSAGE)
        cuts = list(_cuts(model, graph))
    except (_UnusualError, ValueError):
        return model[:], {}
    view = memoryview(model)
    content: list[bytes | memoryview] = []
    done = graph.inner
    for _, tensor, raw in cuts:
        left = tensor.end - tensor.inner - (raw.end - raw.start)
        content += [view[done : tensor.start], _head(_INITIALIZER, left)]
        content += [view[tensor.inner : raw.start], view[raw.end : tensor.end]]
        done = tensor.end
    content.append(view[done : graph.end])
    head = _head(_GRAPH, sum(map(len, content)))
    rest = b"".join((view[: graph.start], head, *content, view[graph.end :]))
    return rest, {place: view[raw.inner : raw.end] for place, _, raw in cuts}


def _cuts(model: bytes | MappedFile, graph: _Field) -> Iterator[tuple[int, _Field, _Field]]:
    """The large initializers: place, the tensor, its `raw_data`."""
    fields = _fields(model, graph.inner, graph.end)
    tensors = (f for f in fields if f.number == _INITIALIZER and f.kind == _MESSAGE)
    for place, tensor in enumerate(tensors):
        if tensor.end - tensor.inner < LARGE:
            continue
        inner = list(_fields(model, tensor.inner, tensor.end))
        raw = [field for field in inner if field.number == _RAW_DATA]
        is_plain = len(raw) == 1 and {field.number for field in inner} <= _PLAIN
        if is_plain and raw[0].kind == _MESSAGE and raw[0].end - raw[0].inner >= LARGE:
            yield place, tensor, raw[0]


def _fields(data: bytes | MappedFile, start: int, end: int) -> Iterator[_Field]:
    """The fields of the message that lies from `start` to `end`."""
    at = start
    while at < end:
        tag, inner = _varint(data, at, end)
        match tag & 7:
            case 0:  # a number
                _, after = _varint(data, inner, end)
            case 1:
                after = inner + 8
            case kind if kind == _MESSAGE:
                length, inner = _varint(data, inner, end)
                after = inner + length
            case 5:
                after = inner + 4
            case kind:
                raise _UnusualError(kind)
        if after > end or tag >> 32:
            raise _UnusualError(after)
        yield _Field(tag >> 3, tag & 7, at, inner, after)
        at = after


def _varint(data: bytes | MappedFile, at: int, end: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first; and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _UnusualError(at)


def _head(number: int, length: int) -> bytes:
    """What stands before the content of a message."""
    result = bytearray((number << 3 | _MESSAGE,))
    while length >= 128:
        result.append(length & 127 | 128)
        length >>= 7
    result.append(length)
    return bytes(result)
