"""What all graphs of one ONNX model share: names, and constants, which lie in the main graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.types import Array, TensorType

ONNX_TYPES: dict[str, int] = {
    "f16": onnx.TensorProto.FLOAT16,
    "bf16": onnx.TensorProto.BFLOAT16,
    "f32": onnx.TensorProto.FLOAT,
    "f64": onnx.TensorProto.DOUBLE,
    "i8": onnx.TensorProto.INT8,
    "i16": onnx.TensorProto.INT16,
    "i32": onnx.TensorProto.INT32,
    "i64": onnx.TensorProto.INT64,
    "u8": onnx.TensorProto.UINT8,
    "u16": onnx.TensorProto.UINT16,
    "u32": onnx.TensorProto.UINT32,
    "u64": onnx.TensorProto.UINT64,
    "bool": onnx.TensorProto.BOOL,
}
SMALL = 16
"""Constants of so many elements at most are written once, however often they are wanted."""


@dataclass(eq=False)
class ModelParts:
    """Names and constants. `origins`: of which of our constants another one is a rearrangement.

    `problems`: what could not be written.
    """

    names: set[str] = field(default_factory=set)
    arrays: dict[str, Array] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _small: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)

    def unique(self, wanted: str) -> str:
        """A name that nothing has yet."""
        name, count = wanted, 1
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name

    def constant(self, array: Array, wanted: str) -> str:
        """A constant that has no name of the user's."""
        if array.size > SMALL:
            return self._add(array, wanted)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._small:
            self._small[key] = self._add(array, wanted)
        return self._small[key]

    def parameter(self, array: Array, origin: str) -> str:
        """A constant that is one of the user's, or a rearrangement of it."""
        name = self._add(array, origin)
        self.origins[name] = origin
        return name

    def _add(self, array: Array, wanted: str) -> str:
        name = self.unique(wanted)
        self.arrays[name] = array
        return name

    def tensors(self, used: set[str]) -> list[onnx.TensorProto]:
        """The constants that are used."""
        return [
            numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            for name, array in self.arrays.items()
            if name in used
        ]


def type_info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    """What a model says about an input or output."""
    shape = [size if isinstance(size, int) else str(size) for size in type.shape]
    return helper.make_tensor_value_info(name, ONNX_TYPES[type.dtype.name], shape)


def name_of_source(node: Node) -> str:
    """The user's name of a node; of `Conv 'stem'`, as the reader of ONNX says it, that is stem."""
    if not node.sources:
        return ""
    quoted = re.fullmatch(r"\S+ '(.+)'", node.sources[0])
    return quoted.group(1) if quoted else node.sources[0]


def unsupported(node: Node, why: str) -> UnsupportedError:
    """An error that names the user's node."""
    where = f"{node.sources[0]}: " if node.sources else ""
    return UnsupportedError(f"{where}{node.operator}: {why}")


def integers_of(node: Node, attribute: str) -> list[int]:
    """An attribute of which ONNX wants numbers; UnsupportedError if a symbol is in it."""
    entries: Sequence[object] = node.attributes[attribute]
    if not all(isinstance(entry, int) for entry in entries):
        raise unsupported(node, f"ONNX wants numbers as {attribute}, not {entries}.")
    return [entry for entry in entries if isinstance(entry, int)]
