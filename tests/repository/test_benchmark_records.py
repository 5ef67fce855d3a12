"""What the benchmarks keep of their results: what is measured again, and what is not."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.plan import not_installed
from benchmarks.record import WITHOUT, Record, Row


def test_a_record_goes_on_where_it_was(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    calls: list[str] = []

    def measure(name: str) -> Row:
        calls.append(name)
        if name == "b" and calls.count("b") == 1:
            raise OSError("the disk is full")
        return {"ms": len(calls)}

    first = record.fill("things", ["a", "b"], measure)
    assert first["a"] == {"ms": 1}
    assert "OSError: the disk is full" in first["b"]["failed"]
    second = record.fill("things", ["a", "b", "c"], measure)
    assert calls == ["a", "b", "b", "c"]  # what failed is tried again, what is there is not
    assert second == {"a": {"ms": 1}, "b": {"ms": 3}, "c": {"ms": 4}}
    assert json.loads((tmp_path / "run" / "things.json").read_text()) == second
    assert Record(tmp_path / "run", again=True).fill("things", ["a"], measure) == {"a": {"ms": 5}}


def test_a_system_that_has_been_installed_since_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, calls = Record(tmp_path), itertools.count(1)

    def filled(absent: Sequence[str]) -> dict[str, Row]:
        return record.fill("things", ["a"], lambda _: {"ms": next(calls)}, absent)

    assert filled(["onnxruntime"]) == {"a": {"ms": 1, WITHOUT: ["onnxruntime"]}}
    assert "not compared with onnxruntime: not installed" in capsys.readouterr().err
    assert filled(["onnxruntime", "openvino"]) == {"a": {"ms": 1, WITHOUT: ["onnxruntime"]}}
    assert filled([]) == filled(["openvino"]) == {"a": {"ms": 2}}


def test_a_part_of_a_package_that_is_not_there_is_not_installed() -> None:
    assert not_installed("numpy", "numpy.nothing", "nothing.numpy") == [
        "numpy.nothing",
        "nothing.numpy",
    ]


@pytest.mark.parametrize(
    "words", [("--models", "nowhere"), ("--corpus", "nowhere"), ("--seconds", "nan")]
)
def test_a_folder_that_is_not_there_and_a_time_that_is_none_are_refused(
    words: tuple[str, str],
) -> None:
    done = CliRunner().invoke(app, ["peers", *words])
    assert done.exit_code == 2
    assert words[0] in done.output
