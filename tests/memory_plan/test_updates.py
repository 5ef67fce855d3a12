"""Outputs written where inputs are: they are what they would be in arrays of their own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build
from bessemer.compiler.errors import CompileError, InternalError
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.program import Copy, RequireFinite
from bessemer.compiler.ir.text.parse_graph import parse_graph
from bessemer.compiler.ir.text.text_graph import print_graph
from bessemer.compiler.ir.verifier.verify_graph import verify_graph
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.program import build_program
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.builder.layer import Sequential
from bessemer.frontends.builder.layers_dense import Dense
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.compile import compile
from bessemer.frontends.fingerprint import fingerprint
from bessemer.frontends.train.losses import mean_squared_error
from bessemer.frontends.train.optimizers import Adam
from bessemer.frontends.train.step import Regularization, training_graph
from bessemer.runtime.artifact import Status
from bessemer.runtime.errors import ExecutionError, InputError
from tests.onnx_check import parsed
from tests.planned import planned

Array = np.ndarray[Any, Any]

# Text, and what it computes.
CASES: dict[str, tuple[str, Callable[[Array, Array], tuple[Array, Array]]]] = {
    "swap": (
        """
graph g(%0 : f32[40,40], %1 : f32[40,40])  # 'a', 'b'
  return %1 over %0, %0 over %1            # 'c', 'd'
""",
        lambda a, b: (b, a),
    ),
    "a circle of readers": (
        """
graph g(%0 : f32[40,40], %1 : f32[40,40])  # 'a', 'b'
  %2 = add(%0, %1) : f32[40,40]
  %3 = mul(%2, %1) : f32[40,40]
  %4 = sub(%1, %0) : f32[40,40]
  return %3 over %0, %4 over %1            # 'c', 'd'
""",
        lambda a, b: ((a + b) * b, b - a),
    ),
    "a product of itself": (
        """
graph g(%0 : f32[40,40], %1 : f32[40,40])  # 'a', 'b'
  %2 = matmul(%0, %0) : f32[40,40]
  %3 = add(%2, %0) : f32[40,40]
  return %3 over %0, %1 over %1            # 'c', 'd'
""",
        lambda a, b: (a @ a + a, b),
    ),
    "transposed": (
        """
graph g(%0 : f32[40,40], %1 : f32[40,40])  # 'a', 'b'
  %2 = transpose(%0, permutation=(1, 0)) : f32[40,40]
  %3 = add(%2, %1) : f32[40,40]
  return %3 over %0, %3 over %1            # 'c', 'd'
""",
        lambda a, b: (a.T + b, a.T + b),
    ),
    "an epilogue": (
        """
graph g(%0 : f32[40,40], %1 : f32[40,40])  # 'a', 'b'
  %2 = matmul(%1, %1) : f32[40,40]
  %3 = sub(%0, %2) : f32[40,40]
  %4 = matmul(%0, %1) : f32[40,40]
  %5 = add(%4, %1) : f32[40,40]
  return %3 over %0, %5 over %1            # 'c', 'd'
""",
        lambda a, b: (a - b @ b, a @ b + b),
    ),
    "a sum of rows": (
        """
graph g(%0 : f32[40,40], %1 : f32[40,40])  # 'a', 'b'
  %2 = reduce_sum(%0, axes=(1,)) : f32[40]
  %3 = reshape(%2, shape=(40, 1)) : f32[40,1]
  %4 = broadcast_to(%3, shape=(40, 40)) : f32[40,40]
  %5 = div(%0, %4) : f32[40,40]
  %6 = add(%5, %1) : f32[40,40]
  return %5 over %0, %6 over %1            # 'c', 'd'
""",
        lambda a, b: (a / a.sum(1, keepdims=True), a / a.sum(1, keepdims=True) + b),
    ),
    "the first of what is updated": (
        """
graph g(%0 : f32[40,40], %1 : f32[40,40])  # 'a', 'b'
  %2 = mul(%0, %1) : f32[40,40]
  %3 = slice(%2, starts=(0, 0), steps=(1, 1), shape=(1, 1)) : f32[1,1]
  %4 = broadcast_to(%3, shape=(40, 40)) : f32[40,40]
  %5 = mul(%1, %4) : f32[40,40]
  return %2 over %0, %5 over %1            # 'c', 'd'
""",
        lambda a, b: (a * b, b * (a * b)[0, 0]),
    ),
}


def _arrays() -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    a, b = (rng.uniform(0.5, 1.5, (40, 40)).astype(np.float32) for _ in range(2))
    return a, b


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimize", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_in_place_is_as_elsewhere(name: str, optimize: int, threads: int) -> None:
    text, reference = CASES[name]
    graph = parse_graph(text)
    verify_graph(graph)
    model = compile(graph, optimize=optimize, threads=threads)
    a, b = _arrays()
    elsewhere = model.run([a, b])
    for found, wanted in zip(elsewhere, reference(a.astype(float), b.astype(float)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    for out in ([a, b], [a, None], [None, b]):
        a, b = _arrays()
        out = [given if given is None else array for given, array in zip(out, (a, b), strict=True)]
        for found, wanted in zip(model.run([a, b], out=out), elsewhere, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_only_what_has_no_order_is_copied() -> None:
    copies = {}
    for name, (text, _) in CASES.items():
        program = build_program(parse_graph(text), host_target())
        copies[name] = sum(isinstance(step, Copy) for step in program.steps)
    assert copies == {
        "swap": 3,  # one of them through a third place
        "a circle of readers": 1,
        "a product of itself": 2,  # %1 is copied to itself where the caller has two arrays
        "transposed": 2,
        "an epilogue": 1,
        "a sum of rows": 1,
        "the first of what is updated": 0,
    }


def test_it_prints_and_reads_back() -> None:
    text = CASES["an epilogue"][0]
    graph = parse_graph(text)
    assert graph.updates == ((0, 0), (1, 1)) and graph.finite == ()
    printed = print_graph(graph)
    assert "return %3 over %0, %5 over %1" in printed
    assert print_graph(parse_graph(printed)) == printed
    scalar = parse_graph("graph g(%0 : f32[1])\n  %1 = exp(%0) : f32[1]\n  return %1 finite\n")
    assert scalar.finite == (0,)
    assert "return %1 finite" in print_graph(scalar)
    with pytest.raises(CompileError, match="an input"):
        parse_graph("graph g(%0 : f32[1])\n  %1 = exp(%0) : f32[1]\n  return %1 over %1\n")


def test_the_verifier_knows() -> None:
    graph = parse_graph(CASES["an epilogue"][0])
    wrong = parse_graph("graph g(%0 : f32[3], %1 : f32[2])\n  %2 = exp(%0) : f32[3]\n  return %2\n")
    for bad, message in (
        (replace(graph, updates=((0, 0), (1, 0))), "two updates"),
        (replace(graph, updates=((2, 0),)), "no output 2"),
        (replace(wrong, updates=((0, 1),)), "would overwrite"),
        (replace(graph, finite=(0,)), "finite"),
    ):
        with pytest.raises(InternalError, match=message):
            verify_graph(bad)
    assert fingerprint(graph) != fingerprint(replace(graph, updates=()))


GUARDED = """
graph g(%0 : f32[64,64], %1 : f32[64,64])  # 'w', 'x'
  %2 = matmul(%0, %1) : f32[64,64]
  %3 = sub(%0, %2) : f32[64,64]
  %4 = log(%2) : f32[64,64]
  %5 = reduce_sum(%4, axes=(0, 1)) : f32[]
  return %3 over %0, %5 finite             # 'v', 'loss'
"""


@pytest.mark.parametrize("value", [-1.0, 0.0, np.nan, np.inf])
def test_nothing_is_written_where_the_loss_is_not_finite(value: float) -> None:
    model = compile(parse_graph(GUARDED), threads=1)
    w, x = np.ones((64, 64), np.float32), np.eye(64, dtype=np.float32) + 0.5
    loss = np.zeros((), np.float32)
    model.run([w, x], out=[w, loss])
    assert np.isfinite(loss).all()
    w[...] = 1
    with pytest.raises(ExecutionError, match="loss is not finite") as caught:
        model.run([w, np.full_like(x, value)], out=[w, loss])
    assert caught.value.status == Status.NOT_FINITE
    assert not np.isfinite(loss).any()
    np.testing.assert_array_equal(w, np.ones_like(w))


def test_the_check_comes_before_every_update() -> None:
    graph: Graph = parse_graph(GUARDED)
    program = build_program(graph, host_target())
    kinds = [type(step) for step in program.steps]
    check = kinds.index(RequireFinite)
    writers = [
        place
        for place, step in enumerate(program.steps)
        if program.outputs[0] in getattr(step, "values", (getattr(step, "target", None),))
    ]
    assert writers and check < min(writers)


def test_other_overlaps_are_refused() -> None:
    model = compile(parse_graph(CASES["an epilogue"][0]), threads=1)
    a, b = _arrays()
    both = np.zeros((60, 40), np.float32)
    for out in ([b, None], [both[:40], both[20:]], [both[:40], both[:40]]):
        with pytest.raises(InputError, match="overlaps"):
            model.run([a, b], out=out)
    with pytest.raises(InputError, match="overlaps"):
        model.run([both[:40], b], out=[both[20:], None])
    with pytest.raises(InputError, match="overlaps"):
        model.run([a, a], out=[a, None])  # %0 may be written over, but %1 is read there, too


def test_one_byte_in_common_is_an_overlap() -> None:
    text = "graph g(%0 : u8[8])  # 'a'\n  %1 = add(%0, %0) : u8[8]\n  return %1  # 'c'\n"
    model = compile(parse_graph(text), threads=1, cache=False)
    whole = np.arange(24, dtype=np.uint8)
    given = whole[8:16]
    for start in (1, 15):
        with pytest.raises(InputError, match="overlaps"):
            model.run([given], out=[whole[start : start + 8]])
    for start in (0, 16):
        (found,) = model.run([given], out=[whole[start : start + 8]])
        np.testing.assert_array_equal(found, 2 * given)


def test_arrays_without_elements_overlap_nothing() -> None:
    text = """g (float[n, 4] x) => (float[m, 4] y) <float[3, 4] c = {1,2,3,4,5,6,7,8,9,10,11,12}> {
        y = Concat <axis = 0> (x, c)
    }"""
    model = compile(parsed(text), threads=1, cache=False)
    out = np.zeros((3, 4), np.float32)
    model.run([out[1:2][:0]], out=[out])
    np.testing.assert_array_equal(out.ravel(), np.arange(1, 13))


def test_two_outputs_are_not_in_one_place_whatever_they_are_called() -> None:
    text = """graph g(%0 : f32[4], %1 : f32[4])  # 'a', 'b'
  return %1 over %0, %0 over %1            # 'b', 'a'
"""
    model = compile(parse_graph(text), threads=1, cache=False)
    a, b, both = (np.full(4, k, np.float32) for k in range(3))
    with pytest.raises(InputError, match="overlaps"):
        model.run([a, b], out=[both, both])


def test_a_read_only_input_is_not_written_over() -> None:
    model = compile(parse_graph(CASES["an epilogue"][0]), threads=1)
    a, b = _arrays()
    kept = a.copy()
    a.flags.writeable = False
    with pytest.raises(InputError, match="read-only"):
        model.run([a, b], out=[a, None])
    np.testing.assert_array_equal(a, kept)


def test_an_artifact_says_it(tmp_path: Any) -> None:
    made = build(parse_graph(CASES["an epilogue"][0]), Options())
    assert made.code.signature.updates == ((0, 0), (1, 1))
    model = load_code(made.code, made.weights, machine_of(made.target))
    files = model.save(tmp_path / "net.o")
    header = files[1].read_text()
    assert "c: float32 [40, 40] (float; may be in the place of input [0])" in header


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_gradients_are_short_lived(clip: float) -> None:
    """Eight gradients of 256 KiB: with one update after the other, few of them are there at once;
    their common norm wants all of them."""
    layers = Sequential(*(Dense(256) for _ in range(8)))
    network = Network(layers, Input("x", (4, 256)))
    regularization = Regularization(clip_norm=clip)
    targets = [Input("y", (4, 256))]
    made = training_graph(network, mean_squared_error, targets, Adam(), {}, regularization)
    size = planned(made.graph).plan.size
    gradients = 8 * 256 * 256 * 4
    assert isinstance(size, int)
    assert size >= gradients if clip else size < gradients / 2
