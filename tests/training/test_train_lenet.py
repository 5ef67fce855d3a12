"""examples/train_lenet.c: LeNet learns digits without Python in the process, as with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bessemer.frontends.cli.train import read_experiment
from bessemer.frontends.train.datasets import digits
from bessemer.frontends.train.trainer import Trainer
from tests.made_examples import EXAMPLES, ROOT, make_examples

pytest.importorskip("sklearn")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("make") is None, reason="needs make and cc"
)

BATCH, EACH = 64, 23
Array = np.ndarray[Any, Any]


def _run(*command: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program is, with its data."""
    made = tmp_path_factory.mktemp("lenet")
    make_examples(made, "train_lenet")
    _run(sys.executable, EXAMPLES / "write_digits.py", made / "digits.bin")
    return made


def _train(folder: Path, checkpoint: str, epochs: int, threads: int) -> tuple[list[float], float]:
    """The losses, and the test accuracy at the end."""
    done = _run(folder / "train_lenet", folder / "digits.bin", folder / checkpoint, epochs, threads)
    accuracy = done.stderr.splitlines()[-1].removeprefix("test accuracy ")
    return [float(line) for line in done.stdout.splitlines()], float(accuracy)


def test_it_learns_digits_to_97_percent(folder: Path) -> None:
    _, accuracy = _train(folder, "whole.state", 20, 2)
    assert accuracy >= 0.97
    trainer = _trainer()
    trainer.restore(folder / "whole.state")
    assert trainer.steps == 20 * EACH
    _, test = digits(size=16)
    # The program adds in batches of its own.
    assert trainer.evaluate(test, batch=BATCH)["accuracy"] == pytest.approx(accuracy, abs=1e-4)


def test_it_goes_on_from_a_checkpoint_bit_for_bit(folder: Path) -> None:
    straight, _ = _train(folder, "straight.state", 4, 1)
    first, _ = _train(folder, "parts.state", 2, 2)
    second, _ = _train(folder, "parts.state", 4, 1)
    assert first + second == straight
    assert (folder / "parts.state").read_bytes() == (folder / "straight.state").read_bytes()


def test_its_losses_are_the_trainer_s_bit_for_bit(folder: Path) -> None:
    losses, _ = _train(folder, "curve.state", 3, 2)
    trainer = _trainer()
    assert [trainer.step(batch)["loss"] for batch in _batches(3)] == losses
    other = _trainer()
    other.restore(folder / "curve.state")
    for name, array in trainer.state.items():
        np.testing.assert_array_equal(other.state[name], array, err_msg=name)


def _trainer() -> Trainer:
    """The experiment's, with a rate that does not change: below ten epochs the program's is so."""
    trainer = read_experiment(EXAMPLES / "train_lenet.toml").trainer
    trainer.schedule = lambda step: 1.0
    return trainer


def _batches(epochs: int) -> list[dict[str, Array]]:
    """The program's batches: its shuffling, written again."""
    data, _ = digits(size=16)
    count, found = len(data["label"]), []
    for epoch in range(epochs):
        order, state = list(range(count)), epoch * 2 + 1
        for i in range(count - 1, 0, -1):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            other = (state >> 33) % (i + 1)
            order[i], order[other] = order[other], order[i]
        for start in range(0, count, BATCH):
            rows = order[start : start + BATCH]
            found.append({name: array[rows] for name, array in data.items()})
    return found
