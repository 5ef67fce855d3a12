"""Runs networks written with the builder, by the references of the operators."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bessemer.compiler.ir.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder import Input, Layer, Network

Forward = Layer | Callable[..., Any]


def network_of(
    forward: Forward, *arrays: Array, symbolic: Sequence[int] = (0,), **options: Any
) -> Network:
    """A network for inputs x0, x1, ... like the arrays; the axes in `symbolic` are symbols."""
    inputs = []
    for number, array in enumerate(arrays):
        shape = [
            f"d{axis}_{size}" if axis in symbolic else size for axis, size in enumerate(array.shape)
        ]
        inputs.append(Input(f"x{number}", shape, str(array.dtype)))
    return Network(forward, *inputs, **options)


def run_network(network: Network, *arrays: Array) -> list[Array]:
    """The outputs for arrays in the order of the inputs."""
    names = [each.name for each in network.inputs]
    return run_graph(network.graph, dict(zip(names, arrays, strict=True)))


def run(forward: Forward, *arrays: Array, **options: Any) -> Array:
    """The only output of a layer or function for arrays."""
    (result,) = run_network(network_of(forward, *arrays, **options), *arrays)
    return result


def numbers(*shape: int, seed: int = 0) -> Array:
    """Standard normal f32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
