"""The gradient of products with weights of few bits: that of the activations.

The weights become floats for it. They have no gradient of their own: they are whole numbers, and a
training step that adapts such a network (QLoRA: Dettmers et al., 2023) trains others beside them.
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ops.composite.composite import cast, reshape, scalar_like, transpose
from bessemer.compiler.ops.contractions.nibbles import HALF


def matmul_blocks_gradient(d: Differential) -> Cotangents:
    """dX = dY W^T."""
    _, packed, scales, *shifts = d.inputs
    weights = d.apply("sub", *_units_and_middle(d, packed))
    if shifts:
        weights = d.apply("add", weights, _along_depth(d, shifts[0], packed))
    weights = d.apply("mul", weights, _along_depth(d, scales, packed))
    panels, depth, width = weights.type.static_shape
    columns = d["columns"]
    rows = reshape(d.builder, transpose(d.builder, weights, (0, 2, 1)), (panels * width, depth))
    rows = d.apply("slice", rows, starts=(0, 0), shape=(columns, depth), steps=(1, 1))
    return d.apply("matmul", d.dy, rows), *[None] * (len(d.inputs) - 1)


def _units_and_middle(d: Differential, packed: Value) -> tuple[Value, Value]:
    """f32 [panels, depth, 32], and the unit that stands for 0."""
    middle = 128
    if packed.type.shape[-1] == HALF:
        middle = 8
        low = d.apply("and", packed, scalar_like(d.builder, packed, 15))
        high = d.apply("shr", packed, scalar_like(d.builder, packed, 4))
        packed = d.apply("concat", low, high, axis=2)
    units = cast(d.builder, packed, f32)
    return units, scalar_like(d.builder, units, middle)


def _along_depth(d: Differential, blocks: Value, packed: Value) -> Value:
    """[panels, blocks, 32] -> f32 [panels, depth, 32]: a block's number for each of its depth."""
    depth = packed.type.static_shape[1]
    places = d.builder.constant(np.arange(depth, dtype=np.int64) // d["block"])
    return cast(d.builder, d.apply("gather", blocks, places, axis=1), f32)
