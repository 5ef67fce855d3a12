"""Finds the initializers of an ONNX file that are usually trained: those in the places of weights.
Where no initializer is one, the outputs of Constant nodes are taken instead.

Exporters do not always write a parameter where it is read. It may pass through nodes that they do
not fold: it may be transposed, cut or joined, and a scale may be the exponential of it. So
everything that stands in a weight's place and does not depend on the data is followed back to the
file's numbers. The sizes of the data do not count as data.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Set

import onnx

from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.structure import subgraphs
from bessemer.frontends.train.fixed_constants import is_fixed, is_of_positions

_PLACES = {
    "Add": (0, 1), "BatchNormalization": (1, 2), "Conv": (1, 2), "ConvTranspose": (1, 2),
    "Div": (0,), "Einsum": (0, 1, 2),
    "GRU": (1, 2, 3), "Gather": (0,), "GatherElements": (0,), "GatherND": (0,),
    "Gemm": (0, 1, 2), "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "LSTM": (1, 2, 3), "LayerNormalization": (1, 2),
    "MatMul": (0, 1), "Mul": (0, 1), "PRelu": (1,), "RNN": (1, 2, 3),
    "RMSNormalization": (1,), "ScatterElements": (0, 2), "ScatterND": (0, 2),
    "SimplifiedLayerNormalization": (1,), "Where": (1, 2),
}  # fmt: skip
"""Where ONNX's operators take what is trained."""
_TABLES = frozenset(
    {
        "Add", "Concat", "Div", "Gather", "GatherElements", "GatherND", "Mul", "ScatterElements",
        "ScatterND", "Where",
    }
)  # fmt: skip
"""Operators that read constants of formulas in the same places."""
_FILLED = frozenset({"Concat", "ScatterElements", "ScatterND", "Where"})
"""Operators that put numbers beside data: what is the same everywhere only fills there, except
for zeros that are repeated, say for every row of a batch. A token begins as such; what fills is
written in its full size, or made by ConstantOfShape and Pad."""
_REPEATS = frozenset({"Expand", "Tile"})
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Einsum", "MatMul"})
_MOVES = frozenset(
    {
        "Cast", "CastLike", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split",
        "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators that leave numbers as they are."""
_FUNCTIONS = frozenset({"Exp", "Sigmoid", "Softplus", "Tanh"})
"""Of one number these are computed where it is trained, as a temperature is; a formula's number has
been computed before the file was written."""
_SIZES = frozenset({"Shape", "Size"})
_ROUNDED = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""Operators behind which nothing learns: what is rounded has no slope, and scales are measured."""
_STATISTICS = (
    "running_mean", "running_var", "running_variance", "moving_mean", "moving_variance",
)  # fmt: skip
"""How the names of running statistics end, which may be read by the formula of their norm."""


def usual_parameters(graph: onnx.GraphProto, constants: Mapping[str, Array]) -> list[str]:
    """Those of the constants that are initializers and usually trained, in order of their use.
    If there are none, those that outermost Constant nodes make: some exporters write all weights
    so. Beside weights that are initializers, such nodes only have numbers of formulas."""
    initializers = {tensor.name for tensor in graph.initializer}
    made = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return _usual_among(graph, constants, initializers) or _usual_among(graph, constants, made)


def _usual_among(
    graph: onnx.GraphProto, constants: Mapping[str, Array], given: Set[str]
) -> list[str]:
    """Those of the constants that are among the given values and usually trained."""
    known = {
        name: array
        for name, array in constants.items()
        if name in given and not name.endswith(_STATISTICS)
    }
    found: dict[str, None] = {}
    curved: set[str] = set()
    for node, makers, varying in _scopes(graph, {}, set(), given):
        if node.op_type in _FUNCTIONS:
            curved.add(node.input[0])
        read = [node.input[k] for k in _PLACES.get(node.op_type, ()) if k < len(node.input)]
        if node.op_type == "Concat" and not varying.isdisjoint(node.input):
            read = list(node.input)  # a token of its own, say of a class, beside data
        for name, is_moved in _leaves(read, makers, varying).items():
            if name not in known:
                continue
            if known[name].size == 1 and not is_moved:
                # One number inside of a formula, such as an exponent, is a part of it.
                is_trained = name in curved
            else:
                is_trained = _is_trained(known[name], node, name, makers, is_moved)
            if is_trained:
                found[name] = None
    return list(found)


def _is_trained(
    array: Array,
    node: onnx.NodeProto,
    name: str,
    makers: Mapping[str, onnx.NodeProto],
    is_moved: bool,
) -> bool:
    """Of an array that a node reads, as it is or where it `is_moved` only, or a function of it."""
    if node.op_type not in _TABLES:
        # A weight may begin as an identity; what a weight is multiplied by before is a mask.
        return not (is_of_positions(array) if is_moved else is_fixed(array))
    if node.op_type in _FILLED and (array == array.flat[0]).all():
        return not array.any() and _is_repeated(name, node, makers)
    if array.size > 1:
        return not is_fixed(array)
    others = [makers[other].op_type for other in node.input if other in makers]
    is_bias = node.op_type == "Add" and name in node.input and not _PRODUCTS.isdisjoint(others)
    return is_bias and array.ndim == 1 and array.size == 1  # of a layer with one output


def _is_repeated(name: str, node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether this is repeated before the node reads it, and else only moved or computed with."""
    waiting = list(node.input)
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is None or maker.op_type not in _MOVES | _REPEATS:
            continue
        if maker.op_type in _REPEATS and name in _leaves(maker.input[:1], makers, ()):
            return True
        waiting += _numbers(maker)
    return False


def _leaves(
    names: Iterable[str], makers: Mapping[str, onnx.NodeProto], varying: Container[str]
) -> dict[str, bool]:
    """What these values are computed from, of those that do not vary; and whether it is moved
    only."""
    found: dict[str, bool] = {}
    waiting = [(name, True) for name in reversed(list(names)) if name not in varying]
    seen: set[tuple[str, bool]] = set()
    while waiting:
        name, is_moved = waiting.pop()
        node = makers.get(name)
        if node is None:
            found[name] = is_moved or found.get(name, False)
        elif (name, is_moved) not in seen and node.op_type not in _SIZES | _ROUNDED:
            is_moved_on = is_moved and node.op_type in _MOVES
            waiting += [(read, is_moved_on) for read in reversed(_numbers(node))]
        seen.add((name, is_moved))
    return found


def _scopes(
    graph: onnx.GraphProto,
    makers: Mapping[str, onnx.NodeProto],
    varying: Set[str],
    given: Set[str] = frozenset(),
) -> Iterator[tuple[onnx.NodeProto, Mapping[str, onnx.NodeProto], Set[str]]]:
    """A graph's nodes, and those of the graphs in them before each; with what makes the values that
    each sees, unless they are given in the outermost, and which of these vary. Two graphs may have
    values of one name."""
    made = {name: node for node in graph.node for name in node.output if name and name not in given}
    makers = {**makers, **made}
    varying = _varying(graph, varying)
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _scopes(inner, makers, varying)
        yield node, makers, varying


def _varying(graph: onnx.GraphProto, outer: Set[str]) -> Set[str]:
    """The values that depend on data: on inputs, or on what inner graphs compute."""
    found = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    found |= outer
    found.update(n for node in graph.node if any(subgraphs(node)) for n in node.output if n)
    known = 0
    while known < len(found):  # once, and once more, but for nodes in another order
        known = len(found)
        for node in graph.node:
            if node.op_type not in _SIZES and not found.isdisjoint(_numbers(node)):
                found.update(name for name in node.output if name)
    return found


def _numbers(node: onnx.NodeProto) -> list[str]:
    """The inputs whose numbers count; of CastLike's second, only the type does."""
    return list(node.input)[: 1 if node.op_type == "CastLike" else None]
