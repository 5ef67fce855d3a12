"""A network while its layers are applied: the graph being built, and its parameters so far.

Layers have paths ("encoder.blocks.2.attention"), made from the names of the fields that hold them,
and parameters have the layer's path and their own name. A layer that is applied twice has one path
and one set of parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Dim, Size, format_size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, TensorType
from bessemer.frontends.builder.initializers import Fans, Initializer, fans_of
from bessemer.frontends.given_sizes import given_size


@dataclass(frozen=True, eq=False)
class Parameter:
    """A tensor that belongs to a network; `value` is a constant of the network's graph.

    `trainable` is False for what training does not move by gradients (running statistics).
    """

    name: str
    type: TensorType
    initializer: Initializer
    fans: Fans
    trainable: bool
    value: Value


@dataclass(eq=False)
class _Scope:
    """A layer being applied; the outermost one is the network, with an empty path."""

    path: str
    layer: object
    counts: dict[str, int] = field(default_factory=dict)


class Trace:
    """What a network is written into. `channels_last`: images are [N, *spatial, C] for the user.

    While a training step is traced, `step` is its number, an i64 scalar, and layers put the new
    values of what they keep from batch to batch (running statistics) into `updates`. `results` has
    what each layer, by its path, gave last; `limits` between which integers lie: the least, and the
    number behind the greatest.
    """

    def __init__(self, name: str, channels_last: bool, root: object) -> None:
        self.builder = GraphBuilder(name)
        self.step: Value | None = None
        self.updates: dict[str, Value] = {}
        self.results: dict[str, Value] = {}
        self.limits: dict[Value, tuple[int, int]] = {}
        self.channels_last = channels_last
        self.parameters: dict[str, Parameter] = {}
        self._scopes = [_Scope("", None)]
        self._layers: dict[int, object] = {}  # keeps them alive, so that no id is given twice
        # The layer that is the whole network has an empty path, as the network itself.
        # So has the one inside of what is put around a network.
        self._paths: dict[int, str] = {id(getattr(root, "inside", root)): ""}
        self._draws: dict[str, int] = {}
        self._is_blamed = False

    @contextmanager
    def scope(
        self, layer: object, name: Callable[[object], str], describe: Callable[[], str]
    ) -> Iterator[None]:
        """Everything inside belongs to `layer`; `name` gives its name from the layer around it.

        A CompileError from inside names the innermost layer's path, and what it is.
        """
        path = self._path(layer, name)
        self._scopes.append(_Scope(path, layer))
        try:
            with self.builder.source(path) if path else nullcontext():
                yield
        except CompileError as error:
            if self._is_blamed:
                raise
            self._is_blamed = True
            text = str(error).removeprefix(f"{path}: ")
            where = f"{path}, {describe()}" if path else describe()
            raise CompileError(f"{where}: {text}") from None
        self._scopes.pop()

    def _path(self, layer: object, name: Callable[[object], str]) -> str:
        if id(layer) not in self._paths:
            outer = self._scopes[-1]
            path = f"{outer.path}.{self._child(outer, layer, name(outer.layer))}".lstrip(".")
            self._paths[id(layer)] = path
            self._layers[id(layer)] = layer
        return self._paths[id(layer)]

    def _child(self, outer: _Scope, layer: object, given: str) -> str:
        """The given name, or the kind of layer with a number: conv1, conv2."""
        if given:
            taken = f"{outer.path}.{given}".lstrip(".")
            if taken in self._paths.values():
                raise CompileError(f"Two different layers are called {taken}. Rename one.")
            return given
        kind = type(layer).__name__.lower()
        outer.counts[kind] = outer.counts.get(kind, 0) + 1
        return f"{kind}{outer.counts[kind]}"

    def note_result(self, layer: object, result: object) -> None:
        """Remembers the tensor that a layer gave, if it gave one."""
        value = getattr(result, "value", None)
        if isinstance(value, Value):
            self.results[self._paths[id(layer)]] = value

    def update(self, name: str, value: Value) -> None:
        """Gives a parameter of the layer being applied its value after this training step."""
        self.updates[f"{self._scopes[-1].path}.{name}".lstrip(".")] = value

    def limit(self, value: Value, count: int) -> None:
        """Integers are names of `count` things, from 0."""
        _, end = self.limits.get(value, (0, count))
        self.limits[value] = 0, min(end, count)

    def random_seed(self) -> int:
        """A number for random numbers of the layer being applied, another one each time: from its
        path, and how often it has asked."""
        path = self._scopes[-1].path
        before = self._draws.get(path, 0)
        self._draws[path] = before + 1
        first = int.from_bytes(hashlib.sha256(path.encode()).digest()[:7], "little")
        return (first + before) % 2**56

    def parameter(
        self, name: str, shape: Sequence[Size], initializer: Initializer, dtype: DType,
        *, trainable: bool = True, fans: Fans | None = None,
    ) -> Value:  # fmt: skip
        """A parameter of the layer being applied, made when the layer is applied first."""
        full_name = f"{self._scopes[-1].path}.{name}".lstrip(".")
        said = f"the parameter {name} would have the size"
        shape = [size if isinstance(size, Dim) else given_size(size, said) for size in shape]
        static = tuple(size for size in shape if isinstance(size, int))
        if len(static) != len(shape):
            listing = ", ".join(map(format_size, shape))
            raise CompileError(
                f"the parameter {name} would have the shape [{listing}]: a parameter's sizes must "
                f"be known. Give the input's feature axis a number."
            )
        type = TensorType(dtype, static)
        found = self.parameters.get(full_name)
        if found is not None:
            if found.type != type:
                raise CompileError(
                    f"this layer's parameter {name} is {found.type}, from where the layer was "
                    f"applied first; here it would have to be {type}. Use two layers."
                )
            return found.value
        # Numbers are drawn when they are needed: until then the array is one zero, repeated.
        stand_in = np.broadcast_to(np.zeros((), dtype.numpy), static)
        value = self.builder.constant(stand_in, full_name)
        self.parameters[full_name] = Parameter(
            full_name, type, initializer, fans or fans_of(static), trainable, value
        )
        return value
