"""The examples in Python run, and the model that comes along is what its script writes."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from bessemer.frontends import zoo
from bessemer.frontends.onnx_writer.write import write_onnx

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize("name", ["residual_network", "text_transformer"])
def test_an_example_runs(name: str) -> None:
    program = f"import runpy; runpy.run_path({str(EXAMPLES / name)!r} + '.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_the_model_beside_the_examples_is_the_zoo_s_lenet() -> None:
    path = EXAMPLES / "lenet.onnx"
    assert path.stat().st_size < 300_000
    assert onnx.load(path) == write_onnx(zoo.lenet(seed=0).graph)
