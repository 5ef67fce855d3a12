"""However training ends, the checkpoint is whole, and going on from it gives the same bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bessemer.frontends.builder import Dense, Input, Network, Sequential, tanh
from bessemer.frontends.train.batches import Augmentation
from bessemer.frontends.train.checkpoint import read_checkpoint
from bessemer.frontends.train.losses import mean_squared_error
from bessemer.frontends.train.optimizers import Adam
from bessemer.frontends.train.trainer import Trainer
from tests.command_line import run_command

ROOT = Path(__file__).resolve().parents[2]
Arrays = dict[str, np.ndarray[Any, Any]]

MODULE = """
import numpy as np
from bessemer.frontends.builder import Dense, Input, Network, Sequential, tanh
from bessemer.frontends.train.experiment import Experiment
from bessemer.frontends.train.losses import mean_squared_error
from bessemer.frontends.train.optimizers import Adam
from bessemer.frontends.train.trainer import Trainer

rng = np.random.default_rng(0)
shapes = {"x": (64, 5), "y": (64, 2)}
data = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
layers = Sequential(Dense(300, tanh), Dense(300, tanh), Dense(2))
network = Network(layers, Input("x", ("batch", 5)))
trainer = Trainer(network, mean_squared_error, [Input("y", ("batch", 2))], optimizer=Adam(0.01))
experiment = Experiment(trainer, data, epochs=20, batch=8, validation=0.25)
"""


def _trainer(seed: int = 0) -> Trainer:
    network = Network(Sequential(Dense(8, tanh), Dense(2)), Input("x", ("batch", 5)), seed=seed)
    target = Input("y", ("batch", 2))
    return Trainer(network, mean_squared_error, [target], optimizer=Adam(0.01), threads=1)


def _data() -> Arrays:
    rng = np.random.default_rng(0)
    shapes = {"x": (40, 5), "y": (40, 2)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def test_ctrl_c_in_the_middle_of_a_step_waits_for_its_end(tmp_path: Path) -> None:
    """The state is written over in place: what is saved must be that of a whole number of steps."""
    file, options = tmp_path / "state", {"epochs": 3, "batch": 8, "validation": 0.2}
    whole = _trainer()
    expected = whole.fit(_data(), **options)  # type: ignore[arg-type]
    trainer = _trainer()
    inputs = trainer.step_inputs

    def interrupted(batch: Any) -> Any:
        if trainer.steps == 5:
            signal.raise_signal(signal.SIGINT)
        return inputs(batch)

    trainer.step_inputs = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(_data(), checkpoint=file, **options)  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert read_checkpoint(file).facts["steps"] == trainer.steps == 6
    again = _trainer(seed=5)
    found = again.fit(_data(), checkpoint=file, **options)  # type: ignore[arg-type]
    assert found.losses == expected.losses
    assert found.epochs == expected.epochs
    for name, array in whole.state.items():
        assert array.tobytes() == again.state[name].tobytes()


def test_a_second_ctrl_c_does_not_wait_and_saves_nothing_torn(tmp_path: Path) -> None:
    file = tmp_path / "state"
    trainer = _trainer()
    inputs = trainer.step_inputs

    def interrupted(batch: Any) -> Any:
        if trainer.steps == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return inputs(batch)

    trainer.step_inputs = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(_data(), epochs=3, batch=8, checkpoint=file)
    assert read_checkpoint(file).facts["steps"] == 5  # that of the epoch before


WRITERS = {
    "half of the file is written": """
@contextlib.contextmanager
def whole_file(path):
    with real(path) as part:
        yield part
        part.write_bytes(part.read_bytes()[:99])
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.whole_file = whole_file
""",
    "the file is written but not in its place": """
def replace(path, target):
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = replace
""",
}


@pytest.mark.parametrize("moment", WRITERS)
def test_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    moment: str, tmp_path: Path
) -> None:
    file = tmp_path / "state"
    trainer = _trainer()
    trainer.fit(_data(), epochs=1, batch=8, checkpoint=file)
    before = file.read_bytes()
    program = (
        "import contextlib, os, pathlib, signal, sys\n"
        "from bessemer.frontends.train import checkpoint\n"
        "from tests.training.test_training_interruption import _data, _trainer\n"
        f"real = checkpoint.whole_file\n{WRITERS[moment]}\n"
        "_trainer().fit(_data(), epochs=2, batch=8, checkpoint=sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    again = _trainer(seed=3)
    again.fit(_data(), epochs=2, batch=8, checkpoint=file)
    assert again.steps == 10
    assert list(tmp_path.iterdir()) == [file]  # what was left has gone


def test_a_killed_training_loses_only_the_steps_since_its_checkpoint(tmp_path: Path) -> None:
    """Killed at any moment, checkpoints being written at every step."""
    (tmp_path / "net.py").write_text(MODULE)
    file, result = tmp_path / "state", tmp_path / "net.safetensors"
    words = ["train", str(tmp_path / "net.py"), "--checkpoint", str(file), "--every", "1", "-q"]
    program = "from bessemer.frontends.cli import main; main()"
    steps = 0
    for kind in (signal.SIGKILL, signal.SIGTERM):
        running = subprocess.Popen(
            [sys.executable, "-c", program, *words, "--epochs", "1000000"], cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + 300
        while _steps(file) < steps + 7 and time.monotonic() < end:
            time.sleep(0.01)
        seen = _steps(file)
        running.send_signal(kind)
        assert running.wait(300) != 0
        steps = _steps(file)  # it can be read, and is none from before
        assert steps >= seen > 0
    assert run_command(*words, "--epochs", steps // 6 + 2, "-o", result)[0] == 0
    whole = tmp_path / "whole.safetensors"
    words = ["train", str(tmp_path / "net.py"), "-q", "--epochs", str(steps // 6 + 2)]
    assert run_command(*words, "-o", whole)[0] == 0
    assert result.read_bytes() == whole.read_bytes()


def _steps(file: Path) -> int:
    return int(read_checkpoint(file).facts["steps"]) if file.exists() else 0


def test_early_stopping_brings_the_best_state_back() -> None:
    """Noise cannot be learned: the loss rises on the rows kept for validation."""
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((16, 5), np.float32), "y": rng.random((16, 2), np.float32)}
    held = {"x": rng.standard_normal((16, 5), np.float32), "y": rng.random((16, 2), np.float32)}
    network = Network(Sequential(Dense(64, tanh), Dense(2)), Input("x", ("batch", 5)))
    target = Input("y", ("batch", 2))
    trainer = Trainer(network, mean_squared_error, [target], optimizer=Adam(0.01), threads=1)
    history = trainer.fit(data, epochs=500, batch=4, validation=held, patience=5)
    losses = history.epochs["validation loss"]
    assert len(losses) < 500
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 5
    assert trainer.evaluate(held)["loss"] == pytest.approx(losses[best], rel=1e-6)
    assert trainer.evaluate(held)["loss"] < losses[-1]


def test_augmentation_moves_mirrors_and_blurs_each_image_by_itself() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((200, 1, 6, 6)).astype(np.float32) + 1
    moved = Augmentation("x", shift=1).apply(images, rng)
    padded = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)])
    seen = set()
    for image, whole in zip(moved, padded, strict=True):
        places = [
            (down, right) for down in range(3) for right in range(3)
            if (image == whole[:, down : down + 6, right : right + 6]).all()
        ]  # fmt: skip
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 9
    mirrored = Augmentation("x", flip=True).apply(images, rng)
    flips = [(a == b[..., ::-1]).all() for a, b in zip(mirrored, images, strict=True)]
    stays = [(a == b).all() for a, b in zip(mirrored, images, strict=True)]
    assert all(a != b for a, b in zip(flips, stays, strict=True))
    assert 70 < sum(flips) < 130
    noise = Augmentation("x", noise=0.5).apply(images, rng) - images
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(0.5, rel=0.05)
    assert abs(noise.mean()) < 0.02


def test_augmentation_is_for_training_only_and_new_in_every_epoch() -> None:
    seen: list[Any] = []
    trainer = _trainer()
    step = trainer.step

    def watched(batch: Any) -> dict[str, float]:
        seen.append(batch["x"].copy())
        return step(batch)

    trainer.step = watched  # type: ignore[method-assign]
    data = _data()
    history = trainer.fit(
        data, epochs=2, batch=40, validation=data, augmentation=Augmentation("x", noise=0.3)
    )
    first, second = (np.sort(each, axis=0) for each in seen)
    assert (first != second).all()
    trainer.steps = 0
    plain = trainer.evaluate(data)["loss"]
    assert history.epochs["validation loss"][-1] == pytest.approx(plain, rel=1e-6)
