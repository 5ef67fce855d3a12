"""The lectures' networks of convolutions, trained on digits."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder import Network
from bessemer.frontends.train.datasets import digits
from bessemer.frontends.train.losses import ADVERSARIAL, cross_entropy
from bessemer.frontends.train.optimizers import SGD, Adam
from bessemer.frontends.train.trainer import Trainer
from bessemer.frontends.zoo import dense_gan, densenet, lenet, resnet, vgg
from tests.training.lecture_runs import LABEL, digits_accuracy, flat_digits

pytestmark = pytest.mark.lectures
pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]


def test_lenet_knows_digits_and_learns_them_in_seconds() -> None:
    start = time.perf_counter()
    accuracy = digits_accuracy(lenet(size=16), *digits(size=16), epochs=50, shift=2, batch=32)
    assert accuracy >= 0.98
    print(f"LeNet: {accuracy:.4f} in {time.perf_counter() - start:.1f} s")  # noqa: T201


def test_lenet_from_the_command_line() -> None:
    program = "from bessemer.frontends.cli import main; main()"
    words = ["train", "examples/train_lenet.toml", "--json", "-q"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test"]["accuracy"] >= 0.98


def test_a_small_vgg() -> None:
    network = vgg(11, 10, size=32, width=8, hidden=64, batch_norm=True, channels=1)
    assert digits_accuracy(network, *digits(size=32), epochs=8, batch=32) >= 0.97


def test_a_small_resnet_18() -> None:
    network = resnet(18, 10, size=16, width=8, channels=1, small_images=True)
    assert digits_accuracy(network, *digits(size=16), epochs=8, batch=32) >= 0.97


def test_a_small_densenet() -> None:
    network = densenet(classes=10, size=32, growth=8, stages=(2, 3, 3), channels=1)
    assert digits_accuracy(network, *digits(size=32), epochs=8, batch=32) >= 0.97


IMAGENET: dict[str, tuple[Callable[[], Network], float]] = {
    "vgg16": (lambda: vgg(16), 3e-7),
    "resnet18": (lambda: resnet(18), 1e-4),
    "resnet50": (lambda: resnet(50), 1e-7),
    "densenet121": (densenet, 1e-4),
}
"""The full networks, and a rate at which a step is short enough to go straight on."""


@pytest.mark.parametrize("name", IMAGENET)
def test_a_step_of_a_full_network_lowers_the_loss_as_its_gradient_says(name: str) -> None:
    """To first order by rate * |gradient|^2: both are known without any other's gradient."""
    make, rate = IMAGENET[name]
    network = make()
    trainer = Trainer(network, cross_entropy, LABEL, optimizer=SGD(rate), threads=2)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 3, 224, 224), np.float32)
    batch = {"image": image, "label": np.array([3, 900])}
    before = {key: array.astype(np.float64) for key, array in trainer.network.arrays().items()}
    first = trainer.step(batch)["loss"]
    after = trainer.network.arrays()
    moved = (((before[key] - after[key]) ** 2).sum() for key in before if "running" not in key)
    trainer.steps = 0  # the same units are dropped again
    second = trainer.step(batch)["loss"]
    assert abs((first - second) / (float(sum(moved)) / rate) - 1) < 0.05


def _nearest(from_points: Array, to_points: Array) -> Array:
    """The distance of each point to the nearest of the others."""
    distances: Array = np.sqrt(((from_points[:, None] - to_points[None]) ** 2).sum(-1).min(1))
    return distances


def test_a_gan_draws_digits() -> None:
    data, test = flat_digits()
    rng = np.random.default_rng(0)
    shape = (len(data["x"]), 16)
    trainer = Trainer(dense_gan(), ADVERSARIAL, [], optimizer=Adam(0.0005, beta1=0.5), threads=2)
    for epoch in range(150):
        noise = rng.standard_normal(shape, np.float32)
        trainer.fit({"image": data["x"], "noise": noise}, epochs=epoch + 1, batch=64)
    noise = rng.standard_normal((359, 16), np.float32)
    feeds = {"image": test["x"], "noise": noise}
    made = bessemer.compile(trainer.network).run(feeds)[2]
    # Much nearer to real digits than pixels that are right one by one, and not all the same.
    pixels = np.stack([rng.permutation(column) for column in test["x"].T], axis=1)
    chance, real = (float(_nearest(each, data["x"]).mean()) for each in (pixels, test["x"]))
    assert _nearest(made, data["x"]).mean() < (chance + real) / 2
    assert made.var(0).mean() > 0.5 * test["x"].var(0).mean()
    # Every digit's neighbourhood is drawn now and then.
    distance = ((made[:, None] - data["x"][None]) ** 2).sum(-1)
    assert len(np.unique(data["label"][distance.argmin(1)])) >= 8
