"""Networks that are exported to be measured, interleaved runs, and artifacts run alternately."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

import bessemer
from benchmarks.__main__ import app
from benchmarks.export_recipes import EXPORTS, SIZES
from benchmarks.exports import measure_exports, show_exports
from benchmarks.interleaved import interleaved_medians
from benchmarks.plan import Plan
from benchmarks.record import Record, Row
from tests.repository.test_benchmarks import PEERS


def test_inputs_are_sizes_known_by_name_or_number() -> None:
    assert len(EXPORTS) > 40
    for recipe in EXPORTS.values():
        assert recipe.inputs
        for text in recipe.inputs.values():
            kind, _, sizes = text.rpartition(":")
            assert kind in ("", "1") or (kind.startswith("<") and kind[1:].isdigit())
            assert all(word in SIZES or word.isdigit() for word in sizes.split())


def test_what_is_not_installed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.plan.is_installed", lambda package: package != "timm")
    assert measure_exports(Plan(Record(tmp_path), only=("ghostnet*",))) == {}
    assert "without timm" in capsys.readouterr().err


def test_the_slowest_by_the_others_come_first() -> None:
    rows: dict[str, Row] = dict(PEERS)
    columns, cells = show_exports(rows)
    assert [line[0] for line in cells] == ["a/2", "b/1", "a/1", "geometric mean of 2/1"]
    assert cells[-1][columns.index("ratio")] == "1.00"  # of 0.5 and 2


def test_every_run_has_its_rounds() -> None:
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    medians = interleaved_medians(runs, rounds=2, seconds=0.0, pause=0.0)
    assert set(medians) == {"a", "b"} and all(seconds >= 0 for seconds in medians.values())
    order = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert order == ["a", "b", "a", "b"]


@pytest.mark.slow
def test_artifacts_of_one_model_have_the_same_bits(tmp_path: Path) -> None:
    model = bessemer.compile(Path("examples/lenet.onnx").resolve(), cache=False)
    for name in ("old.so", "new.so"):
        model.save(tmp_path / name)
    words = ["artifacts", str(tmp_path / "old.so"), str(tmp_path / "new.so"), "--rounds", "1"]
    done = CliRunner().invoke(app, [*words, "--seconds", "0.01", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "same bits" in done.output


@pytest.mark.slow
def test_an_export_has_free_sizes_and_runs_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    plan = Plan(Record(tmp_path / "results"), None, None, ("BertModel",), (1,), 1, 0.01)
    (row,) = measure_exports(plan).values()
    assert row["bessemer"]["error"] < 1e-5  # to onnxruntime
    (path,) = tmp_path.glob("*/export BertModel.onnx")
    sizes = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param for size in sizes] == ["batch", "length"]
