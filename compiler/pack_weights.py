"""Writes the weights blob: all constants of a program, where its memory plan has put them."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.codegen.artifact.link import Bytes
from bessemer.compiler.ir.dims import number
from bessemer.compiler.ir.mapped_file import forget
from bessemer.compiler.ir.program import MemoryPlan, Program
from bessemer.runtime.arrays import aligned_empty


def pack_weights(program: Program, plan: MemoryPlan) -> Bytes:
    """The weights blob, aligned to 64 bytes: every constant in use at its offset, zeros between.

    What has been read of a mapped file is given back: weights are in memory once.
    """
    blob = aligned_empty((plan.weights_size,), np.dtype(np.uint8))
    end = 0
    for value, offset in sorted(plan.weight_offsets.items(), key=lambda item: item[1]):
        weight, type = program.weights[value], value.type
        blob[end:offset] = 0
        end = offset + number(type.numel) * type.dtype.bytes
        array = weight.array()
        blob[offset:end].view(array.dtype).reshape(array.shape)[...] = array
        forget(weight.source)
    blob[end:] = 0
    return blob
