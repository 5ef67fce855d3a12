"""What a layer is, and the containers that join layers.

A layer is a description: it says what to compute (`forward`), and its parameters are made when it
is applied to a tensor first, in the sizes that the tensor asks for. Applied again, it uses the same
parameters. Write one as a class:

    class Residual(Layer):
        def __init__(self, channels: int) -> None:
            self.conv = Conv(channels, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return relu(self.conv(x) + x)

Layers found in the attributes of a layer, also in lists and tuples there, take their names from
them; other layers are numbered by their kind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Self, TypeVar

from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder.functions import concat
from bessemer.frontends.builder.tensor import Tensor

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Layer:
    """The base of all layers. `name` is the layer's name where its owner does not give it one."""

    name: str = field(default="", kw_only=True)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The outputs for the inputs: written by every kind of layer."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        """Applies the layer. Raises CompileError, with the layer's path, if shapes do not fit."""
        tensors = tuple(x for x in (*inputs, *options.values()) if isinstance(x, Tensor))
        result: Tensor = self.within(tensors, lambda: self.forward(*inputs, **options))
        tensors[0].trace.note_result(self, result)
        return result

    def within(self, tensors: Sequence[Tensor], action: Callable[[], _T]) -> _T:
        """Does something as a part of this layer: for what a layer can do besides `forward`."""
        if not tensors:
            raise CompileError(f"{type(self).__name__} is applied to no tensor.")

        def name_in(owner: object) -> str:
            return owner.child_name(self) if isinstance(owner, Layer) else self.name

        def description() -> str:
            return f"{self!r} of {', '.join(str(x.type) for x in tensors)}"

        with tensors[0].trace.scope(self, name_in, description):
            return action()

    def named(self, name: str) -> Self:
        """This layer under a name, with parameters of its own."""
        result = copy.copy(self)
        object.__setattr__(result, "name", name)
        return result

    def child_name(self, child: Layer) -> str:
        """The name of a layer inside this one; empty if it is to be numbered."""
        if child.name:
            return child.name
        for attribute, held in vars(self).items():
            for name, found in _named(attribute, held):
                if found is child:
                    return name
        return ""

    def __repr__(self) -> str:
        settings = [
            f"{entry.name}={getattr(self, entry.name)!r}"
            for entry in fields(self)
            if entry.name in vars(self) and getattr(self, entry.name) != _default(entry)
        ]
        return f"{type(self).__name__}({', '.join(settings)})"


def _default(entry: Any) -> Any:
    return entry.default if entry.default is not MISSING else MISSING


def _named(attribute: str, held: object) -> list[tuple[str, object]]:
    """The names of everything that an attribute holds."""
    if isinstance(held, (list, tuple)):
        return [(f"{attribute}.{place}", item) for place, item in enumerate(held)]
    if isinstance(held, Mapping):
        return [(f"{attribute}.{key}", item) for key, item in held.items()]
    return [(attribute, held)]


Applicable = Layer | Callable[[Tensor], Tensor]
"""A layer, or a function of a tensor."""


class Sequential(Layer):
    """Layers and functions, one after the other. Keywords name layers; others are numbered."""

    def __init__(self, *layers: Applicable, **named: Applicable) -> None:
        self.layers = (*layers, *named.values())
        for layer in self.layers:
            if not callable(layer):
                raise CompileError(f"{layer!r} is neither a layer nor a function of tensors.")
        self.names = {id(layer): name for name, layer in named.items()}

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def child_name(self, child: Layer) -> str:
        return child.name or self.names.get(id(child), "")

    def __repr__(self) -> str:
        return f"Sequential of {len(self.layers)} layers"


class Residual(Layer):
    """body(x) + shortcut(x), then an activation; the shortcut is x itself if there is none."""

    def __init__(
        self,
        body: Applicable,
        shortcut: Applicable | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.body = body
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        result = self.body(x) + (x if self.shortcut is None else self.shortcut(x))
        return result if self.activation is None else self.activation(result)


class Parallel(Layer):
    """Branches of one input, joined along the channels (or another axis)."""

    def __init__(self, *branches: Applicable, axis: int | None = None) -> None:
        self.branches = branches
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        return concat([branch(x) for branch in self.branches], self.axis)


class DenseConnection(Layer):
    """x and body(x), joined along the channels: what DenseNet repeats."""

    def __init__(self, body: Applicable) -> None:
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return concat([x, self.body(x)])
