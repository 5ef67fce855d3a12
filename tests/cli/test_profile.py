"""Where a model's time goes: what is counted, what a loop or branch adds up to, what is written."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.driver import build
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.types import Array, TensorType, bf16, f32, i64
from bessemer.compiler.ir.walk_steps import timed_steps
from bessemer.compiler.options import Options
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.profiling.bandwidth import (
    Level,
    measure_copy,
    measure_levels,
    prepare_mover,
)
from bessemer.frontends.profiling.machine_limits import Limits, measure_limits
from bessemer.frontends.profiling.operation_count import operations_of, products_of
from bessemer.frontends.profiling.profile import Event, Profile, compile_profiled, events_of
from bessemer.frontends.profiling.traffic import Traffic, traffic_of
from bessemer.runtime.errors import ExecutionError
from tests.command_line import run_command, save_net
from tests.forests import forest
from tests.planned import planned

LIMITS = Limits(1, 1e11, (Level(1, 1 << 15, 4e11, 4e11), Level(0, 1 << 62, 4e10, 2e10)))
"""Of no machine: what is computed from them can be checked."""


def test_more_threads_than_processors_can_do_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are not given memory for measurements, some 64 MiB each."""
    module = "bessemer.frontends.profiling.machine_limits"
    monkeypatch.setattr(f"{module}.os.sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setattr(f"{module}.measure_levels", lambda mover, threads: [])
    monkeypatch.setattr(f"{module}.measure_peak", lambda peak, threads, count: float(threads))
    for wanted, given in ((999, 3), (2, 2)):
        found = measure_limits(host_target(), wanted)
        assert (found.threads, found.peak) == (given, given)


def _product(rows: Any = 64, depth: int = 96, columns: int = 80) -> Graph:
    """relu(x @ w)."""
    builder = GraphBuilder("product")
    x = builder.input("x", TensorType(f32, (rows, depth)))
    w = builder.constant(np.full((depth, columns), 0.01, np.float32))
    y = builder.apply("relu", builder.apply("matmul", x, w))
    return builder.finish([y], ["y"])


def _launches(graph: Graph) -> list[Launch]:
    steps = timed_steps(planned(graph).program.steps)
    return [step for step in steps if isinstance(step, Launch)]


def _traffic(graph: Graph, sizes: dict[str, int]) -> list[Traffic]:
    offsets = build(graph, Options()).plan.weight_offsets
    return [traffic_of(launch, sizes, offsets) for launch in _launches(graph)]


def _loop() -> onnx.ModelProto:
    """y = x doubled `trips` times, unless `go` is false: then x negated."""
    return onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        agraph (float[5000] x, int64 trips, bool go) => (float[5000] y) {
            more = Constant<value = bool {1}>()
            y = If(go) <
                then_branch = many () => (float[5000] a) {
                    a = Loop(trips, more, x) <
                        body = step (int64 i, bool c, float[5000] v) => (bool d, float[5000] w) {
                            d = Identity(c)
                            w = Add(v, v)
                        }
                    >
                },
                else_branch = other () => (float[5000] b) { b = Neg(x) }
            >
        }"""
    )


def _profile(model: Any, inputs: Any, threads: int = 1) -> Profile:
    return compile_profiled(model, threads=threads).profile(inputs, 0.0, LIMITS)


def test_a_profile_names_kernels_sources_and_operations() -> None:
    x = np.ones((64, 96), np.float32)
    profile = _profile(_product(), {"x": x})
    (kernel,) = (k for k in profile.kernels if k.kernel.startswith("matmul"))
    assert kernel.runs == 1
    assert kernel.operations == 2 * 64 * 96 * 80 + 64 * 80
    assert kernel.traffic.written == 4 * 64 * 80
    # Packed weights may be padded to whole vectors.
    assert 4 * 96 * 80 <= kernel.traffic.weights <= 4 * 96 * 96
    assert kernel.traffic.read == 4 * 64 * 96 + kernel.traffic.weights
    assert kernel.rate == pytest.approx(kernel.operations / kernel.seconds)
    # What the limits allow: the arithmetic takes longer than the bytes.
    assert kernel.floor == pytest.approx(kernel.operations / 1e11)
    assert kernel.roofline == pytest.approx(kernel.floor / kernel.seconds)
    assert profile.kernel_seconds > 0
    assert profile.runs >= 5


def test_instructions_that_add_two_products_take_half_the_time() -> None:
    builder = GraphBuilder("product")
    x, w = (builder.input(name, TensorType(bf16, (64, 64))) for name in "xw")
    graph = builder.finish([builder.apply("matmul", x, w)])
    steps = planned(graph, "x86_64-avx512-bf16").program.steps
    counts = {s.kernel.name: products_of(s.kernel) for s in steps if isinstance(s, Launch)}
    assert counts == {"pack": 1, "matmul_cast": 2}
    assert LIMITS.floor(1e9, Traffic(), 0, 2) == LIMITS.floor(1e9, Traffic(), 0) / 2


def test_an_instrumented_model_computes_the_same_bits(rng: np.random.Generator) -> None:
    x = rng.standard_normal((64, 96)).astype(np.float32)
    (expected,) = bessemer.compile(_product(), cache=False).run([x])
    (found,) = bessemer.compile_profiled(_product()).run([x])
    np.testing.assert_array_equal(found, expected)


def test_a_kernel_that_was_interrupted_is_not_time_between_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another kernel of every run is late: no kernel's median, but all runs'."""
    model = compile_profiled(_loop())
    steps, runs = len(model.record.sums()), itertools.count()
    assert steps >= 3

    def sums() -> Array:
        found = np.full((steps, 2), 100)
        found[next(runs) % steps, 1] += 1000
        return found

    monkeypatch.setattr(model.record, "run", lambda: np.array([0, 100 * steps + 1030, 0]))
    monkeypatch.setattr(model.record, "sums", sums)
    inputs = {"x": np.ones(5000, np.float32), "trips": np.array(3), "go": np.array(True)}
    profile = model.profile(inputs, 0.0, LIMITS)
    assert profile.between_seconds == pytest.approx(30e-9)


def test_the_steps_of_a_loop_count_once_for_every_turn() -> None:
    x = np.ones(5000, np.float32)
    model = compile_profiled(_loop())
    for trips in (3, 7):
        inputs = {"x": x, "trips": np.array(trips), "go": np.array(True)}
        np.testing.assert_array_equal(model.run(inputs)[0], x * 2**trips)
        profile = model.profile(inputs, 0.0, LIMITS)
        assert sorted({kernel.runs for kernel in profile.kernels}) == [0, 1, trips]
        (body,) = (k for k in profile.kernels if k.kernel.startswith("add"))
        assert body.runs == trips
        assert body.operations == trips * 5000
        assert body.traffic.moved == trips * 4 * 10000
        # Every turn is an event of its own.
        number = profile.kernels.index(body)
        assert sum(event.step == number for event in profile.events) == trips
    profile = model.profile({"x": x, "trips": np.array(9), "go": np.array(False)}, 0.0, LIMITS)
    runs = {kernel.kernel.split("_")[0]: kernel.runs for kernel in profile.kernels}
    assert runs["neg"] == 1 and runs["add"] == 0


def test_sums_and_events_tell_the_same_times() -> None:
    model = compile_profiled(_loop(), threads=1)
    profile = model.profile(
        {"x": np.ones(5000, np.float32), "trips": np.array(40), "go": np.array(True)}, 0.0, LIMITS
    )
    record = model.record
    record.clear()
    model.run({"x": np.ones(5000, np.float32), "trips": np.array(40), "go": np.array(True)})
    begin, end, caller = (int(word) for word in record.run())
    sums = np.zeros((len(profile.kernels), 2), np.int64)
    for step, thread, start, stop in record.events():
        assert begin <= start <= stop <= end
        assert thread == caller
        sums[step] += (1, stop - start)
    np.testing.assert_array_equal(record.sums(), sums)
    assert sums[:, 1].sum() <= end - begin


def test_sizes_are_those_of_the_inputs() -> None:
    model = compile_profiled(_product(rows=symbol("n")))
    for rows in (7, 200):
        profile = model.profile({"x": np.ones((rows, 96), np.float32)}, 0.0, LIMITS)
        assert profile.sizes == {"n": rows}
        (kernel,) = (k for k in profile.kernels if k.kernel.startswith("matmul"))
        assert kernel.operations == 2 * rows * 96 * 80 + rows * 80
        assert kernel.traffic.written == 4 * rows * 80


def test_a_part_of_an_array_counts_as_a_part() -> None:
    builder = GraphBuilder("parts")
    ids = builder.input("ids", TensorType(i64, (6,)))
    table = builder.constant(np.ones((1000, 32), np.float32))
    rows = builder.apply("gather", table, ids, axis=0)
    (gathered,) = _traffic(builder.finish([rows], ["y"]), {})
    assert gathered.written == 4 * 6 * 32
    assert gathered.weights == 4 * 6 * 32
    assert gathered.read == 4 * 6 * 32 + 8 * 6
    builder = GraphBuilder("slice")
    x = builder.input("x", TensorType(f32, (1000, 32)))
    piece = builder.apply("slice", x, starts=(10, 0), shape=(20, 32), steps=(1, 1))
    (sliced,) = _traffic(builder.finish([builder.apply("exp", piece)], ["y"]), {})
    assert sliced == Traffic(4 * 20 * 32, 4 * 20 * 32)


def test_the_way_down_a_tree_is_not_the_whole_forest() -> None:
    """The walk is a loop of which nothing says how long it is: no more than a step counts."""
    walked, *_ = _traffic(forest(np.random.default_rng(0), 3, 12), {"n": 1})
    assert 0 < walked.weights < 4096


def test_a_node_that_several_kernels_work_on_counts_once(rng: np.random.Generator) -> None:
    builder = GraphBuilder("images")
    x = builder.input("x", TensorType(f32, (1, 14, 14, 256)))
    w = builder.constant(rng.standard_normal((3, 3, 256, 256)).astype(np.float32))
    same = {"strides": (1, 1), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}
    y = builder.apply("conv", x, w, **same, groups=1)
    made = build(builder.finish([y], ["y"]), Options())
    steps = timed_steps(made.program.steps)
    assert len(steps) > 1  # Winograd's three, or padding and a product
    assert max(operations_of(steps, {})) >= 2 * 14 * 14 * 9 * 256 * 256
    assert sum(operations_of(steps, {})) < 2.1 * 14 * 14 * 9 * 256 * 256


@pytest.mark.parametrize("rows", [1, 3, 14, 15, 300])
def test_work_follows_the_rows_of_a_run(rows: int) -> None:
    """Threads are shared by it: a product of one row is not worth a second one."""
    (launch,) = _launches(_product(symbol("rows")))
    kernel = launch.kernel
    work = evaluate_named(kernel.operations * kernel.parallel_extent, {"rows": rows})
    exact = 2 * rows * 96 * 80
    assert exact <= work <= 2.5 * exact


def test_the_floor_is_the_slower_of_arithmetic_and_memory() -> None:
    small = Traffic(8000, 4000, 0)
    assert LIMITS.floor(1e9, small, 0) == pytest.approx(1e-2)
    # Reading at 4e11 and writing at 4e11 out of the cache; weights from memory at 4e10.
    assert LIMITS.floor(0, small, 0) == pytest.approx(8000 / 4e11 + 4000 / 4e11)
    weights = Traffic(8000, 4000, 8000)
    assert LIMITS.floor(0, weights, 1e9) == pytest.approx(8000 / 4e10 + 4000 / 4e11)


def test_threads_have_a_track_each() -> None:
    model = compile_profiled(_product(2000, 512, 512), threads=2)
    profile = model.profile({"x": np.ones((2000, 512), np.float32)}, 0.0, LIMITS)
    # A worker that comes late may find that its share is done.
    assert {event.thread for event in profile.events} in ({0}, {0, 1})
    begin, caller, worker = 1000, 77, 88
    rows = np.array([[0, worker, 1500, 1900], [0, caller, 1400, 1800], [0, caller, 1900, 2000]])
    events = events_of(rows, np.array([begin, 2100, caller]))
    assert events == [Event(0, 0, 400, 800), Event(0, 1, 500, 900), Event(0, 0, 900, 1000)]
    trace = replace(profile, events=tuple(events)).to_trace()["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in trace if e["name"] == "thread_name"}
    assert names == {0: "caller", 1: "worker 1"}
    spans = [(e["tid"], e["ts"], e["dur"]) for e in trace if e["ph"] == "X"]
    assert spans == [(0, 0.4, 0.4), (1, 0.5, 0.4), (0, 0.9, 0.1)]


def test_a_profiled_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CompileError):
        compile_profiled(_product()).save(tmp_path / "x.so")


def test_bandwidths_are_of_this_machine() -> None:
    mover = prepare_mover(host_target())
    levels = measure_levels(mover, 1, 0.002)
    assert [level.number for level in levels][-1] == 0
    for level in levels:
        # Faster than any bus of the last century, slower than any cache of this one.
        assert 1e8 < level.read < 1e13 and 1e8 < level.copy < 1e13 and level.write > 0
    assert 1e8 < measure_copy(mover, 1 << 24, 1, 0.002) < 1e13


def test_the_command_writes_a_table_json_and_a_trace(tmp_path: Path) -> None:
    net = save_net(tmp_path)
    trace, saved = tmp_path / "trace.json", tmp_path / "profile.json"
    words = ["profile", net, "--dim", "batch=5", "--seconds", "0.01", "--threads", "1"]
    code, out, _ = run_command(*words, "--trace", trace, "--save", saved)
    assert code == 0
    assert "matmul" in out and "MatMul 'product'" in out and "roofline" in out
    kernels = json.loads(saved.read_text())["kernels"]
    assert any("MatMul 'product'" in source for kernel in kernels for source in kernel["sources"])
    spans = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    assert {event["name"] for event in spans} == {kernel["kernel"] for kernel in kernels}
    code, out, _ = run_command(*words, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["threads"] == 1 and found["sizes"] == {}
    assert sum(kernel["share"] for kernel in found["kernels"]) <= 1.01
    code, _, err = run_command(*words, "--tuning", tmp_path / "choices.json")
    assert code == 1 and "choices.json" in err
    code, _, err = run_command(*words, "--trace", tmp_path / "no" / "folder.json")
    assert code == 1 and "folder.json" in err


def test_what_a_run_updates_is_written_in_place() -> None:
    """From run to run, over a copy: the caller's array stays as it is."""
    builder = GraphBuilder("sum")
    total = builder.input("total", TensorType(f32, (64,)))
    x = builder.input("x", TensorType(f32, (64,)))
    graph = builder.finish([builder.apply("add", total, x)], ["total"])
    model = compile_profiled(replace(graph, updates=((0, 0),)), threads=1)
    model.profile([[0.0] * 64, [1.0] * 64], 0, LIMITS)  # as numbers, too
    given = {"total": np.zeros(64, np.float32), "x": np.ones(64, np.float32)}
    seen: list[Any] = []
    run = model.run

    def watched(inputs: Any, out: Any = None) -> Any:
        seen.append((inputs[0], out[0]))
        return run(inputs, out=out)

    model.run = watched  # type: ignore[method-assign]
    profile = model.profile(given, 0, LIMITS)
    assert {id(array) for pair in seen for array in pair} == {id(seen[0][0])}
    assert (seen[0][0] == profile.runs + 2).all()
    assert (given["total"] == 0).all()


def test_a_training_that_diverges_begins_again() -> None:
    """A number that is squared from run to run is infinite in the third one."""
    builder = GraphBuilder("square")
    x = builder.input("x", TensorType(f32, ()))
    graph = builder.finish([builder.apply("mul", x, x)], ["y"])
    model = compile_profiled(replace(graph, updates=((0, 0),), finite=(0,)), threads=1)
    first = np.array(1e5, np.float32)
    profile = model.profile({"x": first}, 0.02, LIMITS)
    assert profile.runs > 4 and first == np.float32(1e5)
    with pytest.raises(ExecutionError, match="y is not finite"):
        model.profile({"x": np.array(1e30, np.float32)}, 0.0, LIMITS)
