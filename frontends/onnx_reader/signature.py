"""The inputs of a model: their types, and names for the dimensions that are not numbers.

A dimension's name in the file may be any text. Ours are identifiers, because they become part of
generated code.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.dims import Size, rename, symbol, symbol_names
from bessemer.compiler.ir.types import Array, TensorType, i32
from bessemer.frontends.given_sizes import check_dimensions
from bessemer.frontends.onnx_reader import limits
from bessemer.frontends.onnx_reader.structure import check_name
from bessemer.frontends.onnx_reader.tensors import dtype_of_code, element_name
from bessemer.runtime.shapes import format_shape

_TAKEN = {"min", "max"}
"""Words of the text form of sizes, beside Python's keywords: signatures are read as Python."""

_UNNAMED = {"", "?", "-1", "None"}
"""What exporters write in place of a name for "any size": two of them need not be equal."""


@dataclass(eq=False)
class DimensionNames:
    """Gives every unknown dimension its name, and those that are fixed their number.

    `fixed` is what the user fixed, by the name in the file or ours; `merged` says which of our
    names stand for another size (found while reading: see equal_sizes.py), `broadcasting` which of
    these an input's own shape keeps, for the input may be 1 along it (see broadcast_inputs.py).
    """

    fixed: Mapping[str, int]
    merged: Mapping[str, Size]
    broadcasting: frozenset[str] = frozenset()
    names: dict[str, str] = field(default_factory=dict)

    def size(self, original: str) -> Size:
        """The size for a dimension that is called `original` in the file."""
        name = self.names.get(original)
        if name is None:
            name = self.names[original] = self._identifier(original)
        if original in self.fixed:
            return self.fixed[original]
        if name in self.fixed:
            return self.fixed[name]
        return self._settled(name)

    def without_broadcasting(self) -> DimensionNames:
        """These names, of which the broadcasting ones stand for themselves."""
        kept = {name: size for name, size in self.merged.items() if name not in self.broadcasting}
        return replace(self, merged=kept)

    def _settled(self, name: str) -> Size:
        """What one of our names stands for, all that is known put in."""
        if name not in self.merged:
            return symbol(name)
        size = self.merged[name]
        return rename(size, {leaf: self._settled(leaf) for leaf in symbol_names(size)})

    def _identifier(self, original: str) -> str:
        name = re.sub(r"[^A-Za-z0-9]+", "_", original).strip("_") or "dim"
        if name[0].isdigit() or name in _TAKEN or keyword.iskeyword(name):
            name = f"d_{name}"
        name = name[:64]
        taken = set(self.names.values())
        count = 1
        unique = name
        while unique in taken:
            count += 1
            unique = f"{name}_{count}"
        return unique

    def check_fixed(self, label: str, fixed: Mapping[str, int]) -> None:
        """Raises CompileError for a fixed dimension that no input has."""
        names = [name for name in fixed if name not in self.names]
        check_dimensions(label, names, sorted(self.names.values()))


def input_type(value: onnx.ValueInfoProto, names: DimensionNames) -> TensorType:
    """The type of a graph input, i32 for strings; raises where it is no tensor or has no shape."""
    where = f"input '{value.name}'"
    kind = value.type.WhichOneof("value")
    if kind is None:
        raise CompileError(f"{where}: has no type")
    if kind != "tensor_type":
        word = kind.removesuffix("_type").replace("_", " ")
        raise UnsupportedError(f"{where}: is a {word}", [f"{where}: is a {word}, not a tensor"])
    tensor = value.type.tensor_type
    is_text = tensor.elem_type == onnx.TensorProto.STRING
    dtype = i32 if is_text else dtype_of_code(tensor.elem_type, where)
    if not tensor.HasField("shape"):
        raise CompileError(
            f"{where}: has no shape, not even a number of dimensions; write its shape into the"
            " model (onnx.tools.update_model_dims), with names for what varies"
        )
    if len(tensor.shape.dim) > limits.RANK:
        raise CompileError(f"{where}: has {len(tensor.shape.dim)} dimensions")
    shape = tuple(_size(dim, value.name, axis, names) for axis, dim in enumerate(tensor.shape.dim))
    type = TensorType(dtype, shape)
    limits.check_size(type, where)
    return type


def _size(
    dim: onnx.TensorShapeProto.Dimension, input_name: str, axis: int, names: DimensionNames
) -> Size:
    match dim.WhichOneof("value"):
        case "dim_value" if dim.dim_value > 0:
            return dim.dim_value
        case "dim_value" if dim.dim_value < -1:
            raise CompileError(
                f"input '{input_name}': dimension {axis} is {dim.dim_value}, which is not a size"
            )
        case "dim_param" if dim.dim_param not in _UNNAMED:
            check_name(dim.dim_param, f"input '{input_name}': dimension {axis}")
            return names.size(dim.dim_param)
        case _:  # unset or unnamed, or the 0 or -1 that old exporters write for "any"
            return names.size(f"{input_name}_dim{axis}")


def check_default(value: onnx.ValueInfoProto, default: onnx.TensorProto) -> None:
    """Raises CompileError where an initializer is not of the type of the input of its name."""
    declared = value.type.tensor_type
    shape: list[int | str] = [*default.dims]
    if declared.HasField("shape"):
        shape = [dim.dim_param or max(dim.dim_value, 0) or "?" for dim in declared.shape.dim]
    fits = len(shape) == len(default.dims) and all(
        isinstance(size, str) or size == own for size, own in zip(shape, default.dims)
    )
    if not fits or declared.elem_type != default.data_type:
        own = f"{element_name(default.data_type)}{format_shape(default.dims)}"
        wanted = f"{element_name(declared.elem_type)}{format_shape(shape)}"
        raise CompileError(
            f"initializer '{value.name}' is {own}, but the input of that name is {wanted}"
        )


def dims_of_values(
    inputs: list[onnx.ValueInfoProto], values: Mapping[str, Array | None], label: str
) -> dict[str, int]:
    """The named dimensions that the shapes of given values fix."""
    by_name = {value.name: value for value in inputs}
    fixed: dict[str, int] = {}
    for name, array in values.items():
        if name not in by_name:
            listed = ", ".join(by_name)
            raise CompileError(f"{label}: no input is called '{name}'; its inputs: {listed}")
        dims = by_name[name].type.tensor_type.shape.dim
        for dim, size in zip(dims, () if array is None else array.shape):
            if dim.dim_param not in _UNNAMED:
                fixed[dim.dim_param] = size
    return fixed
