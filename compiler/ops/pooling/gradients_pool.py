"""The gradient of max_pool_gradient: what it gave to an element is read there again."""

from __future__ import annotations

import itertools

from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import boolean
from bessemer.compiler.ops.composite.composite import scalar_like


def max_pool_gradient_gradient(d: Differential) -> Cotangents:
    """The gradient by dy; x and y have none, since small changes of x do not change which element
    is the largest. dy went to the first tap whose element is y."""
    x, y, _ = d.inputs
    total = scalar_like(d.builder, y, 0)
    is_open = d.apply("full", shape=y.type.shape, value=True, dtype=boolean)
    for tap in itertools.product(*map(range, d["kernel"])):
        is_hit = d.apply("and", is_open, d.apply("eq", _at_tap(d, x, tap, float("-inf")), y))
        total = d.apply("select", is_hit, _at_tap(d, d.dy, tap, 0.0), total)
        is_open = d.apply("and", is_open, d.apply("not", is_hit))
    return None, None, total


def _at_tap(d: Differential, x: Value, tap: tuple[int, ...], outside: float) -> Value:
    """What every window sees at one of its taps."""
    shape = d.inputs[1].type.shape
    low = (0, *d["low"], 0)
    high = [0] * len(low)
    starts = [0] * len(low)
    for axis, at in enumerate(tap, start=1):
        starts[axis] = at * d["dilations"][axis - 1]
        reach = starts[axis] + (shape[axis] - 1) * d["strides"][axis - 1] + 1
        past = reach - low[axis] - x.type.shape[axis]
        if not isinstance(past, int):
            raise UnsupportedError(f"No gradient is known for max_pool_gradient of {x.type}.")
        high[axis] = max(past, 0)
    padded = d.apply("pad", x, low=low, high=tuple(high), mode="constant", value=outside)
    steps = (1, *d["strides"], 1)
    return d.apply("slice", padded, starts=tuple(starts), shape=shape, steps=steps)
