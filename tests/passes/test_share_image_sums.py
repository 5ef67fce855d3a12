"""Sums over a batch that are made of the sums of its images."""

import numpy as np

from bessemer.compiler.passes.sums.share_image_sums import share_image_sums
from tests.pass_runs import Case, changed, lines, widen

IMAGES = (2, 3, 5, 4)


def test_a_batch_norms_sums_stay() -> None:
    """All sums are over the whole batch."""
    case = Case()
    x, dy = case.x(*IMAGES), case.x(*IMAGES)
    sums = [case.of("reduce_sum", v, axes=(0, 1, 2)) for v in (dy, case.of("mul", x, dy))]
    graph = case.b.finish(sums)
    assert share_image_sums(graph) is graph


def test_a_group_norms_gradients_share_the_sums_of_images(rng: np.random.Generator) -> None:
    case = Case()
    dy, d = case.x(*IMAGES), case.x(2, 3, 5, 2, 2)
    scale = widen(case, case.x(4), *IMAGES)
    inverse = widen(case, case.x(2, 1, 1, 2, 1), 2, 3, 5, 2, 2)
    scaled = case.of("reshape", case.of("mul", dy, scale), shape=(2, 3, 5, 2, 2))
    normal = case.of("reshape", case.of("mul", d, inverse), shape=IMAGES)
    outputs = [
        case.of("reduce_sum", dy, axes=(0, 1, 2)),
        case.of("reduce_sum", case.of("mul", dy, normal), axes=(0, 1, 2)),
        case.of("reduce_sum", case.of("mul", scaled, d), axes=(1, 2)),
        case.of("reduce_sum", case.of("neg", case.of("mul", scaled, inverse)), axes=(1, 2)),
    ]
    result = changed(case.b.finish(outputs), [share_image_sums], rng, rtol=1e-5)
    wide = [line for line in lines(result) if "reduce_sum" in line and "axes=(1, 2)" in line]
    assert len(wide) == 2
    assert not any("axes=(0, 1, 2)" in line for line in lines(result))


def test_a_factor_that_changes_within_an_image_stays_inside(rng: np.random.Generator) -> None:
    case = Case()
    dy, rows = case.x(*IMAGES), widen(case, case.x(2, 3, 1, 4), *IMAGES)
    product = case.of("mul", dy, rows)
    outputs = [
        case.of("reduce_sum", dy, axes=(0, 1, 2)),
        case.of("reduce_sum", product, axes=(1, 2)),
    ]
    graph = case.b.finish(outputs)
    assert share_image_sums(graph) is graph


def test_sums_of_high_powers_are_compared_in_time() -> None:
    """Fifty squares, one of the other, are a product of 2^50 factors."""
    case = Case()
    x = power = case.x(*IMAGES)
    for _ in range(50):
        power = case.of("mul", power, power)
    product = case.of("mul", power, x)
    outputs = [
        case.of("reduce_sum", power, axes=(1, 2)),
        case.of("reduce_sum", product, axes=(0, 1, 2)),
    ]
    graph = case.b.finish(outputs)
    assert share_image_sums(graph) is graph
