"""The things that a name in an ONNX graph can stand for while the model is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Union

from bessemer.compiler.ir.graph import Value


class SequenceItem(tuple[Value, ...]):
    """An ONNX sequence whose length is known while reading; it leaves no trace in the graph."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class StackedItem:
    """An ONNX sequence whose length is known when the model runs: tensors of one type, which lie
    along the first axis of `value`."""

    value: Value


@dataclass(frozen=True, eq=False)
class Recipe:
    """How an array is there before a run: the caller or a step gives it by `name`; or, without one,
    an operator of runtime/preparation.py makes it of others."""

    name: str = ""
    operator: str = ""
    inputs: tuple[Recipe, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TextItem:
    """A tensor of strings: `value`, i32, holds their places in the model's table.

    `recipe` says how the strings are there before a run, where that is so.
    """

    value: Value
    recipe: Recipe | None = None


class UnreadItem:
    """The output of a node that could not be read; whatever depends on it is not read either."""


Item: TypeAlias = Union[Value, TextItem, SequenceItem, StackedItem, None]
"""A tensor, one of strings, a sequence of tensors, or nothing (an absent optional)."""
Known: TypeAlias = Union[Item, UnreadItem]
UNREAD = UnreadItem()
