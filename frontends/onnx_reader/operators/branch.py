"""If: settled while reading where that is possible, else two regions of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.types import i64
from bessemer.frontends.onnx_reader.context import NodeContext, Region
from bessemer.frontends.onnx_reader.equal_sizes import MustChooseError
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.registry import rule


@rule("If")
def read_if(context: NodeContext) -> Sequence[Item]:
    branches = [context.graph("then_branch"), context.graph("else_branch")]
    known = context.array(0)
    if known is not None:
        if known.size != 1:
            context.wrong(f"the condition is {context.input(0).type}, one truth is wanted")
        return context.subgraphs.read_inline(branches[0 if known.reshape(-1)[0] else 1], [])
    chosen = context.subgraphs.choice(context.label)
    if chosen is not None:
        _require_truth(context, chosen)
        return context.subgraphs.read_inline(branches[0 if chosen else 1], [])
    regions = [context.subgraphs.new_region(name) for name in ("then", "else")]
    results = [context.values(region.read(branch, [])) for region, branch in zip(regions, branches)]
    outputs = _of_one_type(context, regions, results)
    captured = list(dict.fromkeys(value for region in regions for value in region.captured))
    graphs = tuple(_finished(region, found, captured) for region, found in zip(regions, outputs))
    condition = context.reshape(context.input(0), ())
    return context.builder.apply_many("if", condition, *captured, regions=graphs)


def _require_truth(context: NodeContext, wanted: bool) -> None:
    """Makes the compiled code fail where the condition is not what was taken for granted."""
    b = context.builder
    truth = context.cast(context.reshape(context.input(0), (1,)), i64)
    difference = context.apply("sub", truth, context.like(truth, int(wanted)))
    both = context.apply("concat", difference, context.apply("neg", difference), axis=0)
    b.apply_many("bind", both, symbols=(b.fresh_symbol("check"), b.fresh_symbol("check")))


def _finished(region: Region, outputs: Sequence[Value], captured: Sequence[Value]) -> Graph:
    """The region with all captured values as inputs, those of the other branch too."""
    inputs = [region.captured.get(value) or Value(value.type, value.name) for value in captured]
    return replace(region.builder.finish(outputs), inputs=tuple(inputs))


def _of_one_type(
    context: NodeContext, regions: Sequence[Region], results: Sequence[list[Value]]
) -> list[list[Value]]:
    """Outputs of both branches in one type each: a size that differs becomes a symbol that
    both branches bind."""
    if len(results[0]) != len(results[1]):
        context.wrong("the branches give different numbers of outputs")
    changed: list[list[Value]] = [[], []]
    for one, other in zip(*results):
        if one.type.rank != other.type.rank:
            raise MustChooseError(context.label, first=True)
        if one.type.dtype != other.type.dtype:
            context.unsupported(f"branches that give {one.type} and {other.type}")
        names: list[str] = []
        shape: list[Size] = []
        for a, b in zip(one.type.shape, other.type.shape):
            names.append("" if a == b else context.builder.fresh_symbol("if_"))
            shape.append(a if a == b else symbol(names[-1]))
        for place, (region, value) in enumerate(zip(regions, (one, other))):
            changed[place].append(_under_symbols(region, value, names, tuple(shape)))
    return changed


def _under_symbols(
    region: Region, value: Value, names: Sequence[str], shape: tuple[Size, ...]
) -> Value:
    if value.type.shape == shape:
        return value
    bound = [(name, size) for name, size in zip(names, value.type.shape) if name]
    sizes = region.builder.sizes([size for _, size in bound])
    region.builder.apply_many("bind", sizes, symbols=tuple(name for name, _ in bound))
    return region.builder.apply("reshape", value, shape=shape)
