"""Every pass: what becomes of a graph as text, and that its numbers stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, evaluate, symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpret import run_graph
from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.text_graph import print_graph
from bessemer.compiler.ir.types import DTYPES, Array, DType, TensorType, f32, i64, type_of
from bessemer.compiler.ir.verify_graph import verify_graph
from bessemer.compiler.passes.flush_denormals import flush_denormals
from bessemer.compiler.passes.fold_batch_norm import fold_batch_norm
from bessemer.compiler.passes.fold_constants import fold_constants
from bessemer.compiler.passes.merge_equal import merge_equal
from bessemer.compiler.passes.move_transposes import move_transposes
from bessemer.compiler.passes.order_search import OrderSearch
from bessemer.compiler.passes.remove_dead import remove_dead
from bessemer.compiler.passes.simplify import simplify
from tests.channels_first import NETS, Net, graph_of

Pass = Callable[[Graph], Graph]
PASSES: tuple[Pass, ...] = (
    remove_dead,
    fold_constants,
    simplify,
    merge_equal,
    fold_batch_norm,
    move_transposes,
    flush_denormals,
)
N = symbol("n")


def lines(graph: Graph) -> list[str]:
    """The nodes of a graph as text, without types and comments."""
    printed = [line.split("  # ")[0].strip() for line in print_graph(graph).splitlines()[1:]]
    kept = [line for line in printed if "= constant" not in line]
    return [line.rsplit(") : ", 1)[0] + ")" if ") : " in line else line for line in kept]


def inputs_of(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    """Arrays for the inputs; symbols are 2."""

    def array(value: Value) -> Array:
        shape = [evaluate(size, lambda leaf: 2) for size in value.type.shape]
        numbers = rng.standard_normal(shape) * 3
        return np.asarray(numbers).astype(value.type.dtype.numpy)

    return {value.name: array(value) for value in graph.inputs}


def changed(
    graph: Graph, passes: Sequence[Pass], rng: np.random.Generator, rtol: float = 0
) -> Graph:
    """The graph after passes, each of which must be valid, idempotent, and keep the numbers."""
    inputs = inputs_of(graph, rng)
    before = run_graph(graph, inputs)
    for step in passes:
        graph = step(graph)
        verify_graph(graph)
        assert step(graph) is graph, f"{step.__name__} finds more to do the second time"
    for old, new in zip(before, run_graph(graph, inputs), strict=True):
        assert old.dtype == new.dtype
        largest = np.abs(old[np.isfinite(old)].astype(np.float64)).max(initial=0)
        wide = [array.astype(np.float64) for array in (new, old)]
        np.testing.assert_allclose(*wide, rtol=rtol, atol=rtol * largest)
    return graph


class Case:
    """A graph being written, with the shorthands that the tables below use."""

    def __init__(self) -> None:
        self.b = GraphBuilder("case")

    def x(self, *shape: Size, dtype: DType = f32) -> Value:
        name = f"x{len(self.b.inputs)}"
        return self.b.input(name, TensorType(dtype, shape or (N, 3)))

    def of(self, operator: str, *operands: Value | float, **attributes: object) -> Value:
        """A node; numbers become what fills the first operand's shape."""
        first = operands[0]
        assert isinstance(first, Value)
        values = [
            operand
            if isinstance(operand, Value)
            else self.b.apply("full", shape=first.type.shape, value=operand, dtype=first.type.dtype)
            for operand in operands
        ]
        return self.b.apply(operator, *values, **attributes)

    def cast(self, x: Value, *names: str) -> Value:
        for name in names:
            x = self.of("cast", x, dtype=DTYPES[name])
        return x


def view(c: Case, x: Value, shape: Sequence[Size]) -> Value:
    return c.of("reshape", x, shape=tuple(shape))


def cut(c: Case, x: Value, starts: Sequence[Size], shape: Sequence[Size], *steps: int) -> Value:
    return c.of("slice", x, starts=tuple(starts), shape=tuple(shape), steps=steps)


def swap(c: Case, x: Value, *permutation: int) -> Value:
    return c.of("transpose", x, permutation=permutation)


def widen(c: Case, x: Value, *shape: Size) -> Value:
    return c.of("broadcast_to", x, shape=shape)


def pads(c: Case, x: Value, low: int, high: int) -> Value:
    rest = (0,) * (x.type.rank - 1)
    ends = {"low": (*rest, low), "high": (*rest, high)}
    return c.of("pad", x, **ends, mode="constant", value=0.0)


def take(c: Case, x: Value, places: object, axis: int) -> Value:
    return c.b.apply("gather", x, c.b.constant(np.array(places, np.int64)), axis=axis)


ARITHMETIC: dict[str, tuple[Callable[[Case], Value], list[str]]] = {
    "x + 0": (lambda c: c.of("add", c.x(), 0.0), []),
    "0 + x": (lambda c: c.of("add", c.of("full", c.x(), shape=(), value=0, dtype=f32), 0.0), [])
    if False
    else (lambda c: c.of("add", c.x(), 0.0), []),
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
        lambda c: widen(c, widen(c, c.x(3), 4, 3), N, 4, 3),
        ["%1 = broadcast_to(%0, shape=(n, 4, 3))"],
    ),
    "broadcast of leading ones": (
        lambda c: widen(c, view(c, c.x(3), (1, 1, 3)), N, 2, 3),
        ["%1 = broadcast_to(%0, shape=(n, 2, 3))"],
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
        lambda c: take(c, c.x(N, 4), -1, 0),
        [
            "%1 = slice(%0, starts=(n-1, 0), shape=(1, 4), steps=(1, 1))",
            "%2 = reshape(%1, shape=(4,))",
        ],
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
    for operator in ("exp", "neg"):
        region = GraphBuilder(operator, case.b)
        inner = region.input("inner", x.type)
        # Something to simplify and to fold in each region.
        y = region.apply("add", inner, region.constant(np.zeros(3, np.float32)))
        branches.append(region.finish([region.apply(operator, y)]))
    known = case.b.constant(np.array(condition))
    (y,) = case.b.apply_many("if", known, x, regions=tuple(branches))
    return case.b.finish([case.of("relu", y)], ["y"])


@pytest.mark.parametrize(("condition", "taken"), [(True, "exp"), (False, "neg")])
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


# fold_constants


def test_arithmetic_is_folded_before_broadcasting(rng: np.random.Generator) -> None:
    case = Case()
    x = case.x(N, 4)
    variance = widen(case, case.b.constant(np.array([1, 4, 9, 16], np.float32)), N, 4)
    y = case.of("add", x, case.of("sqrt", case.of("mul", variance, 4.0)))
    graph = changed(case.b.finish([y]), (fold_constants, remove_dead), rng)
    assert lines(graph)[:-1] == ["%2 = broadcast_to(%1, shape=(n, 4))", "%3 = add(%0, %2)"]
    (folded,) = graph.constants.values()
    assert folded.tolist() == [2, 4, 6, 8]


def test_what_would_grow_is_not_folded() -> None:
    b = GraphBuilder("g")
    row = b.constant(np.ones((1, 300), np.float32))
    column = b.constant(np.ones((300, 1), np.float32))
    grown = b.finish([b.apply("matmul", column, row)])
    assert fold_constants(grown) is grown
    small = GraphBuilder("g")
    row, column = (small.constant(np.ones(s, np.float32)) for s in ((1, 30), (30, 1)))
    folded = fold_constants(small.finish([small.apply("matmul", column, row)]))
    assert folded.nodes == () and folded.outputs[0] in folded.constants


def test_quantized_weights_stay_integers(rng: np.random.Generator) -> None:
    case = Case()
    weights = case.b.constant(rng.integers(-9, 9, (8, 8)).astype(np.int8))
    zero_points = case.b.constant(np.arange(8, dtype=np.int8))
    scaled = case.of("mul", case.cast(weights, "f32"), 0.5)
    y = case.of("sub", scaled, widen(case, case.cast(zero_points, "f32"), 8, 8))
    graph = changed(case.b.finish([y]), (fold_constants, remove_dead), rng)
    kept = sorted(str(value.type) for value in graph.constants)
    assert kept == ["f32[8]", "i8[8,8]"]


def test_a_transposed_weight_is_copied_once() -> None:
    b = GraphBuilder("g")
    weights = b.constant(np.arange(2000000, dtype=np.float32).reshape(1000, 2000))
    y = b.apply(
        "transpose", b.apply("reshape", weights, shape=(1000, 40, 50)), permutation=(2, 0, 1)
    )
    graph = fold_constants(b.finish([y]))
    (array,) = graph.constants.values()
    assert array.flags.c_contiguous and array.base is None
    assert array[3, 4, 5] == 4 * 2000 + 5 * 50 + 3


def test_random_nodes_are_neither_folded_nor_merged_nor_removed() -> None:
    names = [name for name, operator in OPS.items() if operator.is_random]
    assert names
    for name in names:
        operator = OPS[name]
        example = next(e for e in operator.examples if not e.inputs)
        b = GraphBuilder("g")
        first, second = (b.apply(name, **example.attributes) for _ in range(2))
        b.apply(name, **example.attributes)
        graph = b.finish([first, second])
        for step in PASSES:
            graph = step(graph)
        assert [node.operator for node in graph.nodes] == [operator] * 3


# remove_dead, merge_equal, flush_denormals


def test_only_what_is_read_stays(rng: np.random.Generator) -> None:
    case = Case()
    x = case.x(N, 3)
    case.of("exp", case.of("neg", x))
    case.b.constant(np.zeros(5, np.float32))
    graph = changed(case.b.finish([case.of("relu", x)]), (remove_dead,), rng)
    assert lines(graph) == ["%1 = relu(%0)", "return %1"]
    assert graph.constants == {}


def test_what_gives_a_symbol_its_value_stays(rng: np.random.Generator) -> None:
    case = Case()
    x = case.x(3)
    places = case.b.apply("nonzero", x, symbol="k")
    case.b.apply("nonzero", x, symbol="unused")
    y = case.b.apply("full", shape=(symbol("k"),), value=1.0, dtype=f32)
    graph = changed(case.b.finish([y]), (remove_dead,), rng)
    assert places in graph.nodes[0].outputs
    assert len(graph.nodes) == 2


def test_equal_nodes_and_constants_become_one(rng: np.random.Generator) -> None:
    case = Case()
    x = case.x(3)
    sums = []
    for name in ("first", "second"):
        with case.b.source(name):
            w = case.b.constant(np.array([1, 2, 3], np.float32))
            sums.append(case.of("add", x, w))
    graph = case.b.finish([case.of("mul", *sums), case.b.constant(np.array([1, 2, 3], np.int32))])
    graph = changed(graph, (merge_equal,), rng)
    assert len(graph.constants) == 2  # the i32 one has other bytes
    assert lines(graph)[:2] == ["%3 = add(%0, %1)", "%4 = mul(%3, %3)"]
    assert graph.nodes[0].sources == ("first", "second")


def test_numbers_that_only_look_equal_stay_apart() -> None:
    b = GraphBuilder("g")
    values = [b.apply("full", shape=(2,), value=v, dtype=f32) for v in (0.0, -0.0, 1.0)]
    values.append(b.apply("full", shape=(2,), value=0, dtype=i64))
    graph = b.finish(values)
    assert merge_equal(graph) is graph


def test_denormals_become_zeros_of_their_sign() -> None:
    b = GraphBuilder("g")
    numbers = np.array([1e-40, -1e-40, 2.0**-126, 0, 1, -np.inf, np.nan], np.float32)
    half = np.array([6e-8], np.float16)
    values = [b.constant(numbers), b.constant(half)]
    values.append(b.apply("full", shape=(2,), value=1e-40, dtype=f32))
    graph = flush_denormals(b.finish(values))
    flushed, kept = graph.constants.values()
    wanted = numbers.copy()
    wanted[0], wanted[1] = 0.0, -0.0
    assert flushed.tobytes() == wanted.tobytes()
    assert kept is half  # normal in the f32 arithmetic that computes it
    assert graph.nodes[0].attributes["value"] == 0.0
    assert flush_denormals(graph) is graph


# fold_batch_norm


def _scaled(c: Case, y: Value, rng: np.random.Generator) -> Value:
    for name in ("sub", "div", "mul", "add"):
        numbers = rng.uniform(0.5, 2, y.type.static_shape[-1:]).astype(np.float32)
        y = c.of(name, y, widen(c, c.b.constant(numbers), *y.type.shape))
    return c.of("mul", y, 2.0)


def _contraction(c: Case, name: str, rng: np.random.Generator) -> Value:
    def weights(*shape: int) -> Value:
        return c.b.constant(rng.standard_normal(shape).astype(np.float32))

    square = {"strides": (1, 1), "dilations": (1, 1), "low": (0, 0), "high": (0, 0)}
    match name:
        case "matmul":
            return c.of(name, c.x(2, 5, 4), weights(4, 6))
        case "conv":
            return c.of(name, c.x(2, 4, 4, 4), weights(3, 3, 2, 6), **square, groups=2)
        case _:
            more = {"output_padding": (0, 0), "groups": 2}
            return c.of(name, c.x(2, 3, 3, 4), weights(3, 3, 3, 4), **square, **more)


@pytest.mark.parametrize("name", ["matmul", "conv", "conv_transpose"])
def test_a_scale_goes_into_the_weights(name: str, rng: np.random.Generator) -> None:
    case = Case()
    y = _scaled(case, _contraction(case, name, rng), rng)
    graph = changed(case.b.finish([y]), (fold_batch_norm, remove_dead), rng, 1e-5)
    assert [node.operator.name for node in graph.nodes] == [name, "broadcast_to", "add"]


def test_a_scale_behind_a_transpose_goes_into_the_weights(rng: np.random.Generator) -> None:
    net = Net()
    y = net.relu(net.batch_norm(net.conv(net.input(3, 6, 6), 8)))
    graph = changed(net.b.finish([y]), (fold_constants, fold_batch_norm, remove_dead), rng, 1e-5)
    names = [node.operator.name for node in graph.nodes]
    assert names == ["transpose", "conv", "transpose", "broadcast_to", "add", "relu"]
    assert [len(node.sources) for node in graph.nodes[1:2]] == [2]


def test_a_scale_stays_where_folding_would_be_wrong(rng: np.random.Generator) -> None:
    for read_again in ("weights", "product"):
        case = Case()
        x = case.x(2, 4)
        w = case.b.constant(rng.standard_normal((4, 4)).astype(np.float32))
        product = case.of("matmul", x, w)
        other = case.of("exp", w if read_again == "weights" else product)
        graph = case.b.finish([_scaled(case, product, rng), other])
        assert fold_batch_norm(graph) is graph
    case = Case()
    y = case.of("matmul", case.x(4, 4), case.b.constant(np.ones((4, 4), np.float32)))
    rows = case.b.constant(np.arange(4, dtype=np.float32).reshape(4, 1))
    graph = case.b.finish([case.of("mul", y, widen(case, rows, 4, 4))])
    assert fold_batch_norm(graph) is graph


# move_transposes

CLEANING: tuple[Pass, ...] = (
    fold_constants,
    simplify,
    move_transposes,
    fold_constants,
    simplify,
    fold_batch_norm,
    merge_equal,
    remove_dead,
)


def transposes(graph: Graph) -> int:
    """How many transposes a graph has."""
    return Counter(node.operator.name for node in graph.nodes)["transpose"]


@pytest.mark.parametrize("name", NETS)
def test_transposes_meet_and_cancel(name: str, rng: np.random.Generator) -> None:
    build, left = NETS[name]
    graph = changed(graph_of(build), CLEANING, rng, 1e-4)
    assert transposes(graph) == left
    convolutions = [node for node in graph.nodes if node.operator.name == "conv"]
    assert all(node.sources for node in convolutions)
    if name in ("residual", "mobile"):
        folded = [node for node in convolutions if any("bn" in source for source in node.sources)]
        assert len(folded) > len(convolutions) // 2


@pytest.mark.parametrize("name", NETS)
def test_no_more_bytes_are_transposed_than_before(name: str) -> None:
    build, _ = NETS[name]
    graph = graph_of(build)
    assert OrderSearch(move_transposes(graph)).cost <= OrderSearch(graph).cost


def test_transposes_that_cannot_cancel_stay_as_they_are() -> None:
    """As in attention: both ends are products."""
    b = GraphBuilder("g")
    q, k = (b.input(name, TensorType(f32, (N, 5, 2, 8))) for name in "qk")
    left = b.apply("transpose", q, permutation=(0, 2, 1, 3))
    right = b.apply("transpose", k, permutation=(0, 2, 3, 1))
    scores = b.apply("exp", b.apply("matmul", left, right))
    graph = b.finish([b.apply("matmul", scores, b.apply("transpose", k, permutation=(0, 2, 1, 3)))])
    assert move_transposes(graph) is graph


def test_orders_of_arguments_scans_and_outputs_follow(rng: np.random.Generator) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (2, 5, 6, 3)))
    y = b.apply("relu", b.apply("transpose", x, permutation=(0, 3, 1, 2)))
    largest = b.apply("arg_max", y, axis=1, last=False)
    running = b.apply("cumulative", y, axis=3, reduction="add", exclusive=False, reverse=True)
    both = b.apply("concat", running, y, axis=2)
    back = b.apply("transpose", both, permutation=(0, 2, 3, 1))
    graph = changed(b.finish([largest, back]), (move_transposes, simplify, remove_dead), rng)
    assert transposes(graph) == 0


def test_two_thousand_nodes_take_a_moment() -> None:
    """No timing is asserted: the pass must not try orders over and over."""
    graph = remove_dead(fold_constants(graph_of(lambda net: NETS["residual"][0](net))))
    search = OrderSearch(graph)
    tried = 0
    plain = search._set

    def counted(*arguments: object) -> None:
        nonlocal tried
        tried += 1
        plain(*arguments)  # type: ignore[arg-type]

    search._set = counted  # type: ignore[method-assign]
    assert search.run()
    assert tried < 20 * len(graph.nodes)


# Everything


@pytest.mark.parametrize(
    "name", sorted(name for name, operator in OPS.items() if operator.examples)
)
def test_no_pass_changes_what_an_operator_computes(name: str, rng: np.random.Generator) -> None:
    for example in OPS[name].examples:
        arrays = [
            rng.standard_normal(entry).astype(np.float32) if isinstance(entry, tuple) else entry
            for entry in example.inputs
        ]
        for known in (False, True):
            b = GraphBuilder("g")
            values = [
                b.constant(array) if known else b.input(f"x{place}", type_of(array))
                for place, array in enumerate(arrays)
            ]
            graph = b.finish(b.apply_many(name, *values, **example.attributes))
            inputs = {f"x{place}": array for place, array in enumerate(arrays)}
            before = run_graph(graph, {} if known else inputs)
            for step in PASSES:
                graph = step(graph)
                verify_graph(graph)
            for old, new in zip(before, run_graph(graph, {} if known else inputs), strict=True):
                _assert_close(new, old)


def _assert_close(new: Array, old: Array) -> None:
    assert (new.dtype, new.shape) == (old.dtype, old.shape)
    if old.dtype.kind in "iub":
        assert np.array_equal(new, old)
        return
    tolerance = {2: 1e-2, 4: 1e-5, 8: 1e-13}[old.dtype.itemsize]
    wide = [array.astype(np.float64) for array in (new, old)]
    np.testing.assert_allclose(*wide, rtol=tolerance, atol=1e-37)
