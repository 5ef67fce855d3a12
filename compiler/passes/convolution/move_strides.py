"""Moves strides back to the nodes that compute a value, so that elements that nothing reads are not
computed.

    conv 3x3 -> relu -> conv 1x1 -> add -> conv 1x1, strides (2, 2)
    becomes
    conv 3x3, strides (2, 2) -> relu -> conv 1x1 -> add -> conv 1x1

A convolution or pool whose window is one pixel reads, for example, every second pixel; so may a
slice. If all readers of a value do, a convolution or pool with that stride computes only these
pixels. Pointwise operators and views in between pass the steps on. Their other operands are sliced,
such as the shortcut around a stage's last block, of which other convolutions read every pixel.

The steps of a value are one number per axis: a reader that takes places 0, s, 2 * s ... needs steps
of s. A value is needed in steps of the greatest common divisor of its readers' steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any, TypeAlias

from bessemer.compiler.ir.dims import Size, floordiv
from bessemer.compiler.ir.graph import Graph, Node, Value
from bessemer.compiler.ir.rewrite import GraphRewriter
from bessemer.compiler.ops.window import Window, window_of
from bessemer.compiler.passes.pointwise import is_pointwise
from bessemer.compiler.passes.simplification.remove_dead import remove_dead

Steps: TypeAlias = tuple[int, ...]

_WINDOWS = ("conv", "max_pool", "average_pool")


def move_strides(graph: Graph) -> Graph:
    """The graph without elements that nothing reads; the same object if there are none."""
    live = remove_dead(graph)
    needed = _needed(live)
    if not any(_gains(node, needed[node.output]) for node in live.nodes if _is_window(node)):
        return graph
    return _Application(live, needed).run()


def _is_window(node: Node) -> bool:
    return node.operator.name in _WINDOWS


def _window(node: Node) -> Window:
    a = node.attributes
    kernel = node.inputs[1].type.shape[:-2] if node.operator.name == "conv" else a["kernel"]
    return window_of(kernel, a["strides"], a["dilations"], a["low"], a["high"])


def _ones(value: Value) -> Steps:
    return (1,) * value.type.rank


def _in_steps(size: Size, step: int) -> Size:
    """The number of places 0, step, 2 * step, ... below `size`."""
    return size if step == 1 else floordiv(size + step - 1, step)


def _gains(node: Node, needed: Steps) -> bool:
    return any(step > 1 for step in _steps_of_window(node, needed))


def _steps_of_window(node: Node, needed: Steps) -> Steps:
    """The steps in which a convolution or pool is computed. With symbolic sizes, these are only the
    steps for which the output surely has the shape of a slice."""
    steps = list(_ones(node.output))
    window = _window(node)
    for axis, (size, step) in enumerate(zip(node.inputs[0].type.shape[1:-1], needed[1:-1])):
        room = size + window.low[axis] + window.high[axis] - window.reach(axis) - 1
        wide = floordiv(room, window.strides[axis] * step) + 1
        if wide == _in_steps(node.output.type.shape[axis + 1], step):
            steps[axis + 1] = step
    return tuple(steps)


# What is needed


def _needed(graph: Graph) -> dict[Value, Steps]:
    """The steps in which each value is read; 1 for values that nothing reads."""
    needed = {value: (0,) * value.type.rank for node in graph.nodes for value in node.outputs}

    def read(value: Value, steps: Sequence[int]) -> None:
        if value in needed:
            needed[value] = tuple(map(gcd, needed[value], steps))

    for value in graph.outputs:
        read(value, _ones(value))
    for node in reversed(graph.nodes):
        for position, value in enumerate(node.inputs):
            read(value, _read(node, position, needed))
    return {value: tuple(step or 1 for step in steps) for value, steps in needed.items()}


def _read(node: Node, position: int, needed: Mapping[Value, Steps]) -> Steps:
    """The steps in which a node reads an operand."""
    operand = node.inputs[position]
    if len(node.outputs) != 1:
        return _ones(operand)
    steps = tuple(step or 1 for step in needed[node.output])
    if _is_window(node):
        return _read_by_window(node, steps) if position == 0 else _ones(operand)
    match node.operator.name:
        case "slice":
            a = node.attributes
            return tuple(
                gcd(start, step * further) if isinstance(start, int) else 1
                for start, step, further in zip(a["starts"], a["steps"], steps)
            )
        case _ if _passes_on(node):
            return _before(node, steps)
        case _:
            return _ones(operand)


def _passes_on(node: Node) -> bool:
    """Whether all operands are read in the steps of the output."""
    return node.operator.name in ("concat", "transpose") or is_pointwise(node.operator)


def _before(node: Node, steps: Steps) -> Steps:
    """The steps of the operands of a node that passes them on."""
    match node.operator.name:
        case "concat":
            return tuple(1 if a == node.attributes["axis"] else s for a, s in enumerate(steps))
        case "transpose":
            order = node.attributes["permutation"]
            return tuple(steps[order.index(axis)] for axis in range(len(order)))
        case _:
            return steps


def _read_by_window(node: Node, needed: Steps) -> Steps:
    window, steps = _window(node), list(_ones(node.inputs[0]))
    own = _steps_of_window(node, needed)
    for axis, stride in enumerate(window.strides):
        is_pixel = window.kernel[axis] == 1 and window.low[axis] == window.high[axis] == 0
        step, size = stride * own[axis + 1], node.inputs[0].type.shape[axis + 1]
        if is_pixel and _in_steps(node.output.type.shape[axis + 1], own[axis + 1]) == _in_steps(
            size, step
        ):
            steps[axis + 1] = step
    return tuple(steps)


# The new graph


class _Application:
    def __init__(self, graph: Graph, needed: Mapping[Value, Steps]) -> None:
        self.graph = graph
        self.needed = needed
        self.producers = graph.producers()
        self.rewriter = GraphRewriter(graph)
        self.stored: dict[Value, tuple[Value, Steps]] = {}  # the new value, and its steps

    def run(self) -> Graph:
        for node in self.graph.nodes:
            steps = self._steps(node)
            taken = [self._taken(node, at, steps) for at in range(len(node.inputs))]
            if not any(step > 1 for entry in (steps, *taken) for step in entry):
                self.rewriter.visit(node)
                continue
            self.rewriter.sources = node.sources
            inputs = [self._obtain(v, entry) for v, entry in zip(node.inputs, taken)]
            attributes = self._attributes(node, steps, taken[0])
            (new,) = self.rewriter.emit_many(node.operator.name, inputs, attributes)
            if steps == _ones(node.output):
                self.rewriter.stand(node.output, new)
            else:
                self.stored[node.output] = (new, steps)
        return self.rewriter.finish()

    def _steps(self, node: Node) -> Steps:
        """The steps in which the output is computed."""
        if len(node.outputs) != 1:
            return ()
        needed = self.needed[node.output]
        if _is_window(node):
            return _steps_of_window(node, needed)
        if node.operator.name != "slice" and not _passes_on(node):
            return _ones(node.output)
        # If no operand gets smaller, slicing what a kernel writes gains nothing.
        given = [self.stored[v][1] for v in node.inputs if v in self.stored]
        order = node.attributes.get("permutation", range(len(needed)))
        smaller = [any(steps[axis] > 1 for steps in given) for axis in order]
        return tuple(step if found else 1 for step, found in zip(needed, smaller))

    def _taken(self, node: Node, position: int, steps: Steps) -> Steps:
        """The steps in which the new node reads an operand."""
        operand = node.inputs[position]
        if _is_window(node) or node.operator.name == "slice":
            return self.stored[operand][1] if operand in self.stored else _ones(operand)
        return _before(node, steps) if _passes_on(node) else _ones(operand)

    def _attributes(self, node: Node, steps: Steps, taken: Steps) -> Mapping[str, Any]:
        attributes = node.attributes
        if _is_window(node):
            entries = zip(attributes["strides"], steps[1:-1], taken[1:-1])
            return {**attributes, "strides": tuple(s * out // own for s, out, own in entries)}
        if node.operator.name != "slice":
            return attributes
        return {
            "starts": tuple(
                start // own if own > 1 else start
                for start, own in zip(attributes["starts"], taken)
            ),
            "shape": tuple(map(_in_steps, node.output.type.shape, steps)),
            "steps": tuple(
                s * out // own for s, out, own in zip(attributes["steps"], steps, taken)
            ),
        }

    def _obtain(self, value: Value, steps: Steps) -> Value:
        """The elements of a value of the old graph at these steps, as a value of the new graph."""
        new, own = self.stored.get(value, (self.rewriter.now(value), _ones(value)))
        if steps == own:
            return new
        shape = tuple(map(_in_steps, value.type.shape, steps))
        producer = self.producers.get(value)
        if producer is not None and producer.operator.name == "full":
            return self.rewriter.emit("full", **{**producer.attributes, "shape": shape})
        if producer is not None and producer.operator.name == "broadcast_to":
            (x,) = producer.inputs
            inner = steps[len(steps) - x.type.rank :]
            part = self._obtain(x, tuple(1 if n == 1 else s for n, s in zip(x.type.shape, inner)))
            return self.rewriter.emit("broadcast_to", part, shape=shape)
        further = tuple(step // have for step, have in zip(steps, own))
        return self.rewriter.emit(
            "slice", new, starts=(0,) * len(shape), shape=shape, steps=further
        )
