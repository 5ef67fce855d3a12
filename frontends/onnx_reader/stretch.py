"""Axes that are 1 or as long as another's, which only the run knows.

Two inputs' sizes of different names meet in an addition: mostly they are equal, and the model is
compiled for one size, as fast as if it said so. An input whose axis is 1 instead is then repeated
along it before anything is computed, if that gives what ONNX's rules give: if all that the model
does with the input, up to where the sizes meet, is done to each place of the axis alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Dim, Size, format_size, symbol, symbol_names
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.types import TensorType
from bessemer.compiler.passes.pointwise import is_pointwise
from bessemer.frontends.onnx_reader.assumptions import Assumptions
from bessemer.frontends.onnx_reader.equal_sizes import (
    MustChooseError,
    SizesMustAgree,
    require_nonnegative,
)

Read = Callable[[Assumptions], Graph]
_BETWEEN = "__or__"
"""Between the dimensions in a common size's name: these have no two underscores in a row."""


def with_stretched_inputs(
    read: Read, merged: Mapping[str, Size], broadcast: Mapping[str, Size]
) -> Graph | None:
    """The model with inputs that are repeated where the run finds that they must be; None if there
    are none. `merged` is what the model has been read with, `broadcast` those of it that may be 1.
    """
    groups = _groups(broadcast)
    while groups:
        alike: dict[Size, Size] = {_common(group): _common(group) for group in groups}
        alike |= {symbol(name): _common(group) for group in groups for name in group}
        try:
            apart = {name: size for name, size in merged.items() if not _is_in(groups, name)}
            graph = read(Assumptions(apart, alike))
        except SizesMustAgree as found:
            known = [group for group in groups if found.name not in group]
            if len(known) == len(groups):
                return None
            groups = known
            continue
        except (MustChooseError, CompileError):
            return None
        chosen = _chosen(graph, groups, merged, alike)
        return _read_with(read, chosen) if chosen.stretched else None
    return None


def _read_with(read: Read, assumptions: Assumptions) -> Graph | None:
    try:
        return read(assumptions)
    except (SizesMustAgree, MustChooseError, CompileError):
        return None


def _groups(broadcast: Mapping[str, Size]) -> list[tuple[str, ...]]:
    """The dimensions that meet, directly or through others."""
    groups: list[set[str]] = []
    for name, size in broadcast.items():
        together = {name, *symbol_names(size)}
        apart = [group for group in groups if group.isdisjoint(together)]
        groups = [*apart, together.union(*(group for group in groups if group not in apart))]
    return [tuple(sorted(group)) for group in groups]


def _is_in(groups: Iterable[tuple[str, ...]], name: str) -> bool:
    return any(name in group for group in groups)


def _common(group: tuple[str, ...]) -> Size:
    return symbol(_BETWEEN.join(group))


def _chosen(
    graph: Graph,
    groups: Iterable[tuple[str, ...]],
    merged: Mapping[str, Size],
    alike: Mapping[Size, Size],
) -> Assumptions:
    """Which inputs can be repeated, along which axes. At most one dimension of a group may be one
    along which no input can: then the others are 1 or as long."""
    now = dict(merged)
    stretched_names: set[str] = set()
    common: dict[str, tuple[str, ...]] = {}
    for group in groups:
        firm = firm_names(graph, group, alike)
        if len(firm) > 1:
            continue
        size = symbol(next(iter(firm))) if firm else _common(group)
        if not firm:
            common[format_size(size)] = group
        for name in group:
            now.pop(name, None)
            if name not in firm:
                now[name] = size
                stretched_names.add(name)
    return Assumptions(now, stretched=frozenset(stretched_names), common=common)


def bind_common_size(builder: GraphBuilder, name: str, parts: Sequence[str]) -> None:
    """Gives a symbol the size to which all the parts broadcast, each of which is that or 1."""
    longest: Size = 1
    shortest: Size = 1
    for part in parts:
        longest = dims.maximum(longest, symbol(part))
        shortest = dims.minimum(shortest, symbol(part))
    # An axis of 1 beside one without elements has none either.
    vector = builder.sizes((longest * shortest,))
    builder.apply_many("bind", vector, symbols=(name,))


def stretched(builder: GraphBuilder, value: Value, shape: tuple[Size, ...]) -> Value:
    """The value with axes of 1 repeated, where the run finds that they are not as in `shape`."""
    for axis, (own, size) in enumerate(zip(value.type.shape, shape, strict=True)):
        if own != size:
            value = _stretched_along(builder, value, axis, size)
    return value


def _stretched_along(builder: GraphBuilder, value: Value, axis: int, size: Size) -> Value:
    own = value.type.shape[axis]
    wrong = (own - 1) * (size - own)
    require_nonnegative(builder, (wrong, -1 * wrong), _reason(own, size))
    shape = (*value.type.shape[:axis], size, *value.type.shape[axis + 1 :])
    equal = builder.apply("eq", builder.scalar_size(own), builder.scalar_size(size))
    same = GraphBuilder("same", builder)
    taken = same.input(value.name, value.type)
    there = same.finish([same.apply("reshape", taken, shape=shape)])
    repeated = GraphBuilder("repeated", builder)
    taken = repeated.input(value.name, value.type)
    rank = value.type.rank
    single = (*shape[:axis], 1, *shape[axis + 1 :])
    first = repeated.apply("slice", taken, starts=(0,) * rank, shape=single, steps=(1,) * rank)
    made = repeated.finish([repeated.apply("broadcast_to", first, shape=shape)])
    return builder.apply("if", equal, value, regions=(there, made))


def _reason(own: Size, size: Size) -> str:
    """What the run finds to be otherwise where the sizes do not fit, and what the user can do."""
    one, other = format_size(own), format_size(size)
    if _BETWEEN in other:
        return f"{' = '.join(other.split(_BETWEEN))}, or 1 for any of them"
    return f"{one} = {other} or {one} = 1; where {other} is 1, compile with dims={{'{other}': 1}}"


def firm_names(graph: Graph, names: Iterable[str], alike: Mapping[Size, Size]) -> set[str]:
    """Those of the symbols along which an input cannot be repeated without changing results.

    `graph` is the model read with `alike`: where sizes that it has met, it has said that tensors
    are of the other size, and has not repeated them.
    """
    return {name for name in names if not _is_only_repeated(graph, name, alike)}


def _is_only_repeated(graph: Graph, name: str, alike: Mapping[Size, Size]) -> bool:
    if any(name in _names([value.type.shape]) for value in graph.outputs):
        return False
    if not all(_stands_alone(value.type, name) for value in graph.inputs):
        return False
    return all(_is_done_alike(node, name, alike) for node in graph.nodes if _mentions(node, name))


def _mentions(node: Node, name: str) -> bool:
    values = [*node.inputs, *node.outputs]
    if name in _names([*(value.type.shape for value in values), *node.attributes.values()]):
        return True
    return any(_mentions(inner, name) for region in node.regions for inner in region.nodes)


def _names(entries: Iterable[Any]) -> Iterator[str]:
    """The symbols in sizes, also in tuples of them."""
    for entry in entries:
        if isinstance(entry, Dim):
            yield from symbol_names(entry)
        elif isinstance(entry, tuple):
            yield from _names(entry)


def _stands_alone(type: TensorType, name: str) -> bool:
    """Whether the symbol is a whole size wherever it is, and of one axis only."""
    sizes = [size for size in type.shape if name in symbol_names(size)]
    return all(size == symbol(name) for size in sizes) and len(sizes) < 2


def _is_done_alike(node: Node, name: str, alike: Mapping[Size, Size]) -> bool:
    """Whether a node does the same at every place of the axis that is `name` long."""
    values = [*node.inputs, *node.outputs]
    if node.regions or not all(_stands_alone(value.type, name) for value in values):
        return False
    if is_pointwise(node.operator):
        return True
    size = symbol(name)
    match node.operator.name:
        case "full" | "transpose" | "broadcast_to":
            return True
        case "gather":
            return size not in node.inputs[0].type.shape
        case "reshape":
            return _keeps_axis(node, size, alike)
        case "slice":
            starts, steps = node.attributes["starts"], node.attributes["steps"]
            axis = node.inputs[0].type.shape.index(size) if size in node.inputs[0].type.shape else 0
            is_whole = starts[axis] == 0 and steps[axis] == 1
            return is_whole and _stays(size, node.output.type.shape[axis], alike)
        case name_of_operator if name_of_operator.startswith("reduce_"):
            return size in node.output.type.shape
        case _:
            return False


def _keeps_axis(node: Node, size: Size, alike: Mapping[Size, Size]) -> bool:
    """Whether a reshape leaves the axis one of its own, with as many elements before it."""
    before, after = node.inputs[0].type.shape, node.output.type.shape
    if len(before) == len(after) and all(_stays(*pair, alike) for pair in zip(before, after)):
        return True
    if size not in before or size not in after:
        return False
    places = before.index(size), after.index(size)
    return dims.product(before[: places[0]]) == dims.product(after[: places[1]])


def _stays(before: Size, after: Size, alike: Mapping[Size, Size]) -> bool:
    return before == after or (before in alike and alike[before] == alike.get(after))
