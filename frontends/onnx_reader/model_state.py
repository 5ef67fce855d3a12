"""What all scopes of one model share while it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.external import ExternalFiles
from bessemer.frontends.onnx_reader.string_state import ModelStrings
from bessemer.frontends.onnx_reader.structure import check_name
from bessemer.frontends.onnx_reader.tensors import array_of

FunctionKey = tuple[str, str, str]  # domain, name, overload


@dataclass(frozen=True, eq=False)
class Dequantized:
    """A constant matrix (integers - zero) * scale; parameters are scalars, vectors along `axis`, or
    in blocks of that axis if `block` is not 0."""

    integers: Array
    scale: Array
    zero: Array | None
    axis: int
    block: int


@dataclass(eq=False)
class ModelState:
    """The model's operator sets, functions, files, and what was found not to be supported."""

    label: str
    opsets: Mapping[str, int]
    functions: Mapping[FunctionKey, onnx.FunctionProto]
    files: ExternalFiles
    learns: bool = False
    """Whether the model's floats may be trained: then nodes read them as they are."""
    detached_weights: Mapping[int, memoryview] = field(default_factory=dict)
    """Bytes of tensors that lack them, by the tensor's id."""
    problems: dict[str, None] = field(default_factory=dict)  # a set that keeps its order
    choices: dict[str, bool] = field(default_factory=dict)
    """What this reading takes for granted about nodes (see equal_sizes.MustChooseError)."""
    dequantized: dict[Value, Dequantized] = field(default_factory=dict)
    """Weights of few bits that nodes make floats of: products take them as they are."""
    strings: ModelStrings = field(default_factory=ModelStrings)
    _arrays: dict[int, tuple[onnx.TensorProto, Array]] = field(default_factory=dict)

    def array(self, tensor: onnx.TensorProto, where: str) -> Array:
        """A tensor's elements, read once; strings are an array of objects."""
        found = self._arrays.get(id(tensor))
        if found is None:
            raw = self.detached_weights.get(id(tensor))
            # The tensor is kept too, or its id could be given to another.
            found = self._arrays[id(tensor)] = (tensor, array_of(tensor, self.files, where, raw))
        return found[1]


def opset_table(imports: list[onnx.OperatorSetIdProto], label: str) -> dict[str, int]:
    """Operator sets by domain; ONNX's own domain is ''. Raises CompileError."""
    table: dict[str, int] = {}
    for entry in imports:
        check_name(entry.domain, f"{label}: an imported operator set")
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if table.get(domain, entry.version) != entry.version:
            raise CompileError(f"{label}: imports two versions of the operator set '{domain}'")
        if entry.version < 1:
            raise CompileError(f"{label}: imports version {entry.version} of '{domain}'")
        table[domain] = entry.version
    return table


def function_table(
    functions: list[onnx.FunctionProto], label: str
) -> dict[FunctionKey, onnx.FunctionProto]:
    """The model's functions by what calls name; raises CompileError for a name used twice."""
    table: dict[FunctionKey, onnx.FunctionProto] = {}
    for function in functions:
        for text in (function.domain, function.name, function.overload):
            check_name(text, f"{label}: a function")
        domain = "" if function.domain == "ai.onnx" else function.domain
        key = (domain, function.name, function.overload)
        if key in table:
            raise CompileError(f"{label}: defines the function {domain}::{function.name} twice")
        table[key] = function
    return table
