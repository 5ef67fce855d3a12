"""Long sums in float32 are sums of sums: rounding grows with the root of their length at most."""

import numpy as np
import pytest

import bessemer
import bessemer.compiler.ops
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.types import TensorType, f32

CASES = [((65536, 32), (0,)), ((16, 64, 64, 16), (0, 1, 2)), ((3001, 7), (0,)), ((129, 16), (0,))]


@pytest.mark.parametrize("is_symbolic", [False, True])
@pytest.mark.parametrize(("shape", "axes"), CASES)
def test_a_sum_down_columns_keeps_its_digits(
    shape: tuple[int, ...], axes: tuple[int, ...], is_symbolic: bool, rng: np.random.Generator
) -> None:
    """Positive numbers: added one after the other, 65536 of them lose five bits more."""
    b = GraphBuilder("columns")
    x = b.input("x", TensorType(f32, (symbol("rows") if is_symbolic else shape[0], *shape[1:])))
    graph = b.finish([b.apply("reduce_sum", b.apply("mul", x, x), axes=axes)])
    array = rng.random(shape, np.float32)
    (found,) = bessemer.compile(graph, threads=2).run({"x": array})
    wanted = np.square(array.astype(np.float64)).sum(axes)
    assert np.abs(found / wanted - 1).max() < 8e-7
