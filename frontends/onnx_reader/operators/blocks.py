"""Constants of few bits whose scales lie in blocks: products with them, and rows of them."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.dims import product
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, dtype_of, f32, f64, i8, u8
from bessemer.compiler.ops.composite.composite_quantize import dequantize_linear
from bessemer.compiler.ops.contractions.nibbles import pack_blocks, pack_units
from bessemer.compiler.ops.narrow_types import SIGNED, WIDTHS
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import with_size
from bessemer.frontends.onnx_reader.model_state import Dequantized
from bessemer.frontends.onnx_reader.operators.dequantized_weights import dequantized
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "com.microsoft"
_MOST_ROWS_OF_BYTES = 24
"""Up to so many rows, weights of bytes with a scale for each column are decoded in the product."""
_EIGHT_BITS = 4
"""The accuracy_level of activations of 8 bits."""


@rule("MatMulNBits", domain=_DOMAIN)
def read_matmul_n_bits(context: NodeContext) -> Value:
    """Activations may be rounded to 8 bits only where accuracy_level is 4, which says so."""
    x, bits = context.input(0), context.integer("bits", 4)
    depth, columns, block = (context.integer(name) for name in ("K", "N", "block_size"))
    if bits not in (2, 4, 8):
        context.unsupported(f"weights of {bits} bits")
    blocks = -(-depth // block)
    packed = context.constant_array(1, "weights").astype(np.uint8, copy=False)
    if packed.size * 8 != columns * blocks * block * bits:
        context.wrong(f"{packed.size} bytes of weights for {columns} columns of {blocks} blocks")
    units = spread_units(packed.reshape(columns, -1), bits)[:, :depth]
    scales = context.constant_array(2, "scales").reshape(columns, blocks)
    shifts = _shifts(context, columns, blocks, bits)
    order = _order(context, depth, block)
    if order is not None:
        units = units[:, order]
        x = context.apply("gather", x, context.builder.constant(order), axis=x.type.rank - 1)
    rounds = context.integer("accuracy_level", 0) == _EIGHT_BITS
    result = product_of_units(context, x, units, scales, shifts, block, bits, rounds)
    bias = context.optional(5)
    if bias is not None:
        result = context.elementwise("add", result, context.cast(bias, f32))
    return context.cast(result, x.type.dtype)


def narrow_product(context: NodeContext, left: Value, right: Value) -> Value | None:
    """The product if the right side is a constant of few bits that a node makes floats of, as it
    is or transposed; None otherwise."""
    made, is_transposed = dequantized(context, right), False
    node = context.builder.producer(right)
    if made is None and node is not None and node.operator.name == "transpose":
        made, is_transposed = dequantized(context, node.inputs[0]), right.type.rank == 2
    if made is None or left.type.rank == 0 or left.type.dtype != right.type.dtype:
        return None
    if not made.block and dtype_of(made.integers) in (i8, u8):
        rows = product(left.type.shape[:-1])
        # A product of bytes by bytes is one of integers (passes/quantization/
        # multiply_quantized.py); for many rows the weights are better off packed as floats.
        if _is_of_bytes(context, left) or (isinstance(rows, int) and rows > _MOST_ROWS_OF_BYTES):
            return None
    integers = made.integers if is_transposed else made.integers.T
    depth, axis = integers.shape[1], 1 if (made.axis == 1) == is_transposed else 0
    if left.type.shape[-1] != depth or left.type.dtype is f64 or depth == 0:
        return None
    parts = [
        _by_column(one, made, is_transposed, axis, integers.shape)
        for one in (made.scale, made.zero)
    ]
    scales, zeros = parts
    if scales is None or (zeros is None and made.zero is not None):
        return None
    dtype = dtype_of(integers)
    bits = WIDTHS.get(dtype, 8)
    lowest = -(1 << (bits - 1)) if dtype is i8 or dtype in SIGNED else 0
    units = (integers.astype(np.int16) - lowest).astype(np.uint8)
    moved = np.zeros((1, 1), np.float32) if zeros is None else zeros.astype(np.float32)
    shifts = ((1 << (bits - 1)) + lowest - moved).astype(np.int8 if bits < 8 else np.float32)
    block = made.block if made.block and axis == 1 else depth
    result = product_of_units(context, left, units, scales, shifts, block, bits)
    return context.cast(result, left.type.dtype)


def _is_of_bytes(context: NodeContext, x: Value) -> bool:
    """Whether activations are what a node makes of bytes, too."""
    b = context.builder
    node = b.producer(x)
    while node is not None and node.operator.name in ("reshape", "transpose", "slice"):
        node = b.producer(node.inputs[0])
    while node is not None and node.operator.name in ("mul", "sub"):
        node = b.producer(node.inputs[0])
    return (
        node is not None and node.operator.name == "cast" and node.inputs[0].type.dtype in (i8, u8)
    )


def _by_column(
    parameter: Array | None,
    made: Dequantized,
    is_transposed: bool,
    axis: int,
    shape: tuple[int, ...],
) -> Array | None:
    """A scale or zero point as [columns, blocks]; None where it differs from row to row."""
    if parameter is None:
        return None
    if parameter.size == 1:
        blocks = -(-shape[1] // made.block) if made.block and axis == 1 else 1
        return np.broadcast_to(parameter.reshape(1, 1), (shape[0], blocks))
    if made.block:
        return (parameter if is_transposed else parameter.T) if axis == 1 else None
    return parameter.reshape(-1, 1) if axis == 0 else None


def gathered_rows(context: NodeContext, x: Value, indices: Value) -> Value | None:
    """Rows of a constant of few bits that a node makes floats of, so that only they become floats;
    None where x is no such matrix, or has its scales along columns."""
    made = dequantized(context, x)
    if made is None or not (made.scale.size == 1 or made.axis == (1 if made.block else 0)):
        return None
    return dequantized_rows(context, made, indices)


def dequantized_rows(context: NodeContext, made: Dequantized, indices: Value) -> Value:
    """Rows of a constant that has a scale for each row, or for blocks of one."""
    b = context.builder
    rows = context.apply("gather", b.constant(made.integers), indices, axis=0)
    if made.scale.size == 1:
        zero = None if made.zero is None else b.constant(made.zero)
        return dequantize_linear(b, rows, b.constant(made.scale), zero)
    wide = (len(made.integers), -1)
    scale, zero = (
        None
        if one is None
        else context.apply("gather", b.constant(one.reshape(wide)), indices, axis=0)
        for one in (made.scale, made.zero)
    )
    assert scale is not None
    block = made.block or made.integers.shape[1]
    return dequantize_linear(b, rows, scale, zero, axis=rows.type.rank - 1, block=block)


def product_of_units(
    context: NodeContext, x: Value, units: Array, scales: Array, shifts: Array | None, block: int,
    bits: int, rounds: bool = False,
) -> Value:  # fmt: skip
    """x [..., depth] times weights, in f32; x may be rounded to 8 bits if it `rounds`. u8 units
    [columns, depth] of at most `bits` bits, and for blocks along the depth scales and shifts
    [columns, blocks]: weight = (unit - 2 ** (bits - 1) + shift) * scale."""
    width = 4 if bits <= 4 else 8
    moved = np.full((1, 1), (1 << (width - 1)) - (1 << (bits - 1)), np.int8)
    if bits < width:
        shifts = moved if shifts is None else shifts + moved
    if shifts is not None:
        shifts = np.broadcast_to(shifts, scales.shape)
    constants = [pack_units(units, width), pack_blocks(_narrow(scales))]
    if shifts is not None and shifts.any():
        constants.append(pack_blocks(shifts))
    columns = len(units)
    x = with_size(context.builder, x, -1, units.shape[1])
    *shape, depth = x.type.shape
    rows = context.reshape(context.cast(x, f32), (product(shape), depth))
    weights = (context.builder.constant(array) for array in constants)
    given = {"rounds": True} if rounds else {}
    result = context.apply("matmul_blocks", rows, *weights, columns=columns, block=block, **given)
    return context.reshape(result, (*shape, columns))


def _narrow(scales: Array) -> Array:
    """Scales in half the bytes where they fit."""
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), scales) else scales.astype(np.float32)


def spread_units(packed: Array, bits: int) -> Array:
    """Units in bytes of their own; the first of a byte is in its lowest bits."""
    if bits == 8:
        return packed
    places = np.arange(0, 8, bits, dtype=np.uint8)
    units = (packed[..., None] >> places) & np.uint8((1 << bits) - 1)
    spread: Array = units.reshape(*packed.shape[:-1], -1)
    return spread


def _shifts(context: NodeContext, columns: int, blocks: int, bits: int) -> Array | None:
    """What is added to the units above their middle, i8 or f32."""
    if context.optional(3) is None:
        return None
    given = context.constant_array(3, "zero points")
    middle = 1 << (bits - 1)
    if given.dtype != np.uint8:
        return middle - given.reshape(columns, blocks).astype(np.float32)
    zeros = spread_units(given.reshape(columns, -1), bits)[:, :blocks].astype(np.int16)
    # 128 for a zero point of 0 is not an i8.
    return (middle - zeros).astype(np.int8 if bits < 8 else np.float32)


def _order(context: NodeContext, depth: int, block: int) -> Array | None:
    """In what order the depth has to be taken for every block to be together; None: it is."""
    if context.optional(4) is None:
        return None
    groups = context.constant_array(4, "g_idx").reshape(-1)[:depth]
    order = np.argsort(groups, kind="stable").astype(np.int64)
    if not np.array_equal(groups[order], np.arange(depth) // block):
        context.unsupported("groups of other sizes than block_size")
    return None if np.array_equal(order, np.arange(depth)) else order
