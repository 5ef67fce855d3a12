"""What measurements rest on: inputs that models accept, counts, errors, and processes that fail."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bessemer.compiler.ops  # noqa: F401  (registers the operators)
from benchmarks.inputs import has_two_settings, make_inputs
from benchmarks.light_nets import is_light, light_models, with_random_weights
from benchmarks.recipes import RECIPES, Recipe
from benchmarks.run_models import Subject, run_one
from bessemer.compiler.codegen.artifact.machine import Machine, assembly_text
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.types import TensorType, f32, i64
from bessemer.compiler.targets.x86 import AVX2, SSE42
from bessemer.frontends.cli.bench_process import Worker, WorkerError
from bessemer.frontends.cli.bench_worker import Job
from bessemer.frontends.float64_reference import run_in_float64
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.frontends.profiling.operation_count import count_operations
from bessemer.frontends.profiling.peak import peak_text
from bessemer.frontends.random_inputs import index_limits, input_infos, random_arrays
from bessemer.frontends.relative_error import relative_error
from tests.onnx_check import node_model
from tests.onnxruntime_sessions import session_of


def _embedding() -> GraphBuilder:
    """Rows of a table of 12, by ids that pass a cast and a negation on their way."""
    builder = GraphBuilder("embedding")
    ids = builder.input("ids", TensorType(i64, (symbol("n"),)))
    table = builder.constant(np.zeros((12, 5), np.float32))
    moved = builder.apply("reshape", ids, shape=(symbol("n"), 1))
    builder.apply("gather", table, moved, axis=0)
    return builder


def test_random_indices_stay_inside_the_table_that_they_index() -> None:
    builder = _embedding()
    graph = builder.finish([builder.nodes[-1].output], ["rows"])
    assert index_limits(graph) == {"ids": 12}
    arrays = random_arrays(input_infos(graph), {"n": 500}, limits=index_limits(graph))
    assert arrays["ids"].shape == (500,)
    assert (arrays["ids"].min(), arrays["ids"].max()) == (0, 11)


def test_operations_are_counted_as_everybody_counts_them() -> None:
    builder = GraphBuilder("net")
    x = builder.input("x", TensorType(f32, (symbol("n"), 8, 8, 3)))
    kernel = builder.constant(np.zeros((3, 3, 3, 16), np.float32))
    windows = {"strides": (1, 1), "dilations": (1, 1), "low": (0, 0), "high": (0, 0)}
    y = builder.apply("conv", x, kernel, **windows, groups=1)
    z = builder.apply("relu", y)
    total = builder.apply("reduce_sum", z, axes=(1, 2, 3))
    graph = builder.finish([total], ["y"])
    outputs = 2 * 6 * 6 * 16
    expected = outputs * 2 * 27 + outputs + outputs
    assert count_operations(graph, {"x": np.zeros((2, 8, 8, 3), np.float32)}) == expected


def test_a_convolution_of_planes_counts_as_one_of_channels() -> None:
    counts = []
    for operator, image, weight in (
        ("conv", (2, 8, 8, 6), (3, 3, 2, 3)),
        ("plane_conv", (2, 6, 8, 8), (3, 2, 3, 3)),
    ):
        builder = GraphBuilder("convolution")
        x = builder.input("x", TensorType(f32, image))
        w = builder.constant(np.zeros(weight, np.float32))
        sides = {"low": (0, 0), "high": (0, 0), "strides": (1, 1), "dilations": (1, 1)}
        y = builder.apply(operator, x, w, groups=3, **sides)
        counts.append(count_operations(builder.finish([y], ["y"]), {"x": np.zeros(image)}))
    assert counts == [2 * (2 * 6 * 6 * 3) * (2 * 3 * 3)] * 2


def test_float64_is_more_exact_than_float32(rng: np.random.Generator) -> None:
    builder = GraphBuilder("sum")
    x = builder.input("x", TensorType(f32, (4, 1000)))
    weight = rng.standard_normal((1000, 3)).astype(np.float32)
    product = builder.apply("matmul", x, builder.constant(weight))
    graph = builder.finish([product], ["y"])
    array = rng.standard_normal((4, 1000)).astype(np.float32)
    (found,) = run_in_float64(graph, {"x": array})
    assert found.dtype == np.float64
    assert relative_error(array.astype(np.float64) @ weight.astype(np.float64), found) < 1e-15
    assert relative_error(found, array @ weight) > 1e-9


def test_weights_of_four_bits_have_float64_products(rng: np.random.Generator) -> None:
    units = rng.integers(0, 16, (3, 16))
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "scale"], ["y"], domain="com.microsoft", K=16, N=3, bits=4,
        block_size=16,
    )  # fmt: skip
    packed = (units[:, ::2] | units[:, 1::2] << 4).astype(np.uint8).reshape(3, 1, 8)
    scale, array = np.full(3, 0.1, np.float32), rng.standard_normal((2, 16)).astype(np.float32)
    graph = read_onnx(node_model(node, [("x", array)], 1, [("w", packed), ("scale", scale)]))
    (found,) = run_in_float64(graph, {"x": array})
    wanted = array.astype(np.float64) @ ((units - 8) * scale.astype(np.float64)[:, None]).T
    assert relative_error(wanted, found) < 1e-15


def test_the_relative_error_is_that_of_the_norms() -> None:
    reference = np.array([3.0, 4.0], np.float32)
    assert relative_error(reference, reference) == 0
    assert relative_error(reference, np.array([3.0, 4.5])) == pytest.approx(0.1)
    assert relative_error(reference, np.array([3.0])) == np.inf
    assert relative_error(reference, np.array([3.0, np.nan])) == np.inf
    both = np.array([np.nan, 1.0])
    assert relative_error(both, both) == 0
    assert relative_error(both, np.array([1.0, np.nan])) == np.inf


@pytest.mark.parametrize("target", [SSE42, AVX2], ids=lambda target: str(target.name))
def test_the_peak_is_measured_with_independent_sums(target: object) -> None:
    """Were they alike, LLVM would compute one of them, and the peak would be a twelfth."""
    assert target in (SSE42, AVX2)
    chosen = SSE42 if target is SSE42 else AVX2
    machine = Machine(chosen.triple, chosen.cpu, chosen.feature_text)
    assembly = assembly_text(peak_text(chosen), machine)
    loop = assembly[assembly.index(".LBB0_1:") : assembly.index("jl\t.LBB0_1")]
    word = "vfmadd" if chosen.has_fma else "mulps"
    assert loop.count(word) == 12


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, x=np.zeros(1, np.float32))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    for system in ("bessemer", "onnxruntime"):
        job = Job(system, str(broken), 1, str(inputs))
        with Worker(job, tmp_path) as worker, pytest.raises(WorkerError, match=r"Error|Protobuf"):
            worker.answer()


def test_a_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    late = pytest.raises(WorkerError, match="no answer within")
    with Worker(Job("peak"), tmp_path, patience=0.01) as worker, late:
        worker.answer()


def test_a_crash_is_one_failed_row(tmp_path: Path) -> None:
    row = run_one(Subject("nothing", tmp_path / "nothing.onnx"), [], 100)
    assert row["status"] == "failed"
    assert "nothing.onnx" in row["why"]
    late = run_one(Subject("late", tmp_path / "nothing.onnx"), [], 0.01)
    assert late["why"].startswith("not done after")


# The models of the benchmarks


def test_a_recipe_gives_two_settings() -> None:
    graph = helper.make_graph(
        [],
        "net",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "seq"]),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, ["batch", 4]),
        ],
        [],
    )
    model = helper.make_model(graph)
    recipe = Recipe(
        {"batch": (1, 2), ("tokens", 1): (9, 6)}, {"length": lambda _, shape: np.full(shape, -1)}
    )
    assert has_two_settings(model)
    first, second = (make_inputs(model, recipe, k, {"tokens": 50}) for k in (0, 1))
    assert [first["tokens"].shape, second["tokens"].shape] == [(1, 9), (2, 6)]
    assert first["length"].tolist() == [9]
    assert second["length"].tolist() == [6, 6]
    assert second["mask"].all()
    assert 2 < second["tokens"].max() < 50


def test_the_index_of_the_corpus_is_complete(root: Path) -> None:
    entries = json.loads((root / "benchmarks" / "corpus.json").read_text())
    assert len({entry["id"] for entry in entries}) == len(entries) == 74
    for entry in entries:
        assert len(entry["sha256"]) == 64
        assert entry["licence"] and entry["version"] and entry["path"]
    assert set(RECIPES) <= {entry["id"] for entry in entries}


def test_there_are_nine_light_networks() -> None:
    assert len(light_models()) == 9
    assert all(is_light(onnx.load(path)) for path in light_models())


def test_light_networks_with_random_weights_depend_on_their_input() -> None:
    path = next(path for path in light_models() if "squeezenet" in path.name)
    original = onnx.load(path)
    changed = with_random_weights(original)
    weights = [numpy_helper.to_array(tensor) for tensor in changed.graph.initializer]
    assert sum(array.size for array in weights) > 1_000_000
    session = session_of(changed)
    first, second = (session.run(None, make_inputs(changed, Recipe(), k))[0] for k in (0, 1))
    assert np.isfinite(first).all()
    assert relative_error(first, second) > 1e-4
