"""Sums over a batch in halves: gradients of weights and biases, and blocks that threads share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import bessemer
from bessemer.compiler.device_driver import device_passes
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import DType, TensorType, bf16, f32
from bessemer.compiler.ir.walk_steps import launches
from bessemer.compiler.options import Options
from bessemer.compiler.passes.sums.split_sums import split_sums
from bessemer.compiler.schedule.contraction.contraction import Contraction, DepthAxis, RowAxis
from bessemer.compiler.schedule.contraction.cuts import cut_evenly
from bessemer.compiler.schedule.contraction.tiles import plan
from bessemer.compiler.targets.choose import parse_target
from bessemer.compiler.targets.nvptx import SM80
from tests.pass_runs import changed
from tests.planned import planned

BATCH, DEPTH = (4, 256), 1024


def _product(depth: Size = DEPTH, rows: int = 128, columns: int = 160, dtype: DType = f32) -> Graph:
    """transpose(x) @ dy, in float32."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, (depth, rows)))
    dy = b.input("dy", TensorType(dtype, (depth, columns)))
    transposed = b.apply("transpose", x, permutation=(1, 0))
    return b.finish([b.apply("matmul", transposed, dy, **({} if dtype is f32 else {"dtype": f32}))])


def _sum(shape: tuple[Size, ...] = (*BATCH, 96), axes: tuple[int, ...] = (0, 1)) -> Graph:
    b = GraphBuilder("g")
    dy = b.input("dy", TensorType(f32, shape))
    return b.finish([b.apply("reduce_sum", b.apply("mul", dy, dy), axes=axes)])


@pytest.mark.parametrize(
    "graph",
    [_product(), _product(dtype=bf16), _sum()],
    ids=["weights", "weights in bfloat16", "biases"],
)
def test_long_sums_are_sums_of_halves(graph: Graph, rng: np.random.Generator) -> None:
    result = changed(graph, [split_sums], rng, rtol=1e-5)
    node = result.nodes[-1]
    assert node.operator.name == "reduce_sum" and node.attributes["axes"] == (0,)
    assert node.inputs[0].type.shape == (2, *graph.outputs[0].type.shape)


def _updated(rows: int = 24, depth: int = 392, columns: int = 512) -> Graph:
    """A product with a weight that the step writes over."""
    b = GraphBuilder("step")
    x = b.input("x", TensorType(f32, (rows, depth)))
    w = b.input("w", TensorType(f32, (depth, columns)))
    after = b.apply("add", w, w)
    return replace(b.finish([b.apply("matmul", x, w), after], ["y", "after"]), updates=((1, 1),))


def test_few_rows_meet_halves_of_a_weight_that_is_updated(rng: np.random.Generator) -> None:
    result = changed(_updated(), [split_sums], rng, rtol=1e-5)
    products = [node for node in result.nodes if node.operator.name == "matmul"]
    assert [node.output.type.shape for node in products] == [(2, 24, 512)]
    steps = launches(planned(_updated()).program.steps)
    assert not any("pack" in step.kernel.name for step in steps), "rows are read where they lie"


def test_what_two_products_read_is_packed_once() -> None:
    b = GraphBuilder("g")
    dy = b.input("dy", TensorType(f32, (DEPTH, 160)))
    found = []
    for name in ("x", "y"):
        x = b.input(name, TensorType(f32, (DEPTH, 128)))
        transposed = b.apply("transpose", x, permutation=(1, 0))
        found.append(b.apply("matmul", transposed, dy))
    steps = launches(planned(b.finish(found)).program.steps)
    assert ["pack" in step.kernel.name for step in steps].count(True) == 1


def _of_recurrence(steps: int = 100, rows: int = 256, columns: int = 128) -> Graph:
    """The gradient of an rnn's input weights, for 16 sequences, and the gates' it is made of."""
    b = GraphBuilder("g")
    states = [b.input(name, TensorType(f32, (steps, 16, columns))) for name in ("dy", "y")]
    weights = b.input("w", TensorType(f32, (columns, columns)))
    dh = b.input("dh", TensorType(f32, (16, columns)))
    x = b.input("x", TensorType(f32, (steps * 16, rows)))
    dgates, _ = b.apply_many("rnn_gradient", states[0], weights, dh, states[1])
    dgates = b.apply("reshape", dgates, shape=(steps * 16, columns))
    transposed = b.apply("transpose", x, permutation=(1, 0))
    return b.finish([b.apply("matmul", transposed, dgates), dgates])


def test_long_sums_over_the_steps_of_a_recurrence_are_sums_of_depth_blocks() -> None:
    graph = split_sums(_of_recurrence())
    products = [node for node in graph.nodes if node.operator.name == "matmul"]
    assert [node.inputs[1].type.shape[0] for node in products] == [544, 544, 512]
    assert split_sums(graph) is graph
    for other in (_of_recurrence(rows=128), _of_recurrence(rows=576), _of_recurrence(steps=64)):
        halves = [node for node in split_sums(other).nodes if node.operator.name == "matmul"]
        assert [node.inputs[1].type.shape[0] for node in halves] == [2]


@pytest.mark.parametrize(
    "graph",
    [
        _product(depth=1023),
        _product(depth=symbol("n")),
        _product(depth=64),
        _product(depth=512, rows=512, columns=512),
        replace(_updated(), updates=()),
        _updated(rows=200),
        _updated(depth=391),
        _updated(columns=64),
        _updated(rows=64, depth=160, columns=2048),
        _sum(axes=(2,)),
        _sum(axes=(1,)),
        _sum(axes=(0, 1, 2)),
        _sum((3, 255, 96)),
        _sum((4, 32, 96)),
        _sum((symbol("n"), 256, 96)),
        _sum((4, 60000), (0,)),
    ],
)
def test_other_sums_stay(graph: Graph) -> None:
    assert split_sums(graph) is graph


def test_gpus_have_no_use_for_halves() -> None:
    assert split_sums not in device_passes(Options(), SM80)


def test_what_a_batch_adds_up_to_is_right_and_the_same_on_two_threads(
    rng: np.random.Generator,
) -> None:
    for graph, wanted in (
        (_product(), lambda x, dy: x.T @ dy),
        (_sum(), lambda dy: (dy * dy).sum((0, 1))),
        (_updated(), lambda x, w: x @ w),
    ):
        inputs = {
            v.name: rng.standard_normal(v.type.static_shape).astype(np.float32)
            for v in graph.inputs
        }
        one, two = (bessemer.compile(graph, threads=n).run(inputs)[0] for n in (1, 2))
        np.testing.assert_array_equal(one, two)
        exact = wanted(*(array.astype(np.float64) for array in inputs.values()))
        assert np.linalg.norm(one - exact) <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("rows", [1024, 700, 4096])
def test_two_threads_have_blocks_of_rows_of_their_own(rows: int) -> None:
    work = Contraction(
        dtype=f32,
        a=Buffer("a", f32, (rows * 256,)),
        a_base=0,
        rows=(RowAxis(rows, 256),),
        depth=(DepthAxis(256, 1),),
        columns=256,
        b=Buffer("b", f32, (256 * 256,)),
        epilogue=lambda rows, column, total: (),
    )
    tiling = plan(work, parse_target("x86_64-avx512"))
    tiles = cut_evenly(rows, tiling.height).count
    assert isinstance(tiles, int) and -(-tiles // tiling.block) % 2 == 0
