"""Attention in one kernel on GPUs: on the emulator, against float64; the statement itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bessemer.compiler.device_driver import build_for_device
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import loops, walk_loops
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Attend, Kernel
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.text.parse_loops import parse_kernel
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array, TensorType, bf16, dtype_of, f32
from bessemer.compiler.ir.verifier.verify_loops import verify_kernel
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.device.program import build_device_program
from bessemer.compiler.targets.nvptx import SM80, SM90A, DeviceTarget
from tests.device_runs import run_compiled, run_device_graph

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype("f2")
F32 = np.dtype("f4")
TOLERANCES = {BF16: 8e-3, F16: 1e-3, F32: 1e-6}


@dataclass(frozen=True)
class Case:
    """Queries [batch..., rows, depth], keys and values [..., keys, depth | columns].

    `mask`: a float32 mask [rows, keys] is added; `causal`: only keys up to the row count; `shared`:
    so many queries' heads have the same keys and values.
    """

    rows: int
    keys: int
    depth: int
    columns: int = 0
    batch: tuple[int, ...] = (2,)
    dtype: Any = BF16
    mask: bool = False
    causal: bool = False
    shared: int = 1
    transposed: bool = False
    residual: bool = False

    def __str__(self) -> str:
        size = f"{self.rows}x{self.keys}x{self.depth}x{self.columns or self.depth}"
        flags = [n for n in ("mask", "causal", "transposed", "residual") if getattr(self, n)]
        return "-".join(["x".join(map(str, self.batch)), size, str(self.dtype), *flags])


def softmax_of(b: GraphBuilder, x: Value) -> Value:
    kept = (*x.type.shape[:-1], 1)
    axis = x.type.rank - 1

    def rows(name: str, value: Value) -> Value:
        reduced = b.apply("reshape", b.apply(name, value, axes=(axis,)), shape=kept)
        return b.apply("broadcast_to", reduced, shape=x.type.shape)

    e = b.apply("exp", b.apply("sub", x, rows("reduce_max", x)))
    return b.apply("div", e, rows("reduce_sum", e))


def _product(b: GraphBuilder, left: Value, right: Value) -> Value:
    if left.type.dtype is f32:
        return b.apply("matmul", left, right)
    return b.apply("matmul", left, right, dtype=f32)


def constant_of(b: GraphBuilder, number: np.float32, like: Value) -> Value:
    return b.apply("broadcast_to", b.constant(np.asarray(number)), shape=like.type.shape)


def attention(case: Case, rng: np.random.Generator) -> tuple[Graph, list[Array], Array]:
    """The graph, its inputs, and the result in float64."""
    b, arrays = GraphBuilder("attention"), list[Array]()
    dtype, columns = case.dtype, case.columns or case.depth

    def given(shape: tuple[int, ...]) -> tuple[Value, Array]:
        array = rng.standard_normal(shape).astype(dtype)
        arrays.append(array)
        return b.input(f"x{len(arrays)}", TensorType(dtype_of(array), shape)), array

    few = (*case.batch[:-1], case.batch[-1] // case.shared)
    query, q = given((*case.batch, case.rows, case.depth))
    if case.transposed:  # keys lie as the product wants them
        keys, k = given((*few, case.depth, case.keys))
        k = np.swapaxes(k, -1, -2)
    else:
        keys, k = given((*few, case.keys, case.depth))
        order = (*range(len(few)), len(few) + 1, len(few))
        keys = b.apply("transpose", keys, permutation=order)
    values, v = given((*few, case.keys, columns))
    if case.shared > 1:
        keys, values = (_repeated(b, value, case.shared) for value in (keys, values))
        k, v = (np.repeat(array, case.shared, axis=len(few) - 1) for array in (k, v))
    scores = _product(b, query, keys)
    scale = np.float32(1 / math.sqrt(case.depth))
    scores = b.apply("mul", scores, constant_of(b, scale, scores))
    expected = q.astype(np.float64) @ np.swapaxes(k, -1, -2).astype(np.float64) * scale
    if case.mask:
        mask = np.where(rng.random((case.rows, case.keys)) < 0.3, -np.inf, 0).astype(np.float32)
        mask[:, 0] = 1
        arrays.append(mask)
        added = b.input("mask", TensorType(f32, mask.shape))
        spread = b.apply("broadcast_to", added, shape=scores.type.shape)
        scores, expected = b.apply("add", scores, spread), expected + mask
    if case.causal:
        seen = np.tril(np.ones((case.rows, case.keys), bool), case.keys - case.rows)
        chosen = b.apply("broadcast_to", b.constant(seen), shape=scores.type.shape)
        lowest = constant_of(b, np.float32(-1e30), scores)
        scores = b.apply("select", chosen, scores, lowest)
        expected = np.where(seen, expected, -1e30)
    weights = b.apply("cast", softmax_of(b, scores), dtype=values.type.dtype)
    result = _product(b, weights, values)
    e = np.exp(expected - expected.max(-1, keepdims=True))
    expected = e / e.sum(-1, keepdims=True) @ v.astype(np.float64)
    if case.residual:
        more = rng.standard_normal(expected.shape).astype(np.float32)
        arrays.append(more)
        result = b.apply("add", result, b.input("more", TensorType(f32, more.shape)))
        expected = expected + more
    result = b.apply("cast", result, dtype=values.type.dtype)
    return b.finish([result], ["y"]), arrays, expected


def _repeated(b: GraphBuilder, value: Value, times: int) -> Value:
    shape = value.type.shape
    heads = len(shape) - 3
    apart = (*shape[: heads + 1], 1, *shape[heads + 1 :])
    wide = (*shape[: heads + 1], times, *shape[heads + 1 :])
    together = (*shape[:heads], shape[heads] * times, *shape[heads + 1 :])
    value = b.apply("broadcast_to", b.apply("reshape", value, shape=apart), shape=wide)
    return b.apply("reshape", value, shape=together)


def attend_of(graph: Graph, target: DeviceTarget) -> tuple[Kernel, Attend] | None:
    """The kernel of a graph that is an attention, if it has one."""
    for step in build_device_program(graph, target).steps:
        if isinstance(step, Launch):
            for statement in walk_loops.walk(step.kernel.body):
                if isinstance(statement, Attend):
                    return step.kernel, statement
    return None


CASES: list[Any] = [
    Case(64, 64, 64),
    Case(64, 128, 32, causal=True, batch=(1, 2)),
    Case(40, 40, 16, mask=True),
    Case(17, 33, 24, mask=True, batch=(1,)),
    Case(70, 70, 64, causal=True, batch=(1,)),
    Case(5, 100, 40, columns=24),
    Case(64, 64, 128, batch=(1,)),
    Case(33, 65, 8, columns=72, batch=(1,), mask=True),
    Case(20, 64, 64, transposed=True, batch=(1, 2)),
    Case(20, 40, 32, batch=(1, 4), shared=2),
    Case(20, 40, 32, residual=True),
    Case(30, 64, 64, dtype=F16, batch=(1,), causal=True),
    Case(65, 33, 96, batch=(1,), columns=128),
    Case(40, 40, 16, dtype=F32, mask=True),
    *(
        pytest.param(case, marks=pytest.mark.slow)
        for case in (
            Case(33, 70, 64, dtype=F32, batch=(1,), causal=True),
            Case(17, 20, 24, columns=40, dtype=F32, batch=(1,), transposed=True, residual=True),
            Case(20, 64, 128, dtype=F32, batch=(1, 2), shared=2),
        )
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_is_one_kernel(case: Case, rng: np.random.Generator) -> None:
    graph, arrays, expected = attention(case, rng)
    assert attend_of(graph, SM80) is not None
    (actual,) = run_device_graph(graph, arrays, SM80)
    error = np.linalg.norm(actual.astype(np.float64) - expected) / np.linalg.norm(expected)
    assert error < TOLERANCES[case.dtype]


def test_it_is_the_same_on_later_machines(rng: np.random.Generator) -> None:
    graph, arrays, expected = attention(Case(20, 40, 32, mask=True), rng)
    (actual,) = run_device_graph(graph, arrays, SM90A)
    error = np.linalg.norm(actual.astype(np.float64) - expected) / np.linalg.norm(expected)
    assert error < TOLERANCES[BF16]


def test_float32_attention_is_one_kernel_where_products_may_be_rounded(
    rng: np.random.Generator,
) -> None:
    b = GraphBuilder("wide")
    arrays = [rng.standard_normal((2, 20, 16)).astype(np.float32) for _ in "qkv"]
    q, k, v = (b.input(n, TensorType(f32, a.shape)) for n, a in zip("qkv", arrays, strict=True))
    scores = b.apply("matmul", q, b.apply("transpose", k, permutation=(0, 2, 1)))
    graph = b.finish([b.apply("matmul", softmax_of(b, scores), v)], ["y"])
    made = build_for_device(graph, Options(precision="bfloat16"), SM80)
    kernels = [s.kernel for s in made.program.steps if isinstance(s, Launch)]
    assert any(isinstance(s, Attend) for kernel in kernels for s in walk_loops.walk(kernel.body))
    (actual,) = run_compiled(made, arrays)
    x, y, z = (array.astype(np.float64) for array in arrays)
    e = x @ np.swapaxes(y, 1, 2)
    e = np.exp(e - e.max(-1, keepdims=True))
    expected = e / e.sum(-1, keepdims=True) @ z
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 2e-2


@pytest.mark.parametrize(("batch", "time"), [(1, 70), (2, 5)])
def test_one_compilation_serves_all_lengths(
    batch: int, time: int, rng: np.random.Generator
) -> None:
    b = GraphBuilder("lengths")
    shape = (symbol("n"), symbol("t"), 32)
    q, k, v = (b.input(name, TensorType(bf16, shape)) for name in "qkv")
    scores = b.apply("matmul", q, b.apply("transpose", k, permutation=(0, 2, 1)), dtype=f32)
    weights = b.apply("cast", softmax_of(b, scores), dtype=bf16)
    graph = b.finish([b.apply("matmul", weights, v, dtype=f32)], ["y"])
    assert attend_of(graph, SM80) is not None
    arrays = [0.5 * rng.standard_normal((batch, time, 32)).astype(BF16) for _ in "qkv"]
    arrays = [array.astype(BF16) for array in arrays]
    (actual,) = run_device_graph(graph, arrays, SM80)
    x, y, z = (array.astype(np.float64) for array in arrays)
    e = x @ np.swapaxes(y, 1, 2)
    e = np.exp(e - e.max(-1, keepdims=True))
    expected = e / e.sum(-1, keepdims=True) @ z
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 8e-3


def small(rng: np.random.Generator) -> tuple[Kernel, Attend, list[Array], Array]:
    graph, arrays, expected = attention(Case(5, 7, 8, mask=True, batch=(2,)), rng)
    found = attend_of(graph, SM80)
    assert found is not None
    return *found, arrays, expected


def test_the_statement_has_a_text_that_reads_back(rng: np.random.Generator) -> None:
    kernel, _, _, _ = small(rng)
    text = print_kernel(kernel)
    assert "attend results by scores row " in text
    read = parse_kernel(text)
    assert print_kernel(read) == text
    verify_kernel(read)


def test_the_statement_means_attention(rng: np.random.Generator) -> None:
    kernel, _, arrays, expected = small(rng)
    names = {"in0": 0, "in1": 1, "in2": 2, "in3": 3}
    result = None
    for order in ((0, 1, 2, 3), (3, 0, 1, 2), (0, 1, 3, 2), (0, 3, 1, 2)):
        inputs = [arrays[order[names[b.name]]].reshape(-1) for b in kernel.buffers[:-1]]
        fits = all(
            b.dtype.numpy == a.dtype and b.shape[0] == a.size
            for b, a in zip(kernel.buffers, inputs, strict=False)
        )
        if fits:
            result = run_kernel(kernel, inputs, {}).outputs[0]
            break
    assert result is not None
    wide = result.astype(np.float64).reshape(expected.shape)
    np.testing.assert_allclose(wide, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"results": "in0"}, "the name in0 is in use"),
        ({"batch": ()}, "0 batch indices, 1 batch axes"),
        ({"stores": ()}, "the sums are not stored"),
        ({"row_begin": symbol("n")}, "the symbol n"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_wrong_attentions_are_found(
    change: dict[str, Any], problem: str, rng: np.random.Generator
) -> None:
    kernel, attend, _, _ = small(rng)
    (loop,) = kernel.body
    assert isinstance(loop, loops.For)
    body = (replace(loop, body=(replace(attend, **change),)),)
    with pytest.raises(InternalError, match=problem):
        verify_kernel(replace(kernel, body=body))


def test_other_rows_than_a_softmax_are_no_such_kernel(rng: np.random.Generator) -> None:
    b = GraphBuilder("other")
    q, k, v = (b.input(n, TensorType(bf16, (2, 16, 16))) for n in "qkv")
    scores = b.apply("matmul", q, k, dtype=f32)
    largest = b.apply("reshape", b.apply("reduce_max", scores, axes=(2,)), shape=(2, 16, 1))
    weights = b.apply("sub", scores, b.apply("broadcast_to", largest, shape=(2, 16, 16)))
    weights = b.apply("cast", weights, dtype=bf16)
    graph = b.finish([b.apply("matmul", weights, v, dtype=f32)], ["y"])
    assert attend_of(graph, SM80) is None
    arrays = [rng.standard_normal((2, 16, 16)).astype(BF16) for _ in "qkv"]
    (actual,) = run_device_graph(graph, arrays, SM80)
    x, y, z = (array.astype(np.float64) for array in arrays)
    rows = x @ y - (x @ y).max(-1, keepdims=True)
    error = np.linalg.norm(actual - rows @ z) / np.linalg.norm(rows @ z)
    assert error < 8e-3
