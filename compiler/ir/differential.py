"""The argument of a gradient rule: one node, and the cotangents of its outputs.

The cotangent of a value is the derivative of the loss with respect to it, in its own type. A rule
writes nodes into `builder` and returns the cotangents of the inputs, None where no derivative
flows. It is asked only for nodes that lie between what is differentiated and the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Node, Value


@dataclass(frozen=True, eq=False)
class Differential:
    """A node in its graph and the cotangents of its outputs; None: nothing depends on that one.

    `backward` is differentiation itself: of (builder, nodes, cotangents of outputs, values), the
    cotangents found on the way from those outputs to the values.
    """

    builder: GraphBuilder
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    cotangents: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    backward: Backward

    @property
    def x(self) -> Value:
        """The first input."""
        return self.inputs[0]

    @property
    def y(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def dy(self) -> Value:
        """The cotangent of an only output."""
        (cotangent,) = self.cotangents
        assert cotangent is not None
        return cotangent

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    def apply(self, operator: str, *inputs: Value, **attributes: Any) -> Value:
        """Adds a node with one output."""
        return self.builder.apply(operator, *inputs, **attributes)

    def keep(self, **attributes: Any) -> tuple[Value, ...]:
        """What the node itself gives besides, with further attributes."""
        return self.builder.extend(self.y, **attributes)

    def through(
        self,
        write: Callable[[GraphBuilder, Sequence[Value], Mapping[str, Any]], tuple[Value, ...]],
    ) -> Cotangents:
        """The cotangents by other nodes that compute the same outputs, which `write` adds."""
        before = len(self.builder.nodes)
        outputs = write(self.builder, self.inputs, self.attributes)
        given = zip(outputs, self.cotangents, strict=True)
        seeds = {output: cotangent for output, cotangent in given if cotangent is not None}
        found = self.backward(self.builder, self.builder.nodes[before:], seeds, self.inputs)
        # What comes back to an input that is read twice is found as one.
        first = {value: place for place, value in reversed(list(enumerate(self.inputs)))}
        return tuple(
            found.get(value) if first[value] == place else None
            for place, value in enumerate(self.inputs)
        )


Backward: TypeAlias = Callable[
    [GraphBuilder, Sequence[Node], dict[Value, Value], Sequence[Value]], dict[Value, Value]
]
Cotangents: TypeAlias = "tuple[Value | None, ...]"
GradientRule: TypeAlias = Callable[[Differential], Cotangents]


def no_flow(d: Differential) -> Cotangents:
    """The rule of an operator whose output is constant almost everywhere, or of integers."""
    return (None,) * len(d.inputs)
