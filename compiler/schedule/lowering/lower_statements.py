"""Lowers an operator that writes its own loops, and sets the width of its vector loops for the
target."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import expr, loops, walk_loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.program import Launch, working_memory
from bessemer.compiler.ir.types import DType
from bessemer.compiler.ir.walk_expr import loads_of
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering


def lower_statements(
    node: Node, lowering: Lowering, operations: Size = 1 << 16, over: bool = False
) -> Launch:
    """The launch of an operator that writes its own kernel, by its rule `statements`, or by `over`
    if given."""
    rule = node.operator.over if over else node.operator.statements
    if rule is None:
        raise InternalError(f"{node.operator} has no statements rule")
    given = node.inputs[1:] if over else node.inputs
    inputs: dict[Value, Buffer] = {}
    for value in given:
        name = f"in{len(inputs)}"
        inputs.setdefault(value, Buffer(name, value.type.dtype, value.type.shape))
    outputs = {
        value: Buffer(f"out{position}", value.type.dtype, value.type.shape)
        for position, value in enumerate(node.outputs)
    }
    builder = KernelBuilder()
    rule(builder, [inputs[v] for v in given], list(outputs.values()), **node.attributes)
    scratch = working_memory(builder.scratch_buffers)
    body = resolve_lanes(builder.block(), lowering)
    return lowering.launch([node], inputs, outputs, Computation(body, operations, scratch=scratch))


def resolve_lanes(block: Block, lowering: Lowering) -> Block:
    """Gives vector loops that leave their width to the target the width that fits their memory
    accesses."""
    return tuple(_resolved(statement, lowering) for statement in block)


def _resolved(statement: loops.Statement, lowering: Lowering) -> loops.Statement:
    statement = walk_loops.with_blocks(statement, partial(resolve_lanes, lowering=lowering))
    match statement:
        case loops.For(kind="vector", lanes=0):
            lanes = min(
                (lowering.target.lanes(t) for t in _memory_types(statement.body)), default=1
            )
            if lanes > 1 and lowering.vectorize:
                return replace(statement, lanes=lanes)
            return replace(statement, kind="serial", lanes=1)
        case _:
            return statement


def _memory_types(block: Block) -> set[DType]:
    types: set[DType] = set()
    for statement in walk_loops.walk(block):
        if isinstance(statement, loops.Store):
            types.add(_computed_type(statement))
        for expression in walk_loops.expressions(statement):
            types |= {n.buffer.dtype for n in loads_of(expression)}
    return types


def _computed_type(store: loops.Store) -> DType:
    """The type that is stored, or half of it, if the value is only widened for that: two vectors
    are then stored for each one that is computed."""
    value = store.value
    if isinstance(value, expr.Cast) and value.dtype.bits == 2 * value.operand.dtype.bits:
        return value.operand.dtype
    return store.buffer.dtype
