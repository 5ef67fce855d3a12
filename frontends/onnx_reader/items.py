"""What an ONNX name stands for while a model is read."""

from __future__ import annotations

from typing import TypeAlias, Union

from bessemer.compiler.ir.graph import Value


class SequenceItem(tuple[Value, ...]):
    """An ONNX sequence whose length is known while reading; it leaves no trace in the graph."""

    __slots__ = ()


class UnreadItem:
    """The output of a node that could not be read; whatever depends on it is not read either."""


Item: TypeAlias = Union[Value, SequenceItem, None]
"""A tensor, a sequence of tensors, or nothing (an absent optional input or output)."""
Known: TypeAlias = Union[Item, UnreadItem]
UNREAD = UnreadItem()
