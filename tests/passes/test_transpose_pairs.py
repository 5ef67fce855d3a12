"""Transposes that leave pairs of neighbours together, whatever the width of a vector."""

import re

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.text.text_loops import print_kernel
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


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
def test_the_last_square_begins_with_a_whole_pair(target: Target) -> None:
    """It overlaps the one before. Only vectors of whole pairs are transposed in registers."""
    x = np.arange(41 * 262, dtype=np.int16).reshape(41, 262)
    b = GraphBuilder("pairs")
    y = b.apply("reshape", b.input("x", TensorType(type_of(x).dtype, x.shape)), shape=(41, 131, 2))
    y = b.apply("transpose", y, permutation=(1, 0, 2))
    made = build(b.finish([b.apply("abs", y)]), Options(target=target.name))
    texts = [print_kernel(step.kernel) for step in made.program.steps if isinstance(step, Launch)]
    assert any(re.search(r"\(i\d+%2\).*min\(", text) for text in texts)
    (got,) = load_code(made.code, made.weights, machine_of(made.target), 2).run([x])
    np.testing.assert_array_equal(got, x.reshape(41, 131, 2).transpose(1, 0, 2))
