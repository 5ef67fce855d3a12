"""How well and how fast scikit-learn's digits are learned, compilation included."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.record import Row
from benchmarks.training.networks import loss
from bessemer.compiler.ir.types import Array
from bessemer.frontends import zoo
from bessemer.frontends.builder.functions import arg_max, equal
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.train.datasets import digits
from bessemer.frontends.train.optimizers import Adam
from bessemer.frontends.train.trainer import Trainer


@dataclass(frozen=True)
class Digits:
    """A network for pictures of `size`; how long to train, and the accuracy it must reach."""

    network: Callable[[], Network]
    size: int
    epochs: int
    accuracy: float


DIGITS = {
    "mlp": Digits(lambda: zoo.mlp(64, (64,)), 8, 30, 0.96),
    "lenet": Digits(lambda: zoo.lenet(size=24), 24, 20, 0.98),
}


def learn_digits(name: str, threads: int) -> Row:
    """Trains from nothing; test accuracy, and the seconds that it took."""
    given = DIGITS[name]
    train, test = digits(size=given.size)
    start = time.perf_counter()
    network = given.network()
    trainer = Trainer(
        network,
        loss,
        [Input("label", ("batch",), "i64")],
        optimizer=Adam(0.002),
        metrics={"accuracy": _accuracy},
        threads=threads,
    )
    key = network.inputs[0].name

    def data(part: dict[str, Array]) -> dict[str, Array]:
        image = part["image"]
        x = image.reshape(len(image), -1) if name == "mlp" else image
        return {key: x, "label": part["label"]}

    trainer.fit(data(train), epochs=given.epochs, batch=32)
    seconds = time.perf_counter() - start
    return {"accuracy": trainer.evaluate(data(test))["accuracy"], "seconds": seconds}


def _accuracy(logits: Tensor, label: Tensor) -> Tensor:
    return equal(arg_max(logits), label).cast("f32").mean()
