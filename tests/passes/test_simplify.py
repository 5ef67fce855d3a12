"""The laws of arithmetic and views: what is written, what is left of it, and equal numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import DTYPES, TensorType, f32, i64
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.pass_runs import Case, N, changed, lines, widen


def view(c: Case, x: Value, shape: Sequence[Size]) -> Value:
    return c.of("reshape", x, shape=tuple(shape))


def cut(c: Case, x: Value, starts: Sequence[Size], shape: Sequence[Size], *steps: int) -> Value:
    return c.of("slice", x, starts=tuple(starts), shape=tuple(shape), steps=steps)


def swap(c: Case, x: Value, *permutation: int) -> Value:
    return c.of("transpose", x, permutation=permutation)


def pads(c: Case, x: Value, low: int, high: int) -> Value:
    rest = (0,) * (x.type.rank - 1)
    ends = {"low": (*rest, low), "high": (*rest, high)}
    return c.of("pad", x, **ends, mode="constant", value=0.0)


def bordered(c: Case, x: Value, number: float) -> Value:
    """x with a row of a number above it, and a column at its left."""
    return c.of("pad", x, low=(1, 1), high=(0, 0), mode="constant", value=number)


def fold(c: Case, x: Value, image: Sequence[Size], low: int = 0) -> Value:
    """Blocks of 2 elements each, side by side."""
    return c.of("col2im", x, image=tuple(image), strides=(2,), dilations=(1,), low=(low,))


def take(c: Case, x: Value, places: object, axis: int) -> Value:
    return c.b.apply("gather", x, c.b.constant(np.array(places, np.int64)), axis=axis)


ARITHMETIC: dict[str, tuple[Callable[[Case], Value], list[str]]] = {
    "x + 0": (lambda c: c.of("add", c.x(), 0.0), []),
    "x - 0": (lambda c: c.of("sub", c.x(), 0.0), []),
    "x * 1": (lambda c: c.of("mul", c.x(), 1.0), []),
    "x / 1": (lambda c: c.of("div", c.x(), 1.0), []),
    "x / 4 is exact": (
        lambda c: c.of("div", c.x(), 4.0),
        ["%1 = full(shape=(n, 3), value=0.25, dtype=f32)", "%2 = mul(%0, %1)"],
    ),
    "x / 3 is not": (
        lambda c: c.of("div", c.x(), 3.0),
        ["%1 = full(shape=(n, 3), value=3.0, dtype=f32)", "%2 = div(%0, %1)"],
    ),
    "i / 4 is not": (
        lambda c: c.of("div", c.x(N, dtype=i64), 4),
        ["%1 = full(shape=(n,), value=4, dtype=i64)", "%2 = div(%0, %1)"],
    ),
    "x * -1": (lambda c: c.of("mul", c.x(), -1.0), ["%1 = neg(%0)"]),
    "x ** 2": (lambda c: c.of("pow", c.x(), 2.0), ["%1 = mul(%0, %0)"]),
    "x ** 3": (lambda c: c.of("pow", c.x(), 3.0), ["%1 = mul(%0, %0)", "%2 = mul(%1, %0)"]),
    "x ** 0.5": (lambda c: c.of("pow", c.of("abs", c.x()), 0.5), ["%1 = abs(%0)", "%2 = sqrt(%1)"]),
    "x ** -0.5": (
        lambda c: c.of("pow", c.of("exp", c.x()), -0.5),
        ["%1 = exp(%0)", "%2 = rsqrt(%1)"],
    ),
    "x * 2 * 3": (
        lambda c: c.of("mul", c.of("mul", c.x(), 2.0), 3.0),
        ["%1 = full(shape=(n, 3), value=6.0, dtype=f32)", "%2 = mul(%0, %1)"],
    ),
    "x + 2 + 3": (
        lambda c: c.of("add", c.of("add", c.x(), 2.0), 3.0),
        ["%1 = full(shape=(n, 3), value=5.0, dtype=f32)", "%2 = add(%0, %1)"],
    ),
    "x + 12582912 - 12582912 rounds": (
        lambda c: c.of("sub", c.of("add", c.x(), 12582912.0), 12582912.0),
        [
            "%1 = full(shape=(n, 3), value=12582912.0, dtype=f32)",
            "%2 = add(%0, %1)",
            "%3 = full(shape=(n, 3), value=-12582912.0, dtype=f32)",
            "%4 = add(%2, %3)",
        ],
    ),
    "i + 5 - 7 wraps": (
        lambda c: c.of("sub", c.of("add", c.x(N, dtype=i64), 5), 7),
        ["%1 = full(shape=(n,), value=-2, dtype=i64)", "%2 = add(%0, %1)"],
    ),
    "x + -y": (
        lambda c: c.of("add", c.x(), c.of("neg", c.x())),
        ["%2 = sub(%0, %1)"],
    ),
    "x - -y": (lambda c: c.of("sub", c.x(), c.of("neg", c.x())), ["%2 = add(%0, %1)"]),
    "--x": (lambda c: c.of("neg", c.of("neg", c.x())), []),
    "not not x": (lambda c: c.of("not", c.of("not", c.x(N, dtype=DTYPES["bool"]))), []),
    "not (x == y)": (lambda c: c.of("not", c.of("eq", c.x(), c.x())), ["%2 = ne(%0, %1)"]),
    "not (x < y) is not x >= y": (
        lambda c: c.of("not", c.of("lt", c.x(), c.x())),
        ["%2 = lt(%0, %1)", "%3 = not(%2)"],
    ),
    "||x||": (lambda c: c.of("abs", c.of("abs", c.x())), ["%1 = abs(%0)"]),
    "|-x|": (lambda c: c.of("abs", c.of("neg", c.x())), ["%1 = abs(%0)"]),
    "relu relu": (lambda c: c.of("relu", c.of("relu", c.x())), ["%1 = relu(%0)"]),
    "max(x, 0)": (lambda c: c.of("max", c.x(), 0.0), ["%1 = relu(%0)"]),
    "max(min(x, 6), 0)": (
        lambda c: c.of("max", c.of("min", c.x(), 6.0), 0.0),
        ["%1 = clip(%0, minimum=0.0, maximum=6.0)"],
    ),
    "min(relu(x), 6)": (
        lambda c: c.of("min", c.of("relu", c.x()), 6.0),
        ["%1 = clip(%0, minimum=0.0, maximum=6.0)"],
    ),
    "clip of clip, apart": (
        lambda c: c.of(
            "clip", c.of("clip", c.x(), minimum=-3.0, maximum=-1.0), minimum=0.5, maximum=2.0
        ),
        ["%1 = clip(%0, minimum=0.5, maximum=0.5)"],
    ),
    "clip with crossed bounds stays": (
        lambda c: c.of(
            "clip", c.of("clip", c.x(), minimum=2.0, maximum=-2.0), minimum=-1.0, maximum=1.0
        ),
        [
            "%1 = clip(%0, minimum=2.0, maximum=-2.0)",
            "%2 = clip(%1, minimum=-1.0, maximum=1.0)",
        ],
    ),
    "relu of a clip": (
        lambda c: c.of("relu", c.of("clip", c.x(), minimum=-1.0, maximum=1.0)),
        ["%1 = clip(%0, minimum=0.0, maximum=1.0)"],
    ),
    "root of what a border leaves nonnegative": (
        lambda c: c.of("pow", bordered(c, c.of("exp", c.x(2, 3)), 1.0), 0.5),
        [
            "%1 = exp(%0)",
            "%2 = pad(%1, low=(1, 1), high=(0, 0), mode='constant', value=1.0)",
            "%3 = sqrt(%2)",
        ],
    ),
    "root of a border of minus infinity": (
        lambda c: c.of("pow", bordered(c, c.of("exp", c.x(2, 3)), -np.inf), 0.5),
        [
            "%1 = exp(%0)",
            "%2 = pad(%1, low=(1, 1), high=(0, 0), mode='constant', value=-inf)",
            "%3 = full(shape=(3, 4), value=-inf, dtype=f32)",
            "%4 = full(shape=(3, 4), value=inf, dtype=f32)",
            "%5 = eq(%2, %3)",
            "%6 = select(%5, %4, %2)",
            "%7 = sqrt(%6)",
            "%8 = abs(%7)",
        ],
    ),
    "no clip": (lambda c: c.of("clip", c.x(), minimum=-np.inf, maximum=np.inf), []),
    "select of the same": (
        lambda c: (lambda x: c.of("select", c.of("gt", x, 0.0), x, x))(c.x()),
        [],
    ),
    "select by true": (
        lambda c: (
            lambda x: c.b.apply(
                "select",
                c.b.apply("full", shape=(N, 3), value=True, dtype=DTYPES["bool"]),
                x,
                c.of("exp", x),
            )
        )(c.x()),
        [],
    ),
    "select by not": (
        lambda c: (lambda x, y: c.of("select", c.of("not", c.of("gt", x, y)), x, y))(c.x(), c.x()),
        ["%2 = gt(%0, %1)", "%3 = select(%2, %1, %0)"],
    ),
    "cast to its own type": (lambda c: c.cast(c.x(), "f32"), []),
    "f32 to f64 and back": (lambda c: c.cast(c.x(), "f64", "f32"), []),
    "f32 to f16 and back rounds": (
        lambda c: c.cast(c.x(), "f16", "f32"),
        ["%1 = cast(%0, dtype=f16)", "%2 = cast(%1, dtype=f32)"],
    ),
    "i16 to f32 to i8 saturates": (
        lambda c: c.cast(c.x(N, dtype=DTYPES["i16"]), "f32", "i8"),
        ["%1 = cast(%0, dtype=f32)", "%2 = cast(%1, dtype=i8)"],
    ),
    "bool to f32 to i64": (
        lambda c: c.cast(c.x(N, dtype=DTYPES["bool"]), "f32", "i64"),
        ["%1 = cast(%0, dtype=i64)"],
    ),
    "i64 to f32 to f64 rounds": (
        lambda c: c.cast(c.x(N, dtype=i64), "f32", "f64"),
        ["%1 = cast(%0, dtype=f32)", "%2 = cast(%1, dtype=f64)"],
    ),
}
"""What is written, and the nodes that are left of it."""


VIEWS: dict[str, tuple[Callable[[Case], Value], list[str]]] = {
    "reshape twice": (
        lambda c: view(c, view(c, c.x(N, 6), (N, 2, 3)), (2 * N, 3)),
        ["%1 = reshape(%0, shape=(2*n, 3))"],
    ),
    "reshape and back": (lambda c: view(c, view(c, c.x(N, 6), (6 * N,)), (N, 6)), []),
    "transpose and back": (lambda c: swap(c, swap(c, c.x(N, 3), 1, 0), 1, 0), []),
    "transpose twice": (
        lambda c: swap(c, swap(c, c.x(N, 3, 4), 1, 2, 0), 1, 0, 2),
        ["%1 = transpose(%0, permutation=(2, 1, 0))"],
    ),
    "transpose of axes of size 1": (
        lambda c: swap(c, c.x(N, 5, 1, 1), 0, 2, 3, 1),
        ["%1 = reshape(%0, shape=(n, 1, 1, 5))"],
    ),
    "broadcast to itself": (lambda c: widen(c, c.x(N, 3), N, 3), []),
    "broadcast twice": (
        lambda c: widen(c, widen(c, c.x(3), 4, 3), 5, 4, 3),
        ["%1 = broadcast_to(%0, shape=(5, 4, 3))"],
    ),
    "broadcast of leading ones": (
        lambda c: widen(c, view(c, c.x(3), (1, 1, 3)), 4, 2, 3),
        ["%1 = broadcast_to(%0, shape=(4, 2, 3))"],
    ),
    "slice of everything": (lambda c: cut(c, c.x(N, 3), (0, 0), (N, 3), 1, 1), []),
    "slice twice": (
        lambda c: cut(c, cut(c, c.x(20), (18,), (9,), -2), (1,), (4,), 2),
        ["%1 = slice(%0, starts=(16,), shape=(4,), steps=(-4,))"],
    ),
    "slice that reverses stays": (
        lambda c: cut(c, c.x(5), (4,), (5,), -1),
        ["%1 = slice(%0, starts=(4,), shape=(5,), steps=(-1,))"],
    ),
    "concat of one": (lambda c: c.of("concat", c.x(), axis=0), []),
    "concat with nothing": (lambda c: c.of("concat", c.x(0, 3), c.x(N, 3), axis=0), []),
    "concat of concat": (
        lambda c: c.of("concat", c.of("concat", c.x(), c.x(), axis=1), c.x(), axis=1),
        ["%3 = concat(%0, %1, %2, axis=1)"],
    ),
    "pad of nothing": (lambda c: pads(c, c.x(), 0, 0), []),
    "gather of one place": (
        lambda c: take(c, c.x(N, 4), -1, 1),
        [
            "%1 = slice(%0, starts=(0, 3), shape=(n, 1), steps=(1, 1))",
            "%2 = reshape(%1, shape=(n,))",
        ],
    ),
    "gather of the last place of a symbolic axis": (
        lambda c: take(c, c.of("concat", c.x(N, 4), c.x(1, 4), axis=0), -1, 0),
        [
            "%2 = concat(%0, %1, axis=0)",
            "%3 = slice(%2, starts=(n, 0), shape=(1, 4), steps=(1, 1))",
            "%4 = reshape(%3, shape=(4,))",
        ],
    ),
    "gather of the last place of an axis that may be empty": (
        lambda c: take(c, c.x(N, 4), -1, 0),
        ["%2 = gather(%0, %1, axis=0)"],
    ),
    "gather of evenly spaced places": (
        lambda c: take(c, c.x(N, 7), [5, 3, 1], 1),
        ["%1 = slice(%0, starts=(0, 5), shape=(n, 3), steps=(1, -2))"],
    ),
    "gather beyond what is certain": (
        lambda c: take(c, c.x(N, 4), 1, 0),
        ["%2 = gather(%0, %1, axis=0)"],
    ),
    "reduction of axes of size 1": (
        lambda c: c.of("reduce_max", c.x(N, 1, 3), axes=(1,)),
        ["%1 = reshape(%0, shape=(n, 3))"],
    ),
    "blocks side by side": (
        lambda c: fold(c, c.x(1, N, 2, 3), (2 * N,)),
        ["%1 = reshape(%0, shape=(1, 2*n, 3))"],
    ),
    "blocks side by side in part outside": (
        lambda c: fold(c, c.x(2, 4, 2, 3), (6,), low=1),
        [
            "%1 = reshape(%0, shape=(2, 8, 3))",
            "%2 = slice(%1, starts=(0, 1, 0), shape=(2, 6, 3), steps=(1, 1, 1))",
        ],
    ),
    "blocks that do not cover an image": (
        lambda c: fold(c, c.x(1, 4, 2, 3), (9,)),
        ["%1 = col2im(%0, image=(9,), strides=(2,), dilations=(1,), low=(0,))"],
    ),
    "views of a full": (
        lambda c: swap(
            c, view(c, c.b.apply("full", shape=(6,), value=2.0, dtype=f32), (2, 3)), 1, 0
        ),
        ["%0 = full(shape=(3, 2), value=2.0, dtype=f32)"],
    ),
}


@pytest.mark.parametrize("name", [*ARITHMETIC, *VIEWS])
def test_a_law_applies(name: str, rng: np.random.Generator) -> None:
    build, wanted = {**ARITHMETIC, **VIEWS}[name]
    case = Case()
    value = build(case)
    graph = changed(case.b.finish([value], ["y"]), (simplify, remove_dead), rng, 1e-6)
    assert lines(graph)[:-1] == wanted


def test_roots_are_the_powers_also_of_signed_zeros_and_infinities() -> None:
    case = Case()
    x = case.x(7)
    powers = (0.5, -0.5, 0.75)
    graph = simplify(case.b.finish([case.of("pow", x, power) for power in powers]))
    assert not any(node.operator.name == "pow" for node in graph.nodes)
    numbers = np.array([-0.0, 0.0, -np.inf, np.inf, -4.0, 4.0, np.nan], np.float32)
    with np.errstate(all="ignore"):
        for root, power in zip(run_graph(graph, {"x0": numbers}), powers, strict=True):
            wanted = np.power(numbers, np.full_like(numbers, power))  # one number may be a root
            np.testing.assert_allclose(root, wanted, rtol=1e-6)
            known = ~np.isnan(wanted)
            np.testing.assert_array_equal(np.signbit(root[known]), np.signbit(wanted[known]))


def test_a_known_operand_comes_to_the_right(rng: np.random.Generator) -> None:
    case = Case()
    x = case.x(3)
    w = case.b.constant(np.array([1, 2, 3], np.float32))
    outputs = [case.b.apply(name, w, x) for name in ("add", "mul", "sub")]
    graph = changed(case.b.finish(outputs), (simplify,), rng)
    assert lines(graph)[:3] == ["%2 = add(%0, %1)", "%3 = mul(%0, %1)", "%4 = sub(%1, %0)"]


def test_sources_and_names_outlive_a_rewriting() -> None:
    case = Case()
    x = case.x()
    with case.b.source("Clip_1"):
        y = case.of("clip", x, minimum=0.0, maximum=9.0)
    with case.b.source("Min_2"):
        y = case.of("min", y, 6.0)
    graph = case.b.finish([y], ["out"])
    named = replace(graph.nodes[-1], outputs=(Value(y.type, "h"),))
    graph = replace(graph, nodes=(*graph.nodes[:-1], named), outputs=named.outputs)
    (node,) = remove_dead(simplify(graph)).nodes
    assert node.sources == ("Clip_1", "Min_2")
    assert node.output.name == "h"


def _choice(condition: bool) -> Graph:
    case = Case()
    x = case.x(3)
    branches = []
    for operator in ("sin", "neg"):
        region = GraphBuilder(operator, case.b)
        inner = region.input("inner", x.type)
        # Something to simplify and to fold in each region.
        y = region.apply("add", inner, region.constant(np.zeros(3, np.float32)))
        branches.append(region.finish([region.apply(operator, y)]))
    known = case.b.constant(np.array(condition))
    (y,) = case.b.apply_many("if", known, x, regions=tuple(branches))
    return case.b.finish([case.of("relu", y)], ["y"])


@pytest.mark.parametrize(("condition", "taken"), [(True, "sin"), (False, "neg")])
def test_a_branch_that_is_known_is_taken(
    condition: bool, taken: str, rng: np.random.Generator
) -> None:
    graph = changed(_choice(condition), (simplify, remove_dead), rng)
    assert lines(graph)[:-1] == [f"%1 = {taken}(%0)", "%2 = relu(%1)"]


def test_passes_reach_into_regions(rng: np.random.Generator) -> None:
    graph = _choice(True)
    condition = Value(TensorType(DTYPES["bool"], ()), "c")
    (branch,) = (node for node in graph.nodes if node.regions)
    open_branch = replace(branch, inputs=(condition, *branch.inputs[1:]))
    nodes = tuple(open_branch if node is branch else node for node in graph.nodes)
    graph = replace(graph, nodes=nodes, inputs=(*graph.inputs, condition), constants={})
    graph = changed(graph, (simplify, remove_dead), rng)
    (branch,) = (node for node in graph.nodes if node.regions)
    assert [len(region.nodes) for region in branch.regions] == [1, 1]
