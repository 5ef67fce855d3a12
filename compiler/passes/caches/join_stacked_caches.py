"""Makes one concat for caches that are parts of one array, so that this can be given room
(grow_in_place.py).

    keys = concat(past[0], k)       past [2,b,h,n,d], k [b,h,m,d]
    values = concat(past[1], v)
    present = stack(keys, values)   present [2,b,h,n+m,d]

becomes

    present = concat(past, stack(k, v))
    keys = present[0]
    values = present[1]

if neither k nor v is computed from keys or values. Keys may be transposed in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.order_nodes import delayed
from bessemer.compiler.ir.rewrite import GraphRewriter

_Producers = Mapping[Value, Node]


@dataclass(frozen=True, eq=False)
class _Part:
    """A concat that appends to one part of a cache, whose axes have been permuted by `turned`
    before."""

    node: Node
    turned: tuple[int, ...]

    @property
    def axis(self) -> int:
        """The axis of the part that grows."""
        joint: int = self.node.attributes["axis"]
        return self.turned[joint]


@dataclass(frozen=True, eq=False)
class _Stack:
    """The parts of `past`, in order, and the node that stacks the results."""

    past: Value
    node: Node
    parts: tuple[_Part, ...]


def join_stacked_caches(graph: Graph) -> Graph:
    """The graph with one concat for each output that stacks the continued parts of an input."""
    producers = graph.producers()
    stacks: list[_Stack] = []
    order = graph
    for value in dict.fromkeys(graph.outputs):
        node = producers.get(value)
        found = None if node is None else _stack_at(node, graph, producers)
        taken = {part.node for stack in stacks for part in stack.parts}
        if found is None or any(part.node in taken for part in found.parts):
            continue
        joined = delayed(graph, _waits([*stacks, found], producers))
        if joined is not None:
            stacks.append(found)
            order = joined
    return _with_joints(order, stacks) if stacks else graph


def _stack_at(node: Node, graph: Graph, producers: _Producers) -> _Stack | None:
    if node.operator.name != "concat" or node.attributes["axis"] != 0:
        return None
    found = [_part_at(value, place, graph, producers) for place, value in enumerate(node.inputs)]
    pasts = {past for past, _ in filter(None, found)}
    parts = tuple(part for _, part in filter(None, found))
    if len(pasts) != 1 or len(parts) != len(node.inputs) or len({part.axis for part in parts}) != 1:
        return None
    (past,) = pasts
    is_whole = past.type.shape[0] == len(parts) and past.type.rank == node.output.type.rank
    return _Stack(past, node, parts) if is_whole else None


def _part_at(
    value: Value, place: int, graph: Graph, producers: _Producers
) -> tuple[Value, _Part] | None:
    """The input that an entry of a stack continues, if the entry continues that input's part number
    `place`; else None."""
    inner, back = _turned(_reshaped_in_front(value, producers), producers)
    node = producers.get(inner)
    if node is None or node.operator.name != "concat":
        return None
    whole, turned = _turned(node.inputs[0], producers)
    if turned is None:
        turned = tuple(range(inner.type.rank))
    if tuple(turned[axis] for axis in back or range(len(turned))) != tuple(range(len(turned))):
        return None
    cut = producers.get(_reshaped_in_front(whole, producers))
    if cut is None or cut.operator.name != "slice":
        return None
    past = cut.inputs[0]
    wanted = {"starts": (place, *(0,) * (past.type.rank - 1)), "shape": (1, *past.type.shape[1:])}
    is_part = past in graph.inputs and whole.type.shape == past.type.shape[1:]
    if not is_part or any(cut.attributes[name] != entry for name, entry in wanted.items()):
        return None
    return past, _Part(node, turned)


def _reshaped_in_front(value: Value, producers: _Producers) -> Value:
    """The value before a reshape that only adds or removes a leading axis of size 1; else the value
    itself."""
    node = producers.get(value)
    if node is None or node.operator.name != "reshape":
        return value
    (source,) = node.inputs
    one, other = source.type.shape, value.type.shape
    return source if (1, *one) == other or one == (1, *other) else value


def _turned(value: Value, producers: _Producers) -> tuple[Value, tuple[int, ...] | None]:
    node = producers.get(value)
    if node is None or node.operator.name != "transpose":
        return value, None
    return node.inputs[0], node.attributes["permutation"]


def _waits(stacks: Sequence[_Stack], producers: _Producers) -> dict[Node, list[Node]]:
    """For each concat, the nodes that compute what is appended in its whole stack; it must wait for
    these."""
    found: dict[Node, list[Node]] = {}
    for stack in stacks:
        new = [value for part in stack.parts for value in part.node.inputs[1:]]
        makers = [producers[value] for value in new if value in producers]
        found |= {part.node: makers for part in stack.parts}
    return found


def _with_joints(graph: Graph, stacks: Sequence[_Stack]) -> Graph:
    rewriter = GraphRewriter(graph)
    concats = {part.node: stack for stack in stacks for part in stack.parts}
    wholes: dict[_Stack, Value] = {}
    whole_of = {stack.node: stack for stack in stacks}
    for node in graph.nodes:
        if node in whole_of:
            rewriter.stand(node.output, wholes[whole_of[node]])
        elif node not in concats:
            rewriter.visit(node)
        elif concats[node] not in wholes:
            wholes[concats[node]] = _joined(rewriter, concats[node])
    return rewriter.finish()


def _joined(rewriter: GraphRewriter, stack: _Stack) -> Value:
    """The past with everything that is appended. Parts of it replace the concats."""
    axis = stack.parts[0].axis
    rewriter.sources = tuple(
        dict.fromkeys(source for part in stack.parts for source in part.node.sources)
    )
    new = [_new(rewriter, part) for part in stack.parts]
    update = rewriter.emit("concat", *new, axis=0)
    whole = rewriter.emit("concat", stack.past, update, axis=axis + 1)
    shape = whole.type.shape
    for place, part in enumerate(stack.parts):
        starts = (place, *(0,) * (len(shape) - 1))
        cut = rewriter.emit(
            "slice", whole, starts=starts, shape=(1, *shape[1:]), steps=(1,) * len(shape)
        )
        cut = rewriter.emit("reshape", cut, shape=shape[1:])
        if part.turned != tuple(range(len(part.turned))):
            cut = rewriter.emit("transpose", cut, permutation=part.turned)
        rewriter.stand(part.node.output, cut)
    return whole


def _new(rewriter: GraphRewriter, part: _Part) -> Value:
    """What is appended to a part, as an entry of the stack."""
    _, *new = (rewriter.now(value) for value in part.node.inputs)
    axis = part.node.attributes["axis"]
    update = new[0] if len(new) == 1 else rewriter.emit("concat", *new, axis=axis)
    back = tuple(part.turned.index(place) for place in range(len(part.turned)))
    if back != tuple(range(len(back))):
        update = rewriter.emit("transpose", update, permutation=back)
    return rewriter.emit("reshape", update, shape=(1, *update.type.shape))
