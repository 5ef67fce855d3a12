"""A loop's body, to which some of what the loop carries are sequences.

Where the number of iterations is known when the model runs, so are the lengths of sequences that
grow. Each is carried as one tensor, whose first axis has the sequence's tensors, all of one type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from bessemer.compiler.ir.graph import Value
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item, SequenceItem, StackedItem
from bessemer.frontends.onnx_reader.operators.loop_appends import stacked_item


@dataclass(frozen=True)
class Code:
    """A body, and which of the carried values are sequences, by number."""

    graph: onnx.GraphProto
    sequences: frozenset[int]

    @staticmethod
    def of(graph: onnx.GraphProto, initial: Sequence[Item]) -> Code:
        """A body for what a loop begins with."""
        kinds = (SequenceItem, StackedItem)
        return Code(
            graph, frozenset(k for k, item in enumerate(initial) if isinstance(item, kinds))
        )

    def values(self, context: NodeContext, items: Sequence[Item]) -> list[Value]:
        """The tensors for what is carried, and for what follows it."""
        wanted = "a loop whose trip count is known when it runs, and which carries"
        return context.values(
            [
                stacked_item(context, item, wanted).value
                if number in self.sequences and isinstance(item, SequenceItem)
                else item.value
                if number in self.sequences and isinstance(item, StackedItem)
                else item
                for number, item in enumerate(items)
            ]
        )

    def items(self, values: Sequence[Item]) -> list[Item]:
        """What the tensors stand for."""
        return [
            StackedItem(value) if number in self.sequences and isinstance(value, Value) else value
            for number, value in enumerate(values)
        ]
