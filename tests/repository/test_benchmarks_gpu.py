"""The script for a device, at small sizes on the interpreter."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import processes
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.cases import Sample, error_of
from benchmarks.gpu.families import FAMILIES
from benchmarks.gpu.golden import goldens, replay_golden
from benchmarks.gpu.measure import Setting, measure_case, rates, target_of
from benchmarks.gpu.peaks import peak_of
from benchmarks.gpu.peers import as_tensor
from benchmarks.gpu.processes import read_lines, run_job
from benchmarks.gpu.report import bars, cells, write_results
from benchmarks.gpu.worker import BROKEN, Job, cases_of, prepare, setting_of, work
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import bf16
from bessemer.compiler.targets.nvptx import SM80, SM90A
from emulator.driver import EmulatedDriver

LONG = ("cross_entropy", "lenet", "residual", "transformer", "f32 b1 h2")
"""Left out here: seconds each on the interpreter. `--interpreter` has them all."""


@pytest.mark.parametrize("family", FAMILIES)
def test_small_cases_are_right_on_the_interpreter(family: str, tmp_path: Path) -> None:
    setting = replace(
        setting_of(EmulatedDriver(), 0, is_emulated=True), rounds=1, golden=tmp_path / family
    )
    cases = [c for c in cases_of(family, small=True) if not any(part in c.name for part in LONG)]
    for case in cases:
        row = measure_case(case, setting)
        assert row["right"], (case.name, row)
        assert row["ms"] > 0
    kept = goldens(tmp_path)
    assert len(kept) == len(cases)
    assert replay_golden(kept[0], EmulatedDriver())["differing"] == 0


def test_the_command_measures_keeps_and_replays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--interpreter", "--only", "reductions", "--case", "max of rows*"]
    folders = ["--golden", str(tmp_path / "golden"), "--results", str(tmp_path / "results")]
    assert main([*options, *folders]) == 0
    shown = capsys.readouterr().out
    assert "max of rows bf16 33x300" in shown
    assert "all cases are right" in shown
    found = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert found["machine"]["device"] == "emulated device"
    assert all(row["right"] for row in found["families"]["reductions"].values())
    assert main(["--replay", str(tmp_path / "golden")]) == 0
    name = "max-of-rows-f32-33x300"
    assert f"{name}.bessemer" in capsys.readouterr().out
    # Another result than the device's is told.
    path = tmp_path / "golden" / "reductions" / f"{name}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["out0"] = np.roll(arrays["out0"], 4)
    np.savez(path, **arrays)
    assert main(["--replay", str(tmp_path / "golden")]) == 1


def test_without_a_device_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "bessemer.runtime.cuda.libcuda.CudaDriver.__init__.__defaults__", ("no.so",)
    )
    assert main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("There is no CUDA device to measure")
    assert "--interpreter" in line
    assert main(["--only", "nothing"]) == 2


def test_programs_are_compiled_before_there_is_a_device(tmp_path: Path) -> None:
    name = "bfloat16 1x4096x4096"
    assert [row["name"] for row in prepare("gemm", "nvptx:sm_90a", tmp_path, name)] == [name]
    assert [path.name for path in (tmp_path / "gemm").iterdir()] == [
        "sm_90a-bfloat16-1x4096x4096.bessemer"
    ]


# Processes that die


def _job() -> Job:
    return Job("rows", "ours", "")


def test_a_worker_that_breaks_its_device_loses_one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Job] = []

    def run(job: Job, seconds: float) -> int | None:
        started.append(job)
        left = [name for name in ("a", "b", "c", "d") if name not in job.skip]
        with Path(job.rows).open("a") as file:
            for name in left:
                file.write(json.dumps({"begin": name}) + "\n")
                if name == "b":
                    return -11  # the process dies in the middle
                row = {"failed": "sticky"} if name == "c" else {"right": True}
                file.write(json.dumps({"name": name, "row": row}) + "\n")
                if name == "c":
                    return BROKEN
        return 0

    monkeypatch.setattr(processes, "_run", run)
    told: list[str] = []
    rows = run_job(_job(), 60, told.append)
    assert rows["a"] == rows["d"] == {"right": True}
    assert rows["b"] == {"failed": "the process ended with -11"}
    assert rows["c"] == {"failed": "sticky"}
    assert [job.skip for job in started] == [(), ("a", "b"), ("a", "b", "c")]
    assert told == ["rows b: the process ended with -11"]


def test_a_family_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: Job, seconds: float) -> int | None:
        Path(job.rows).write_text('{"begin": "a"}\n{"name": "a", "ro')
        return None

    monkeypatch.setattr(processes, "_run", run)
    assert run_job(_job(), 0, lambda _: None) == {"a": {"failed": "it took too long"}}
    assert read_lines('{"name": "a", "row": {"ms": 1}}\n{"beg') == ({"a": {"ms": 1}}, "")


def test_a_case_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The worker here is a process that says one thing, and then nothing."""
    rows = tmp_path / "rows"
    rows.touch()
    says = "import sys, time; open(sys.argv[1], 'a').write('{}'); time.sleep(60)"
    job = replace(_job(), rows=str(rows), case_seconds=1.0, under=("python", "-c", says, str(rows)))
    start = time.monotonic()
    assert processes._run(job, 60.0) is None
    assert time.monotonic() - start < 30
    assert rows.read_text() == "{}"


def test_the_sanitizer_s_finding_is_a_case_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the worker with a code of its own when all rows are there, too."""

    def run(job: Job, seconds: float) -> int | None:
        line = {"name": "a", "row": {"right": True}}
        Path(job.rows).write_text(json.dumps({"begin": "a"}) + "\n" + json.dumps(line) + "\n")
        return 9

    monkeypatch.setattr(processes, "_run", run)
    rows = run_job(replace(_job(), part="sanitized"), 60, lambda _: None)
    assert rows["rows"] == {"failed": "the process ended with 9"}


def test_a_worker_writes_failures_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = FAMILIES["reductions"](True)
    wrong = replace(first, reference=lambda arrays: [Sample(0, 0, np.zeros(7))])

    def raising() -> Graph:
        raise ZeroDivisionError

    broken = replace(second, graph=raising)
    monkeypatch.setitem(FAMILIES, "reductions", lambda small: [wrong, broken])
    rows = tmp_path / "rows"
    assert work(Job("reductions", "ours", str(rows), is_emulated=True, rounds=1)) == 0
    found, _ = read_lines(rows.read_text())
    assert found[first.name]["right"] is False
    assert "ms" not in found[first.name]  # what is wrong has no time
    assert found[second.name]["failed"].startswith("ZeroDivisionError")


# Figures


def test_floors_and_bars(tmp_path: Path) -> None:
    setting = Setting(EmulatedDriver(), "NVIDIA H200", SM90A, 90, 4e12)
    case = next(c for c in FAMILIES["gemm"](False) if c.name == "bfloat16 8192x8192x8192")
    row = {"right": True, "error": 1e-3, "ms": 1.6} | rates(case, 1.6, 4e8, setting)
    assert row["gflops"] == pytest.approx(2 * 8192**3 / 1.6e-3 / 1e9)
    assert row["of_floor"] == pytest.approx(2 * 8192**3 / 989.4e12 / 1.6e-3)
    results: dict[str, dict[str, dict[str, Any]]] = {
        "gemm": {case.name: row | {"torch_ms": 1.3}},
        "networks": {"resnet50 bfloat16 b64": {"right": True, "ms": 2.0, "compiled_ms": 2.5}},
        "convolutions": {
            "bfloat16 b64 a": {"right": True, "ms": 1.0, "torch_ms": 0.5},
            "bfloat16 b64 b": {"right": False, "ms": 1.0, "torch_ms": 2.0},
        },
    }
    verdicts = {bar.name: bar.verdict for bar in bars(results)}
    assert verdicts["bf16 GEMM 8192^3 by cuBLAS"] == "falls short"
    assert verdicts["ResNet-50 bf16 b64 by torch.compile"] == "met"
    assert verdicts["ResNet-50's convolutions, bf16 b64, by cuDNN"] == "met"
    assert verdicts["BERT-base bf16 b32 by torch.compile"] == "not measured"
    assert verdicts["all cases are right"] == "falls short"
    assert cells(case.name, results["gemm"][case.name])[-1] == "0.81"
    assert "falls short" in write_results(tmp_path, {"device": "x"}, results).read_text()


def test_peaks_and_levels() -> None:
    assert peak_of("NVIDIA H200", "bfloat16") == pytest.approx(989.4e12)
    assert peak_of("NVIDIA GeForce GTX 480", "bfloat16") is None
    assert peak_of("NVIDIA H200", "float32") == pytest.approx(989.4e12 / 6)
    assert peak_of("Tesla T4", "float32") == pytest.approx(8.1e12)
    mma = next(case for case in FAMILIES["gemm"](True) if case.level)
    assert target_of(mma, SM90A) is SM80
    assert target_of(mma, SM80) is None


@pytest.mark.slow
def test_torch_is_given_the_same_work() -> None:
    """torch's function of every small case has the case's result, on the processor."""
    torch = pytest.importorskip("torch")
    checked = 0
    for family in FAMILIES:
        for case in cases_of(family, small=True):
            if case.peer is None:
                continue
            arrays = case.arrays()
            found = case.peer(torch)(*(as_tensor(torch, array, "cpu") for array in arrays))
            result = found.to(torch.float64).numpy()
            if family == "convolutions":
                result = result.transpose(0, 2, 3, 1)
            assert error_of(case.reference(arrays), [result]) <= max(case.tolerance, 1e-2), (
                case.name
            )
            checked += 1
    assert checked > 25


def test_torch_tensors_keep_bfloat16() -> None:
    torch = pytest.importorskip("torch")
    found = as_tensor(torch, np.array([1.5, -2.0], bf16.numpy), "cpu")
    assert found.dtype is torch.bfloat16
    assert found.tolist() == [1.5, -2.0]
