"""Sums over pixels and the channels of a group."""

import numpy as np
import pytest

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.passes.sums.sum_channels_first import sum_channels_first
from tests.pass_runs import Case, N, changed


@pytest.mark.parametrize(
    ("shape", "axes", "wanted"),
    [
        ((N, 8, 8, 4, 6), (1, 2, 4), [(1, 2), (2,)]),
        ((2, 64, 4, 6), (3, 1), [(1,), (2,)]),
        ((64, 4, 6), (0, 2), [(0,), (1,)]),
        ((N, 7, 9, 4, 6), (1, 2, 4), None),  # not worth a launch
        ((2, N, 8, 4, 6), (1, 2, 4), None),
        ((2, 8, 8, 1, 6), (1, 2, 4), None),  # one group is all of the memory
        ((2, 8, 8, 4, 1), (1, 2, 4), None),
        ((2, 8, 8, 4, 65), (1, 2, 4), None),  # vectors enough
        ((2, 8, 8, 4, 6), (1, 3, 4), None),  # no channels are kept apart
        ((2, 8, 8, 4, 6), (1, 2), None),
    ],
)
def test_sums_of_groups_are_made_of_those_of_channels(
    shape: tuple[Size, ...],
    axes: tuple[int, ...],
    wanted: list[tuple[int, ...]] | None,
    rng: np.random.Generator,
) -> None:
    case = Case()
    graph = case.b.finish([case.of("reduce_sum", case.x(*shape), axes=axes)])
    result = changed(graph, [sum_channels_first], rng, rtol=1e-5)
    sums = [n.attributes["axes"] for n in result.nodes if n.operator.name == "reduce_sum"]
    assert sums == (wanted or [axes])
    assert wanted or result is graph
