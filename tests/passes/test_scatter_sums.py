"""Sums of scatters."""

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, f32, i64
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.sums.scatter_sums import scatter_sums
from tests.pass_runs import Case, changed, lines


def _scattered(case: Case, count: int, zeros: Value) -> Value:
    places = case.b.apply("full", shape=(count, 1), value=1, dtype=i64)
    return case.of("scatter_nd", zeros, places, case.x(count, 5), reduction="add")


def test_sums_of_scatters_are_made_in_one_array(rng: np.random.Generator) -> None:
    case = Case()
    zeros, product = (
        case.b.apply("full", shape=(4, 5), value=0, dtype=f32),
        case.x(4, 5),
    )
    total = case.of("add", case.of("neg", product), _scattered(case, 3, zeros))
    total = case.of("add", total, _scattered(case, 2, zeros))
    total = case.of("add", total, _scattered(case, 6, zeros))
    graph = case.b.finish([total, case.of("abs", _scattered(case, 7, zeros))])
    result = changed(graph, [scatter_sums, remove_dead], rng, rtol=1e-6)
    found = [line.split(" = ")[1].split("(")[0] for line in lines(result) if " = " in line]
    assert found.count("add") == 1
    assert found.count("scatter_nd") == 4
    # Those of the sum, and those of the fourth scatter.
    assert sum("shape=(4, 5), value=0" in line for line in lines(result)) == 2


def test_a_scatter_that_others_read_stays(rng: np.random.Generator) -> None:
    case = Case()
    zeros = case.b.apply("full", shape=(4, 5), value=0, dtype=f32)
    scattered = _scattered(case, 3, zeros)
    sums = [case.of("add", case.x(4, 5), scattered), case.of("abs", scattered)]
    graph = case.b.finish(sums)
    assert scatter_sums(graph) is graph


def test_a_step_of_gradient_descent_moves_few_rows_where_they_lie(rng: np.random.Generator) -> None:
    case = Case()
    table, rate = case.x(12, 5), case.b.input("rate", TensorType(f32, ()))
    zeros = case.b.apply("full", shape=(12, 5), value=0, dtype=f32)
    rates = case.of("broadcast_to", rate, shape=(12, 5))
    few, many = (case.of("mul", rates, _scattered(case, count, zeros)) for count in (3, 4))
    graph = case.b.finish([case.of("sub", table, few), case.of("sub", table, many)])
    result = changed(graph, [scatter_sums, remove_dead], rng, rtol=1e-6)
    found = [line.split(" = ")[1].split("(")[0] for line in lines(result) if " = " in line]
    assert (found.count("scatter_nd"), found.count("sub"), found.count("full")) == (2, 1, 3)
