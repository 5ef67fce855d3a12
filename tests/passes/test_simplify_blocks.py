"""Blocks that overlap are added up piece by piece, and become blocks side by side."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import DType, f16, f32
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.pass_runs import Case, N, changed

Sizes = tuple[Size, ...]

WINDOWS: dict[str, tuple[Sizes, tuple[int, ...], int, Sizes, DType, str]] = {
    "half of a window over": ((2, 5, 4, 1), (2,), 0, (12,), f32, "no col2im"),
    "a kernel that is no multiple": ((1, N, 5, 2), (2,), 1, (2 * N + 1,), f32, "no col2im"),
    "an image that goes on behind": ((1, 3, 6, 1), (2,), 0, (13,), f32, "side by side"),
    "two axes, one of them apart": ((1, 3, 2, 4, 2, 3), (2, 2), 0, (8, 4), f32, "no col2im"),
    "a stride of one": ((1, 4, 3, 2), (1,), 0, (6,), f32, "as it was"),
    "sums in half precision": ((1, 4, 4, 2), (2,), 0, (10,), f16, "as it was"),
}
"""The blocks, strides, low pad, image and dtype, and what is left of the operator."""


@pytest.mark.parametrize("name", WINDOWS)
def test_overlapping_blocks_are_added_up(name: str, rng: np.random.Generator) -> None:
    shape, strides, low, image, dtype, wanted = WINDOWS[name]
    case = Case()
    x = case.x(*shape, dtype=dtype)
    ones, lows = (1,) * len(strides), (low,) * len(strides)
    y = case.of("col2im", x, image=image, strides=strides, dilations=ones, low=lows)
    graph = changed(case.b.finish([y], ["y"]), (simplify, remove_dead), rng, 1e-6)
    left = [node for node in graph.nodes if node.operator.name == "col2im"]
    if wanted == "no col2im":
        assert not left
    else:
        (node,) = left
        taps = node.inputs[0].type.shape[1 + len(image) : -1]
        assert (taps == strides) == (wanted == "side by side")
