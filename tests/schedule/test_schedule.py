"""Programs run in the loop interpreter give what the operators' references give."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.support.workspace import arena_offset, run_sizes
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.op import OPS, Example
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array, TensorType, f32, type_of
from bessemer.compiler.memory_plan.plan_memory import plan_memory
from bessemer.compiler.schedule.grouping import fusion_rules
from bessemer.compiler.schedule.grouping.form_groups import form_groups
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import parse_target
from tests.op_cases import QUICK
from tests.schedule.run_program import ProgramRun

TARGET = parse_target("x86_64-avx512")
N = symbol("batch")


@dataclass(frozen=True)
class Case:
    """A small network, arrays for its inputs, and the kernels it should become when optimized."""

    build: Callable[[GraphBuilder], Sequence[Value]]
    inputs: tuple[tuple[int, ...], ...]
    kernels: tuple[str, ...]


def _weight(builder: GraphBuilder, *shape: int) -> Value:
    return builder.constant(np.random.default_rng(sum(shape)).standard_normal(shape, np.float32))


def _spread(builder: GraphBuilder, value: Value, like: Value) -> Value:
    return builder.apply("broadcast_to", value, shape=like.type.shape)


def _dense(builder: GraphBuilder, x: Value, columns: int) -> Value:
    y = builder.apply("matmul", x, _weight(builder, int(str(x.type.shape[-1])), columns))
    return builder.apply("add", y, _spread(builder, _weight(builder, columns), y))


def _rows(builder: GraphBuilder, name: str, x: Value) -> Value:
    """A reduction of the last axis, spread over it again."""
    axis = x.type.rank - 1
    reduced = builder.apply(name, x, axes=(axis,))
    kept = builder.apply("reshape", reduced, shape=(*x.type.shape[:-1], 1))
    return _spread(builder, kept, x)


def _softmax(builder: GraphBuilder, x: Value) -> Value:
    e = builder.apply("exp", builder.apply("sub", x, _rows(builder, "reduce_max", x)))
    return builder.apply("div", e, _rows(builder, "reduce_sum", e))


def _perceptron(builder: GraphBuilder) -> Sequence[Value]:
    x = builder.input("x", TensorType(f32, (N, 8)))
    hidden = builder.apply("relu", _dense(builder, x, 5))
    return [_softmax(builder, _dense(builder, hidden, 3))]


def _attention(builder: GraphBuilder) -> Sequence[Value]:
    x = builder.input("x", TensorType(f32, (N, 12, 8)))

    def heads(name: str) -> Value:
        del name
        y = _dense(builder, x, 8)
        y = builder.apply("reshape", y, shape=(N, 12, 2, 4))
        return builder.apply("transpose", y, permutation=(0, 2, 1, 3))

    query, key, value = heads("q"), heads("k"), heads("v")
    keys = builder.apply("transpose", key, permutation=(0, 1, 3, 2))
    weights = _softmax(builder, builder.apply("matmul", query, keys))
    y = builder.apply("matmul", weights, value)
    y = builder.apply("transpose", y, permutation=(0, 2, 1, 3))
    return [builder.apply("reshape", y, shape=(N, 12, 8))]


def _residual(builder: GraphBuilder) -> Sequence[Value]:
    x = builder.input("x", TensorType(f32, (N, 7, 6, 4)))
    same = {"strides": (1, 1), "dilations": (1, 1), "groups": 1}
    y = builder.apply("conv", x, _weight(builder, 3, 3, 4, 4), low=(1, 1), high=(1, 1), **same)
    y = builder.apply("relu", builder.apply("add", y, x))
    pooled = builder.apply(
        "max_pool", y, kernel=(2, 2), strides=(2, 2), dilations=(1, 1), low=(0, 0), high=(1, 0)
    )
    return [builder.apply("concat", pooled, pooled, axis=3), y]


def _branches(builder: GraphBuilder) -> Sequence[Value]:
    x = builder.input("x", TensorType(f32, (N, 5, 6, 4)))
    plain = {"strides": (1, 1), "dilations": (1, 1), "low": (0, 0), "high": (0, 0), "groups": 1}
    left = builder.apply("conv", x, _weight(builder, 1, 1, 4, 3), **plain)
    right = builder.apply("relu", builder.apply("conv", x, _weight(builder, 1, 1, 4, 5), **plain))
    return [builder.apply("concat", left, right, x, axis=3)]


def _shuffled(builder: GraphBuilder) -> Sequence[Value]:
    x = builder.input("x", TensorType(f32, (2, 5, 6, 4)))
    kernel = {"strides": (1, 1), "dilations": (1, 1), "low": (0, 0), "high": (0, 0), "groups": 1}
    y = builder.apply("relu", builder.apply("conv", x, _weight(builder, 1, 1, 4, 4), **kernel))
    halves = builder.apply("reshape", builder.apply("concat", x, y, axis=3), shape=(2, 5, 6, 2, 4))
    mixed = builder.apply("transpose", halves, permutation=(0, 1, 2, 4, 3))
    mixed = builder.apply("reshape", mixed, shape=(2, 5, 6, 8))
    return [builder.apply("conv", mixed, _weight(builder, 1, 1, 8, 4), **kernel)]


def _statistics(builder: GraphBuilder) -> Sequence[Value]:
    x = builder.input("x", TensorType(f32, (N, 5, 33)))
    mean = builder.apply("mul", _rows(builder, "reduce_sum", x), _scalar(builder, x, 1 / 33))
    centred = builder.apply("sub", x, mean)
    squares = _rows(builder, "reduce_sum", builder.apply("mul", centred, centred))
    y = builder.apply("mul", centred, builder.apply("rsqrt", squares))
    return [y, builder.apply("reduce_max", x, axes=(0, 1))]


def _scalar(builder: GraphBuilder, like: Value, number: float) -> Value:
    return builder.apply("full", shape=like.type.shape, value=number, dtype=f32)


def _square(builder: GraphBuilder) -> Value:
    """A matrix by its rows' sums, from both sides."""
    x = builder.input("x", TensorType(f32, (7, 7)))
    sums = builder.apply("reduce_sum", builder.apply("exp", x), axes=(1,))
    down, along = (builder.apply("reshape", sums, shape=s) for s in ((7, 1), (1, 7)))
    both = builder.apply("mul", _spread(builder, down, x), _spread(builder, along, x))
    return builder.apply("mul", x, both)


CASES = {
    "perceptron": Case(
        _perceptron,
        ((3, 8),),
        ("matmul_add_relu", "matmul_add", "reduce_max_sub_exp_reduce_sum_div"),
    ),
    "attention": Case(
        _attention,
        ((2, 12, 8),),
        (
            "matmul_add",
            "matmul_add",
            "matmul_add",
            "pack",
            "pack",
            "attention",
        ),
    ),
    "residual": Case(_residual, ((2, 7, 6, 4),), ("conv_add_relu", "max_pool", "concat", "concat")),
    "branches": Case(_branches, ((2, 5, 6, 4),), ("conv", "conv_relu", "concat")),
    "shuffled": Case(_shuffled, ((2, 5, 6, 4),), ("conv_relu", "concat", "copy", "conv")),
    "statistics": Case(
        _statistics,
        ((2, 5, 33),),
        ("reduce_sum_mul_sub_mul_reduce_sum_rsqrt_mul", "reduce_max"),
    ),
    "square": Case(lambda b: [_square(b)], ((7, 7),), ("exp_reduce_sum", "mul")),
    "sums of a square": Case(
        lambda b: [b.apply("reduce_sum", _square(b), axes=(1,))],
        ((7, 7),),
        ("exp_reduce_sum", "mul_reduce_sum"),
    ),
}


def _inputs(case: Case) -> list[Array]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal(shape, np.float32) for shape in case.inputs]


def _compare(graph: Graph, inputs: Sequence[Array], optimize: int, tolerance: float) -> None:
    expected = run_graph(graph, {v.name: a for v, a in zip(graph.inputs, inputs, strict=True)})
    program = build_program(graph, TARGET, optimize)
    symbols: Mapping[str, int] = {"batch": inputs[0].shape[0]} if graph.symbols else {}
    for want, got in zip(expected, ProgramRun(program, symbols).run(inputs), strict=True):
        assert want.shape == got.shape
        np.testing.assert_allclose(
            got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("optimize", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_program_computes_what_its_graph_means(name: str, optimize: int) -> None:
    case = CASES[name]
    builder = GraphBuilder(name)
    graph = builder.finish(case.build(builder))
    _compare(graph, _inputs(case), optimize, 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_network_becomes_these_kernels(name: str) -> None:
    case = CASES[name]
    builder = GraphBuilder(name)
    graph = builder.finish(case.build(builder))
    program = build_program(graph, TARGET)
    launched = [s.kernel.name for s in program.steps if isinstance(s, Launch)]
    assert (
        tuple(n.rstrip("0123456789").rstrip("_").removesuffix("_kernel") for n in launched)
        == case.kernels
    )


@pytest.mark.parametrize("name", CASES)
def test_values_alive_together_do_not_overlap(name: str) -> None:
    case = CASES[name]
    builder = GraphBuilder(name)
    program = build_program(builder.finish(case.build(builder)), TARGET)
    plan = plan_memory(program, in_run=False)
    occupied: list[tuple[int, int, int, int]] = []
    for value, offset in plan.offsets.items():
        if value in plan.aliases:
            continue
        places = {value, *(a for a, root in plan.aliases.items() if root is value)}
        times = [
            time
            for time, step in enumerate(program.steps)
            if places & set(getattr(step, "values", ()))
        ]
        start = _at(offset)
        occupied.append((start, start + _at(value.type.nbytes), min(times), max(times)))
    for position, (start, end, first, last) in enumerate(occupied):
        for start2, end2, first2, last2 in occupied[:position]:
            if first <= last2 and first2 <= last:
                assert end <= start2 or end2 <= start


def test_the_run_body_finds_every_value_where_the_plan_says() -> None:
    """The body counts in units of the arena's parts, which it computes once."""
    builder = GraphBuilder("parts")
    x = builder.input("x", TensorType(f32, (N, 33)))
    square = builder.apply("matmul", x, builder.apply("transpose", x, permutation=(1, 0)))
    back = builder.apply("matmul", square, builder.apply("exp", x))
    graph = builder.finish([builder.apply("matmul", back, _weight(builder, 33, 4))])
    program = build_program(graph, TARGET)
    plan = plan_memory(program, in_run=False)
    assert {N, N * N} <= set(plan.units)
    sizes = {name: _at(size) for name, size in run_sizes(program, plan).items()}
    assert len(sizes) == 2 * len(plan.units)
    for value, offset in plan.offsets.items():
        assert evaluate_named(arena_offset(plan, value), sizes) == _at(offset)


def test_a_kernel_may_write_over_an_input_that_it_reads_last() -> None:
    builder = GraphBuilder("in_place")
    x = builder.input("x", TensorType(f32, (N, 33)))
    top = builder.apply("matmul", x, _weight(builder, 33, 33))
    summed = builder.apply("add", _spread(builder, _rows(builder, "reduce_sum", top), top), top)
    squared = builder.apply("mul", summed, summed)
    graph = builder.finish([builder.apply("matmul", squared, _weight(builder, 33, 4))])
    program = build_program(graph, TARGET, 1)
    plan = plan_memory(program)
    product = next(
        s for s in program.steps if isinstance(s, Launch) and s.kernel.name.startswith("mul")
    )
    source, target = product.values
    assert product.replaceable == (source,)
    assert plan.offsets[source] == plan.offsets[target]
    _compare(graph, [np.random.default_rng(1).standard_normal((5, 33), np.float32)], 1, 1e-4)


def test_paths_that_part_and_meet_again_are_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are 2^12 of them from a function to what is computed of it for each row."""
    asked = itertools.count()
    monkeypatch.setattr(fusion_rules, "is_of_rows", lambda *_: next(asked) < 0)
    builder = GraphBuilder("diamonds")
    y = builder.apply("exp", builder.input("x", TensorType(f32, (3, 1, 8))))
    for _ in range(12):
        y = builder.apply("sub", y, builder.apply("abs", y))
    wide = builder.input("wide", TensorType(f32, (3, 7, 8)))
    form_groups(builder.finish([builder.apply("add", wide, _spread(builder, y, wide))]))
    assert 12 < next(asked) < 50


def _at(size: Any) -> int:
    return size if isinstance(size, int) else int(eval(str(size), {"batch": 5}))


def _examples() -> list[Any]:
    return [
        pytest.param(
            name,
            example,
            id=f"{name}-{number}",
            marks=[pytest.mark.slow] if number >= QUICK else [],
        )
        for name, operator in sorted(OPS.items())
        for number, example in enumerate(operator.examples)
        if operator.element is not None or operator.statements is not None
    ]


@pytest.mark.parametrize(("name", "example"), _examples())
def test_every_operator_lowers_to_its_reference(name: str, example: Example) -> None:
    rng = np.random.default_rng(3)
    arrays = [
        rng.standard_normal(item, np.float32) if isinstance(item, tuple) else np.asarray(item)
        for item in example.inputs
    ]
    builder = GraphBuilder(name)
    values = [builder.input(f"x{i}", type_of(array)) for i, array in enumerate(arrays)]
    outputs = builder.apply_many(name, *values, **example.attributes)
    if not outputs:
        pytest.skip("nothing comes out")
    _compare(builder.finish(outputs), arrays, 2, example.tolerance)
