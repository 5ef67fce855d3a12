"""Finds matrices that are zero, or that nothing reads, away from a diagonal, such as those of a
causal attention.

    scores  = query @ keyᵀ                        [row, key] is not read where key > row
    weights = softmax(select(key <= row, scores, -inf))           0 there
    result  = weights @ value                     sums end at the diagonal
    dweights = dresult @ valueᵀ                   multiplied by 0 there
    dquery  = dscores @ key                       sums end at the diagonal
    dkey    = dscoresᵀ @ query                    sums begin at the diagonal

A mask is anything that is computed from constants and indices. Masks are evaluated here and
followed through pointwise operators and transposes: forwards to find what is zero, backwards to
find what is not read. The contraction's kernel then leaves out the rest
(contraction/banded_steps.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from math import inf

import numpy as np

from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import Array
from bessemer.compiler.schedule.contraction.contraction import Band, Bands

_MOST_ELEMENTS = 1 << 22
_LONGEST = 32
_FINITE = frozenset({"add", "sub", "mul", "neg", "cast"})
"""Pointwise operators whose result stays finite with 0 in place of an operand."""


def find_bands(graph: Graph) -> dict[Node, Bands]:
    """The bands of the matrix products that have sums which are not read, or zeros at one end of
    their sums."""
    if not any(node.operator.name == "matmul" for node in graph.nodes):
        return {}
    search = _Search(graph)
    search.forward()
    if not search.zeros and not search.lowest:
        return {}
    search.backward()
    found: dict[Node, Bands] = {}
    for node in graph.nodes:
        if node.operator.name == "matmul":
            left, right = map(search.zeros.get, node.inputs)
            bands = Bands(left, right, search.read.get(node.output))
            if bands != Bands(None, None, None):
                found[node] = bands
    return found


class _Search:
    """Finds bands of the last two axes of values. Outside of its band, a value in `zeros` is 0, one
    in `lowest` is minus infinity, and one in `read` does not influence the outputs. A value without
    an entry has no band."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = graph.producers()
        self.known = _Known(graph, self.producers)
        self.zeros: dict[Value, Band] = {}
        self.lowest: dict[Value, Band] = {}
        self.read: dict[Value, Band] = {}

    def forward(self) -> None:
        """Finds what is zero or minus infinity."""
        for node in self.graph.nodes:
            if len(node.outputs) != 1 or _matrix(node.output) is None:
                continue
            for found, rule in ((self.zeros, self._zero), (self.lowest, self._low)):
                self._note(found, node.output, rule(node))

    def _zero(self, node: Node) -> Band | None:
        first = self.zeros.get(node.inputs[0]) if node.inputs else None
        match node.operator.name:
            case "exp":
                # If all scores of a row are minus infinity, a softmax gives NaN and not 0.
                return _in_all_rows(node, self.lowest.get(node.inputs[0]))
            case "div":
                return _in_all_rows(node, first)  # the sum of such a row is 0: again NaN
            case "mul":
                return _both(first, self.zeros.get(node.inputs[1]))
            case "add" | "sub":
                second = self.zeros.get(node.inputs[1])
                return first | second if first and second else None
            case "neg" | "cast":
                return first
            case "select":
                return self._selected(node, 0.0, self.zeros)
            case _:
                return _moved(node, first)

    def _low(self, node: Node) -> Band | None:
        first = self.lowest.get(node.inputs[0]) if node.inputs else None
        match node.operator.name:
            case "add":
                return _both(*map(self._low_operand, node.inputs))
            case "sub":
                return None if node.inputs[1] in self.lowest else first
            case "cast":
                return first
            case "select":
                return self._selected(node, -inf, self.lowest)
            case _:
                return _moved(node, first)

    def _selected(self, node: Node, number: float, found: Mapping[Value, Band]) -> Band | None:
        """The band in which a `select` may differ from `number`: where its condition may choose the
        operand that is not this number, and that operand may differ from the number, too."""
        condition, then, otherwise = node.inputs
        whole: Band | None = None
        for wanted, value, other in ((True, then, otherwise), (False, otherwise, then)):
            if self.known.number(other) == number:
                chosen = self._chosen(condition, wanted)
                whole = _both(whole, _both(chosen, found.get(value)))
        return whole

    def _chosen(self, condition: Value, wanted: bool) -> Band | None:
        """The band in which a condition may have the wanted value."""
        array = self.known.array(condition)
        return None if array is None else _band_of(array == wanted)

    def _low_operand(self, value: Value) -> Band | None:
        """The band in which an operand of an addition may differ from minus infinity; it may be a
        mask."""
        if value in self.lowest:
            return self.lowest[value]
        if not value.type.dtype.is_float or self.known.number(value) is not None:
            return None
        array = self.known.array(value)
        hidden = np.isneginf(array) if array is not None else None
        return _band_of(~hidden) if hidden is not None and hidden.any() else None

    def backward(self) -> None:
        """Finds what is not read."""
        users, outputs = self.graph.users(), {*self.graph.outputs}
        for node in reversed(self.graph.nodes):
            if len(node.outputs) != 1 or _matrix(node.output) is None or node.output in outputs:
                continue
            value = node.output
            bands = [self._read_by(user, value) for user in users.get(value, ())]
            found = [band for band in bands if band is not None]
            if found and len(found) == len(bands):
                self._note(self.read, value, reduce(Band.__or__, found))

    def _read_by(self, user: Node, value: Value) -> Band | None:
        """The band in which the reader `user` lets a value influence the outputs."""
        if len(user.outputs) != 1 or user.regions:
            return None
        band, name = self.read.get(user.output), user.operator.name
        if name == "mul":
            others = [one for one in user.inputs if one is not value]
            return _both(band, self.zeros.get(others[0])) if others else band
        if name == "add":
            others = [one for one in user.inputs if one is not value]
            return _both(band, self._low_operand(others[0])) if others else band
        if name == "select":
            condition, then, otherwise = user.inputs
            if value is condition or then is otherwise:
                return None
            return _both(band, self._chosen(condition, value is then))
        if name in _FINITE or (name == "div" and value is not user.inputs[1]):
            return band
        return _moved(user, band)

    def _note(self, found: dict[Value, Band], value: Value, band: Band | None) -> None:
        size = _matrix(value)
        if band is not None and size is not None and not band.covers(*size):
            found[value] = band


class _Known:
    """Evaluates what is computed from constants and indices alone."""

    def __init__(self, graph: Graph, producers: Mapping[Value, Node]) -> None:
        self.constants = graph.constants
        self.producers = producers
        self.arrays: dict[Value, Array | None] = {}

    def number(self, value: Value) -> float | None:
        """The number that all elements of a value equal; None if there is no such number."""
        while (node := self.producers.get(value)) is not None:
            if node.operator.name == "full":
                return float(node.attributes["value"])
            if node.operator.name not in ("broadcast_to", "reshape"):
                return None
            value = node.inputs[0]
        array = self.constants.get(value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def array(self, value: Value) -> Array | None:
        """The value as [..., rows, columns]; None if it is not known. Repeated matrices may be
        there once."""
        while (node := self.producers.get(value)) is not None:
            is_repeated = node.operator.name == "broadcast_to" and (
                node.inputs[0].type.shape[-2:] == value.type.shape[-2:]
            )
            if not is_repeated:
                break
            value = node.inputs[0]
        return self._evaluated(value, _LONGEST)

    def _evaluated(self, value: Value, longest: int) -> Array | None:
        if value in self.constants:
            return self.constants[value]
        if value not in self.arrays:
            self.arrays[value] = self._computed(value, longest)
        return self.arrays[value]

    def _computed(self, value: Value, longest: int) -> Array | None:
        node = self.producers.get(value)
        if node is None or longest == 0 or not _is_computable(node):
            return None
        given: list[Array] = []
        for one in node.inputs:
            array = self._evaluated(one, longest - 1)
            if array is None:
                return None
            given.append(array)
        try:
            with np.errstate(all="ignore"):
                (result,) = node.operator.compute(given, node.attributes)
        except (CompileError, InternalError, ArithmeticError, IndexError, TypeError, ValueError):
            return None  # if it ever runs, the run reports the error
        return np.asarray(result)


def _is_computable(node: Node) -> bool:
    """Whether a node is cheap to evaluate, and gives the same result in every run."""
    operator = node.operator
    if operator.element is None or operator.is_random or len(node.outputs) != 1:
        return False
    if node.has_symbols:
        return False
    numel = node.output.type.numel
    return isinstance(numel, int) and numel <= _MOST_ELEMENTS


def _matrix(value: Value) -> tuple[int, int] | None:
    """The sizes of the last two axes, if they are known."""
    if value.type.rank < 2:
        return None
    rows, columns = value.type.shape[-2:]
    return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None


def _band_of(places: Array) -> Band | None:
    """The narrowest band that contains the true places of [..., rows, columns]; None if there are
    none."""
    if places.ndim < 2:
        return None
    rows, columns = places.shape[-2:]
    found = places.reshape(-1, rows, columns)
    if not found.any():
        return None
    row, column = np.nonzero(found.any(0))
    return Band(int((column - row).max()), int((row - column).max()))


def _in_all_rows(node: Node, band: Band | None) -> Band | None:
    """The band, if every row of a node's output has a place in it; else None."""
    size = _matrix(node.output)
    return band if band and size and band.is_in_all_rows(*size) else None


def _both(one: Band | None, other: Band | None) -> Band | None:
    """The intersection of two bands, where None stands for everything."""
    if one is None or other is None:
        return one or other
    return one & other


def _moved(node: Node, band: Band | None) -> Band | None:
    """The band of a view's output, given that of its input or the other way round; None for other
    nodes, and for views that do not keep or transpose whole matrices."""
    if band is None or len(node.inputs) != 1:
        return None
    (given,), made = node.inputs, node.output
    match node.operator.name:
        case "transpose":
            rank = made.type.rank
            last = tuple(node.attributes["permutation"][-2:])
            if last == (rank - 1, rank - 2):
                return band.turned
            return band if last == (rank - 2, rank - 1) else None
        case "reshape" | "broadcast_to":
            is_same = _matrix(given) is not None and _matrix(given) == _matrix(made)
            return band if is_same else None
        case _:
            return None
