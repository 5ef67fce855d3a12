"""The candidates for each kernel, and the best so far: the same for processors and GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bessemer.compiler.options import Choice, Tuning

LEAST_SHARE = 0.003
"""Kernels that take less of the run's time are left as they are."""
_BETTER = 0.985
"""What a form must take at most of the time of the model's, to win a trial. In 15 of 100 trials a
kernel of MobileNetV2 is faster than its equal by as much: what has won must win again."""
_BETTER_YET = 0.995
"""The same of the best one so far: of forms that are equal, but for rounding, the first stays."""

Report = Callable[[str], None]


@dataclass
class Contest:
    """The forms of all kernels of one signature: the `model`'s, the best so far with its time in
    units of the model's, and those to try."""

    model: Choice
    share: float
    best: Choice = field(default_factory=dict)
    ratio: float = 1.0
    waiting: list[Choice] = field(default_factory=list)
    stage: int = 0
    tried: int = 0

    def next(self) -> Choice | None:
        """What to try now; None when all has been."""
        while not self.waiting and self.stage < len(_STAGES):
            current = {**self.model, **self.best}
            self.waiting = _STAGES[self.stage](current)
            self.stage += 1
        return self.waiting.pop(0) if self.waiting else None

    def judge(self, choice: Choice, ratio: float) -> None:
        """Notes a trial of a form, and its time in units of the model's."""
        self.tried += 1
        if ratio < min(_BETTER, self.ratio * _BETTER_YET):
            self.best, self.ratio = choice, ratio

    def confirm(self, ratio: float) -> None:
        """Drops the best form if it has not won again."""
        if self.best and ratio > _BETTER:
            self.drop()

    def drop(self) -> None:
        """The model's own form is the best again."""
        self.best, self.ratio = {}, 1.0


@dataclass(frozen=True)
class Tuned:
    """What came out: `before` and `after` are seconds of a run, without and with the tuning.
    `interrupted` says that Ctrl-C ended the trials."""

    tuning: Tuning
    contests: dict[str, Contest]
    trials: int
    before: float
    after: float
    interrupted: bool = False


class Tuner(Protocol):
    """What tries forms of a model's kernels: on a processor or a GPU."""

    contests: dict[str, Contest]
    trials: int

    def attempt(self, entries: Mapping[str, Choice]) -> None:
        """Compiles and measures these forms, one of each kernel, and judges them."""


def run_trials(tuner: Tuner, cost: float, end: float, interruptible: bool, report: Report) -> bool:
    """Tries forms until none is left, or `end` (of time.monotonic) is nearer than two trials: the
    final comparison takes as long as two. `cost` is an estimate of the first trial's seconds.

    Returns whether Ctrl-C ended the trials; it is raised if they are not `interruptible`.
    """
    try:
        while time.monotonic() + 2 * cost < end and (entries := _offered(tuner.contests)):
            begin = time.monotonic()
            tuner.attempt(entries)
            tuner.trials += 1
            cost = time.monotonic() - begin
            report(_progress(tuner.trials, tuner.contests))
    except KeyboardInterrupt:
        if not interruptible:
            raise
        report("interrupted: comparing what was found so far; Ctrl-C again drops it")
        return True
    return False


def _blocks(choice: Choice) -> list[Choice]:
    block = choice.get("block")
    if block is None:
        return []
    sizes = [max(1, block // 2), block * 2, max(1, block // 4), block * 4]
    return [{**choice, "block": size} for size in dict.fromkeys(sizes) if size != block]


def _innermost(choice: Choice) -> list[Choice]:
    if "unroll" not in choice:
        return []
    found: list[Choice] = [{**choice, "prefetch": 1 - choice["prefetch"]}]
    return found + [{**choice, "unroll": n} for n in (1, 2, 4, 8) if n != choice["unroll"]]


_STAGES: tuple[Callable[[Choice], list[Choice]], ...] = (_blocks, _innermost)


def _offered(contests: Mapping[str, Contest]) -> dict[str, Choice]:
    """What to try next of every kernel."""
    found = {name: one.next() for name, one in contests.items()}
    return {name: choice for name, choice in found.items() if choice is not None}


def winners(contests: Mapping[str, Contest]) -> dict[str, Choice]:
    """What is better than the model's form, by signature."""
    return {name: one.best for name, one in contests.items() if one.best}


def _progress(trials: int, contests: Mapping[str, Contest]) -> str:
    """A line that says how far the trials have come."""
    return f"{trials} trials, {sum(one.ratio < 1 for one in contests.values())} found better"
