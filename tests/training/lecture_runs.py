"""What the tests that train the lectures' networks share."""

from typing import Any

import numpy as np

from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.train.batches import Augmentation
from bessemer.frontends.train.datasets import digits
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.metrics import accuracy
from bessemer.frontends.train.optimizers import Adam
from bessemer.frontends.train.schedules import cosine
from bessemer.frontends.train.trainer import Trainer

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
LABEL = [Input("label", ("batch",), "i64")]


def flat_digits() -> tuple[Arrays, Arrays]:
    """Digits as rows of 64 numbers."""
    first, second = digits()
    return _flat(first), _flat(second)


def _flat(data: Arrays) -> Arrays:
    return {"x": data["image"].reshape(len(data["image"]), 64), "label": data["label"]}


def digits_accuracy(
    network: Network,
    data: Arrays,
    test: Arrays,
    *,
    epochs: int,
    rate: float = 0.002,
    batch: int = 64,
    shift: int = 0,
) -> float:
    """The share of the test's digits that a network knows after training with Adam."""
    steps = epochs * -(-len(data["label"]) // batch)
    trainer = Trainer(
        network,
        cross_entropy,
        LABEL,
        optimizer=Adam(rate),
        metrics={"accuracy": accuracy},
        schedule=cosine(steps),
        threads=2,
    )
    moved = Augmentation("image", shift=shift) if shift else None
    trainer.fit(data, epochs=epochs, batch=batch, augmentation=moved)
    return trainer.evaluate(test)["accuracy"]
