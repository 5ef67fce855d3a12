"""The strings of one model while it is read: their table, and the steps before a run.

The compiled code knows strings by their places in the table only. Whatever makes new ones (words of
a sentence, say) has to happen before, by steps that the runtime takes (runtime/preparation.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.items import Recipe
from bessemer.frontends.onnx_reader.signature import DimensionNames
from bessemer.runtime.artifact import Step


@dataclass(eq=False)
class ModelStrings:
    """What is known so far; each reading begins with no steps, the table stays."""

    places: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    texts_in: set[str] = field(default_factory=set)
    """The inputs of the code that hold strings, by name."""
    dimensions: DimensionNames | None = None
    _named: dict[Recipe, str] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def begin(self, dimensions: DimensionNames, inputs: Sequence[str]) -> None:
        """A reading begins, of a model with these inputs and names for their sizes."""
        self.dimensions = dimensions
        self.steps.clear()
        self.texts_in.clear()
        self._named.clear()
        self._names = set(inputs)

    def place(self, text: str) -> int:
        """Where a string is in the table, from now on if it was not there."""
        if "\0" in text:
            raise CompileError(f"the string {text!r} holds a zero byte, which C takes for its end")
        return self.places.setdefault(text, len(self.places))

    def array(self, texts: Array | Sequence[str]) -> Array:
        """The places of strings, i32, in the shape that they have."""
        array = np.asarray(texts, object)
        found = [self.place(text) for text in array.reshape(-1).tolist()]
        return np.array(found, np.int32).reshape(array.shape)

    def texts(self, places: Array) -> list[str]:
        """The strings at places of the table, in order."""
        table = list(self.places)
        return [table[place] for place in places.reshape(-1).tolist()]

    def step(
        self,
        operator: str,
        inputs: Sequence[Recipe],
        outputs: Sequence[str],
        attributes: Mapping[str, Any],
        source: str,
    ) -> list[str]:
        """Adds a step; the names of its outputs, which are those wished for if they are free."""
        names = [self.name_of(recipe, source) for recipe in inputs]
        made = [self._free(name or f"{source}.{at}") for at, name in enumerate(outputs)]
        self.steps.append(Step(operator, tuple(names), tuple(made), dict(attributes), source))
        return made

    def name_of(self, recipe: Recipe, source: str) -> str:
        """What an array is called, made by steps if it has to be."""
        if recipe.name:
            return recipe.name
        if recipe not in self._named:
            wish = [f"{source}.{recipe.operator}"]
            found = self.step(recipe.operator, recipe.inputs, wish, recipe.attributes, source)
            (self._named[recipe],) = found
        return self._named[recipe]

    def _free(self, name: str) -> str:
        found, count = name, 1
        while found in self._names:
            count += 1
            found = f"{name}_{count}"
        self._names.add(found)
        return found
