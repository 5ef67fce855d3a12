"""Products: matmul, convolutions, and the pools, which have the convolutions' windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Node, Value
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import integers_of, unsupported
from bessemer.frontends.onnx_writer.registry import rule
from bessemer.frontends.onnx_writer.storage import to_channels_first, to_channels_last


@rule("matmul")
def write_matmul(emitter: Emitter, node: Node) -> None:
    names = [emitter.name_of(value) for value in node.inputs]
    dtype = node.output.type.dtype
    if dtype != node.inputs[0].type.dtype:
        # Sums of another type: exact in i32, and of halves in f32.
        if node.inputs[0].type.dtype.is_integer:
            emitter.store(node.output, emitter.one("MatMulInteger", *names))
            return
        names = [emitter.cast(name, dtype) for name in names]
    emitter.store(node.output, emitter.one("MatMul", *names))


def _require_float(node: Node) -> None:
    dtype = node.inputs[0].type.dtype
    if not dtype.is_float:
        raise unsupported(node, f"ONNX has it for floats, not for {dtype}.")


def _padded(
    emitter: Emitter, node: Node, kernel: Sequence[Size], fill: float, *, is_free: bool = True
) -> tuple[str, list[int]]:
    """The input with its channels first, and the pads that the operator itself can make.

    ONNX's windows want pads that are numbers, not negative, and smaller than the kernel: others are
    made before, which `is_free` allows: pads are nothing else than elements with the value `fill`.
    """
    (x, *_) = node.inputs
    name = emitter.ordered(x, to_channels_first(x.type.rank))
    low, high = node.attributes["low"], node.attributes["high"]
    pads = [*low, *high]
    limits = [*kernel, *kernel]
    if all(isinstance(p, int) and p >= 0 for p in pads) and all(
        isinstance(k, int) and p < k for p, k in zip(pads, limits)
    ):
        return name, pads
    if not is_free:
        raise unsupported(node, f"ONNX has no such pads: {low} and {high}.")
    everywhere = emitter.sizes([0, 0, *low, 0, 0, *high])
    padded = emitter.one("Pad", name, everywhere, emitter.number(fill, x.type.dtype))
    return padded, [0] * len(pads)


def _bias(emitter: Emitter, node: Node) -> tuple[list[str], Value]:
    """The bias that is added next, if that is all that happens; and the value of the whole."""
    result = node.output
    readers = emitter.users.get(result, [])
    if len(readers) != 1 or readers[0].operator.name != "add" or result in emitter.graph.outputs:
        return [], result
    (reader,) = readers
    other = next(value for value in reader.inputs if value is not result)
    spread = emitter.producers.get(other)
    if spread is None or spread.operator.name != "broadcast_to":
        return [], result
    vector = spread.inputs[0]
    if vector not in emitter.graph.constants or vector.type.shape != result.type.shape[-1:]:
        return [], result
    emitter.done.add(reader)
    return [emitter.name_of(vector)], reader.output


@rule("conv")
def write_conv(emitter: Emitter, node: Node) -> None:
    x, weight = node.inputs
    _require_float(node)
    rank = x.type.rank
    if rank == 2:
        _write_product(emitter, node, emitter.name_of(weight))
        return
    kernel = weight.type.shape[:-2]
    name, pads = _padded(emitter, node, kernel, 0.0)
    # [*kernel, C / groups, O] to [O, C / groups, *kernel].
    first = emitter.ordered(weight, (rank - 1, rank - 2, *range(rank - 2)))
    bias, result = _bias(emitter, node)
    made = emitter.one(
        "Conv",
        name,
        first,
        *bias,
        strides=list(node.attributes["strides"]),
        dilations=list(node.attributes["dilations"]),
        pads=pads,
        group=node.attributes["groups"],
    )
    emitter.store(result, made, to_channels_last(rank))


def _write_product(emitter: Emitter, node: Node, weight: str) -> None:
    """A convolution without space."""
    if node.attributes["groups"] != 1:
        raise unsupported(node, "ONNX has no groups without spatial axes.")
    emitter.store(node.output, emitter.one("MatMul", emitter.name_of(node.inputs[0]), weight))


@rule("conv_transpose")
def write_conv_transpose(emitter: Emitter, node: Node) -> None:
    x, weight = node.inputs
    _require_float(node)
    rank = x.type.rank
    if rank == 2:
        _write_product(emitter, node, emitter.ordered(weight, (1, 0)))
        return
    pads = [*integers_of(node, "low"), *integers_of(node, "high")]
    if min(pads) < 0:
        raise unsupported(node, f"ONNX has no negative pads: {pads}.")
    # [*kernel, O / groups, C] to [C, O / groups, *kernel].
    first = emitter.ordered(weight, (rank - 1, rank - 2, *range(rank - 2)))
    bias, result = _bias(emitter, node)
    made = emitter.one(
        "ConvTranspose",
        emitter.ordered(x, to_channels_first(rank)),
        first,
        *bias,
        strides=list(node.attributes["strides"]),
        dilations=list(node.attributes["dilations"]),
        output_padding=integers_of(node, "output_padding"),
        pads=pads,
        group=node.attributes["groups"],
    )
    emitter.store(result, made, to_channels_last(rank))


def _pool(emitter: Emitter, node: Node, kind: str, name: str, **attributes: Any) -> None:
    result = emitter.one(
        kind,
        name,
        kernel_shape=integers_of(node, "kernel"),
        strides=list(node.attributes["strides"]),
        dilations=list(node.attributes["dilations"]),
        **attributes,
    )
    emitter.store(node.output, result, to_channels_last(node.output.type.rank))


@rule("max_pool")
def write_max_pool(emitter: Emitter, node: Node) -> None:
    (x,) = node.inputs
    if x.type.rank == 2:
        emitter.put(node.output, emitter.stored(x))
        return
    dtype = x.type.dtype
    lowest = -math.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)
    name, pads = _padded(emitter, node, node.attributes["kernel"], lowest)
    _pool(emitter, node, "MaxPool", name, pads=pads)


@rule("average_pool")
def write_average_pool(emitter: Emitter, node: Node) -> None:
    (x,) = node.inputs
    if x.type.rank == 2:
        emitter.put(node.output, emitter.stored(x))
        return
    counted: bool = node.attributes["count_include_pad"]
    uncounted = node.attributes.get("uncounted", ())
    if counted and any(uncounted):
        name, pads = _padded_in_part(emitter, node, uncounted)
        _pool(emitter, node, "AveragePool", name, pads=pads)
        return
    name, pads = _padded(emitter, node, node.attributes["kernel"], 0.0, is_free=counted)
    _pool(emitter, node, "AveragePool", name, pads=pads, count_include_pad=int(counted))


def _padded_in_part(
    emitter: Emitter, node: Node, uncounted: Sequence[Size]
) -> tuple[str, list[int]]:
    """With the pads that count as elements, and then the pads that do not count."""
    (x,) = node.inputs
    low, high = node.attributes["low"], node.attributes["high"]
    kept = [size - beyond for size, beyond in zip(high, uncounted)]
    name = emitter.ordered(x, to_channels_first(x.type.rank))
    everywhere = emitter.sizes([0, 0, *low, 0, 0, *kept])
    padded = emitter.one("Pad", name, everywhere, emitter.number(0, x.type.dtype))
    return padded, [*[0] * len(low), *integers_of(node, "uncounted")]
