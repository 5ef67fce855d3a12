"""Random ONNX graphs that are evaluated by onnxruntime, node by node, while they are written.

A graph has inputs with named sizes and is evaluated for several choices of them at once; a node
that onnxruntime refuses for one of them is not written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bessemer.compiler.ir.types import Array
from tests.onnxruntime_sessions import session_of

_T = TypeVar("_T")
SIZES = (1, 2, 3, 4, 5, 7, 17)
_NAMED_SIZES = (2, 3, 4, 5, 7, 17)
_MOST_ELEMENTS = 20_000


class Refused(Exception):
    """A step does not fit to the values that there are."""


@dataclass(frozen=True, eq=False)
class Item:
    """A value, and its array for every choice of sizes."""

    name: str
    arrays: tuple[Array, ...]
    is_constant: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.arrays[0].dtype

    @property
    def rank(self) -> int:
        return self.arrays[0].ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """For the first choice."""
        return self.arrays[0].shape

    def least(self, axis: int) -> int:
        """The smallest of its sizes along an axis."""
        return int(min(array.shape[axis] for array in self.arrays))

    def is_fixed(self, axis: int) -> bool:
        """Whether the size along an axis is always the same."""
        return len({array.shape[axis] for array in self.arrays}) == 1

    def fixed(self, axis: int) -> int:
        """That size, where it is; else this refuses."""
        if not self.rank or not self.is_fixed(axis):
            raise Refused
        return self.shape[axis]


class Author:
    """Writes one graph."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 41])
        self.opset = self.integer(13, 22)
        self.choices: list[dict[str, int]] = []
        for _ in range(self.integer(1, 3)):
            self.choices.append({name: self.pick(_NAMED_SIZES) for name in "ab"})
        if self.chance(0.15):
            self.choices.append({"a": 0, "b": 3})
        self.values: list[Item] = []
        self.inputs: list[tuple[Item, tuple[int | str, ...]]] = []
        self.constants: list[Item] = []
        self.nodes: list[onnx.NodeProto] = []
        self._count = 0

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, options: Sequence[_T]) -> _T:
        return options[int(self.rng.integers(len(options)))]

    def integer(self, low: int, high: int) -> int:
        """Both may be."""
        return int(self.rng.integers(low, high + 1))

    def array(self, shape: Sequence[int], dtype: Any) -> Array:
        """Normal numbers, or small integers."""
        dtype = np.dtype(dtype)
        if dtype.kind == "f":
            return np.asarray(self.rng.standard_normal(shape), dtype)
        if dtype.kind == "b":
            return np.asarray(self.rng.random(shape) < 0.5)
        return np.asarray(self.rng.integers(0 if dtype.kind == "u" else -9, 10, shape), dtype)

    def input(self, dtype: Any = np.float32, rank: int | None = None) -> Item:
        """A new input, some of whose sizes have names."""
        count = self.pick((1, 2, 2, 3, 3, 4)) if rank is None else rank
        sizes: list[int | str] = [
            self.pick(("a", "b")) if self.chance(0.35) else self.pick(SIZES) for _ in range(count)
        ]
        shapes = [[_size(size, choice) for size in sizes] for choice in self.choices]
        if any(np.prod(shape, initial=1) > _MOST_ELEMENTS // 8 for shape in shapes):
            raise Refused
        item = Item(self._name(), tuple(self.array(shape, dtype) for shape in shapes))
        self.inputs.append((item, tuple(sizes)))
        self.values.append(item)
        return item

    def constant(self, array: Any, is_free: bool = True) -> Item:
        """A constant, stored or made by a node; an input where that `is_free`."""
        array = np.asarray(array)
        arrays = (array,) * len(self.choices)
        kind = self.rng.random()
        if is_free and kind < 0.25:
            item = Item(self._name(), arrays)
            self.inputs.append((item, array.shape))
            return item
        item = Item(self._name(), arrays, is_constant=True)
        if kind < 0.5:
            value = numpy_helper.from_array(array)
            self.nodes.append(helper.make_node("Constant", [], [item.name], value=value))
        else:
            self.constants.append(item)
        return item

    def numbers(self, *numbers: int) -> Item:
        """A constant vector of i64, such as axes."""
        return self.constant(np.array(numbers, np.int64), is_free=False)

    def of(self, fits: Callable[[Item], bool], make: Callable[[], Item] | None = None) -> Item:
        """One of the values that fit, the later ones more often, or else a new one."""
        found = [item for item in self.values if fits(item)]
        if not found and make is not None:
            return make()
        if not found:
            raise Refused
        return found[int(len(found) * self.rng.random() ** 0.6)]

    def floats(self, low: int = 0, high: int = 6) -> Item:
        """A value of f32 whose rank lies between these."""
        return self.of(
            lambda item: item.dtype == np.float32 and low <= item.rank <= high,
            lambda: self.input(rank=self.integer(max(low, 1), min(high, max(low, 1) + 1))),
        )

    def apply(
        self, operator: str, inputs: Sequence[Item | None], outputs: int = 1, **attributes: Any
    ) -> Item:
        """Writes a node; its first output."""
        return self.apply_many(operator, inputs, outputs, **attributes)[0]

    def apply_many(
        self, operator: str, inputs: Sequence[Item | None], outputs: int, **attributes: Any
    ) -> list[Item]:
        names = [item.name if item is not None else "" for item in inputs]
        results = [self._name() for _ in range(outputs)]
        node = helper.make_node(operator, names, results, **attributes)
        given = {item.name: item for item in inputs if item is not None}
        found = self._evaluated(node, given)
        if any(array.size > _MOST_ELEMENTS or array.ndim > 6 for run in found for array in run):
            raise Refused
        self.nodes.append(node)
        items = [Item(name, tuple(run[k] for run in found)) for k, name in enumerate(results)]
        self.values += items
        return items

    def _evaluated(self, node: onnx.NodeProto, given: Mapping[str, Item]) -> list[list[Array]]:
        stored = [item for item in given.values() if item.is_constant]
        varying = [item for item in given.values() if not item.is_constant]
        graph = helper.make_graph(
            [node],
            "node",
            [_info(item, [None] * item.rank) for item in varying],
            [onnx.ValueInfoProto(name=name) for name in node.output],
            [numpy_helper.from_array(item.arrays[0], item.name) for item in stored],
        )
        try:
            session = session_of(self._model(graph), plain=True)
            feeds = [{i.name: i.arrays[k] for i in varying} for k in range(len(self.choices))]
            return [[np.asarray(array) for array in session.run(None, feed)] for feed in feeds]
        except Exception as error:  # onnxruntime has no common class of errors
            raise Refused(str(error)) from None

    def attempt(self, step: Step) -> None:
        """Takes the step, or leaves everything as it is."""
        lists: tuple[list[Any], ...] = (self.values, self.inputs, self.constants, self.nodes)
        lengths = [len(each) for each in lists]
        try:
            step(self)
        except Refused:
            for each, length in zip(lists, lengths, strict=True):
                del each[length:]

    def finished(self) -> tuple[onnx.ModelProto, list[dict[str, Array]], list[list[Array]]]:
        """The model, what to feed it with, and what it then gives. Outputs are what no node reads,
        and some of what others read."""
        given = {item.name for item, _ in self.inputs}
        read = {name for node in self.nodes for name in node.input}
        made = [item for item in self.values if item.name not in given]
        outputs = [item for item in made if item.name not in read or self.chance(0.1)]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [_info(item, sizes) for item, sizes in self.inputs],
            [onnx.ValueInfoProto(name=item.name) for item in outputs],
            [numpy_helper.from_array(item.arrays[0], item.name) for item in self.constants],
        )
        runs = range(len(self.choices))
        feeds = [{item.name: item.arrays[k] for item, _ in self.inputs} for k in runs]
        return self._model(graph), feeds, [[item.arrays[k] for item in outputs] for k in runs]

    def _model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        imports = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"


Step: TypeAlias = Callable[[Author], object]
"""Writes a few nodes; raises Refused where it cannot."""


def write(seed: int, steps: Sequence[Step], least: int = 3, most: int = 16) -> Author:
    """A graph of so many nodes at least, with as many steps tried at most."""
    author = Author(seed)
    author.attempt(Author.input)
    author.attempt(Author.input)
    count = author.integer(least, most)
    for _ in range(3 * most):
        if len(author.nodes) >= count:
            break
        author.attempt(author.pick(steps))
        author.attempt(_tame)
    return author


def _tame(author: Author) -> None:
    """Brings large numbers back: errors would grow with them."""
    if not author.values:  # each input was too large
        raise Refused
    item = author.values[-1]
    if item.dtype.kind != "f" or all(np.max(np.abs(a), initial=0) < 100 for a in item.arrays):
        raise Refused
    author.apply("Tanh", [item])


def _info(item: Item, sizes: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(item.dtype)
    return helper.make_tensor_value_info(item.name, kind, list(sizes))


def _size(size: int | str, choice: Mapping[str, int]) -> int:
    return choice[size] if isinstance(size, str) else size
