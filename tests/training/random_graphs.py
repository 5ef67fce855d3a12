"""Random small graphs in float64, written for us and for torch side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import Array, TensorType, f64
from bessemer.compiler.passes.differentiation.differentiate import gradients

torch = pytest.importorskip("torch")
Pair: TypeAlias = "tuple[Value, Any]"
"""A value of our graph and torch's of the same computation; all have two axes."""


class Writer:
    """A graph of ours and one of torch's, being written side by side."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 17])
        self.b = GraphBuilder(f"random{seed}")
        self.arrays: dict[str, Array] = {}
        self.leaves: list[Pair] = []
        self.pairs: list[Pair] = []
        for k in range(int(self.rng.integers(1, 4))):
            shape = tuple(int(size) for size in self.rng.integers(1, 5, 2))
            self.arrays[f"x{k}"] = self.rng.standard_normal(shape)
            value = self.b.input(f"x{k}", TensorType(f64, shape))
            self.leaves.append((value, torch.tensor(self.arrays[f"x{k}"], requires_grad=True)))
        self.pairs += self.leaves

    def pick(self) -> Pair:
        """One of all, the later ones more often."""
        place = int(len(self.pairs) * self.rng.random() ** 0.5)
        return self.pairs[place]

    def other(self, shape: tuple[int, ...]) -> Pair:
        """One of a shape."""
        fitting = [pair for pair in self.pairs if pair[0].type.shape == shape]
        return fitting[int(self.rng.integers(len(fitting)))]

    def constant(self, *shape: int) -> Pair:
        array = self.rng.standard_normal(shape)
        return self.b.constant(array), torch.tensor(array)

    def graph(self, steps: Sequence[Step]) -> tuple[Graph, Any, list[Any]]:
        """Ours, with loss and gradients; torch's loss, and the tensors to differentiate by."""
        for _ in range(int(self.rng.integers(3, 12))):
            step = steps[int(self.rng.integers(len(steps)))]
            self.pairs.append(step(self, *self.pick()))
        value, tensor = self.pairs[-1]
        loss = self.b.apply("reduce_sum", self.b.apply("mul", value, value), axes=(0, 1))
        values = [value for value, _ in self.leaves]
        graph = self.b.finish([loss, *gradients(self.b, loss, values)])
        return graph, (tensor * tensor).sum(), [tensor for _, tensor in self.leaves]


Step: TypeAlias = Callable[[Writer, Value, Any], Pair]
"""What is written with a value."""
