"""One call of `Trainer.fit`: its epochs, and the callbacks that it reports to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bessemer.compiler.ir.types import Array
from bessemer.frontends.train.batches import Batches

Report = Callable[[int, Mapping[str, float]], None]
"""Is told an epoch's number, from 0 on, and its losses and metrics by name."""
Progress = Callable[[int, int], None]
"""Is told how many batches are done since the first epoch, and how many an epoch has."""


@dataclass(frozen=True, eq=False)
class Course:
    """`file` is for checkpoints, also after `every` so many steps; 0 stands for none, as it does
    for `patience`, in epochs."""

    batches: Batches
    validation: Mapping[str, Array] | None
    epochs: int
    patience: int
    file: Path | None
    every: int
    report: Report | None
    progress: Progress | None

    def is_over(self, epoch: int, since_best: int) -> bool:
        """Whether training ends before this epoch, so many after the best one."""
        return epoch >= self.epochs or 0 < self.patience <= since_best
