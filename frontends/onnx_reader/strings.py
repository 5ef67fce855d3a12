"""Tensors of strings in rules: as numbers where they are only moved, by steps where they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, DType, TensorType, i32
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item, Recipe, SequenceItem, StackedItem, TextItem
from bessemer.frontends.onnx_reader.known import known_array
from bessemer.runtime.artifact import Step
from bessemer.runtime.preparation import prepare

_ML = "ai.onnx.ml"
_MOVING = {
    ("", name)
    for name in (
        "Compress", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
        "Identity", "Reshape", "Scatter", "ScatterElements", "ScatterND", "Slice", "Split",
        "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
    )
} | {(_ML, "ArrayFeatureExtractor")}  # fmt: skip
"""Operators that put strings in other places, whatever they are."""
_ASKING = {("", "Equal"), ("", "Shape"), ("", "Size")}
"""Operators that do the same with strings as with numbers that stand for them."""
_RESHAPING = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}

Outputs: TypeAlias = Item | Sequence[Item]


def on_strings(
    context: NodeContext, domain: str, rule: Callable[[NodeContext], Outputs]
) -> Outputs:
    """What a rule gives for inputs some of which are strings."""
    key = (domain, context.node.op_type)
    if key not in _MOVING | _ASKING:
        return rule(context)
    plain = tuple(item.value if isinstance(item, TextItem) else item for item in context.items)
    found = rule(replace(context, items=plain))
    if key in _ASKING:
        return found
    if isinstance(found, Value):
        return TextItem(found, _moved(context, found))
    assert not isinstance(found, (TextItem, SequenceItem, StackedItem))
    return [TextItem(item) if isinstance(item, Value) else item for item in found or ()]


def _moved(context: NodeContext, found: Value) -> Recipe | None:
    """How strings that were moved are there before a run, for the common moves."""
    texts = [item for item in context.items if isinstance(item, TextItem)]
    recipes = [item.recipe for item in texts if item.recipe is not None]
    operator = context.node.op_type
    if len(recipes) < len(texts):
        return None
    if operator == "Identity":
        return recipes[0]
    if operator in _RESHAPING:
        shape = [size if isinstance(size, int) else -1 for size in found.type.shape]
        attributes: dict[str, Any] = {"shape": shape}
        return _then("reshape", recipes, attributes) if shape.count(-1) <= 1 else None
    rank = texts[0].value.type.rank
    if operator in ("Gather", "ArrayFeatureExtractor"):
        places = context.array(1)
        if places is None:
            return None
        axis = context.axis(rank, context.integer("axis", 0)) if operator == "Gather" else rank - 1
        if operator != "Gather":
            places = places.reshape(-1)
        listed = {"indices": places.reshape(-1).tolist(), "shape": list(places.shape)}
        return _then("take", recipes, {**listed, "axis": axis}) if rank > 1 else None
    if operator == "Concat" and len(texts) == len(context):
        return _then("concat", recipes, {"axis": context.axis(rank)})
    return None


def _then(operator: str, inputs: Sequence[Recipe], attributes: Mapping[str, Any]) -> Recipe:
    return Recipe("", operator, tuple(inputs), attributes)


def made_before(
    context: NodeContext,
    operator: str,
    outputs: Sequence[tuple[DType | None, Sequence[Size | None]]],
    **attributes: Any,
) -> list[Item]:
    """What an operator of runtime/preparation.py makes of this node's inputs.

    `outputs` are element types, None for strings, and shapes, with None for sizes that are not
    known. Constants are computed at once. Otherwise the results are inputs of the compiled code.
    """
    arrays = [_known_strings(context, item) for item in context.items]
    known = [array for array in arrays if array is not None]
    if len(known) == len(arrays):
        return _computed(context, operator, known, attributes, outputs)
    if context.builder.parent is not None:
        context.unsupported("inside a subgraph, while the model runs, instead of before the run")
    recipes = [_recipe_of(context, place) for place in range(len(context))]
    strings = context.subgraphs.strings
    wishes = [*context.node.output, *[""] * (len(outputs) - len(context.node.output))]
    names = strings.step(operator, recipes, wishes, attributes, context.label)
    assert strings.dimensions is not None
    found: list[Item] = []
    for name, (dtype, sizes) in zip(names, outputs, strict=True):
        shape = tuple(
            strings.dimensions.size(f"{name}_dim{axis}") if size is None else size
            for axis, size in enumerate(sizes)
        )
        value = context.builder.input(name, TensorType(dtype or i32, shape))
        if dtype is None:
            strings.texts_in.add(name)
        found.append(value if dtype else TextItem(value, Recipe(name)))
    return found


def known_texts(context: NodeContext, item: TextItem) -> Array | None:
    """The strings of a constant."""
    places = known_array(context.builder, item.value)
    if places is None:
        return None
    array = np.empty(places.size, object)
    array[:] = context.subgraphs.strings.texts(places)
    return array.reshape(places.shape)


def _known_strings(context: NodeContext, item: Item) -> Array | None:
    if isinstance(item, TextItem):
        return known_texts(context, item)
    return known_array(context.builder, item) if isinstance(item, Value) else None


def _computed(
    context: NodeContext,
    operator: str,
    arrays: Sequence[Array],
    attributes: Mapping[str, Any],
    outputs: Sequence[tuple[DType | None, Sequence[Size | None]]],
) -> list[Item]:
    taken = {f"{place}": array for place, array in enumerate(arrays)}
    made = tuple(f"made {place}" for place in range(len(outputs)))
    step = Step(operator, tuple(taken), made, attributes, context.label)
    found = prepare([step], taken)
    return [
        context.builder.constant(found[name]) if dtype else context.strings(found[name])
        for name, (dtype, _) in zip(made, outputs, strict=True)
    ]


def _recipe_of(context: NodeContext, place: int) -> Recipe:
    item = context.item(place)
    if isinstance(item, TextItem):
        array = known_texts(context, item)
        if array is not None:
            values = {"values": array.reshape(-1).tolist(), "shape": list(array.shape)}
            return _then("constant", (), values)
        if item.recipe is not None:
            return item.recipe
    elif isinstance(item, Value) and item in context.builder.inputs:
        return Recipe(item.name)
    context.unsupported(
        f"input {place} depends on what the model computes: this operator is run before the model,"
        " on the model's inputs and on constants only"
    )
