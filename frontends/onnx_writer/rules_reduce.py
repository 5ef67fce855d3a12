"""Reductions, running sums, and the order of elements: arg_max, top_k, unique, nonzero."""

from __future__ import annotations

from bessemer.compiler.ir.graph import Node
from bessemer.compiler.ir.types import boolean, i32
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import unsupported
from bessemer.frontends.onnx_writer.registry import rule
from bessemer.frontends.onnx_writer.storage import identity, without

KINDS = {
    "reduce_sum": "ReduceSum",
    "reduce_prod": "ReduceProd",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_any": "ReduceSum",
    "reduce_all": "ReduceMin",
}
"""Truths are reduced as i32; with a sum, nothing has no truth in it."""


@rule(*KINDS)
def write_reduction(emitter: Emitter, node: Node) -> None:
    (x,) = node.inputs
    axes: tuple[int, ...] = node.attributes["axes"]
    if not axes:
        emitter.put(node.output, emitter.stored(x))
        return
    (name,), order = emitter.frame([x])
    is_truth = x.type.dtype is boolean
    operand = emitter.cast(name, i32) if is_truth else name
    places = emitter.integers([order[axis] for axis in axes])
    result = emitter.one(KINDS[node.operator.name], operand, places, keepdims=0)
    if is_truth:
        result = emitter.cast(result, boolean)
    emitter.store(node.output, result, without(order, axes))


@rule("arg_max", "arg_min")
def write_arg_extreme(emitter: Emitter, node: Node) -> None:
    (x,) = node.inputs
    (name,), order = emitter.frame([x])
    axis: int = node.attributes["axis"]
    kind = "ArgMax" if node.operator.name == "arg_max" else "ArgMin"
    last = 1 if node.attributes.get("last") else None
    result = emitter.one(kind, name, axis=order[axis], keepdims=0, select_last_index=last)
    emitter.store(node.output, result, without(order, (axis,)))


@rule("cumulative")
def write_cumulative(emitter: Emitter, node: Node) -> None:
    if node.attributes.get("reduction", "add") != "add":
        raise unsupported(node, "ONNX has running sums only, no running products.")
    (name,), order = emitter.frame(node.inputs)
    axis = emitter.reshaped(emitter.integers([order[node.attributes["axis"]]]), ())
    result = emitter.one(
        "CumSum",
        name,
        axis,
        exclusive=int(node.attributes.get("exclusive", False)),
        reverse=int(node.attributes.get("reverse", False)),
    )
    emitter.store(node.output, result, order)


@rule("top_k")
def write_top_k(emitter: Emitter, node: Node) -> None:
    (name,), order = emitter.frame(node.inputs)
    results = emitter.emit(
        "TopK",
        [name, emitter.size(node.attributes["k"])],
        2,
        axis=order[node.attributes["axis"]],
        largest=int(node.attributes.get("largest", True)),
        sorted=1,
    )
    for value, result in zip(node.outputs, results):
        emitter.store(value, result, order)


@rule("unique")
def write_unique(emitter: Emitter, node: Node) -> None:
    (x,) = node.inputs
    ordered = int(node.attributes.get("ordered", True))
    axis = 0 if x.type.rank > 1 else None
    results = emitter.emit("Unique", [emitter.name_of(x)], 4, axis=axis, sorted=ordered)
    for value, result in zip(node.outputs, results):
        emitter.store(value, result)


@rule("nonzero")
def write_nonzero(emitter: Emitter, node: Node) -> None:
    result = emitter.one("NonZero", emitter.name_of(node.inputs[0]))
    emitter.store(node.output, result, identity(2))
