"""The benchmarks' bookkeeping: what is kept, judged and shown. Nothing here is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.bars import Bar, all_bars
from benchmarks.conformance import KINDS, cases_of, run_case
from benchmarks.judge import NOT_COMPARED, float64_errors, verdict
from benchmarks.machine import describe_machine
from benchmarks.operators import CASES, measure_operators, ratio_of, show_operators
from benchmarks.peer_inputs import choose_inputs, sizes_to_try
from benchmarks.peers import BF16, efficiency, geometric_mean, ratio, settings
from benchmarks.picture import MOST_BARS, draw
from benchmarks.plan import ZOO, Plan, possible_threads, zoo_file
from benchmarks.record import ROUND_TRIP, Record, Row
from benchmarks.report import print_section, write_report
from benchmarks.round_trip import round_trip
from benchmarks.run_models import better_ms
from benchmarks.sections import SECTIONS
from benchmarks.training.measure import bars_of, show_training
from bessemer.frontends.cli.bench_worker import Job
from bessemer.runtime.artifact import ArrayInfo


def _system(ms: float) -> Row:
    return {"ms": ms, "min_ms": ms, "load_s": 0.1, "memory": 1, "error": 0.0}


PEERS: dict[str, Row] = {
    "a/1": {
        "bessemer": _system(1.0),
        "onnxruntime": _system(4.0),
        "onnxruntime_flushed": _system(2.0),
        "openvino": _system(3.0),
        BF16: _system(1.0),
        "openvino_bf16": _system(0.5),
    },
    "b/1": {"bessemer": _system(8.0), "onnxruntime": _system(4.0)},
    "a/2": {"bessemer": _system(0.8), "openvino": {"failed": "not today"}},
}


def _by_name(record: Record) -> dict[str, Bar]:
    return {bar.name: bar for bar in all_bars(record)}


def test_rows_of_two_threads_say_how_long_a_flag_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.record.round_trip", lambda: 1.23e-7)
    row = {"ms": 1.0, "gb_s": 2.0, "copy_gb_s": 2.0, "share": 1.0}
    rows = Record(tmp_path).fill("row_kernels", ["gelu/1", "gelu/2"], lambda _: row)
    assert rows == {"gelu/1": row, "gelu/2": {**row, "round_trip_ns": 123}}
    print_section("row_kernels", rows)
    head, *lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert "flag's round trip, ns" in head
    assert [line.split()[-1] for line in lines if "gelu" in line] == ["100%", "123"]


def test_a_round_trip_is_no_system(capsys: pytest.CaptureFixture[str]) -> None:
    trip = {ROUND_TRIP: 123}
    print_section("peers", {"b/2": {**PEERS["b/1"], **trip}})
    assert "123" in capsys.readouterr().out
    assert ratio_of({"bessemer": 500.0, "onnxruntime": 1000.0, **trip}) == 0.5


@pytest.mark.skipif(len(possible_threads("1,2")) < 2, reason="a flag goes from core to core")
def test_a_flag_goes_from_core_to_core_and_back() -> None:
    trip = round_trip()
    assert trip is not None and trip > 1e-8
    assert "ns between two cores" in describe_machine()["flag's round trip"]


def test_the_ratio_is_to_the_best_peer() -> None:
    assert ratio(PEERS["a/1"]) == 0.5
    assert ratio(PEERS["a/1"], BF16) == 2.0
    assert ratio(PEERS["b/1"]) == 2.0
    assert ratio(PEERS["a/2"]) is None
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)


def test_efficiency_is_the_share_of_the_threads_time_that_is_of_use() -> None:
    assert efficiency(PEERS, "a/2") == 1.0 / 0.8 / 2
    assert efficiency(PEERS, "a/1") is efficiency(PEERS, "b/2") is None


def test_bars_are_judged_by_what_was_measured(tmp_path: Path) -> None:
    record = Record(tmp_path)
    assert all(bar.met is None for bar in all_bars(record))
    for name, row in PEERS.items():
        record.keep("peers", name, row)
    record.keep("kernels", "gemm 1024x1024x1024@host", {"share": 0.95, "count": 1})
    record.keep("kernels", "conv x@host", {"share": 0.9, "count": 3})
    record.keep("kernels", "conv y@host", {"share": 1.0, "count": 1})
    record.keep("corpus", "m/1", {"status": "ok", "ms": 3.0, "ort_ms": 9.0, "ort_flushed_ms": 4.0})
    record.keep("bits", "m", {"runs": True, "threads": False})
    record.keep("small", "lenet", {"bessemer_us": 3.0, "onnxruntime_us": 10.0})
    record.keep("memory", "m", {"gap": 0.01, "artifact": 3, "onnxruntime": 2})
    record.keep("conformance", "node", {"cases": 10, "passed": 9, "failures": {"x": "why"}})
    bars = _by_name(record)
    mean = bars["float32 against the best peer, 1 thread: geometric mean"]
    assert mean.found == "1.00 of 2" and mean.met is False
    worst = bars["float32 against the best peer, 1 thread: worst"]
    assert worst.found == "2.00 (b/1)" and worst.met is False
    assert bars["float32 against the best peer, 2 threads: worst"].met is None
    assert bars["GEMM 1024^3, of the peak, this machine"].met is True
    layers = bars["ResNet-50's convolutions, direct, this machine"]
    assert layers.found == f"{(0.9**3) ** 0.25:.1%}" and layers.met is True
    assert bars["ResNet-50's convolutions, direct, AVX2 only"].met is None
    corpus = bars["corpus against onnxruntime's better setting, 1 thread: geometric mean"]
    assert corpus.found == "0.75 of 1" and corpus.met is False
    assert bars["the same bits from run to run and at all numbers of threads"].met is False
    assert bars["LeNet, batch 1, from Python, by onnxruntime"].met is True
    assert bars["arena above its lower bound: worst"].met is True
    assert bars["peak memory of the artifact by onnxruntime's: worst"].met is False
    assert bars["efficiency of 2 threads, geometric mean"].found.startswith("62%")
    assert bars["ONNX conformance"].found == "9 of 10 cases"


def test_onnxruntime_counts_at_its_better_setting() -> None:
    assert better_ms({"ort_ms": 5.0, "ort_flushed_ms": 4.0}) == 4.0
    assert better_ms({"ort_ms": 5.0}) == 5.0


def test_a_report_has_the_machine_the_bars_and_every_section(tmp_path: Path) -> None:
    record = Record(tmp_path)
    for name, row in PEERS.items():
        record.keep("peers", name, row)
    text = write_report(record, describe_machine()).read_text()
    assert "processor" in text and "LLVM" in text
    assert (
        "| float32 against the best peer, 1 thread: worst | at most 1.10 | 2.00 (b/1) | MISSED |"
        in text
    )
    assert "| a/1 | 1.000 |" in text and "0.50" in text
    assert json.loads((tmp_path / "machine.json").read_text())["python"]


def test_the_picture_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    record = Record(tmp_path)
    assert not draw(record, tmp_path / "peers.png")
    record.keep("peers", "a/1", PEERS["a/1"])
    assert draw(record, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes()[:4] == b"\x89PNG"
    size = (tmp_path / "peers.png").stat().st_size
    for number in range(MOST_BARS + 1):
        record.keep("peers", f"m{number}/1", PEERS["b/1"])
    assert draw(record, tmp_path / "peers.png")
    assert size < (tmp_path / "peers.png").stat().st_size < 10 * size


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_shows_rows_that_failed(name: str) -> None:
    rows: dict[str, Row] = {"thing/1": {"failed": "OSError: no"}, "other/2": {}}
    columns, cells = SECTIONS[name].show(rows)
    assert len(cells) >= 2
    assert all(len(line) == len(columns) for line in cells)


def test_graphs_of_an_operator_are_measured_and_right(tmp_path: Path) -> None:
    plan = Plan(Record(tmp_path), only=("GatherND", "Resize linear up"), threads=(1,), rounds=1)
    rows = measure_operators(replace(plan, seconds=0.01))
    columns, cells = show_operators(rows)
    assert {line[0] for line in cells} == {*rows, "geometric mean of 2/1"}
    assert all(row["bessemer"] > 0 and row["error"] < 1e-4 for row in rows.values())
    assert columns[-1] == "results" and not any(line[-1] for line in cells)
    for case in CASES.values():
        assert all(onnx.parser.parse_node(line).op_type for line in case.nodes.splitlines())


def test_the_zoo_s_models_are_onnx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = zoo_file("lenet")
    onnx.checker.check_model(onnx.load(path))
    assert zoo_file("lenet") == path
    plan = Plan(Record(tmp_path), only=("lenet",))
    assert plan.files() == {"lenet": path}
    assert {"resnet50", "bert_base", "unet", "mobilenetv2"} <= set(ZOO)
    folder = Plan(Record(tmp_path), models=path.parent, only=("lenet",))
    assert folder.files() == {"lenet": path}


def test_peers_are_those_installed() -> None:
    found = {one.name: one.job for one in settings(Job("", "m.onnx", 2, "in.npz"))}
    assert found["bessemer"] == Job("bessemer", "m.onnx", 2, "in.npz")
    assert found[BF16].precision == "bfloat16"
    assert "onnxruntime" in found and "onnxruntime_flushed" in found


def _added(folder: Path, shapes: tuple[list[int | str], list[int | str]], bias: float = 0) -> Path:
    """y = x0 + x1 + bias, with free sizes, as a file."""
    kind = TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(f"x{k}", kind, shape) for k, shape in enumerate(shapes)]
    y = helper.make_tensor_value_info("y", kind, None)
    value = helper.make_tensor("bias", kind, [], [bias])
    nodes = [
        helper.make_node("Add", ["x0", "x1"], ["z"]),
        helper.make_node("Add", ["z", "bias"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "added", inputs, [y], [value])
    path = folder / "added.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def test_sizes_are_guessed_by_name_and_place() -> None:
    infos = [
        ArrayInfo("image", "float32", ("batch", 3, "rows", "columns")),
        ArrayInfo("tokens", "int64", ("batch", "sequence")),
        ArrayInfo("mask", "int64", ("batch", "past + sequence")),
    ]
    likely, *others = sizes_to_try(infos)
    assert likely == {
        "batch": 1, "rows": 224, "columns": 224, "sequence": 64, "past + sequence": 96
    }  # fmt: skip
    assert others[0] == dict.fromkeys(likely, 64) | {"batch": 1}
    assert sizes_to_try([ArrayInfo("x", "float32", (2, 3))]) == [{}]


@pytest.mark.slow
def test_sizes_are_tried_until_they_fit(tmp_path: Path) -> None:
    path = _added(tmp_path, (["batch", "past"], ["batch", "sequence"]))
    chosen = choose_inputs("added", path, tmp_path)
    assert chosen.sizes == {"batch": 1, "past": 64, "sequence": 64}
    assert {name: array.shape for name, array in chosen.inputs.items()} == {
        "x0": (1, 64), "x1": (1, 64)
    }  # fmt: skip


@pytest.mark.slow
def test_float64_says_who_is_right(tmp_path: Path) -> None:
    path = _added(tmp_path, ([2, 3], [2, 3]), bias=0.5)
    x = np.ones((2, 3), np.float32)
    np.savez(tmp_path / "inputs.npz", x0=x, x1=x)
    outputs = [[2.5 * x], [2.25 * x], [np.inf * x]]
    found = float64_errors(path, tmp_path / "inputs.npz", outputs, tmp_path)
    assert found is not None and found[0] == 0.0 and found[2] is None
    assert found[1] == pytest.approx(0.1)
    assert (
        float64_errors(tmp_path / "none.onnx", tmp_path / "inputs.npz", outputs, tmp_path) is None
    )


def test_results_are_judged() -> None:
    def judged(error: float | None, **more: Any) -> str:
        return verdict({"bessemer": {"error": error}, "onnxruntime": {"error": 0.0}, **more})

    assert judged(1e-6) == "right"
    assert judged(1e-3, halves=True) == "right"
    assert judged(1e-3, float64_errors=[1e-4, 1e-3]) == "right"
    assert judged(1e-3, float64_errors=[1e-3, 1e-7]).startswith("differs: 1.0e-03")
    assert judged(1e-3, float64_errors=None) == "differs"
    assert judged(None, float64_errors=[None, 1e-7]) == "wrong"
    assert verdict({"failed": "no such file"}) == "no such file"
    failed = {"failed": "no"}
    assert verdict({"bessemer": failed, "onnxruntime": {"error": 0.0}}) == "failed: no"
    assert verdict({"bessemer": failed, "onnxruntime": failed}) == NOT_COMPARED


@pytest.mark.slow
def test_a_broken_model_is_a_row(tmp_path: Path) -> None:
    _added(tmp_path, (["batch", "past"], ["batch", "sequence"]))
    (tmp_path / "broken.onnx").write_text("not a model")
    words = ["peers", "--models", str(tmp_path), "--threads", "1", "--rounds", "1"]
    words += ["--seconds", "0.01", "--results", str(tmp_path / "results")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.output
    rows = json.loads((tmp_path / "results" / "peers.json").read_text())
    assert "failed" in rows["broken/1"]
    assert verdict(rows["added/1"]) == "right"
    assert "1 of 2" in done.output  # right results


def test_no_more_threads_than_processors() -> None:
    assert possible_threads("1") == (1,)
    assert max(possible_threads("1, 1000000")) < 1_000_000
    for wrong in ("two", "0", "1,,2"):
        with pytest.raises(typer.BadParameter, match=f"--threads={wrong} is not like 1,2"):
            possible_threads(wrong)


def _case(outputs: list[Any]) -> Any:
    """A test case as onnx has them: y = x + x."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "case", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = [np.array([1, 2, 3], np.float32)]

    class Case:
        model_dir = None
        rtol, atol = 1e-3, 1e-7
        data_sets = ((inputs, outputs),)

    case = Case()
    case.model = model  # type: ignore[attr-defined]
    return case


def test_a_conformance_case_passes_or_says_why() -> None:
    run_case(_case([np.array([2, 4, 6], np.float32)]))
    for wrong in ([2, 4, 7], [2, 4]):
        with pytest.raises(AssertionError):
            run_case(_case([np.array(wrong, np.float32)]))
    with pytest.raises(AssertionError, match="float64"):
        run_case(_case([np.array([2, 4, 6], np.float64)]))


def test_onnx_s_own_cases_are_found() -> None:
    assert KINDS[0] == "node"
    assert "test_single_relu_model" in cases_of("simple") or len(cases_of("simple")) > 5


def test_the_command_measures_keeps_and_goes_on(tmp_path: Path) -> None:
    words = ["bits", "--only", "lenet", "--results", str(tmp_path)]
    for _ in range(2):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "bits.json").read_text()) == {
        "lenet": {"runs": True, "threads": True}
    }
    assert "equal" in (tmp_path / "report.md").read_text()
    done = CliRunner().invoke(app, ["bars", "--results", str(tmp_path)])
    assert done.exit_code == 0


def test_a_missed_bar_of_training_falls_short(tmp_path: Path) -> None:
    steps = {
        "seconds": {"bessemer": 1.0, "torch eager": 4.0, "torch.compile": 2.0},
        "peak": {"bessemer": 5, "torch eager": 4, "torch.compile": 6},
    }
    rows: dict[str, Row] = {
        "lenet/2": steps,
        "losses MLP": {
            "f32": {"Adam": 1e-5},
            "f64": {"SGD": 1e-12, "Adam": 1e-9},
            "torch": {"Adam": 1e-6},
        },
        "digits mlp": {"accuracy": 0.97, "seconds": 1.5},
        "lstm/1": {"failed": "no torch"},
    }
    time, peak = bars_of("lenet/2", rows["lenet/2"])
    assert (time.found, time.met) == (0.5, False)  # the faster of torch's two counts
    assert (peak.found, peak.met) == (1.25, False)
    columns, cells = show_training(rows)
    assert all(len(line) == len(columns) for line in cells)
    assert [line[-1] for line in cells] == [
        "falls short", "falls short", "", "falls short", "", "", "falls short: no torch"
    ]  # fmt: skip
    record = Record(tmp_path)
    for name, row in rows.items():
        record.keep("training", name, row)
    bars = {bar.name: bar.met for bar in all_bars(record)}
    assert bars["digits mlp: test accuracy, at least"] is True
