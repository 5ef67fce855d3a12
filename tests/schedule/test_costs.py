"""The work that decides how many threads a kernel is for is about what its loops do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Size, Symbol, atom
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.types import DType, f32, f64
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.schedule.costs import operations
from bessemer.frontends.models_in import as_graph
from tests.planned import planned


def _softmax(row: Symbol, inner: Symbol) -> Expression:
    x = Buffer("x", f32, (64, 100))
    first, second = Symbol("r", 100), Symbol("s", 100)

    def exponential(column: Symbol) -> Expression:
        largest = expr.reduce("max", (first,), x[atom(row), atom(first)])
        return expr.unary("exp", x[atom(row), atom(column)] - largest)

    total = expr.reduce("add", (second,), exponential(second))
    return exponential(inner) / total


def test_the_totals_of_a_row_count_once_for_the_row() -> None:
    row, inner = Symbol("i", 64), Symbol("j", 100)
    # The maximum loads and compares; the sum loads, subtracts, takes the exponential and adds; the
    # result does as much and divides.
    exponential = operations(expr.unary("exp", expr.read("x", f32))) - 1
    steps = 2 + (exponential + 3) + (exponential + 3)
    assert operations(_softmax(row, inner), [inner]) == 100 * steps
    assert operations(_softmax(row, inner), [row, inner]) == 64 * 100 * steps


def test_what_a_sum_does_not_change_counts_once() -> None:
    x = Buffer("x", f32, (10,))
    step, other = Symbol("r", 10), Symbol("i", 10)
    value = expr.reduce("add", (step,), x[atom(step)] * expr.unary("exp", x[atom(other)]))
    assert operations(value) == 10 * 3 + operations(expr.unary("exp", expr.read("x", f32)))


def test_functions_count_for_what_each_of_them_takes() -> None:
    def cost(name: str, dtype: DType) -> Size:
        """Beside the local that it reads."""
        return operations(expr.unary(name, expr.read("x", dtype))) + -1

    assert (cost("exp", f32), cost("tan", f32), cost("exp", f64)) == (9, 47, 27)
    assert cost("neg", f64) == 1


def _work_of_convolution(length: int | str, actual: int) -> float:
    """Operations of the launch that does most."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 19]>
        agraph (float[1, 32, {length}] x, float[32, 32, 5] w) => (float[1, 32, n] y)
        {{ y = Conv<pads = [2, 2]>(x, w) }}"""
    )
    weight = onnx.numpy_helper.from_array(np.ones((32, 32, 5), np.float32), "w")
    model.graph.initializer.append(weight)
    del model.graph.input[1]
    made = planned(as_graph(model), "x86_64-avx512")

    def work(size: Size) -> int:
        return evaluate_named(size, {"length": actual})

    return max(
        work(one.kernel.operations) * work(one.kernel.parallel_extent)
        for one in launches(made.program.steps)
    )


@pytest.mark.parametrize("actual", [40, 200, 400])
def test_a_free_convolution_counts_as_much_as_a_known_one(actual: int) -> None:
    exact = 2 * actual * 32 * 32 * 5
    for length in ("length", actual):
        assert 0.6 * exact <= _work_of_convolution(length, actual) <= 1.7 * exact
