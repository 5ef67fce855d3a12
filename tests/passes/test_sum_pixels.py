"""Sums over pixels that threads share."""

import numpy as np
import pytest

from bessemer.compiler.ir.dims import Size
from bessemer.compiler.passes.sums.sum_pixels import sum_pixels
from tests.pass_runs import Case, N, changed, lines, widen


@pytest.mark.parametrize(
    ("shape", "axes", "wanted"),
    [
        ((1, 100, 64, 32), (1, 2), [(2,), (1,)]),  # the rows' sums first
        ((N, 100, 64, 32), (1, 2), [(2,), (1,)]),
        ((1, 4, 100, 16, 32), (1, 2, 3), [(1, 3), (1,)]),  # of 100 rows, not of four planes
        ((1, 6000, 32), (1,), [(2,), (1,)]),  # 60 blocks of 100
        ((1, 6007, 32), (1,), None),  # a prime number
        ((8, 100, 64, 32), (1, 2), None),  # eight images are items enough
        ((1, 32, 16, 512), (1, 2), None),  # so are eight blocks of channels
        ((1, 20, 20, 32), (1, 2), None),  # not worth a launch
        ((N, 64, 100, 32), (0, 1, 2), None),
        ((1, 32, 100, 64), (2, 3), None),
    ],
)
def test_sums_of_few_items_are_made_of_rows(
    shape: tuple[Size, ...],
    axes: tuple[int, ...],
    wanted: list[tuple[int, ...]] | None,
    rng: np.random.Generator,
) -> None:
    case = Case()
    graph = case.b.finish([case.of("reduce_sum", case.x(*shape), axes=axes)])
    result = changed(graph, [sum_pixels], rng, rtol=1e-5)
    sums = [n.attributes["axes"] for n in result.nodes if n.operator.name == "reduce_sum"]
    assert sums == (wanted or [axes])
    assert wanted or result is graph


@pytest.mark.parametrize("is_read_again", [True, False])
def test_each_reader_of_differences_subtracts_for_itself(
    is_read_again: bool, rng: np.random.Generator
) -> None:
    case = Case()
    x, mean = case.x(2, 80, 64, 32), case.x(2, 1, 1, 32)
    distance = case.of("sub", x, widen(case, mean, 2, 80, 64, 32))
    total = case.of("reduce_sum", case.of("mul", distance, distance), axes=(1, 2))
    outputs = [case.of("abs", distance), total] if is_read_again else [total]
    result = changed(case.b.finish(outputs), [sum_pixels], rng, rtol=1e-5)
    differences = [line for line in lines(result) if " = sub(" in line]
    assert len(differences) == 1 + is_read_again


def test_a_square_that_nothing_adds_up_stays() -> None:
    case = Case()
    difference = case.of("sub", case.x(2, 80, 64, 32), case.x(2, 80, 64, 32))
    outputs = [case.of("abs", difference), case.of("mul", difference, difference)]
    graph = case.b.finish(outputs)
    assert sum_pixels(graph) is graph
