"""The examples run, in Python, C and C++, and the model beside them is what its script writes."""

import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from bessemer.compiler.ir.types import Array
from bessemer.frontends import zoo
from bessemer.frontends.onnx_writer.write import write_onnx
from tests.made_examples import EXAMPLES, make_examples

needs_c = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("make") is None, reason="needs make and cc"
)


@pytest.mark.parametrize(
    "name", ["residual_network", "text_transformer", "decoder_cache", "digit_service"]
)
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 3 and "NOT" not in shown


def test_the_model_beside_the_examples_is_the_zoo_s_lenet() -> None:
    path = EXAMPLES / "lenet.onnx"
    assert path.stat().st_size < 300_000
    assert onnx.load(path) == write_onnx(zoo.lenet(seed=0).graph)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the C programs are; test_train_lenet.py makes the one that trains."""
    folder = tmp_path_factory.mktemp("examples")
    make_examples(folder, "embed", "two_models", *(["serve"] if shutil.which("c++") else []))
    return folder


def printed_by(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def numbers_in(text: str) -> Array:
    rows = [[float(word) for word in line.split()] for line in text.splitlines()]
    return np.array(rows, np.float32)


def images(batch: int) -> Array:
    """What the C programs make: byte values over 256."""
    count = batch * 28 * 28
    return (np.arange(count) * 37 % 256 / 256).astype(np.float32).reshape(batch, 1, 28, 28)


def by_onnxruntime(path: Path, x: Array) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x})))


@needs_c
def test_the_embedded_model_computes_what_onnxruntime_does(made: Path) -> None:
    single = printed_by(made / "embed", "1")
    assert single == printed_by(made / "embed", "2") == printed_by(made / "embed")
    expected = by_onnxruntime(EXAMPLES / "lenet.onnx", images(2))["logits"]
    np.testing.assert_allclose(numbers_in(single), expected, rtol=1e-5, atol=1e-6)


@needs_c
def test_two_models_in_one_program_compute_what_onnxruntime_does(made: Path) -> None:
    cleaned = by_onnxruntime(made / "cleaner.onnx", images(3).reshape(3, 784))["rebuilt"]
    expected = by_onnxruntime(EXAMPLES / "lenet.onnx", cleaned.reshape(3, 1, 28, 28))["logits"]
    shown = numbers_in(printed_by(made / "two_models"))
    np.testing.assert_allclose(shown, expected, rtol=1e-5, atol=1e-6)


@needs_c
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_threads_with_contexts_of_their_own_compute_what_onnxruntime_does(made: Path) -> None:
    shown = printed_by(made / "serve", "3")
    assert shown == printed_by(made / "serve", "1")
    expected = [
        by_onnxruntime(EXAMPLES / "lenet.onnx", images(count))["logits"][-1]
        for count in range(1, 9)
    ]
    np.testing.assert_allclose(numbers_in(shown), expected, rtol=1e-5, atol=1e-6)
