"""Hyper-parameter search: points of a space are tried one after the other, and kept in a file.

    space = {"rate": Range(1e-4, 1e-1, log=True), "width": Choice((32, 64, 128))}
    trials = search(loss_of, random_points(space, 20, seed=0), file=Path("trials.jsonl"))
    print(best(trials).point)

Random points find a good value of what matters with fewer trials than a grid does, which tries the
same few values of it again and again (Bergstra & Bengio, 2012).
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bessemer.compiler.errors import CompileError
from bessemer.frontends.train.trainer import TrainingError

Entry = float | int | str
Point = dict[str, Entry]
Measure = Callable[[Point], float]
"""Trains with these settings, and gives what is to be small."""


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, evenly, or with `log` evenly in their logarithms."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high or (self.log and self.low <= 0):
            kind = "positive numbers" if self.log else "numbers"
            raise CompileError(f"{self} has no {kind} from low to high.")

    def at(self, share: float) -> float:
        """The number that lies at a share of the way, from 0 to 1."""
        if not self.log:
            return self.low + share * (self.high - self.low)
        return float(self.low * (self.high / self.low) ** share)


@dataclass(frozen=True)
class Choice:
    """A setting that is one of these values."""

    values: tuple[Entry, ...]


Space = Mapping[str, Range | Choice]


@dataclass(frozen=True)
class Trial:
    """What came of a point; infinite where training failed."""

    point: Point
    loss: float


def grid_points(space: Space, count: int) -> list[Point]:
    """All combinations of `count` evenly spread numbers of each range, and all choices."""
    if count < 1:
        raise CompileError(f"A grid has one number of each range at least, not {count}.")
    columns = [
        part.values
        if isinstance(part, Choice)
        else tuple(part.at(k / max(count - 1, 1)) for k in range(count))
        for part in space.values()
    ]
    return [dict(zip(space, row)) for row in itertools.product(*columns)]


def random_points(space: Space, count: int, seed: int = 0) -> list[Point]:
    """Points drawn evenly; the first ones of a longer list are those of a shorter one."""
    generator = np.random.default_rng(seed)
    result: list[Point] = []
    for _ in range(count):
        shares = generator.random(len(space))
        result.append(
            {
                name: part.values[int(share * len(part.values))]
                if isinstance(part, Choice)
                else part.at(float(share))
                for (name, part), share in zip(space.items(), shares)
            }
        )
    return result


def search(
    measure: Measure, points: Iterable[Point], file: str | Path | None = None
) -> list[Trial]:
    """Tries the points. Those in the file have been tried before; each new one is added to it."""
    file = Path(file) if file else None
    known = {_key(trial.point): trial for trial in _begun(file)}
    result = []
    for point in points:
        trial = known.get(_key(point)) or _tried(measure, point, file)
        known[_key(point)] = trial
        result.append(trial)
    return result


def search_with_optuna(
    measure: Measure, space: Space, count: int, file: str | Path | None = None, seed: int = 0
) -> list[Trial]:
    """Points that Optuna's sampler chooses by what it has seen, the file's trials among it: those
    of a seed, also where the search was interrupted.

    Raises CompileError where Optuna is not installed, and for a file of another space.
    """
    try:
        optuna: Any = importlib.import_module("optuna")
    except ImportError:
        raise CompileError("Optuna is missing: pip install 'bessemer[search]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = Path(file) if file else None
    result = _begun(file)
    study = optuna.create_study()
    spread = {name: _distribution(optuna, part) for name, part in space.items()}
    for trial in result:
        _tell(optuna, study, trial, spread)
    while len(result) < count:
        # A sampler of its own for each trial: it draws the same after an interruption.
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(result))
        asked = study.ask(spread)
        trial = _tried(measure, dict(asked.params), file)
        study.tell(asked, _finite(trial.loss))
        result.append(trial)
    return result[:count]


def _distribution(optuna: Any, part: Range | Choice) -> Any:
    if isinstance(part, Choice):
        return optuna.distributions.CategoricalDistribution(part.values)
    return optuna.distributions.FloatDistribution(part.low, part.high, log=part.log)


def _tell(optuna: Any, study: Any, trial: Trial, spread: Mapping[str, Any]) -> None:
    loss = _finite(trial.loss)
    try:
        told = optuna.trial.create_trial(params=trial.point, distributions=spread, value=loss)
    except ValueError:
        names = ", ".join(spread)
        raise CompileError(
            f"The trial {trial.point} is not of this search's space, {names}. Take another file."
        ) from None
    study.add_trial(told)


def _finite(loss: float) -> float:
    """A loss as Optuna can have it."""
    return loss if math.isfinite(loss) else 1e30


def _tried(measure: Measure, point: Point, file: Path | None) -> Trial:
    try:
        loss = float(measure(dict(point)))
    except TrainingError:
        loss = math.inf
    trial = Trial(point, loss if not math.isnan(loss) else math.inf)
    if file:
        line = _written({"point": trial.point, "loss": trial.loss}) + "\n"
        with _open(file) as lines:
            lines.write(line.encode())
            lines.flush()
            os.fsync(lines.fileno())
    return trial


@contextmanager
def _open(file: Path) -> Iterator[BinaryIO]:
    """The file to add lines to, made with its folder if need be."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b") as lines:
            yield lines
    except OSError as error:
        raise CompileError(f"Cannot write {file}: {error.strerror or error}") from None


def _begun(file: Path | None) -> list[Trial]:
    """The trials of the file that new ones will be added to. Its last line is cut off where it was
    never finished. Raises CompileError before anything is measured where it cannot be written."""
    if file is None:
        return []
    found = read_trials(file)
    with _open(file) as lines:
        lines.seek(0)
        lines.truncate(lines.read().rfind(b"\n") + 1)
    return found


def read_trials(file: Path) -> list[Trial]:
    """The trials of a file, which need not be there; a last line that was never finished is none.
    Raises CompileError for a file that cannot be read, or holds something else."""
    try:
        whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n")
        rows = [json.loads(line) for line in whole.splitlines()]
        return [Trial(row["point"], float(row["loss"])) for row in rows]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CompileError(f"Cannot read {file}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CompileError(f"{file} holds no trials: {error}") from None


def _key(point: Point) -> str:
    return _written(dict(sorted(point.items())))


def _written(facts: Mapping[str, Any]) -> str:
    """NumPy's numbers as the plain ones that they are."""
    return json.dumps(facts, default=_plain)


def _plain(given: object) -> object:
    if isinstance(given, np.generic):
        return given.item()
    raise CompileError(f"{given!r} cannot be tried: points are of numbers, texts and their lists.")


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the least loss."""
    if not trials:
        raise CompileError("Nothing has been tried, so nothing is best.")
    return min(trials, key=lambda trial: trial.loss)


def trial_rows(trials: Sequence[Trial]) -> list[list[str]]:
    """For a table, the best first: loss, then the settings in their order."""
    return [
        [f"{trial.loss:.4g}", *(_shown(entry) for entry in trial.point.values())]
        for trial in sorted(trials, key=lambda trial: trial.loss)
    ]


def _shown(entry: Entry) -> str:
    return f"{entry:.4g}" if isinstance(entry, float) else str(entry)
