"""Which products of few rows read their right side where it lies."""

from __future__ import annotations

import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.schedule.grouping.few_rows import reads_in_place


@pytest.mark.parametrize(
    ("left", "right", "few"),
    [
        ((4, 1, 64), (4, 64, 512), True),
        ((4, 200, 64), (4, 64, 512), False),
        # All rows of a batch read the one matrix: steps of a sequence, with a few rows each.
        ((100, 16, 256), (256, 1024), False),
        ((100, 16, 256), (1, 256, 1024), False),
        ((2, 3, 2, 64), (3, 64, 256), True),
        ((60, 3, 2, 64), (3, 64, 256), False),
    ],
)
def test_rows_of_batches_that_share_a_matrix_count(
    left: tuple[int, ...], right: tuple[int, ...], few: bool
) -> None:
    b = GraphBuilder("product")
    x, y = (b.input(name, TensorType(f32, shape)) for name, shape in (("x", left), ("y", right)))
    graph = b.finish([b.apply("matmul", x, y)], ["z"])
    assert reads_in_place(graph.nodes[0]) is few
