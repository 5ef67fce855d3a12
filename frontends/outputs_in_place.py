"""Puts inputs and the outputs that continue or update them into one array, as callers in a loop
would.

With new arrays for these outputs, a measurement would include the time for the first writes to new
memory, and for copying the old content.
"""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.types import Array
from bessemer.runtime.argument_order import in_order
from bessemer.runtime.arrays import as_input, first_places, numpy_dtype
from bessemer.runtime.model import CompiledModel, Inputs

Places = list[Array | None]


def behind_inputs(model: CompiledModel, inputs: Inputs) -> tuple[Inputs, Places | None]:
    """The inputs, and the arrays of the outputs that continue some of them: those inputs are the
    first places of these. It runs the model, which tells the sizes."""
    signature = model.signature
    if not signature.rooms:
        return inputs, None
    made = model.run(inputs)
    arrays = in_order([info.name for info in signature.inputs], inputs)
    out: Places = [None] * len(signature.outputs)
    for room in signature.rooms:
        whole = out[room.output] = made[room.output]
        used = np.shape(arrays[room.given])[room.axis]
        arrays[room.given] = first_places(whole, room.axis, used)
    return arrays, out


def over_inputs(
    model: CompiledModel, inputs: Inputs
) -> tuple[Inputs, Places | None, list[tuple[Array, Array]]]:
    """The inputs, and the arrays of the outputs that continue or update some of them: where they
    update them, copies of the inputs are both. Last, these copies with what they are copies of."""
    signature = model.signature
    inputs, out = behind_inputs(model, inputs)
    continued = {room.output for room in signature.rooms}
    updates = [pair for pair in signature.updates if pair[0] not in continued]
    if not updates:
        return inputs, out, []
    arrays = in_order([info.name for info in signature.inputs], inputs)
    out = out or [None] * len(signature.outputs)
    first: list[tuple[Array, Array]] = []
    for output, given in updates:
        info = signature.inputs[given]
        value = as_input(info, numpy_dtype(info.dtype), arrays[given])
        own = value.copy()
        out[output] = arrays[given] = own
        first.append((own, value))
    return arrays, out, first
