"""A network: a layer or function applied to inputs, with its parameters; ready to compile.

    network = Network(Sequential(Flatten(), Dense(10)), Input("image", ("batch", 1, 28, 28)))
    model = bessemer.compile(network)

The graph is written at once, from shapes alone; the parameters' numbers are drawn when the graph is
asked for with them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Dim, Size, symbol
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array, DType, TensorType, f32
from bessemer.frontends.builder.initializers import generator_for
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.builder.tensor import Tensor, as_dtype
from bessemer.frontends.builder.trace import Parameter, Trace

Forward = Layer | Callable[..., Any]


@dataclass(frozen=True)
class Input:
    """An input by name; its shape has numbers, and names for sizes that runs may choose."""

    name: str
    shape: Sequence[int | str | Dim]
    dtype: DType | str = f32

    @property
    def type(self) -> TensorType:
        if isinstance(self.shape, str) or not isinstance(self.shape, Sequence):
            raise CompileError(
                f"Input {self.name}: the shape is {self.shape!r}; write a tuple, as ('batch', 4)."
            )
        sizes: list[Size] = []
        for size in self.shape:
            if isinstance(size, str) and not size.isidentifier():
                raise CompileError(f"Input {self.name}: {size!r} cannot name a dimension.")
            wrong = isinstance(size, bool) or (isinstance(size, Integral) and int(size) < 0)
            if wrong or not isinstance(size, (str, Integral, Dim)):
                raise CompileError(
                    f"Input {self.name}: {size!r} is not a size. Give it a name instead."
                )
            sizes.append(symbol(size) if isinstance(size, str) else size)
        return TensorType(as_dtype(self.dtype), tuple(sizes))


class Network:
    """A layer, or a function of tensors, applied to inputs.

    The result is a tensor, several of them, or a mapping from the outputs' names to them. `outputs`
    names results without names. `seed` chooses the parameters' first values. With `channels_last`,
    images are [N, *spatial, C]. Raises CompileError, naming the layer, where shapes do not fit.
    """

    def __init__(
        self,
        forward: Forward,
        *inputs: Input,
        name: str = "network",
        outputs: Sequence[str] = (),
        seed: int = 0,
        channels_last: bool = False,
    ) -> None:
        if not callable(forward):
            raise CompileError(f"{forward!r} is neither a layer nor a function of tensors.")
        self.name = name
        self.forward = forward
        self.inputs = inputs
        self.seed = seed
        self.channels_last = channels_last
        trace = Trace(name, channels_last, forward)
        _check_inputs(inputs)
        tensors = [Tensor(trace.builder.input(each.name, each.type), trace) for each in inputs]
        results = _outputs(forward(*tensors), outputs)
        self.structure = trace.builder.finish(
            [tensor.value for tensor in results.values()], tuple(results)
        )
        """The graph with stand-ins for the parameters' arrays; for looking at types and nodes."""
        self.parameters: Mapping[str, Parameter] = dict(trace.parameters)
        self._arrays: dict[str, Array] = {}

    @property
    def parameter_count(self) -> int:
        """How many numbers training moves."""
        return sum(
            math.prod(parameter.type.static_shape)
            for parameter in self.parameters.values()
            if parameter.trainable
        )

    def array(self, name: str) -> Array:
        """A parameter's array, drawn when it is first asked for."""
        if name not in self._arrays:
            parameter = self._parameter(name)
            generator = generator_for(self.seed, name)
            drawn = parameter.initializer(parameter.type.static_shape, parameter.fans, generator)
            self._arrays[name] = np.asarray(drawn, parameter.type.dtype.numpy, order="C")
        return self._arrays[name]

    def arrays(self) -> dict[str, Array]:
        """All parameters' arrays by name."""
        return {name: self.array(name) for name in self.parameters}

    def with_arrays(self, arrays: Mapping[str, Array]) -> Network:
        """This network with other arrays for some of its parameters, or all.

        Raises CompileError for an unknown name or another shape; numbers are cast.
        """
        result = copy.copy(self)
        result._arrays = dict(self._arrays)
        for name, array in arrays.items():
            type = self._parameter(name).type
            if array.shape != type.static_shape:
                raise CompileError(f"Parameter {name} is {type}, but its array is {array.shape}.")
            result._arrays[name] = np.asarray(array, type.dtype.numpy, order="C")
        return result

    def with_dims(self, dims: Mapping[str, int]) -> Network:
        """This network with numbers for some of its symbols; the parameters stay as they are.

        Raises CompileError for a name that is not a symbol of an input.
        """
        if not dims:
            return self
        known = {size for each in self.inputs for size in each.shape if isinstance(size, str)}
        unknown = sorted(set(dims) - known)
        if unknown:
            raise CompileError(
                f"{self.name} has no dimension {', '.join(unknown)}. It has {sorted(known)}."
            )
        inputs = [
            replace(
                each,
                shape=[
                    dims.get(size, size) if isinstance(size, str) else size for size in each.shape
                ],
            )
            for each in self.inputs
        ]
        result = Network(
            self.forward,
            *inputs,
            name=self.name,
            outputs=self.structure.output_names,
            seed=self.seed,
            channels_last=self.channels_last,
        )
        return result.with_arrays(self._arrays)

    def _parameter(self, name: str) -> Parameter:
        if name not in self.parameters:
            known = ", ".join(self.parameters)
            raise CompileError(f"{self.name} has no parameter {name}. It has {known}.")
        return self.parameters[name]

    @property
    def graph(self) -> Graph:
        """The network for the compiler and for `write_onnx`, with its parameters as constants."""
        constants = dict(self.structure.constants)
        for name, parameter in self.parameters.items():
            constants[parameter.value] = self.array(name)
        return replace(self.structure, constants=constants)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{value.name}: {value.type}" for value in self.structure.inputs)
        outputs = ", ".join(
            f"{name}: {value.type}"
            for name, value in zip(self.structure.output_names, self.structure.outputs)
        )
        return f"{self.name}({inputs}) -> ({outputs}), {self.parameter_count:,} parameters"


def _check_inputs(inputs: Sequence[object]) -> None:
    names = []
    for given in inputs:
        if isinstance(given, (list, tuple)):
            raise CompileError("Give a network's inputs one by one, not in a list.")
        if not isinstance(given, Input):
            raise CompileError(f"{given!r} is not an input; write Input('x', ('batch', 4)).")
        names.append(given.name)
    if len(set(names)) != len(names):
        raise CompileError(f"Two inputs have one name, in {', '.join(names)}.")


def _outputs(result: object, names: Sequence[str]) -> dict[str, Tensor]:
    """The results by name."""
    if isinstance(result, Mapping):
        found = dict(result)
    else:
        listed = list(result) if isinstance(result, (tuple, list)) else [result]
        default = ["output"] if len(listed) == 1 else [f"output{k}" for k in range(len(listed))]
        chosen = list(names) or default
        if len(set(chosen)) != len(listed) or len(chosen) != len(listed):
            raise CompileError(f"The names {list(names)} do not fit {len(listed)} outputs.")
        found = dict(zip(chosen, listed))
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor):
            raise CompileError(f"The output {name} is a {type(tensor).__name__}, not a tensor.")
    if not found:
        raise CompileError("The network has no output: its function returns nothing.")
    return found
