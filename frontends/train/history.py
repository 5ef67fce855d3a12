"""The history of a training: each step's loss, each epoch's numbers, and the best state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bessemer.compiler.ir.types import Array

_BEST = "best: "


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
        """Notes a step of so many samples, and its loss and metrics."""
        self.losses.append(numbers["loss"])
        self.rows.append((samples, dict(numbers)))
        self.place += 1

    def add_epoch(self, row: Mapping[str, float]) -> None:
        """Notes the numbers of an epoch that is done; the next one begins."""
        for name, number in row.items():
            self.epochs.setdefault(name, []).append(number)
        self.epoch, self.place, self.rows = self.epoch + 1, 0, []

    def as_json(self) -> dict[str, Any]:
        """The history as a checkpoint keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> History:
        """The history that `as_json` gave."""
        rows = [(int(count), dict(numbers)) for count, numbers in facts["rows"]]
        return cls(**{**facts, "rows": rows})


@dataclass(frozen=True, eq=False)
class Best:
    """The lowest loss so far, the epochs since, and the state at that time."""

    loss: float
    since: int
    state: Mapping[str, Array]

    def after(self, loss: float, state: Mapping[str, Array]) -> Best:
        """What is best after one more epoch."""
        if loss < self.loss:
            return Best(loss, 0, {name: array.copy() for name, array in state.items()})
        return Best(self.loss, self.since + 1, self.state)

    def as_arrays(self) -> dict[str, Array]:
        """The state as a checkpoint keeps it, beside the present one."""
        return {f"{_BEST}{name}": array for name, array in self.state.items()}

    def as_json(self) -> dict[str, Any]:
        """The rest as a checkpoint keeps it."""
        return {"loss": self.loss, "since": self.since}

    @classmethod
    def from_checkpoint(cls, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> Best:
        """What `as_arrays`, among other arrays, and `as_json` gave."""
        own = {name: array for name, array in arrays.items() if name.startswith(_BEST)}
        state = {name.removeprefix(_BEST): array for name, array in own.items()}
        return cls(float(facts["loss"]), int(facts["since"]), state)


def facts_of(seed: int, best: Best, history: History) -> dict[str, Any]:
    """What a checkpoint tells beside the number of steps."""
    return {"seed": seed, "best": best.as_json(), "history": history.as_json()}


def averages(rows: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Means over all samples of (number of samples, numbers by name)."""
    total = sum(count for count, _ in rows)
    names = rows[0][1] if rows else ()
    return {name: sum(count * row[name] for count, row in rows) / total for name in names}
