"""Attention whose products are a matrix unit's, under the emulator, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options
from tests.amx_emulation import counts, emulator, needs_emulator, reset
from tests.schedule.test_attention import Shape, _arrays, _attention, _scaled
from tests.schedule.test_attention_bfloat16 import _assert_only_weights_are_rounded
from tests.schedule.test_matrix_tiles_networks import loaded, uses_tiles

SHAPES = {
    "whole tiles": Shape(batch=1, heads=2, rows=64, keys=64, depth=32, columns=64),
    "nothing whole": Shape(batch=2, heads=2, rows=45, keys=75, depth=64, columns=24),
    "grouped heads": Shape(heads=4, group=2, rows=50, keys=40, depth=32, columns=48),
}


def compiled(shape: Shape, target: str = "x86_64-amx", symbolic: bool = False) -> Compilation:
    mask = (1, 1, 1, shape.keys)
    graph = _attention(shape, _scaled, symbolic, None if symbolic else mask)
    return build(graph, Options(target=target, precision="bfloat16", verify=True))


def arrays_of(shape: Shape) -> dict[str, Array]:
    arrays = _arrays(shape)
    mask = np.where(np.arange(shape.keys) % 5 == 2, -np.inf, 0.5)
    return {**arrays, "mask": mask.astype(np.float32).reshape(1, 1, 1, -1)}


@needs_emulator
@pytest.mark.parametrize(
    "name",
    [
        "nothing whole",
        pytest.param("whole tiles", marks=pytest.mark.slow),
        pytest.param("grouped heads", marks=pytest.mark.slow),
    ],
)
def test_products_are_of_rounded_numbers(name: str) -> None:
    emulator()
    shape = SHAPES[name]
    made, arrays = compiled(shape), arrays_of(shape)
    assert uses_tiles(made) == 1
    reset()
    (one,), (two,) = (loaded(made, threads).run(arrays) for threads in (1, 2))
    assert counts()["product"] > 0
    np.testing.assert_array_equal(one, two)
    _assert_only_weights_are_rounded(shape, arrays, one)


@needs_emulator
@pytest.mark.slow
def test_infinite_and_missing_values_go_where_they_go_on_the_vector_unit() -> None:
    emulator()
    shape = SHAPES["nothing whole"]
    arrays = arrays_of(shape)
    arrays["q"][0, 3, 5], arrays["k"][1, 7, 9], arrays["v"][0, 8, 30] = np.inf, np.nan, np.inf
    ours, theirs = (
        loaded(compiled(shape, target)).run(arrays)[0]
        for target in ("x86_64-amx", "x86_64-avx512-bf16")
    )
    assert np.isfinite(theirs).any() and np.isnan(theirs).any() and np.isinf(theirs).any()
    np.testing.assert_allclose(ours, theirs, 2e-2, 2e-2)


@pytest.mark.slow
def test_few_rows_and_unknown_sizes_stay_on_the_vector_unit() -> None:
    few = Shape(batch=1, heads=2, rows=17, keys=64, depth=32, columns=64)
    assert not uses_tiles(compiled(few))
    assert not uses_tiles(compiled(SHAPES["whole tiles"], symbolic=True))
    assert not uses_tiles(compiled(Shape(rows=64, keys=64, depth=40, columns=32)))
