"""For networks that do not learn: the overfitting gap, and a sweep of learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.train.batches import Batches
from bessemer.frontends.train.history import History
from bessemer.frontends.train.schedules import Schedule
from bessemer.frontends.train.trainer import Trainer, TrainingError


def overfitting_gap(history: History, name: str = "loss") -> list[float]:
    """After each epoch, how much worse a number is on validation data than on training data.

    Of losses; of a share that is right, the gap is what is missing, so it is turned around.
    """
    try:
        trained, validated = history.epochs[name], history.epochs[f"validation {name}"]
    except KeyError:
        raise CompileError(f"The history has no {name} of both training and validation.") from None
    sign = 1.0 if name.endswith(("loss", "error")) else -1.0
    return [sign * (there - here) for here, there in zip(trained, validated, strict=True)]


@dataclass(frozen=True)
class Sweep:
    """The loss at every learning rate of a sweep, averaged over the last steps."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def steepest(self) -> float:
        """The rate around which the loss falls fastest: a good one to begin with.

        The first tenth is left out, whose averages are of few batches.
        """
        reach = max(len(self.rates) // 10, 1)
        falls = [after - before for before, after in zip(self.losses, self.losses[reach:])]
        if not falls:
            raise CompileError("The sweep is too short: the loss grew without bound at once.")
        begin = min(reach, len(falls) - 1)
        return self.rates[falls.index(min(falls[begin:]), begin) + reach // 2]


def sweep_rates(
    make: Callable[[Schedule], Trainer],
    data: Mapping[str, Array],
    *,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
    batch: int = 32,
    smoothing: float = 0.9,
) -> Sweep:
    """One short training with a rate that grows from step to step (Smith, 2017).

    `make` gives a trainer with a schedule of ours. The sweep ends early where the loss is four
    times its lowest, or no number.
    """
    growth = (high / low) ** (1 / max(steps - 1, 1))
    trainer = make(lambda step: low * growth**step / base)
    base = trainer.optimizer.learning_rate
    batches = Batches(data, trainer.names, batch, trainer.seed, None)
    rates: list[float] = []
    losses: list[float] = []
    average, lowest, epoch = 0.0, math.inf, 0
    while len(rates) < steps:
        for part in batches.epoch(epoch):
            try:
                average = smoothing * average + (1 - smoothing) * trainer.step(part)["loss"]
            except TrainingError:
                return Sweep(tuple(rates), tuple(losses))
            loss = average / (1 - smoothing ** (len(rates) + 1))
            lowest = min(lowest, loss)
            rates.append(low * growth ** len(rates))
            losses.append(loss)
            if loss > 4 * lowest or len(rates) == steps:
                return Sweep(tuple(rates), tuple(losses))
        epoch += 1
    return Sweep(tuple(rates), tuple(losses))
