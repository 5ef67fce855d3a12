"""`bessemer train`: files that say what to train, and what is left when it ends in any way."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from bessemer.compiler.errors import CompileError
from bessemer.frontends.train.experiment import load_module
from tests.command_line import run_command

ROOT = Path(__file__).resolve().parents[2]

MODULE = """
import numpy as np
from bessemer.frontends.builder import Dense, Input, Network, Sequential, relu
from bessemer.frontends.train.experiment import Experiment
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.optimizers import Adam
from bessemer.frontends.train.trainer import Trainer

def make(width=8, seed=0):
    layers = Sequential(Dense(width), relu, Dense(3))
    return Network(layers, Input("x", ("batch", 5)), outputs=["logits"], seed=seed)

def experiment():
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((40, 5), np.float32), "label": rng.integers(0, 3, 40)}
    target = Input("label", ("batch",), "i64")
    trainer = Trainer(make(), cross_entropy, [target], optimizer=Adam(0.01))
    return Experiment(trainer, data, epochs=2)
"""

TOML = """
[network]
python = "net.py:make"
width = 12
[data]
file = "data.npz"
validation = 0.25
names = { label = "class" }
[training]
metrics = ["accuracy"]
epochs = 6
batch = 16
[optimizer]
name = "sgd"
learning_rate = 0.1
momentum = 0.9
[schedule]
name = "warm_up"
count = 4
then = { name = "cosine", total = 30 }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 80)
    x = rng.standard_normal((3, 5))[label] * 2 + 0.3 * rng.standard_normal((80, 5))
    arrays: Any = {"x": x.astype(np.float32), "class": label}
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "net.py").write_text(MODULE)
    (tmp_path / "net.toml").write_text(TOML)
    return tmp_path


def _trained(*words: object) -> dict[str, Any]:
    code, out, err = run_command("train", *words, "--json", "-q")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_toml_file_trains_and_what_it_writes_runs_elsewhere(folder: Path) -> None:
    onnx, arrays = folder / "net.onnx", folder / "net.safetensors"
    found = _trained(folder / "net.toml", "-o", onnx, "-o", arrays)
    assert found["steps"] == 24
    assert found["epochs"]["validation accuracy"][-1] > 0.9
    weights = load_file(arrays)
    with np.load(folder / "data.npz") as data:
        x, label = data["x"], data["class"]
    hidden = np.maximum(x @ weights["dense1.weight"] + weights["dense1.bias"], 0)
    expected = hidden @ weights["dense2.weight"] + weights["dense2.bias"]
    (logits,) = onnxruntime.InferenceSession(onnx).run(None, {"x": x})
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert (logits.argmax(-1) == label).mean() > 0.9


def test_a_python_module_trains(folder: Path) -> None:
    assert len(_trained(folder / "net.py")["epochs"]["loss"]) == 2
    code, out, _ = run_command("train", folder / "net.py", "--epochs", 1)
    assert code == 0
    assert "epoch" in out and "2 steps" in out


def test_a_checkpoint_takes_training_up_where_it_was(folder: Path) -> None:
    whole = _trained(folder / "net.toml")
    state = folder / "state.safetensors"
    _trained(folder / "net.toml", "--checkpoint", state, "--epochs", 2)
    assert _trained(folder / "net.toml", "--checkpoint", state)["losses"] == whole["losses"]


def test_an_interrupted_training_keeps_its_state_and_writes_no_result(folder: Path) -> None:
    state, result = folder / "state.safetensors", folder / "net.onnx"
    words = ["train", folder / "net.toml", "--epochs", 1_000_000, "--checkpoint", state]
    program = "from bessemer.frontends.cli import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words), "-o", str(result)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 300
    while not state.exists() and time.monotonic() < end:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    assert "The state is in" in err
    left = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    assert left == ["data.npz", "net.py", "net.toml", "state.safetensors"]


WRONG = {
    "[network]\nzoo = 'lenet'\nsize = 16\nwidht = 3": "has no widht; it takes classes, size",
    "[network]\nzoo = 'lenett'": "there is no 'lenett'",
    "[network]\npython = 'net.py:mak'": "net.py has no mak",
    "[network]\nzoo = 'mlp'\n[data]\nfile = 'no.npz'": "no.npz cannot be read",
    "[network]\nzoo = 'mlp'\n[data]\nfile = 'data.npz'\ntset = 1": "has no tset",
    "[netwrok]\nzoo = 'mlp'": "has netwrok; it knows network",
    "[network]\nzoo = ": "is not TOML",
    "[network]\nzoo='mlp'\n[training]\nseed = 'one'": "seed = 'one' is not of type int",
    "[network]\nzoo='mlp'\n[training]\nseed = -3\n[data]\nset='digits'": "seed is -3; whole",
    "[network]\nzoo='lenet'\nsize = 16\n[data]\nfile='data.npz'": "The data has no image",
}


BROKEN = {
    "import nothing_of_this_name": r"bad.py, line 1: ModuleNotFoundError: No module named",
    "def experiment():\n    return 1 / 0": r"bad.py, line 2: ZeroDivisionError: division by zero",
    "x = 1\nx = = 2": r"bad.py, line 2: invalid syntax",
    "raise SyntaxError('odd')": r"bad.py: odd",
}


@pytest.mark.parametrize("text", BROKEN)
def test_an_error_of_the_user_s_module_is_told_with_its_line(folder: Path, text: str) -> None:
    (folder / "bad.py").write_text(text)
    code, _, err = run_command("train", folder / "bad.py")
    assert (code, "bug" in err) == (1, False)
    assert BROKEN[text] in err.replace("\n", " ")


def test_a_line_is_told_of_a_module_by_a_relative_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bad.py").write_text("x = 1\n1 / 0")
    monkeypatch.chdir(folder)
    with pytest.raises(CompileError, match=r"^bad\.py, line 2: ZeroDivisionError"):
        load_module(Path("bad.py"))


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_in_a_file_is_told(folder: Path, text: str) -> None:
    (folder / "bad.toml").write_text(text)
    code, _, err = run_command("train", folder / "bad.toml")
    assert code == 1
    assert WRONG[text] in err.replace("\n", " ")


def test_what_cannot_be_written_is_told_before_training(folder: Path) -> None:
    code, _, err = run_command("train", folder / "net.toml", "-o", folder / "no" / "net.onnx")
    assert (code, "there is no folder" in err) == (1, True)
    assert run_command("train", folder / "net.toml", "-o", folder / "net.pt")[0] == 2


def test_a_loss_that_is_no_number_ends_with_4_and_nothing_written(folder: Path) -> None:
    text = TOML.replace("learning_rate = 0.1", "learning_rate = 1e30")
    (folder / "net.toml").write_text(text)
    words = ["train", folder / "net.toml", "--checkpoint", folder / "state", "--every", 1]
    code, _, err = run_command(*words, "-o", folder / "net.onnx")
    assert code == 4
    told = " ".join(err.split())
    assert "The loss of step" in told
    assert "came from" in told and "operator" in told and " in the " in told
    assert "The last good state" in told
    assert all(np.isfinite(array).all() for array in load_file(folder / "state").values())
    assert not (folder / "net.onnx").exists()
