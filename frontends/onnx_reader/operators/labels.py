"""Labels and categories of ai.onnx.ml: from one list of keys to another of values.

A string is a place in the model's table, so that what it stands for is one look-up in a list as
long as the table. Numbers are compared with all keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, f32, i32, i64
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_reduce import reduce
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item, TextItem
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "ai.onnx.ml"


@rule("OneHotEncoder", domain=_DOMAIN)
def read_one_hot_encoder(context: NodeContext) -> Value:
    text = context.text_at(0)
    if text is not None:
        x = text.value
        table = context.strings(context.texts("cats_strings")).value
    else:
        x = context.input(0)
        categories = np.array(context.integers("cats_int64s"), dtype=np.int64)
        table = context.builder.constant(categories.astype(x.type.dtype.numpy))
    column = context.reshape(x, (*x.type.shape, 1))
    encoded = context.cast(context.elementwise("eq", column, table), f32)
    if not context.integer("zeros"):
        _require_known(context, encoded)
    return encoded


def _require_known(context: NodeContext, encoded: Value) -> None:
    """Makes the compiled code fail where an element is none of the categories."""
    b = context.builder
    most = reduce(b, "max", encoded, (encoded.type.rank - 1,))
    known = reduce(b, "min", most, tuple(range(most.type.rank)))
    # Of no elements the least is infinite, which is not an integer.
    known = context.cast(binary(b, "min", known, 1.0), i64)
    missing = binary(b, "sub", context.reshape(known, (1,)), 1)
    with b.source(f"{context.label} (which knows other categories only)"):
        b.apply_many("bind", missing, symbols=(b.fresh_symbol("check"),))


@rule("LabelEncoder", domain=_DOMAIN)
def read_label_encoder(context: NodeContext) -> Item:
    if context.opset == 1:
        return _two_way(context, context.texts("classes_strings"), None)
    keys, values = _mapping(context, "keys"), _mapping(context, "values")
    if keys is None or values is None or len(keys) != len(values):
        context.unsupported("keys and values of which one is missing, or of different numbers")
    return _encoded(context, keys, values, _default(context, values))


@rule("CategoryMapper", domain=_DOMAIN)
def read_category_mapper(context: NodeContext) -> Item:
    return _two_way(context, context.texts("cats_strings"), context.integers("cats_int64s"))


def _two_way(context: NodeContext, texts: Sequence[str], given: Sequence[int] | None) -> Item:
    """Numbers for strings and strings for numbers, which are 0, 1, 2 ... unless given."""
    names = np.array(texts, object)
    numbers = np.arange(len(names)) if given is None else np.array(given, np.int64)
    if len(names) != len(numbers):
        context.wrong(f"{len(names)} strings for {len(numbers)} numbers")
    if context.text_at(0) is None:
        return _encoded(context, numbers, names, context.text("default_string"))
    return _encoded(context, names, numbers, context.integer("default_int64"))


def _encoded(context: NodeContext, keys: Array, values: Array, default: Any) -> Item:
    """The value of the first key that each element equals, or the default."""
    text = context.text_at(0)
    if (text is not None) != (keys.dtype == object):
        context.wrong("the keys are of another type than the input")
    table = np.append(values, np.array([default], dtype=values.dtype))
    if values.dtype == object:
        table = context.subgraphs.strings.array(table)
    places = _place_of_number(context, keys) if text is None else None
    if text is not None:
        table, places = _by_string(context, text, keys, table)
    assert places is not None
    found = context.apply("gather", context.builder.constant(table), places, axis=0)
    return TextItem(found) if values.dtype == object else found


def _by_string(
    context: NodeContext, text: TextItem, keys: Array, table: Array
) -> tuple[Array, Value]:
    """The table by the strings' places; all that come behind the keys' are one, the default's."""
    places = context.subgraphs.strings.array(keys)
    last = int(places.max(initial=-1)) + 1
    by_place = np.full(last + 1, table[-1], table.dtype)
    by_place[places[::-1]] = table[:-1][::-1]
    return by_place, binary(context.builder, "min", text.value, last)


def _place_of_number(context: NodeContext, keys: Array) -> Value:
    """Which key each element equals; the place behind the keys where it is none.

    A chain of comparisons would be long: each element is compared with all keys at once.
    """
    x = context.input(0)
    keys = keys.astype(x.type.dtype.numpy)
    column = context.reshape(x, (*x.type.shape, 1))
    b = context.builder
    found = context.elementwise("eq", column, b.constant(keys))
    if context.opset >= 4 and keys.dtype.kind == "f" and np.isnan(keys).any():
        is_nan = context.elementwise("and", b.apply("ne", column, column), b.constant(keys != keys))
        found = context.elementwise("or", found, is_nan)
    # One place behind the keys is always true, so that what no key equals finds the default.
    last = context.full(column.type.with_dtype(found.type.dtype), True)
    place = b.apply("concat", found, last, axis=x.type.rank)
    return b.apply("arg_max", context.cast(place, i32), axis=x.type.rank, last=False)


def _mapping(context: NodeContext, name: str) -> Array | None:
    """One side of a LabelEncoder's table, from the attribute of whichever type is there."""
    for suffix, dtype in (
        ("int64s", np.int64), ("floats", np.float32), ("doubles", np.float64), ("strings", object),
    ):  # fmt: skip
        if context.has(f"{name}_{suffix}"):
            return np.array(context.attributes[f"{name}_{suffix}"], dtype=dtype)
    if context.has(f"{name}_tensor"):
        return np.asarray(context.attributes[f"{name}_tensor"]).reshape(-1)
    return None


def _default(context: NodeContext, values: Array) -> Any:
    """What a LabelEncoder gives where no key fits."""
    if context.has("default_tensor"):
        return np.asarray(context.attributes["default_tensor"]).reshape(-1)[0]
    if values.dtype == object:
        return context.text("default_string")
    if values.dtype.kind == "i":
        return context.integer("default_int64")
    return context.number("default_float", -0.0)
