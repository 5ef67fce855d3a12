"""Pools whose only window sees more than there is, and large windows: what they become, and equal
numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.pass_runs import N, changed


def _names(operator: str, rng: np.random.Generator, **attributes: Any) -> list[str]:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, (2, 5, 6, 3)))
    given = {"strides": (1, 1), "dilations": (1, 1), **attributes}
    result = changed(
        builder.finish([builder.apply(operator, x, **given)]), [simplify], rng, rtol=1e-6
    )
    return [node.operator.name for node in result.nodes]


def test_an_average_of_a_whole_image_is_a_sum(rng: np.random.Generator) -> None:
    wide = {"kernel": (40, 40), "low": (0, 0), "high": (35, 34), "uncounted": (35, 34)}
    for counted in (False, True):
        names = _names("average_pool", rng, **wide, count_include_pad=counted)
        assert "reduce_sum" in names and "average_pool" not in names


def test_padding_that_is_counted_stays(rng: np.random.Generator) -> None:
    pads = {"kernel": (9, 9), "low": (2, 2), "high": (2, 1)}
    assert _names("average_pool", rng, **pads, count_include_pad=True) == ["average_pool"]
    assert "reduce_sum" in _names("average_pool", rng, **pads, count_include_pad=False)


@pytest.mark.parametrize("low", [-1, 3])
def test_a_window_beyond_the_image_is_cut(low: int, rng: np.random.Generator) -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(f32, (2, 5, 6, 3)))
    high = (20 - 5 - low, 20 - 6 - low)
    y = builder.apply(
        "max_pool", x, kernel=(20, 20), strides=(1, 1), dilations=(1, 1), low=(low, low), high=high
    )
    result = changed(builder.finish([y]), [simplify], rng, rtol=0)
    (pool,) = result.nodes
    assert pool.attributes["kernel"] == ((4, 5) if low < 0 else (5, 6))


@pytest.mark.parametrize("counted", [False, True])
def test_the_mean_of_a_large_window_is_found_axis_by_axis(
    counted: bool, rng: np.random.Generator
) -> None:
    pads = {"kernel": (5, 4), "dilations": (2, 1), "low": (4, 1), "high": (5, 3)}
    more = {"uncounted": (1, 2), "count_include_pad": counted}
    assert _names("average_pool", rng, **pads, **more) == ["average_pool", "average_pool"]
    assert _names("average_pool", rng, **pads, **more, strides=(1, 2)) == ["average_pool"]


def test_the_maximum_of_a_large_window_is_found_axis_by_axis(rng: np.random.Generator) -> None:
    pads = {"kernel": (5, 4), "dilations": (2, 1), "low": (4, 1), "high": (4, -1)}
    assert _names("max_pool", rng, **pads) == ["max_pool", "max_pool"]
    assert _names("max_pool", rng, **pads, strides=(1, 2)) == ["max_pool"]
    small = {"kernel": (3, 3), "low": (1, 1), "high": (1, 1)}
    assert _names("max_pool", rng, **small) == ["max_pool"]


@pytest.mark.parametrize("operator", ["max_pool", "average_pool"])
def test_planes_of_free_sizes_are_pooled_by_strides_axis_by_axis(
    operator: str, rng: np.random.Generator
) -> None:
    """Rows first, whole; an image of known size from 20 taps on."""

    def kernels(kernel: tuple[int, int], rows: Size, channels: int = 1) -> list[tuple[int, int]]:
        builder = GraphBuilder("g")
        x = builder.input("x", TensorType(f32, (2, rows, 7, channels)))
        more = {} if operator == "max_pool" else {"count_include_pad": False}
        y = builder.apply(
            operator, x, kernel=kernel, strides=(2, 3), dilations=(1, 1), low=(1, 2), high=(1, 1),
            **more,
        )  # fmt: skip
        result = changed(builder.finish([y]), [simplify], rng, rtol=1e-6)
        return [node.attributes["kernel"] for node in result.nodes]

    assert kernels((3, 3), N) == [(3, 1), (1, 3)]
    assert kernels((3, 3), 8) == [(3, 3)]
    assert kernels((5, 4), 8) == [(5, 1), (1, 4)]
    assert kernels((2, 2), N) == [(2, 2)]
    assert kernels((3, 3), N, channels=2) == [(3, 3)]
