"""Sums of columns that are computed row by row."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.driver import build, kernels_of
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.options import Options
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor


def _sums(rows: int, columns: int, dtype: str = "f32") -> Network:
    return Network(lambda x: x.sum((0,)), Input("x", (rows, columns), dtype))


def _stacked(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Sums over the axes in the middle, of products with a number for each row, used once more."""
    return (x * y * scale).sum((1, 2)) * 0.5 + 1.0


def _text(network: Network) -> str:
    options = Options(target="x86_64-avx512")
    (kernel, *_) = kernels_of(build(network.graph, options).program.steps)
    return print_kernel(kernel)


def test_rows_are_read_whole() -> None:
    """The loop over the columns is inside of the one over the rows, of which a part has a sum."""
    lines = [line.strip() for line in _text(_sums(400, 1024)).splitlines()]
    add = next(k for k, line in enumerate(lines) if "in0[" in line)
    assert lines[add - 2].startswith("for i7 in 0..min(")
    assert lines[add - 1] == "vector i8 in 0..1024 by 16 interleave 4"


@pytest.mark.parametrize(("rows", "columns"), [(63, 1024), (200, 128)])
def test_few_rows_and_short_rows_are_summed_in_registers(rows: int, columns: int) -> None:
    assert "allocate" not in _text(_sums(rows, columns))


@pytest.mark.parametrize(
    ("rows", "columns", "dtype"),
    [(64, 1000, "f32"), (200, 2000, "f32"), (1000, 777, "f32"), (130, 600, "f64")],
)
def test_sums_of_columns(rows: int, columns: int, dtype: str, rng: np.random.Generator) -> None:
    kind = np.float32 if dtype == "f32" else np.float64
    x = rng.standard_normal((rows, columns)).astype(kind)
    (found,) = bessemer.compile(_sums(rows, columns, dtype), threads=2).run({"x": x})
    error = np.abs(found - x.astype(np.longdouble).sum(0)).max()
    assert error <= (1e-5 if dtype == "f32" else 1e-13) * rows**0.5


def test_sums_over_axes_in_the_middle(rng: np.random.Generator) -> None:
    shape = 3, 5, 37, 300
    inputs = [Input("x", shape), Input("y", shape), Input("scale", (*shape[:3], 1))]
    network = Network(_stacked, *inputs)
    assert "allocate" in _text(network)
    given = {each.name: rng.standard_normal(each.type.static_shape, np.float32) for each in inputs}
    (found,) = bessemer.compile(network, threads=2).run(given)
    x, y, scale = (array.astype(np.float64) for array in given.values())
    wanted = (x * y * scale).sum((1, 2)) * 0.5 + 1
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
