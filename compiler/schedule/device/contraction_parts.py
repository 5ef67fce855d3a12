"""Splits float32 operands into three bf16 numbers each, for products whose operands TMA copies:

    parts[0, i] + parts[1, i] + parts[2, i] = x[i]

Weights are split at compile time. Everything else is split by a kernel, once for all contractions
that read it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bessemer.compiler.ir import dims, expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.device import DeviceLaunch, ThreadMapping
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.operands import Operand
from bessemer.compiler.ir.types import Array, TensorType, bf16
from bessemer.compiler.schedule.device.lowering import DeviceLowering
from bessemer.compiler.schedule.device.mapping import THREADS
from bessemer.compiler.schedule.lowering.lowering import Computation
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_packing import split_array, split_parts
from bessemer.compiler.schedule.nests.nests import flat

PARTS = 3
_AT_ONCE = 1 << 18
_LARGE = 1e38
_WIDTH = 4
"""Numbers that a thread splits at once."""


def in_parts(operand: Operand) -> Operand | None:
    """The operand with the parts' buffer in place of the float32 buffer; None if the number of
    elements would leave the second and third part unaligned."""
    count = dims.product(operand.buffer.shape)
    if not _is_multiple(count, 2 * _WIDTH):
        return None
    buffer = Buffer(operand.buffer.name, bf16, (count * PARTS,))
    return replace(operand, buffer=buffer, parts=count)


def split_constant(array: Array) -> Array:
    """The parts of an array, flat: all first parts, then all second ones, then all third ones, as
    bf16."""
    flat_array = np.ascontiguousarray(array, np.float32).reshape(-1)
    found = np.empty((PARTS, flat_array.size), np.uint16)
    for start in range(0, flat_array.size, _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        found[:, here] = _split_some(flat_array[here])
    return found.reshape(-1).view(bf16.numpy)


def _split_some(x: Array) -> Array:
    """The bits of the parts, [3, n]. Rounding the bits by hand takes a third of the time that
    conversions take."""
    if not bool((np.abs(x) < _LARGE).all()):
        return split_array(x).view(np.uint16)
    parts = np.empty((PARTS, x.size), np.uint16)
    rest = x
    for part in parts:
        bits = rest.view(np.uint32)
        rounded = bits + (0x7FFF + (bits >> 16 & 1))
        part[:] = rounded >> 16
        rest = rest - (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return parts


def split_value(
    node: Node, value: Value, lowering: DeviceLowering, before: list[DeviceLaunch]
) -> Value:
    """The parts of a value that is computed when the model runs. If no launch splits it yet, one is
    added to `before`."""
    found = lowering.prepared.parts.get((value, PARTS))
    if found is not None:
        return found
    count = value.type.numel
    made = Value(TensorType(bf16, (PARTS, count)), value.name)
    source, out = (
        flat(Buffer("in0", value.type.dtype, value.type.shape)),
        Buffer("out0", bf16, (count * PARTS,)),
    )
    builder = KernelBuilder()
    with builder.loop(dims.ceildiv(count, _WIDTH), "parallel") as index:
        start = index * _WIDTH
        length: Size = _WIDTH
        if not _is_multiple(count, _WIDTH):
            length = dims.minimum(count - start, _WIDTH)
        with builder.loop(length, "vector", _WIDTH) as lane:
            x = builder.define(expr.load(source, (start + lane,)), "x").value
            for part, number in enumerate(split_parts(x)):
                builder.store(out, (count * part + start + lane,), number)
    body = builder.block()
    lowering.map_block(body, ThreadMapping(THREADS, 1))
    launch = lowering.launch(
        [node], {value: source}, {made: out}, Computation(body, 8 * _WIDTH, name="split")
    )
    before.append(launch)
    lowering.prepared.parts[value, PARTS] = made
    return made


def _is_multiple(count: Size, of: int) -> bool:
    if isinstance(count, int):
        return count % of == 0
    return dims.divide_exactly(count, of) is not None
