"""precision="bfloat16": operands are rounded once and stored so; sums and all else are float32."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array, bf16, f32
from bessemer.compiler.passes.precision.store_bfloat16 import (
    store_bfloat16,
    store_bfloat16_everywhere,
    store_bfloat16_weights,
)
from bessemer.compiler.passes.precision.widen_half import widen_bfloat16
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import host_target
from bessemer.compiler.targets.machine import Target
from tests.pass_runs import Case, inputs_of

PLAIN = {"dilations": (1, 1), "low": (1, 1), "high": (1, 1), "groups": 1}
TARGETS = [t for t in x86.TARGETS if set(t.features) <= set(host_target().features)]


def _rounded(array: Array) -> Array:
    return np.asarray(array.astype(ml_dtypes.bfloat16), np.float32)


def _residual() -> Graph:
    """relu, read by a convolution and by an addition behind it."""
    rng = np.random.default_rng(5)
    c = Case()
    relu = c.of("relu", c.x(1, 5, 7, 24))
    w = c.b.constant(rng.standard_normal((1, 1, 24, 24)).astype(np.float32))
    around = {**PLAIN, "low": (0, 0), "high": (0, 0)}
    product = c.of("conv", relu, w, strides=(1, 1), **around)
    return c.b.finish([c.of("add", product, relu)])


def test_what_a_convolution_reads_is_stored_rounded_for_all_its_readers() -> None:
    graph = remove_dead(store_bfloat16(_residual()))
    names = [node.operator.name for node in graph.nodes]
    assert names == ["relu", "cast", "cast", "conv", "add"]
    relu, narrow, wide, product, total = graph.nodes
    assert narrow.inputs == relu.outputs
    assert product.inputs[0] is narrow.output
    assert total.inputs == (product.output, wide.output)


def test_what_only_products_read_is_rounded_for_these_only() -> None:
    c = Case()
    relu = c.of("relu", c.x(2, 7, 24))
    reshaped = c.of("reshape", relu, shape=(14, 24))
    w = c.b.constant(np.ones((24, 24), np.float32))
    product = c.of("matmul", reshaped, w)
    graph = remove_dead(store_bfloat16(c.b.finish([c.of("add", product, reshaped)])))
    names = [node.operator.name for node in graph.nodes]
    assert names == ["relu", "cast", "reshape", "reshape", "matmul", "add"]
    relu_, narrow, *views, product_, total = graph.nodes
    assert narrow.inputs == relu_.outputs
    from_narrow = next(view for view in views if view.inputs == narrow.outputs)
    (from_relu,) = (view for view in views if view is not from_narrow)
    assert from_relu.inputs == relu_.outputs
    assert product_.inputs[0] is from_narrow.output
    assert total.inputs == (product_.output, from_relu.output)


def test_the_numbers_are_those_of_rounded_operands(rng: np.random.Generator) -> None:
    graph = _residual()
    (w,) = graph.constants.values()
    x = rng.standard_normal((1, 5, 7, 24)).astype(np.float32)
    stored = _rounded(np.maximum(x, 0))
    expected = stored.astype(np.float64) @ _rounded(w[0, 0]).astype(np.float64) + stored
    narrow = store_bfloat16(graph)
    for step in (narrow, widen_bfloat16(narrow)):
        (found,) = run_graph(step, {"x0": x})
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_outputs_and_products_of_few_rows_stay_float32() -> None:
    c = Case()
    query, key = c.x(2, 3, 5, 8), c.x(2, 3, 8, 5)
    scores = c.of("matmul", query, key)
    w = c.b.constant(np.ones((5, 4), np.float32))
    graph = c.b.finish([scores, c.of("matmul", scores, w)])
    narrow = store_bfloat16(graph)
    products = [node for node in narrow.nodes if node.operator.name == "matmul"]
    assert [node.inputs[0].type.dtype for node in products] == [f32, bf16]
    assert [value.type.dtype for value in narrow.outputs] == [f32, f32]


def test_products_of_many_rows_are_of_rounded_numbers() -> None:
    c = Case()
    graph = c.b.finish([c.of("matmul", c.x(2, 3, 50, 8), c.x(2, 3, 8, 5))])
    (product,) = (n for n in store_bfloat16(graph).nodes if n.operator.name == "matmul")
    assert [value.type.dtype for value in (*product.inputs, product.output)] == [bf16, bf16, f32]
    assert store_bfloat16_weights(graph).nodes == graph.nodes


def test_gpus_round_products_of_few_rows_and_first_layers_too() -> None:
    c = Case()
    scores = c.of("matmul", c.x(2, 3, 5, 8), c.x(2, 3, 8, 5))
    w = c.b.constant(np.ones((3, 3, 3, 4), np.float32))
    image = c.of("conv", c.x(1, 8, 8, 3), w, strides=(1, 1), **PLAIN)
    narrow = store_bfloat16_everywhere(c.b.finish([scores, image]))
    products = [node for node in narrow.nodes if node.operator.name in ("matmul", "conv")]
    assert [value.type.dtype for node in products for value in node.inputs] == [bf16] * 4
    assert [value.type.dtype for value in narrow.outputs] == [f32, f32]


@pytest.mark.skipif(
    not host_target().has_dot_bf16, reason="this machine does not multiply bfloat16 numbers"
)
@pytest.mark.parametrize("taps", [(7, 7), (4, 3)], ids=str)
def test_a_first_layer_multiplies_neighbours_of_a_row_together(
    taps: tuple[int, int], rng: np.random.Generator
) -> None:
    c = Case()
    w = rng.standard_normal((*taps, 3, 20)).astype(np.float32)
    planes = c.of("transpose", c.x(2, 3, 19, 23), permutation=(0, 2, 3, 1))
    around = {"dilations": (1, 1), "low": (3, 1), "high": (2, 2), "groups": 1}
    graph = c.b.finish([c.of("conv", planes, c.b.constant(w), strides=(2, 2), **around)])
    x = rng.standard_normal((2, 3, 19, 23)).astype(np.float32)
    (found,) = bessemer.compile(graph, precision="bfloat16").run({"x0": x})
    (exact,) = run_graph(graph, {"x0": x})
    assert 1e-4 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 1e-2
    rounded = replace(graph, constants={v: _rounded(a) for v, a in graph.constants.items()})
    (expected,) = run_graph(rounded, {"x0": _rounded(x)})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_sums_of_a_pixel_or_two_stay_float32() -> None:
    c = Case()
    w = c.b.constant(np.ones((1, 1, 3, 4), np.float32))
    around = {**PLAIN, "low": (0, 0), "high": (0, 0)}
    graph = c.b.finish([c.of("conv", c.x(1, 8, 8, 3), w, strides=(1, 1), **around)])
    (product,) = store_bfloat16(graph).nodes
    assert {value.type.dtype for value in product.inputs} == {f32}


def test_rounding_passes_through_what_only_moves_or_chooses_elements() -> None:
    c = Case()
    left, right = (c.of("exp", c.x(1, 8, 8, 8)) for _ in range(2))
    both = c.of("concat", left, right, axis=3)
    window = {"kernel": (2, 2), "strides": (2, 2), "dilations": (1, 1), "low": (0, 0)}
    pooled = c.of("max_pool", both, **window, high=(0, 0))
    w = c.b.constant(np.ones((3, 3, 16, 4), np.float32))
    graph = c.b.finish([c.of("conv", pooled, w, strides=(1, 1), **PLAIN)])
    narrow = remove_dead(store_bfloat16(graph))
    kinds = {node.operator.name: node.output.type.dtype for node in narrow.nodes}
    assert kinds == {"exp": f32, "cast": bf16, "concat": bf16, "max_pool": bf16, "conv": f32}


def test_an_output_is_exact_beside_what_is_multiplied_rounded(rng: np.random.Generator) -> None:
    c = Case()
    both = c.of("concat", c.x(1, 8, 8, 8), c.x(1, 8, 8, 8), axis=3)
    w = c.b.constant(np.ones((3, 3, 16, 4), np.float32))
    product = c.of("conv", both, w, strides=(1, 1), **PLAIN)
    graph = c.b.finish([product, both])
    inputs = inputs_of(graph, rng)
    _, found = run_graph(store_bfloat16(graph), inputs)
    np.testing.assert_array_equal(found, np.concatenate([*inputs.values()], axis=3))


def _network() -> tuple[Graph, dict[str, Array]]:
    """Convolutions, plain, depthwise and of an image, a residual, a product."""
    rng = np.random.default_rng(3)

    def weights(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1])), np.float32)

    c = Case()
    x = c.x(1, 12, 10, 3)
    y = c.of("conv", x, c.b.constant(weights(3, 3, 3, 16)), strides=(1, 1), **PLAIN)
    y = c.of("relu", y)
    deep = {**PLAIN, "groups": 16}
    z = c.of("conv", y, c.b.constant(weights(3, 3, 1, 16)), strides=(1, 1), **deep)
    z = c.of("conv", z, c.b.constant(weights(3, 3, 16, 16)), strides=(1, 1), **PLAIN)
    y = c.of("add", c.of("tanh", z), y)
    flat = c.of("reshape", y, shape=(1, 12 * 10 * 16))
    return c.b.finish([c.of("matmul", flat, c.b.constant(weights(1920, 33)))]), {
        "x0": rng.standard_normal((1, 12, 10, 3)).astype(np.float32)
    }


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_network_is_within_the_error_of_bfloat16_on_every_machine(target: Target) -> None:
    graph, inputs = _network()
    model = bessemer.compile(graph, precision="bfloat16", target=target.name)
    exact = run_graph(graph, inputs)[0]
    (found,) = model.run(inputs)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 1e-2


def test_rounding_keeps_what_is_no_number() -> None:
    c = Case()
    w = c.b.constant(np.eye(4, dtype=np.float32))
    graph = c.b.finish([c.cast(c.of("neg", c.x(4, 4)), "bf16"), c.of("matmul", c.x(4, 4), w)])
    x = np.zeros((4, 4), np.float32)
    x[0] = [np.nan, np.inf, -np.inf, 3.4e38]
    model = bessemer.compile(graph, precision="bfloat16")
    negated = model.run({"x0": x, "x1": x})[0].astype(np.float32)
    assert np.array_equal(negated[0], [np.nan, -np.inf, np.inf, -np.inf], equal_nan=True)


@pytest.mark.parametrize(
    ("name", "gates", "states"), [("lstm", 4, 2), ("gru", 3, 1), ("rnn", 1, 1)]
)
def test_a_recurrence_reads_rounded_weights_and_perhaps_a_rounded_state(
    name: str, gates: int, states: int, rng: np.random.Generator
) -> None:
    steps, batch, hidden = 5, 2, 64
    weights = rng.standard_normal((hidden, gates * hidden)).astype(np.float32) / 8

    def graph(weights: Array) -> Graph:
        c = Case()
        inputs = [c.x(steps, batch, gates * hidden)]
        inputs += [c.b.constant(weights), *(c.x(batch, hidden) for _ in range(states))]
        return c.b.finish([c.b.apply_many(name, *inputs)[0]])

    given = graph(weights)
    inputs = {
        value.name: rng.standard_normal(value.type.static_shape).astype(np.float32)
        for value in given.inputs
    }
    exact = run_graph(graph(_rounded(weights)), inputs)[0]
    plain = bessemer.compile(given, precision="bfloat16", target="x86_64-avx2")
    (found,) = plain.run(inputs)
    np.testing.assert_allclose(found, exact, atol=1e-5)
    assert np.abs(found - run_graph(given, inputs)[0]).max() > 1e-4
    (native,) = bessemer.compile(given, precision="bfloat16").run(inputs)
    if host_target().has_dot_bf16:
        assert np.abs(native - exact).max() > 1e-5  # the state is rounded, too
    np.testing.assert_allclose(native, exact, atol=2e-2)
    assert np.linalg.norm(native - exact) < 4e-3 * np.linalg.norm(exact)


def test_a_transposed_convolution_multiplies_bfloat16(rng: np.random.Generator) -> None:
    weights = rng.standard_normal((4, 4, 16, 24)).astype(np.float32)

    def graph(weights: Array) -> Graph:
        c = Case()
        around = {"strides": (2, 2), "low": (1, 1), "high": (1, 1), "output_padding": (0, 0)}
        w = c.b.constant(weights)
        y = c.of("conv_transpose", c.x(1, 5, 6, 24), w, dilations=(1, 1), groups=1, **around)
        return c.b.finish([y])

    x = rng.standard_normal((1, 5, 6, 24)).astype(np.float32)
    (found,) = bessemer.compile(graph(weights), precision="bfloat16").run([x])
    exact = run_graph(graph(_rounded(weights)), {"x0": _rounded(x)})[0]
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-4)
