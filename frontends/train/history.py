"""How training has gone: the loss of every step, and what every epoch came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class History:
    """`epochs` has a list of numbers by name: "loss", metrics, "validation loss" and so on.

    `epoch` and `place` count the epochs that are done and the batches of the one at work; `rows`
    are that one's batches, as (number of samples, numbers by name).
    """

    epochs: dict[str, list[float]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    epoch: int = 0
    place: int = 0
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def add_step(self, samples: int, numbers: Mapping[str, float]) -> None:
        """One more step."""
        self.losses.append(numbers["loss"])
        self.rows.append((samples, dict(numbers)))
        self.place += 1

    def add_epoch(self, row: Mapping[str, float]) -> None:
        """The end of an epoch."""
        for name, number in row.items():
            self.epochs.setdefault(name, []).append(number)
        self.epoch, self.place, self.rows = self.epoch + 1, 0, []

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> History:
        """What `as_json` gave."""
        rows = [(int(count), dict(numbers)) for count, numbers in facts["rows"]]
        return cls(**{**facts, "rows": rows})
