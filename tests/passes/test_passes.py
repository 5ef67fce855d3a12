"""Folding, cleaning and sharing: what becomes of a graph, and that its numbers stay."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.types import Array, TensorType, boolean, f32, i64, type_of
from bessemer.compiler.ir.verifier.verify_graph import verify_graph
from bessemer.compiler.passes.convolution.fold_batch_norm import fold_batch_norm
from bessemer.compiler.passes.layout.move_transposes import move_transposes
from bessemer.compiler.passes.simplification.flush_denormals import flush_denormals
from bessemer.compiler.passes.simplification.fold_constants import fold_constants
from bessemer.compiler.passes.simplification.merge_equal import merge_equal
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.pass_runs import Case, N, Pass, changed, lines, widen
from tests.passes.channels_first import Net

PASSES: tuple[Pass, ...] = (
    remove_dead,
    fold_constants,
    simplify,
    merge_equal,
    fold_batch_norm,
    move_transposes,
    flush_denormals,
)

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


def test_sizes_that_are_numbers_are_folded_beside_symbols() -> None:
    b = GraphBuilder("g")
    sizes = b.apply("sizes", sizes=(N, 3, 224, 56))
    last = b.apply("slice", sizes, starts=(3,), shape=(2,), steps=(-1,))
    symbolic = b.apply("slice", sizes, starts=(0,), shape=(1,), steps=(1,))
    sixteen = b.constant(np.array(16, np.int64))
    count = b.apply("trunc_div", last, b.apply("broadcast_to", sixteen, shape=(2,)))
    graph = remove_dead(fold_constants(b.finish([count, symbolic])))
    assert [node.operator.name for node in graph.nodes] == ["sizes", "slice"]
    assert graph.constants[graph.outputs[0]].tolist() == [3, 14]


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


def test_weights_of_16_bits_that_a_file_widens_are_folded_and_tables_are_not() -> None:
    case = Case()
    narrow = [case.b.constant(np.ones((n, 64), np.float16)) for n in (1024, 2048)]
    weights, table = (case.cast(array, "f32") for array in narrow)
    rows = case.b.apply("gather", table, case.x(N, dtype=i64), axis=0)
    turned = (case.of("transpose", array, permutation=(1, 0)) for array in (weights, table))
    graph = case.b.finish([case.of("matmul", rows, array) for array in turned])
    for change in (fold_constants, simplify, fold_constants, remove_dead):
        graph = change(graph)
    assert [node.operator.name for node in graph.nodes] == ["gather", "cast", "matmul", "matmul"]
    kept = sorted(str(value.type) for value in graph.constants)
    assert kept == ["f16[2048,64]", "f32[64,1024]", "f32[64,2048]"]


def test_a_transposed_weight_is_a_view_of_its_source() -> None:
    b = GraphBuilder("g")
    source = np.arange(2000000, dtype=np.float32).reshape(1000, 2000)
    y = b.apply(
        "transpose",
        b.apply("reshape", b.constant(source), shape=(1000, 40, 50)),
        permutation=(2, 0, 1),
    )
    graph = fold_constants(b.finish([y]))
    (array,) = graph.constants.values()
    assert np.shares_memory(array, source)
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


def test_branches_that_differ_stay_apart(rng: np.random.Generator) -> None:
    case = Case()
    x = case.x(3)
    condition = case.b.input("condition", TensorType(boolean, ()))

    def branch(operator: str) -> Graph:
        region = GraphBuilder(operator, case.b)
        return region.finish([region.apply(operator, region.input("inner", x.type))])

    branches = (branch("sin"), branch("neg")), (branch("neg"), branch("sin"))
    values = [case.b.apply_many("if", condition, x, regions=pair)[0] for pair in branches]
    graph = case.b.finish(values)
    assert merge_equal(graph) is graph


def test_a_size_from_data_is_read_even_where_nothing_has_it() -> None:
    """The run checks that it is no number below zero."""
    b = GraphBuilder("g")
    b.bind(b.input("count", TensorType(i64, (1,))))
    graph = b.finish([b.apply("neg", b.input("x", TensorType(f32, (3,))))])
    assert remove_dead(graph) is graph


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
    case = Case()
    product_of_inputs = case.of("matmul", case.x(2, 4), case.x(4, 4))
    graph = case.b.finish([_scaled(case, product_of_inputs, rng)])
    assert fold_batch_norm(graph) is graph


@pytest.mark.parametrize("case_is", ["known dividend", "division by zero", "known minuend"])
def test_the_sides_of_divisions_and_differences(case_is: str, rng: np.random.Generator) -> None:
    case = Case()
    product = case.of("matmul", case.x(5, 4), case.b.constant(np.eye(4, dtype=np.float32)))
    numbers = np.array([2, 3, 0.5, 0 if case_is == "division by zero" else 4], np.float32)
    known = widen(case, case.b.constant(numbers), 5, 4)
    operands = (product, known) if case_is == "division by zero" else (known, product)
    name = "sub" if case_is == "known minuend" else "div"
    graph = case.b.finish([case.of(name, *operands)])
    if name == "div":
        assert fold_batch_norm(graph) is graph
        return
    graph = changed(graph, (fold_batch_norm, remove_dead), rng, 1e-5)
    assert [node.operator.name for node in graph.nodes] == ["matmul", "broadcast_to", "add"]


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
    if old.dtype.kind in "iub" or old.dtype.itemsize == 1:
        assert new.tobytes() == old.tobytes()
        return
    tolerance = {2: 1e-2, 4: 1e-5, 8: 1e-13}[old.dtype.itemsize]
    wide, wanted = new.astype(np.float64), old.astype(np.float64)
    np.testing.assert_allclose(wide, wanted, rtol=tolerance, atol=1e-37)
