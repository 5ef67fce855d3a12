"""Random inputs that an ONNX model accepts, for two different settings of its sizes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from benchmarks.recipes import Array, Recipe, below, normal

MASK = "mask"
_LENGTH = -1


def make_inputs(
    model: onnx.ModelProto,
    recipe: Recipe,
    setting: int = 0,
    limits: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """An array for every input. `setting` 0 or 1 chooses the sizes; `limits` says how long the
    tables are that an input indexes. A recipe's sequence length becomes the first input's last
    size."""
    rng = np.random.default_rng(setting)
    weights = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            found[value.name] = rng.choice(_words(model), _shape(value, recipe, setting))
            continue
        found[value.name] = _make(value, recipe, setting, rng, (limits or {}).get(value.name, 2))
    first = next(iter(found.values()), np.zeros(1))
    for array in found.values():
        if array.dtype.kind == "i" and array.size and (array == _LENGTH).all():
            array[...] = first.shape[-1]
    return found


def has_two_settings(model: onnx.ModelProto) -> bool:
    """Whether a size is left open."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return any(
        not dim.dim_value
        for value in model.graph.input
        if value.name not in weights
        for dim in value.type.tensor_type.shape.dim
    )


def _words(model: onnx.ModelProto) -> Array:
    """The strings that a model knows by name, and one that it does not."""
    attributes = (attribute for node in model.graph.node for attribute in node.attribute)
    known = {word.decode() for attribute in attributes for word in attribute.strings}
    return np.array([*sorted(known), "?"], object)


def _shape(value: onnx.ValueInfoProto, recipe: Recipe, setting: int) -> tuple[int, ...]:
    return tuple(
        dim.dim_value or _size(value.name, axis, dim.dim_param or "?", recipe, setting)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
    )


def _make(
    value: onnx.ValueInfoProto, recipe: Recipe, setting: int, rng: np.random.Generator, limit: int
) -> Array:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    shape = _shape(value, recipe, setting)
    maker = recipe.values.get(value.name)
    if maker is None and dtype.kind in "iu":
        if MASK in value.name:
            return np.ones(shape, dtype)
        limit = 256 if dtype == np.uint8 else limit
        maker = recipe.values.get("*", below(limit)) if limit == 2 else below(limit)
    if maker is None:
        maker = recipe.values.get("*", normal)
    if dtype == np.bool_ and value.name not in recipe.values:
        return np.ones(shape, dtype)
    return np.asarray(maker(rng, shape)).astype(dtype, order="C")


def _size(name: str, axis: int, symbol: str, recipe: Recipe, setting: int) -> int:
    for key in ((name, axis), symbol, "*"):
        if key in recipe.sizes:
            return recipe.sizes[key][setting]
    return 1 + setting
