"""Which of a section's names `--only` asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.bars import Bar, all_bars
from benchmarks.plan import Plan, named_models
from benchmarks.record import Record
from benchmarks.sections import SECTIONS

CHOOSERS = sorted(SECTIONS.keys() - {"corpus", "matrix_unit", "conformance"})
"""Sections that choose from names that are always there, and soon known."""


def test_models_are_found_in_folders_and_chosen_by_patterns(tmp_path: Path) -> None:
    for name in ("a.onnx", "alone/model.onnx", "two/b.onnx", "two/c.onnx", "two/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [name for name, _ in named_models(tmp_path)] == ["a", "alone", "two-b", "two-c"]
    plan = Plan(Record(tmp_path), models=tmp_path, only=("two-*", "a"))
    assert list(plan.files()) == ["a", "two-b", "two-c"]


@pytest.mark.parametrize("section", CHOOSERS)
def test_a_name_that_nothing_has_is_told(section: str, tmp_path: Path) -> None:
    words = [section, "--only", "elephant", "--only", "*mous", "--results", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "there is nothing like elephant or *mous; there are" in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())


def test_patterns_choose_rows_of_every_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(section: str, *only: str) -> list[str]:
        plan = Plan(Record(tmp_path), only=only, threads=(1, 2))
        return list(SECTIONS[section].measure(plan))

    monkeypatch.setattr(Record, "fill", lambda _, section, names, *_rest: dict.fromkeys(names))
    monkeypatch.setattr("benchmarks.training.measure.is_installed", lambda package: True)
    assert rows("training", "lenet", "digits *m*") == ["lenet/1", "lenet/2", "digits mlp"]
    assert rows("kernels", "gemm 512*") == ["gemm 512x512x512@host", "gemm 512x512x512@x86_64-avx2"]
    assert rows("row_kernels", "?elu") == ["gelu/1", "gelu/2"]
    assert rows("small", "mlp") == ["mlp"]


def test_some_cases_do_not_stand_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {"node": {"test_relu": None}, "simple": {"x": None}}
    monkeypatch.setattr("benchmarks.conformance.cases_of", lambda kind: cases.get(kind, {}))
    monkeypatch.setattr("benchmarks.conformance._measure", lambda kind, names: {"cases": names})
    record = Record(tmp_path)
    some = SECTIONS["conformance"].measure(Plan(record, only=("test_*", "y")))
    assert some == {"node, only test_* y": {"cases": ["test_relu"]}}
    every = SECTIONS["conformance"].measure(Plan(record))
    assert every == {"node": {"cases": ["test_relu"]}, "simple": {"cases": ["x"]}}
    record = Record(tmp_path / "bars")
    record.keep("conformance", "node, only test_* y", {"cases": 1, "passed": 0})
    assert _conformance(record).met is None
    record.keep("conformance", "node", {"cases": 2, "passed": 2})
    assert _conformance(record).found == "2 of 2 cases"


def _conformance(record: Record) -> Bar:
    (bar,) = (bar for bar in all_bars(record) if bar.name == "ONNX conformance")
    return bar
