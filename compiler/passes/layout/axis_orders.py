"""How the order of axes in memory passes through operators: the rules that move_transposes.py uses.

An *order* of a value v says how its axes lie in memory: (0, 2, 3, 1) means that transpose(v, (0, 2,
3, 1)) is stored. A *flexible* operator can compute its output in many orders, if its inputs are in
matching ones: pointwise operators, reductions, concat, pad, slice, and reshapes that only merge and
split neighbouring axes. A pool can process the planes of a channels-first image one by one, as
images with one channel, and a convolution with short sums can write planes. The place of an axis of
size 1 does not matter: two orders with equal `key` differ by a reshape, which is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Size, product
from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.types import TensorType
from bessemer.compiler.ops.movement.reshape import matched_runs
from bessemer.compiler.passes.layout.planes import has_short_sums
from bessemer.compiler.passes.pointwise import is_pointwise

Order: TypeAlias = tuple[int, ...]
Runs: TypeAlias = list[tuple[tuple[int, ...], tuple[int, ...]]]

_REDUCTIONS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_any", "reduce_all")
_ARGUMENTS = ("arg_max", "arg_min")
_POOLS = ("max_pool", "average_pool")
_SAME_ORDER = ("concat", "pad", "slice", "cumulative")

FEW_CHANNELS = 4
"""At most this many channels make a row that is too short to be copied by itself."""


def identity(rank: int) -> Order:
    """The order in which the axes are not moved."""
    return tuple(range(rank))


def key(type: TensorType, order: Order) -> Order:
    """The order without the axes of size 1."""
    return tuple(axis for axis in order if type.shape[axis] != 1)


def with_units(type: TensorType, order: Order) -> Order:
    """An order made from a key, with each axis of size 1 as near to its own place as possible."""
    result = list(order)
    for axis, size in enumerate(type.shape):
        if size == 1:
            result.insert(axis, axis)
    return tuple(result)


def permuted(shape: tuple[Size, ...], order: Order) -> tuple[Size, ...]:
    """The shape of what is stored."""
    return tuple(shape[axis] for axis in order)


def is_flexible(node: Node) -> bool:
    """Whether a node can compute its output in other orders."""
    name = node.operator.name
    if name == "reshape":
        return _runs(node) is not None
    if name == "pad" and node.attributes["mode"] != "constant":
        return not _has_few_channels(node)
    if name == "conv":
        return has_short_sums(node)
    flexible = (*_REDUCTIONS, *_ARGUMENTS, *_SAME_ORDER, *_POOLS)
    return is_pointwise(node.operator) or name in flexible


def _has_few_channels(node: Node) -> bool:
    """Whether all axes that a pad does not pad, within each image, are a few channels. A border
    that repeats the image is copied row by row, and then rows would be just these channels."""
    low, high = node.attributes["low"], node.attributes["high"]
    kept = [
        size
        for axis, size in enumerate(node.output.type.shape)
        if axis and low[axis] == high[axis] == 0
    ]
    channels = product(kept)
    return isinstance(channels, int) and 1 < channels <= FEW_CHANNELS


def pools_planes(node: Node, order: Order) -> bool:
    """Whether a node is a pool whose operand, in this order, is processed plane by plane."""
    return node.operator.name in _POOLS and order == channels_first(len(order))


def makes_planes(node: Node, order: Order) -> bool:
    """Whether a node is a convolution whose output is wanted in planes."""
    if node.operator.name != "conv":
        return False
    type = node.output.type
    return (
        key(type, order) == key(type, channels_first(type.rank)) != key(type, identity(type.rank))
    )


def channels_first(rank: int) -> Order:
    """The order in planes, for a value whose channels are its last axis."""
    return (0, rank - 1, *range(1, rank - 1))


def _window_order(type: TensorType, order: Order) -> Order | None:
    """The order as one of the two that pools can process, channels last or channels first; None for
    others."""
    known = (identity(type.rank), channels_first(type.rank))
    return next((one for one in known if key(type, one) == key(type, order)), None)


def is_unit_reshape(node: Node) -> bool:
    """Whether a node is a reshape that only adds and removes axes of size 1."""
    if node.operator.name != "reshape":
        return False
    runs = _runs(node)
    return runs is not None and all(len(a) == 1 and len(b) == 1 for a, b in runs)


def given_order(node: Node, order: Order) -> Order | None:
    """The order of the output if an operand is in `order`; None if none follows from that."""
    if node.operator.name == "reshape":
        return _through_reshape(node, order, forward=True)
    if node.operator.name in (*_REDUCTIONS, *_ARGUMENTS):
        kept = _kept_axes(node)
        return tuple(kept.index(axis) for axis in order if axis in kept)
    if node.operator.name in _POOLS:
        return _window_order(node.inputs[0].type, order)
    if node.operator.name == "conv":
        return None
    return order


def wanted_order(node: Node, have: Order | None, out: Order) -> Order | None:
    """An order of the operands from which the output results in order `out`, up to axes of size 1.
    It is `have`, the order in which the operand exists, if that is possible. None: `out` is not
    possible."""
    if node.operator.name == "reshape":
        return _through_reshape(node, out, forward=False)
    if node.operator.name in (*_REDUCTIONS, *_ARGUMENTS):
        if have is not None:
            given = given_order(node, have)
            type = node.output.type
            if given is not None and key(type, given) == key(type, out):
                return have
        kept = _kept_axes(node)
        # The reduced axes come last, because a row of neighbours is the fastest to reduce.
        reduced = [axis for axis in identity(node.inputs[0].type.rank) if axis not in kept]
        return (*(kept[axis] for axis in out), *reduced)
    if node.operator.name in _POOLS:
        return _window_order(node.output.type, out)
    if node.operator.name == "conv":
        known = _window_order(node.output.type, out)
        return None if known is None else identity(len(out))
    return out


def ordered_attributes(node: Node, taken: Order, out: Order) -> Mapping[str, Any]:
    """The attributes for operands in order `taken` and an output in order `out`."""
    attributes = node.attributes
    match node.operator.name:
        case "reshape":
            return {"shape": permuted(node.output.type.shape, out)}
        case "concat" | "cumulative" | "arg_max" | "arg_min":
            return {**attributes, "axis": taken.index(attributes["axis"])}
        case "pad":
            ends = {end: permuted(attributes[end], taken) for end in ("low", "high")}
            return {**attributes, **ends}
        case "slice":
            return {name: permuted(entries, taken) for name, entries in attributes.items()}
        case name if name in _REDUCTIONS:
            return {"axes": tuple(sorted(taken.index(axis) for axis in attributes["axes"]))}
        case _:
            return attributes


def _kept_axes(node: Node) -> list[int]:
    gone = node.attributes.get("axes") or (node.attributes.get("axis"),)
    return [axis for axis in range(node.inputs[0].type.rank) if axis not in gone]


def _runs(node: Node) -> Runs | None:
    """The neighbouring axes that a reshape merges or splits; None if that is not certain."""
    return _runs_between(node.inputs[0].type.shape, node.output.type.shape)


@lru_cache(maxsize=4096)
def _runs_between(source: tuple[Size, ...], target: tuple[Size, ...]) -> Runs | None:
    if product(source) != product(target) or 0 in source or 0 in target:
        return None
    return [(tuple(inner), tuple(outer)) for inner, outer in matched_runs(source, target)]


def _through_reshape(node: Node, order: Order, forward: bool) -> Order | None:
    """The order on the other side of a reshape, if the axes of each run are neighbours on this
    side."""
    runs = _runs(node)
    if runs is None:
        raise InternalError("an order was asked for through a reshape that is not flexible")
    here, there = node.inputs[0].type, node.output.type
    if not forward:
        here, there = there, here
        runs = [(outer, inner) for inner, outer in runs]
    waiting = list(key(here, order))
    by_first = {inner[0]: (inner, outer) for inner, outer in runs}
    result: list[int] = []
    while waiting:
        inner, outer = by_first.get(waiting[0], ((), ()))
        if not inner or tuple(waiting[: len(inner)]) != inner:
            return None
        del waiting[: len(inner)]
        result.extend(outer)
    return with_units(there, tuple(result))
