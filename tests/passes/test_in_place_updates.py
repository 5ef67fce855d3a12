"""Nodes that write over their first input: the numbers stay, and nothing is copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.codegen.body.copies import copy_name
from bessemer.compiler.driver import build
from bessemer.compiler.ir.program import Copy, Repeat
from bessemer.compiler.ir.text.parse_graph import parse_graph
from bessemer.compiler.jit import load_code
from bessemer.compiler.memory_plan.plan_memory import plan_memory
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.in_place_updates import with_updates
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.models_in import as_graph
from tests.onnx_check import expected, parsed

Array = np.ndarray[Any, Any]

CACHE = """g (
    float[2, 4, 64, 8] past, int64[1, 1] at, float[2, 4, 1, 8] key, float[2, 4, 1, 8] query
) => (float[2, 4, 64, 8] present, float[2, 4, 1, 64] scores) {
    first = Constant <value = int64[4] {2, 4, 1, 8}> ()
    four = Constant <value = int64[4] {1, 1, 1, 1}> ()
    place = Reshape (at, four)
    places = Expand (place, first)
    present = ScatterElements <axis = 2> (past, places, key)
    turned = Transpose <perm = [0, 1, 3, 2]> (present)
    scores = MatMul (query, turned)
}"""


def _cache(rng: np.random.Generator, at: int) -> dict[str, Array]:
    shapes = {"past": (2, 4, 64, 8), "key": (2, 4, 1, 8), "query": (2, 4, 1, 8)}
    arrays = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    return {**arrays, "at": np.array([[at]])}


@pytest.mark.parametrize("optimize", [0, 1, 2])
def test_a_cache_is_an_input_and_an_output_in_one_array(
    optimize: int, rng: np.random.Generator
) -> None:
    model = bessemer.compile(parsed(CACHE), threads=1, optimize=optimize, cache=False)
    assert model.signature.updates == ((0, 0),)
    kept = np.zeros((2, 4, 64, 8), np.float32)
    for at in (0, 7, 63):
        inputs = _cache(rng, at) | {"past": kept}
        present, scores = expected(parsed(CACHE), inputs)
        elsewhere = model.run(inputs)
        np.testing.assert_array_equal(elsewhere[0], present)
        found = model.run(inputs, out={"present": kept})
        assert found[0] is kept
        np.testing.assert_array_equal(kept, present)
        np.testing.assert_array_equal(found[1], elsewhere[1])
        np.testing.assert_allclose(found[1], scores, rtol=1e-4, atol=1e-5)


LARGE = """
graph g(%0 : f32[900,333], %1 : i64[2,1], %2 : f32[2,333])  # 'past', 'at', 'rows'
  %3 = scatter_nd(%0, %1, %2, reduction="none") : f32[900,333]
  return %3                                                 # 'present'
"""


def test_threads_share_the_copy_of_a_large_input(rng: np.random.Generator) -> None:
    small = build(parse_graph(LARGE.replace("900", "9")), Options())
    made = build(parse_graph(LARGE), Options())
    name = copy_name(made.code.signature.prefix)
    assert name in made.texts[-1] and name not in small.texts[-1]
    past, rows = (rng.standard_normal((n, 333)).astype(np.float32) for n in (900, 2))
    wanted = past.copy()
    wanted[[899, 450]] = rows
    before = past.copy()
    for threads in (1, 2, 3):
        model = load_code(made.code, made.weights, machine_of(made.target), threads)
        (found,) = model.run([past, np.array([[899], [450]]), rows])
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(past, before)


READ_TWICE = """
graph g(%0 : f32[8,16], %1 : i64[2,1], %2 : f32[2,16])  # 'past', 'at', 'rows'
  %3 = scatter_nd(%0, %1, %2, reduction="none") : f32[8,16]
  %4 = exp(%0) : f32[8,16]
  return %3, %4                                         # 'present', 'before'
"""


def test_what_something_else_reads_is_no_place_for_an_output() -> None:
    assert with_updates(parse_graph(READ_TWICE)).updates == ()


CHAIN = """
graph g(%0 : f32[8,16], %1 : i64[2,1], %2 : f32[2,16])  # 'x', 'at', 'rows'
  %3 = exp(%0) : f32[8,16]
  %4 = scatter_nd(%3, %1, %2, reduction="none") : f32[8,16]
  %5 = scatter_nd(%4, %1, %2, reduction="add") : f32[8,16]
  %6 = sin(%5) : f32[8,16]
  return %6                                             # 'y'
"""


def test_what_is_computed_is_written_over(rng: np.random.Generator) -> None:
    program = build_program(parse_graph(CHAIN), host_target())
    assert plan_memory(program).size == 8 * 16 * 4
    x, rows = (rng.standard_normal((n, 16)).astype(np.float32) for n in (8, 2))
    for at in ([[3], [1]], [[5], [5]]):
        wanted = np.exp(x)
        for row, values in zip(at, rows, strict=True):
            wanted[row] = values
        for row, values in zip(at, rows, strict=True):
            wanted[row] += values
        for threads in (1, 2):
            model = bessemer.compile(parse_graph(CHAIN), threads=threads)
            (found,) = model.run([x, np.array(at), rows])
            np.testing.assert_allclose(found, np.sin(wanted), rtol=1e-5, atol=1e-6)


def test_rows_are_put_among_zeros_where_those_lie() -> None:
    zeros = CHAIN.replace("exp(%0)", "full(shape=(8, 16), value=0.0, dtype=f32)")
    assert plan_memory(build_program(parse_graph(zeros), host_target())).size == 8 * 16 * 4
    x, rows = np.zeros((8, 16), np.float32), np.ones((2, 16), np.float32)
    model = bessemer.compile(parse_graph(zeros), threads=1, cache=False)
    wanted = np.zeros((8, 16), np.float32)
    wanted[[3, 1]] = 2
    for _ in range(2):
        (found,) = model.run([x, np.array([[3], [1]]), rows])
        np.testing.assert_allclose(found, np.sin(wanted), rtol=1e-5, atol=1e-6)


def test_rows_are_put_into_a_cache_that_had_no_places() -> None:
    """The launch that puts zeros there first is no update that the scatter's could merge with."""
    graph = parse_graph("""graph g(%0 : f32[1,0,3], %1 : i64[1], %2 : f32[1,2,3])  # 'x', 'at', 'u'
  %3 = tensor_scatter(%0, %1, %2, axis=1, size=4) : f32[1,4,3]
  return %3  # 'y'
""")
    model = bessemer.compile(graph, threads=1, cache=False)
    rows = np.arange(1, 7, dtype=np.float32).reshape(1, 2, 3)
    (found,) = model.run([np.zeros((1, 0, 3), np.float32), np.array([1]), rows])
    np.testing.assert_array_equal(found, np.pad(rows, ((0, 0), (1, 1), (0, 0))))


def _loop(body: str) -> str:
    return f"""g (float[6, 5] start, float[4, 5] rows, int64 n)
        => (float[6, 5] last, float[s, 5] all) {{
    going = Constant <value = bool {{1}}> ()
    last, all = Loop (n, going, start) <body = b (int64 i, bool c, float[6, 5] x)
        => (bool d, float[6, 5] y, float[5] z) {{
        d = Identity (c)
        one = Constant <value = int64[2] {{1, 1}}> ()
        flat = Constant <value = int64[2] {{1, 5}}> ()
        two = Constant <value = int64[1] {{5}}> ()
        at = Reshape (i, one)
        row = Gather (rows, i)
        wide = Reshape (row, flat)
        {body}
    }}>
}}"""


LOOPS = {
    "a row": "y = ScatterND (x, at, wide) z = ReduceSum <keepdims = 0> (y, axis)",
    "two rows": """w = ScatterND (x, at, wide) step = Constant <value_int = 1> ()
        next = Add (at, step)
        y = ScatterND <reduction = "add"> (w, next, wide) z = Gather (y, i)""",
    "what was there": """z = Gather (x, i) y = ScatterND (x, at, wide)""",
    "what is put in": """z = Gather (x, i) twice = Add (z, row) t = Reshape (twice, flat)
        y = ScatterND (x, at, t)""",
    "another is read between": """w = ScatterND (x, at, wide) z = Gather (w, i)
        y = ScatterND <reduction = "add"> (w, at, wide)""",
    "what was there is read behind it": """deep = Constant <value = int64[3] {6, 1, 5}> ()
        before = Reshape (x, deep) most = ReduceMax <axes = [0], keepdims = 0> (before)
        y = ScatterND (x, at, most) after = Reshape (y, deep) both = Mul (after, before)
        z = ReduceMean <axes = [0, 1], keepdims = 0> (both)""",
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_writes_rows_into_what_it_carries(name: str, rng: np.random.Generator) -> None:
    text = _loop(f"axis = Constant <value = int64[1] {{0}}> () {LOOPS[name]}")
    onnx_model = parsed(text)
    inputs = {
        "start": rng.standard_normal((6, 5)).astype(np.float32),
        "rows": rng.standard_normal((4, 5)).astype(np.float32),
    }
    for optimize in (1, 2):
        model = bessemer.compile(onnx_model, threads=1, optimize=optimize, cache=False)
        for trips in (3, 1, 4):
            given = {**inputs, "n": np.array(trips)}
            for found, wanted in zip(model.run(given), expected(onnx_model, given), strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_an_iteration_copies_nothing() -> None:
    text = _loop("z = ReduceSum <keepdims = 0> (wide, axis) y = ScatterND (x, at, wide)").replace(
        "at = Reshape", "axis = Constant <value = int64[1] {0}> () at = Reshape"
    )
    program = build_program(as_graph(parsed(text)), host_target())
    (repeat,) = (step for step in program.steps if isinstance(step, Repeat))
    copied = [step.source.type.shape for step in repeat.body if isinstance(step, Copy)]
    assert (6, 5) not in copied


BESIDE_AN_UPDATE = """g (
    float[8, 16] past, int64[2, 1] at, float[16] x, float[2, 16] start, int64 n
) => (float[8, 16] present, float[16] y) {
    going = Constant <value = bool {1}> ()
    flat = Constant <value = int64[2] {1, 16}> ()
    y = Exp (x)
    row = Reshape (y, flat)
    last = Loop (n, going, start) <body = b (int64 i, bool c, float[2, 16] w)
        => (bool d, float[2, 16] v) {
        d = Identity (c)
        one = Constant <value = int64[2] {1, 1}> ()
        place = Reshape (i, one)
        v = ScatterND <reduction = "add"> (w, place, row)
    }>
    rows = Sin (last)
    present = ScatterND (past, at, rows)
}"""


def test_a_loop_that_writes_over_what_it_carries_comes_before_its_readers(
    rng: np.random.Generator,
) -> None:
    """Steps for an update alone are put early, but not before the loop that they read from."""
    shapes = {"past": (8, 16), "x": (16,), "start": (2, 16)}
    inputs = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    inputs |= {"at": np.array([[3], [1]]), "n": np.array(2)}
    model = bessemer.compile(parsed(BESIDE_AN_UPDATE), threads=1, cache=False)
    wanted = expected(parsed(BESIDE_AN_UPDATE), inputs)
    for found, reference in zip(model.run(inputs), wanted, strict=True):
        np.testing.assert_allclose(found, reference, rtol=1e-5, atol=1e-6)


def test_rows_of_indices_behind_the_last_row_write_nothing() -> None:
    text = """
graph g[n,m](%0 : f32[n,4], %1 : i64[m,1], %2 : f32[m,1])  # 'x', 'at', 'updates'
  %3 = abs(%0) : f32[n,4]
  %4 = scatter_elements(%3, %1, %2, axis=1, reduction="none") : f32[n,4]
  %5 = neg(%4) : f32[n,4]
  return %5                                                # 'y'
"""
    model = bessemer.compile(parse_graph(text), threads=1, cache=False)
    x = np.ones((2, 4), np.float32)
    for rows in (0, 1, 2, 1 << 20):
        updates = np.full((rows, 1), 9, np.float32)
        (found,) = model.run([x, np.zeros((rows, 1), np.int64), updates])
        wanted = -x
        wanted[:rows, 0] = -9
        np.testing.assert_array_equal(found, wanted)
