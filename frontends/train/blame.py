"""Finds the operator that first made a NaN or an infinity which reached the loss or the state.

The step is computed again, node by node, from the batch and the state as they were. What is not
finite on purpose is left out: an infinity that nobody made NaN of and that never reached a result,
such as the logarithm of 0 under a maximum, or the -inf of a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.train.step import StepGraph

_FINE, _INFINITE, _NAN = range(3)
_WORDS = {_INFINITE: "infinity", _NAN: "NaN"}


@dataclass(frozen=True, eq=False)
class Blame:
    """`node` made the first one; None where `inputs`, by name, had it before."""

    node: Node | None
    part: str
    inputs: tuple[str, ...]
    text: str


@dataclass(eq=False)
class _Evidence:
    """How bad every value is, who made it, and, of nodes that may be to blame, what they read."""

    kinds: dict[Value, int] = field(default_factory=dict)
    constants: set[Value] = field(default_factory=set)
    makers: dict[Value, tuple[int, Node]] = field(default_factory=dict)
    ranges: dict[int, str] = field(default_factory=dict)

    def watch(self, node: Node, arrays: Sequence[Array], results: Sequence[Array]) -> None:
        """Takes the results of the next node down."""
        place = len(self.ranges)
        self.ranges[place] = ""
        if all(value in self.constants for value in node.inputs):
            self.constants.update(node.outputs)  # the -inf of a mask is meant
            return
        for value, array in zip(node.outputs, results, strict=True):
            self.makers[value] = place, node
            self.kinds[value] = _kind(array)
        if any(self.kinds[value] for value in node.outputs):
            self.ranges[place] = _ranges(arrays)

    def origin(self, value: Value) -> Value:
        """The first value on the way to this one that is not finite."""
        while value in self.makers:
            _, node = self.makers[value]
            worst = max(self.kinds.get(read, _FINE) for read in node.inputs)
            if worst == _FINE:
                return value
            # Where there is a NaN, that is to blame, not an infinity beside it.
            guilty = [read for read in node.inputs if self.kinds.get(read, _FINE) == worst]
            value = min(guilty, key=self._place)
        return value

    def _place(self, value: Value) -> int:
        return self.makers[value][0] if value in self.makers else -1


def find_blame(step: StepGraph, inputs: Mapping[str, Array]) -> Blame | None:
    """What is to blame for results of the step that are not finite; None if the operators'
    references, in NumPy, find all of them finite."""
    graph = step.graph
    evidence = _Evidence({value: _kind(np.asarray(inputs[value.name])) for value in graph.inputs})
    evidence.constants |= graph.constants.keys()
    already = [name for name, _ in step.state if _kind(inputs[name])]
    if already:
        return Blame(None, "state", tuple(already), _of_inputs(step, already, inputs))
    run_graph(graph, inputs, evidence.watch)
    results = [graph.outputs[0]]
    if not evidence.kinds.get(graph.outputs[0]):
        results = [value for value in graph.outputs if evidence.kinds.get(value)]
    origins = [evidence.origin(value) for value in results if evidence.kinds.get(value)]
    given = [value.name for value in origins if value not in evidence.makers]
    if given:
        return Blame(None, "batch", tuple(given), _of_inputs(step, given, inputs))
    if not origins:
        return None
    value = min(origins, key=lambda each: evidence.makers[each][0])
    place, node = evidence.makers[value]
    part = next(name for name, end in step.parts if place < end)
    word = _WORDS[evidence.kinds[value]]
    text = f"The first {word} came from {_named(node, part)}{evidence.ranges[place]}."
    return Blame(node, part, (), text)


def _kind(array: Array) -> int:
    if array.dtype.kind not in "fV" and array.dtype.name != "bfloat16":
        return _FINE
    if np.isfinite(array).all():
        return _FINE
    return _NAN if np.isnan(array).any() else _INFINITE


def _named(node: Node, part: str) -> str:
    where = ", ".join(f"'{name}'" for name in node.sources if name)
    what = "" if not where else f"{'parameter' if part == 'optimizer' else 'layer'} {where}, "
    return f"{what}operator {node.operator.name}, in the {part}"


def _ranges(arrays: Iterable[Array]) -> str:
    """What a node's floats lay between."""
    found = []
    for array in arrays:
        if array.dtype.kind == "f" and array.size and np.isfinite(array).all():
            low, high = float(array.min()), float(array.max())
            found.append(f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}")
    return f", of {' and '.join(found)}" if found else ""


def _of_inputs(step: StepGraph, names: Sequence[str], inputs: Mapping[str, Array]) -> str:
    told = []
    for name in names:
        array = inputs[name]
        word = _WORDS[_kind(array)]
        owner = f"the batch's {name}" if name in step.batch else name
        rows = ""
        if name in step.batch and array.ndim:
            bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
            rows = f" (row {bad[0]} of it first)"
        told.append(f"{word} in {owner}{rows}")
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    return f"Before the step there was {', '.join(told[:3])}{more}."
