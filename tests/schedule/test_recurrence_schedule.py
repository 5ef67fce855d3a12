"""Recurrences with packed weights, in panels and by teams, are what their references say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.driver import build, kernels_of
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Graph, Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import Array, TensorType, bf16, dtype_of, f32
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options
from bessemer.compiler.schedule.lowering.recurrence import pack
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import host_target
from tests.compiled_kernels import HERE, targets_in_turn

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@dataclass(frozen=True)
class Case:
    """A cell on sequences; `work` says who does it."""

    cell: str
    steps: int
    batch: int
    hidden: int
    work: str
    attributes: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    is_dynamic: bool = False

    def __str__(self) -> str:
        words = [name for name, value in self.attributes.items() if value]
        dynamic = ["dynamic"] if self.is_dynamic else []
        return f"{self.cell}-{self.batch}x{self.hidden}-{self.dtype}-{'-'.join(words + dynamic)}"


LENGTHS = {"has_lengths": True}
CASES = [
    Case("lstm", 9, 1, 160, "team"),
    Case("lstm", 9, 1, 256, "team", {"reverse": True}),
    Case("lstm", 7, 4, 128, "team", {"has_peepholes": True, "clip": 0.8}),
    Case("lstm", 5, 13, 144, "team"),
    Case("lstm", 6, 3, 150, "team", {"has_lengths": True, "reverse": True}),
    Case("lstm", 6, 5, 152, "team", is_dynamic=True),
    Case("lstm", 5, 2, 136, "team", {"input_forget": True}, "float64"),
    Case("lstm", 5, 1, 200, "team", {}, "float16"),
    Case("lstm", 4, 32, 24, "rows"),
    Case("lstm", 4, 7, 24, "rows"),
    Case("lstm", 4, 7, 24, "rows", is_dynamic=True),
    Case("lstm", 3, 2, 5, "rows", LENGTHS),
    Case("gru", 9, 1, 256, "team", {"linear_before_reset": True}),
    Case("gru", 9, 2, 168, "team"),
    Case("gru", 7, 1, 211, "team", {"has_lengths": True, "linear_before_reset": True}),
    Case("gru", 5, 7, 33, "rows", {"reverse": True}),
    Case("rnn", 9, 1, 272, "team"),
    Case("rnn", 3, 4, 48, "rows", {"activations": ("relu",), **LENGTHS}),
    # So many rows that gates are summed up one after the other, in blocks of the depth.
    Case("lstm", 5, 12, 128, "team"),
    Case("lstm", 3, 13, 320, "team", {"reverse": True, "has_peepholes": True}),
    Case("lstm", 2, 50, 384, "team", {"input_forget": True}),
    Case("gru", 2, 7, 544, "team"),  # blocks of the depth that are not all of one size
    Case("lstm", 2, 13, 512, "team"),  # rows of the state 2 KB apart, but for a cache line
    Case("gru", 4, 9, 192, "team"),
    Case("gru", 4, 15, 128, "team", {"linear_before_reset": True}, "float64"),
    Case("rnn", 4, 13, 192, "team", {}, "float16"),
    # A team meets after each of the two products without `linear_before_reset`.
    Case("gru", 4, 4, 64, "team", {"linear_before_reset": True}),
    Case("gru", 4, 4, 64, "rows"),
]
# Blocks of rows for the members of a small team, whose caches have all weights each.
APART = [
    Case("lstm", 5, 16, 192, "team", {"has_peepholes": True}),
    Case("lstm", 4, 20, 192, "team", {"reverse": True}),
    Case("gru", 4, 32, 256, "team", {"linear_before_reset": True}),
    Case("gru", 5, 24, 192, "team", {}, "float64"),
    Case("rnn", 5, 16, 384, "team"),
]


def arrays_of(case: Case) -> Iterator[tuple[str, Array]]:
    rng = np.random.default_rng(case.hidden)
    gates, state = GATES[case.cell], (case.batch, case.hidden)

    def normal(*shape: int, scale: float = 1.0) -> Array:
        return (rng.standard_normal(shape) * scale).astype(case.dtype)

    yield "gates_x", normal(case.steps, case.batch, gates * case.hidden)
    yield "recurrent", normal(case.hidden, gates * case.hidden, scale=case.hidden**-0.5)
    yield "h0", normal(*state)
    if case.cell == "lstm":
        yield "c0", normal(*state)
    if case.attributes.get("has_lengths"):
        yield "lengths", rng.integers(0, case.steps + 1, case.batch)
    if case.attributes.get("has_peepholes"):
        yield "peepholes", normal(3 * case.hidden)
    if case.attributes.get("linear_before_reset"):
        yield "bias", normal(case.hidden)


def graph_of(case: Case, arrays: dict[str, Array]) -> Graph:
    """The cell with constant weights; the batch is a symbol if it is dynamic."""
    b = GraphBuilder("cell")
    values = []
    for name, array in arrays.items():
        if name in ("recurrent", "peepholes", "bias"):
            values.append(b.constant(array))
            continue
        shape: list[Size] = list(array.shape)
        if case.is_dynamic:
            shape[1 if name == "gates_x" else 0] = symbol("batch")
        values.append(b.input(name, TensorType(dtype_of(array), tuple(shape))))
    outputs = b.apply_many(case.cell, *values, **case.attributes)
    return b.finish(outputs, [f"y{k}" for k in range(len(outputs))])


@pytest.mark.parametrize("case", CASES + APART, ids=str)
def test_a_cell_is_what_its_reference_says(case: Case) -> None:
    arrays = dict(arrays_of(case))
    graph = graph_of(case, arrays)
    made = build(graph, Options(verify=True))
    (kernel,) = (k for k in kernels_of(made.program.steps) if case.cell in k.name)
    assert kernel.has_team == (case.work == "team")
    feeds = {name: array for name, array in arrays.items() if name in graph_names(graph)}
    model = load_code(made.code, made.weights, machine_of(made.target), 2)
    precise = {"float64": 1e-12, "float16": 4e-3}.get(case.dtype, 2e-6)
    exact = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays.values()]
    expected = graph.nodes[-1].operator.compute(exact, case.attributes)
    for result, wanted in zip(model.run(feeds), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=precise, atol=precise)


@pytest.mark.parametrize("case", APART, ids=str)
def test_a_small_team_takes_rows_and_gives_the_same_bits(case: Case) -> None:
    arrays = dict(arrays_of(case))
    graph = graph_of(case, arrays)
    made = build(graph, Options())
    (kernel,) = (k for k in kernels_of(made.program.steps) if case.cell in k.name)
    assert "(1 < index(bessemer_team))" in print_kernel(kernel)
    feeds = {name: array for name, array in arrays.items() if name in graph_names(graph)}
    one, two = (
        load_code(made.code, made.weights, machine_of(made.target), n).run(feeds) for n in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_last_rows_of_a_free_batch_are_computed_side_by_side() -> None:
    case = Case("gru", 3, 19, 24, "rows", is_dynamic=True)
    arrays = dict(arrays_of(case))
    made = build(graph_of(case, arrays), Options())
    model = load_code(made.code, made.weights, machine_of(made.target), 2)
    for batch in (0, 1, 2, 3, 4, 5, 7, 19):
        x, h = np.ascontiguousarray(arrays["gates_x"][:, :batch]), arrays["h0"][:batch]
        exact = [array.astype(np.float64) for array in (x, arrays["recurrent"], h)]
        expected = graph_of(case, arrays).nodes[-1].operator.compute(exact, case.attributes)
        for result, wanted in zip(model.run({"gates_x": x, "h0": h}), expected, strict=True):
            np.testing.assert_allclose(result, wanted, rtol=2e-6, atol=2e-6)


def graph_names(graph: Graph) -> set[str]:
    return {value.name for value in graph.inputs}


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
@pytest.mark.parametrize("case", [CASES[2], CASES[4], CASES[13]], ids=str)
def test_every_target_computes_it(case: Case, target: Any) -> None:
    arrays = dict(arrays_of(case))
    graph = graph_of(case, arrays)
    made = build(graph, Options(target=target.name, verify=True))
    feeds = {name: array for name, array in arrays.items() if name in graph_names(graph)}
    results = load_code(made.code, made.weights, machine_of(made.target), 2).run(feeds)
    for result, wanted in zip(results, run_graph(graph, feeds), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("hidden", "is_far"), [(192, False), (512, True)])
def test_weights_that_no_near_cache_holds_are_fetched_a_block_ahead(
    hidden: int, is_far: bool
) -> None:
    case = Case("lstm", 2, 13, hidden, "team")
    made = build(graph_of(case, dict(arrays_of(case))), Options(target=x86.AVX512.name))
    (kernel,) = (k for k in kernels_of(made.program.steps) if "lstm" in k.name)
    lines = (line.strip() for line in print_kernel(kernel).splitlines())
    ahead = [line for line in lines if line.startswith("prefetch") and line.endswith("level 2")]
    assert bool(ahead) == is_far


@pytest.mark.parametrize(("columns", "length"), [(256, 256), (512, 528), (768, 768), (1024, 1040)])
def test_rows_of_the_state_do_not_share_a_few_sets_of_a_cache(columns: int, length: int) -> None:
    case = Case("lstm", 2, 13, columns, "team")
    made = build(graph_of(case, dict(arrays_of(case))), Options(target=x86.AVX512.name))
    (kernel,) = (k for k in kernels_of(made.program.steps) if "lstm" in k.name)
    assert f"f32[2,13,{length}]" in print_kernel(kernel)


def test_weights_lie_in_the_order_in_which_they_are_read() -> None:
    hidden, width = 5, 4
    recurrent = np.arange(hidden * 3 * hidden, dtype=np.float32).reshape(hidden, 3 * hidden)
    packed = pack(recurrent, hidden, (0, 2), width)
    assert packed.shape == (2, hidden, 2, width)
    for k in range(hidden):
        for position, gate in enumerate((0, 2)):
            row = np.concatenate([packed[0, k, position], packed[1, k, position]])
            np.testing.assert_array_equal(row[:hidden], recurrent[k, gate * hidden :][:hidden])
            assert not row[hidden:].any()


def test_the_unpacked_weights_are_not_kept() -> None:
    case = CASES[0]
    graph = graph_of(case, dict(arrays_of(case)))
    made = build(graph, Options())
    assert made.weights.nbytes < 1.1 * 4 * case.hidden * case.hidden * 4


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("batch", "hidden", "has_team"), [(1, 256, True), (3, 262, True), (2, 29, False)]
)
def test_weights_of_bytes_meet_a_state_of_bytes(
    batch: int, hidden: int, has_team: bool, target: Any
) -> None:
    steps, rng = 7, np.random.default_rng(hidden)
    b = GraphBuilder("bytes")
    arrays = {
        "x": rng.standard_normal((steps, batch, 4 * hidden)).astype(np.float32),
        "h0": rng.standard_normal((batch, hidden)).astype(np.float32),
        "c0": rng.standard_normal((batch, hidden)).astype(np.float32),
    }
    x, h0, c0 = (b.input(name, TensorType(dtype_of(a), a.shape)) for name, a in arrays.items())
    weights = rng.integers(-128, 128, (hidden, 4 * hidden)).astype(np.int8)
    # So small that a rounding on the other side of its limit cannot be seen.
    scales = rng.uniform(1e-5, 3e-5, 4 * hidden).astype(np.float32)
    outputs = b.apply_many("byte_lstm", x, b.constant(weights), b.constant(scales), h0, c0)
    graph = b.finish(outputs, ["y", "h", "c"])
    made = build(graph, Options(target=target.name, verify=True))
    (kernel,) = kernels_of(made.program.steps)
    assert kernel.has_team == has_team
    results = load_code(made.code, made.weights, machine_of(made.target), 2).run(arrays)
    alone = load_code(made.code, made.weights, machine_of(made.target), 1).run(arrays)
    for result, other, wanted in zip(results, alone, run_graph(graph, arrays), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=2e-5, atol=2e-5)
        np.testing.assert_array_equal(result, other)


def test_packed_bytes_are_multiplied_four_at_a_time() -> None:
    recurrent = np.arange(6 * 12, dtype=np.int8).reshape(6, 12)
    packed = pack(recurrent, 6, (0, 1), 4, group=4)
    assert packed.shape == (2, 2, 2, 4, 4)
    for k in range(8):
        row = np.concatenate([packed[panel, k // 4, 1, :, k % 4] for panel in (0, 1)])
        np.testing.assert_array_equal(row[:6], recurrent[k, 6:] if k < 6 else np.zeros(6))
        assert not row[6:].any()


PAIRED = [
    target
    for target in (x86.AVX512_BF16, x86.AMX)
    if set(target.features) <= set(host_target().features)
]


@pytest.mark.parametrize("target", PAIRED, ids=lambda target: target.name)
@pytest.mark.parametrize(
    "case",
    [
        Case("lstm", 9, 1, 256, "team", {"reverse": True}),
        Case("lstm", 7, 4, 128, "team", {"has_peepholes": True}),
        Case("lstm", 6, 3, 150, "team", LENGTHS),
        Case("lstm", 6, 5, 152, "team", is_dynamic=True),
        Case("lstm", 4, 7, 24, "rows"),
        Case("lstm", 4, 32, 26, "rows", is_dynamic=True),
        Case("lstm", 3, 20, 256, "rows"),
        Case("lstm", 5, 13, 512, "team"),
        Case("gru", 9, 1, 512, "team", {"linear_before_reset": True}),
        Case("gru", 9, 2, 168, "team"),
        Case("gru", 5, 7, 34, "rows", {"reverse": True}),
        Case("gru", 4, 3, 33, "rows"),
        Case("rnn", 9, 1, 512, "team"),
        Case("rnn", 3, 4, 48, "rows", {"activations": ("relu",), **LENGTHS}),
    ],
    ids=str,
)
def test_weights_of_bfloat16_meet_a_rounded_state(case: Case, target: Any) -> None:
    arrays = dict(arrays_of(case))
    arrays["recurrent"] = arrays["recurrent"].astype(bf16.numpy)
    arrays["h0"] = arrays["h0"].astype(bf16.numpy).astype(np.float32)
    graph = graph_of(case, arrays)
    made = build(graph, Options(target=target.name, verify=True))
    feeds = {name: array for name, array in arrays.items() if name in graph_names(graph)}
    exact = [a if a.dtype.kind == "i" else a.astype(np.float64) for a in arrays.values()]
    expected = graph.nodes[-1].operator.compute(exact, case.attributes)
    results = load_code(made.code, made.weights, machine_of(made.target), 2).run(feeds)
    alone = load_code(made.code, made.weights, machine_of(made.target), 1).run(feeds)
    # The state that the first step multiplies needs no rounding, unless a gate scales it before.
    first = -1 if case.attributes.get("reverse") else 0
    if case.cell != "gru" or case.attributes.get("linear_before_reset"):
        np.testing.assert_allclose(results[0][first], expected[0][first], rtol=2e-5, atol=2e-5)
    for result, other, wanted in zip(results, alone, expected, strict=True):
        assert np.linalg.norm(result - wanted) < 4e-3 * np.linalg.norm(wanted)
        np.testing.assert_array_equal(result, other)


def test_an_infinite_state_stays_infinite_where_it_is_rounded(rng: np.random.Generator) -> None:
    case = Case("rnn", 3, 4, 48, "rows", {"activations": ("relu",)})
    arrays = dict(arrays_of(case))
    arrays["recurrent"] = rng.uniform(0.1, 1, arrays["recurrent"].shape).astype(bf16.numpy)
    arrays["h0"][1, 5], arrays["h0"][2, 7] = np.inf, np.nan
    graph = graph_of(case, arrays)
    made = build(graph, Options())
    feeds = {name: array for name, array in arrays.items() if name in graph_names(graph)}
    results = load_code(made.code, made.weights, machine_of(made.target), 1).run(feeds)
    for y in results:
        assert np.isposinf(y[..., 1, :]).all()
        assert np.isnan(y[..., 2, :]).all()
        assert np.isfinite(np.delete(y, (1, 2), axis=-2)).all()


def _there_and_back(cell: str, batch: int, hidden: int, **attributes: Any) -> Graph:
    """A cell that keeps its steps, and its way back, of weights that are inputs."""
    steps, gates = 5, GATES[cell]
    b = GraphBuilder("training")

    def given(name: str, *shape: int) -> Value:
        return b.input(name, TensorType(f32, shape))

    x = given("x", steps, batch, gates * hidden)
    doubled = b.apply("add", x, x)  # what the cell may write over
    more = [given("c0", batch, hidden)] if cell == "lstm" else []
    more += [given("bias", hidden)] if attributes.get("linear_before_reset") else []
    weights, h0 = given("recurrent", hidden, gates * hidden), given("h0", batch, hidden)
    y, h, *_ = forth = b.apply_many(
        cell, doubled, weights, h0, *more, keeps_steps=True, **attributes
    )
    kept = {"lstm": (3, 5), "gru": (2, 3), "rnn": (0,)}[cell]
    dy, back = given("dy", *y.type.static_shape), given("back", gates * hidden, hidden)
    states = [given(name, batch, hidden) for name in ("dh", "dc")[: 1 + (cell == "lstm")]]
    gates_back, *rest = b.apply_many(
        f"{cell}_gradient", dy, back, *states, *(forth[k] for k in kept), **attributes
    )
    total = b.apply("mul", gates_back, gates_back)
    return b.finish([y, h, total, *rest], [f"out{k}" for k in range(3 + len(rest))])


@targets_in_turn
@pytest.mark.parametrize(
    ("cell", "batch", "hidden", "attributes"),
    [
        ("lstm", 16, 128, {}),
        ("lstm", 4, 96, {"reverse": True}),
        ("lstm", 27, 192, {"reverse": True}),
        ("gru", 16, 128, {}),
        ("gru", 9, 128, {"linear_before_reset": True}),
        ("rnn", 16, 256, {}),
    ],
)
def test_a_cell_and_its_way_back_are_what_their_references_say(
    cell: str, batch: int, hidden: int, attributes: dict[str, Any], target: Any
) -> None:
    graph = _there_and_back(cell, batch, hidden, **attributes)
    rng = np.random.default_rng(batch)
    feeds = {
        v.name: (rng.standard_normal(v.type.static_shape) * 0.2).astype(np.float32)
        for v in graph.inputs
    }
    values = {v: feeds[v.name].astype(np.float64) for v in graph.inputs}
    for node in graph.nodes:
        found = node.operator.compute([values[v] for v in node.inputs], node.attributes)
        values |= dict(zip(node.outputs, found, strict=True))
    made = build(graph, Options(target=target.name, verify=True))
    results = load_code(made.code, made.weights, machine_of(made.target), 2).run(feeds)
    alone = load_code(made.code, made.weights, machine_of(made.target), 1).run(feeds)
    for result, other, wanted in zip(results, alone, graph.outputs, strict=True):
        largest = np.abs(values[wanted]).max()
        np.testing.assert_allclose(result, values[wanted], rtol=0, atol=1e-5 * largest)
        np.testing.assert_array_equal(result, other)


def test_what_training_keeps_lies_where_the_input_was() -> None:
    made = build(_there_and_back("lstm", 16, 128), Options())
    gates, weights = 4 * 5 * 16 * 4 * 128, 4 * 128 * 4 * 128
    # One place for the gates before, opened, and their cotangents, and one for the sums of weights.
    assert isinstance(made.plan.size, int)
    assert made.plan.size < 2 * gates + weights
