"""Axes whose size is either 1 or that of another input's axis, which only the run knows.

If sizes of two inputs with different names meet in an addition, they are mostly equal. The model is
compiled for one size, and is as fast as if the file had used one name. For an input whose axis is 1
instead, the run repeats the input along that axis before it computes anything. That is done only if
it gives what ONNX's rules give: everything that the model does with the input, up to where the
sizes meet, must treat all places along the axis alike.
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
    joint_names,
    joint_size,
    require_nonnegative,
)

Read = Callable[[Assumptions], Graph]


def with_broadcast_inputs(
    read: Read, merged: Mapping[str, Size], broadcast: Mapping[str, Size]
) -> Graph | None:
    """The model with inputs that are repeated where the run finds that they must be; None if there
    are none. `merged` is what the model has been read with, `broadcast` those of it that may be 1.

    Raises SizesMustAgree where one of these is always 1, so that what it meets need not be.
    """
    groups = _groups(broadcast)
    while groups:
        alike: dict[Size, Size] = {
            symbol(name): joint_size(group) for group in groups for name in group
        }
        try:
            apart = {name: size for name, size in merged.items() if not _is_in(groups, name)}
            graph = read(Assumptions(apart, alike))
        except SizesMustAgree as found:
            known = [group for group in groups if found.name not in group]
            if len(known) == len(groups):
                return None
            if found.size == 1:
                raise
            groups = known
            continue
        except (MustChooseError, CompileError):
            return None
        chosen = _chosen(graph, groups, merged)
        return _read_with(read, chosen) if chosen.broadcasting else None
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


def _chosen(
    graph: Graph, groups: Sequence[tuple[str, ...]], merged: Mapping[str, Size]
) -> Assumptions:
    """Which inputs are repeated, along which axes, and to what size."""
    now = dict(merged)
    broadcasting_names: set[str] = set()
    common: dict[str, tuple[str, ...]] = {}
    alike = _alike(graph, groups)
    for group in groups:
        deciding = deciding_names(graph, group, alike)
        if not deciding:
            continue
        size = joint_size(deciding)
        if len(deciding) > 1:
            common[format_size(size)] = deciding
        for name in group:
            now.pop(name, None)
            if size != symbol(name):
                now[name] = size
                broadcasting_names.add(name)
    return Assumptions(now, broadcasting=frozenset(broadcasting_names), common=common)


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


def broadcast_input(builder: GraphBuilder, value: Value, shape: tuple[Size, ...]) -> Value:
    """The value with axes of 1 repeated, where the run finds that they are not as in `shape`: it is
    padded by its edge, and elements that are there are read where they lie."""
    rank = value.type.rank
    missing: list[Size] = [0] * rank
    for axis, (own, size) in enumerate(zip(value.type.shape, shape, strict=True)):
        if own != size:
            wrong = (own - 1) * (size - own)
            require_nonnegative(builder, (wrong, -1 * wrong), _reason(own, size))
            missing[axis] = dims.maximum(size - own, 0)
    high = tuple(missing)
    padded = builder.apply("pad", value, low=(0,) * rank, high=high, mode="edge", value=0)
    # An axis of 1 that meets one without elements has none, either.
    return builder.apply("slice", padded, starts=(0,) * rank, shape=shape, steps=(1,) * rank)


def _reason(own: Size, size: Size) -> str:
    """What the run finds to be otherwise where the sizes do not fit, and what the user can do."""
    one, other, names = format_size(own), format_size(size), joint_names(size)
    if one in names:
        return f"{' = '.join(names)}, or 1 for any of them"
    if len(names) > 1:
        return f"{one} = 1 or the longest of {', '.join(names)}"
    return f"{one} = {other} or {one} = 1; where {other} is 1, compile with dims={{'{other}': 1}}"


def _alike(graph: Graph, groups: Iterable[tuple[str, ...]]) -> dict[Size, Size]:
    """The dimensions of groups, and the joint sizes that a graph has, with their group's."""
    found = set(_sizes(graph))
    alike: dict[Size, Size] = {}
    for group in groups:
        sizes = {
            *map(symbol, group),
            *(size for size in found if set(joint_names(size)) <= set(group)),
        }
        alike |= dict.fromkeys(sizes, joint_size(group))
    return alike


def deciding_names(
    graph: Graph, group: Sequence[str], alike: Mapping[Size, Size]
) -> tuple[str, ...]:
    """The dimensions whose joint size the whole group's is to be: the fewest such that all others
    can be repeated along it, or are of that size anyway. None of them if there are no such.

    `graph` is the model read with all of the group `alike`: where sizes of the group met, it has
    said that tensors are of their joint size, and has not repeated them.
    """
    sizes = [size for size, common in alike.items() if common == joint_size(group)]
    firm = [set(joint_names(size)) for size in sizes if not _is_only_repeated(graph, size, alike)]
    least = min([*firm, set(group)], key=len)
    return tuple(sorted(least)) if all(least <= names for names in firm) else ()


def _sizes(graph: Graph) -> Iterator[Size]:
    for node in graph.nodes:
        yield from (size for value in node.outputs for size in value.type.shape)
        for region in node.regions:
            yield from _sizes(region)


def _is_only_repeated(graph: Graph, size: Size, alike: Mapping[Size, Size]) -> bool:
    """Whether what has this size, a symbol, can be repeated along it without changing results."""
    (name,) = symbol_names(size)
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
