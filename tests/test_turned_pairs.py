"""Transposes that leave pairs of neighbours together, whatever the width of a vector."""

import numpy as np
import pytest

from bessemer.compiler.driver import build, machine_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import Array, TensorType, type_of
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from bessemer.compiler.targets.machine import Target
from tests.compiled_kernels import HERE


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_pairs_of_neighbours_change_places(kind: type, target: Target) -> None:
    columns, rows = 41, 130
    x: Array = np.arange(columns * rows * 2).astype(kind).reshape(columns, 2 * rows)
    b = GraphBuilder("pairs")
    y = b.input("x", TensorType(type_of(x).dtype, x.shape))
    y = b.apply("reshape", y, shape=(columns, rows, 2))
    y = b.apply("transpose", y, permutation=(1, 0, 2))
    made = build(b.finish([b.apply("abs", y)]), Options(target=target.name))
    (got,) = load_code(made.code, made.weights, machine_of(made.target), 1).run([x])
    np.testing.assert_array_equal(got, x.reshape(columns, rows, 2).transpose(1, 0, 2))
