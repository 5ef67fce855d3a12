"""Reverse-mode differentiation: a graph that also computes the gradients of a loss.

Nodes are visited from the loss to the inputs. Each has by then the cotangents of its outputs, the
derivatives of the loss with respect to them; its operator's rule (see ir/differential.py) turns
them into cotangents of its inputs, which add up where a value is read several times. What the rules
write is ordinary nodes: every other pass serves them too, and they can be differentiated again.
(Griewank & Walther, Evaluating Derivatives, 2008, chapter 3.)
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.passes.differentiation.differentiate_regions import (
    branch_cotangents,
    loop_cotangents,
)
from bessemer.compiler.passes.differentiation.differentiate_shifts import idle_maxima
from bessemer.compiler.passes.differentiation.differentiate_spreads import centered_squares


def gradients(b: GraphBuilder, loss: Value, values: Sequence[Value]) -> list[Value]:
    """Writes the derivatives of a scalar with respect to values of the same builder's graph.

    A value that the loss does not depend on has a gradient of zeros. Raises CompileError if the
    loss is not a float scalar, UnsupportedError with every operator on the way without a gradient.
    """
    if not loss.type.dtype.is_float or loss.type.numel != 1:
        raise CompileError(f"A loss is one float, but this is {loss.type}. Take its sum or mean.")
    one = b.apply("full", shape=loss.type.shape, value=1.0, dtype=loss.type.dtype)
    found = _backward(b, b.nodes[:-1], {loss: one}, values)
    return [
        found.get(value) or b.apply("full", shape=value.type.shape, value=0, dtype=value.type.dtype)
        for value in values
    ]


def _backward(
    b: GraphBuilder, nodes: Sequence[Node], seeds: dict[Value, Value], values: Sequence[Value]
) -> dict[Value, Value]:
    """The cotangents of all values between `values` and the seeds' keys."""
    concerned = _dependent(nodes, values, idle_maxima(nodes, seeds))
    centered = centered_squares(b, nodes, seeds)
    cotangents = dict(seeds)
    missing: list[str] = []
    for node in reversed(nodes):
        given = tuple(cotangents.get(output) for output in node.outputs)
        if not any(given) or not any(_carries(value, concerned) for value in node.inputs):
            continue
        with b.source(*node.sources):
            try:
                parts = _parts(b, node, given, concerned)
            except UnsupportedError as error:
                missing += error.items or [f"{', '.join(node.sources) or 'a node'}: {error}"]
                continue
            for given_value, part in zip(node.inputs, parts, strict=True):
                value = centered.get(node, given_value)
                if part is not None and _carries(value, concerned):
                    before = cotangents.get(value)
                    cotangents[value] = b.apply("add", before, part) if before else part
    if missing:
        listing = "\n  ".join(missing)
        raise UnsupportedError(f"No gradient is known for these operators:\n  {listing}", missing)
    return cotangents


def _parts(
    b: GraphBuilder, node: Node, given: tuple[Value | None, ...], concerned: Container[Value]
) -> Cotangents:
    """The cotangents of a node's inputs. Raises UnsupportedError if the operator has no
    gradient."""
    if node.regions:
        wanted = {value for value in node.inputs if _carries(value, concerned)}
        through = branch_cotangents if node.operator.name == "if" else loop_cotangents
        return through(b, node, given, wanted, _backward)
    if node.operator.gradient is None:
        name = f"{', '.join(node.sources) or 'a node'}: {node.operator}"
        raise UnsupportedError(name, [name])
    differential = Differential(b, node.inputs, node.outputs, given, node.attributes, _backward)
    parts: Cotangents = node.operator.gradient(differential)
    return parts


def _carries(value: Value, concerned: Container[Value]) -> bool:
    return value in concerned and value.type.dtype.is_float


def _dependent(
    nodes: Sequence[Node], values: Sequence[Value], idle: Container[Value]
) -> set[Value]:
    """These values and everything that is computed from them, except what is `idle`."""
    found = set(values)
    for node in nodes:
        if any(value in found for value in node.inputs):
            found.update(output for output in node.outputs if output not in idle)
    return found
