"""Runs that take turns in one process, so that the machine's moods meet all of them alike.

Systems with a process each take turns by `bessemer.frontends.cli.bench_rounds`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from benchmarks.plan import PAUSE
from bessemer.frontends.cli.bench_worker import time_turn


def medians_by_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float, pause: float = PAUSE
) -> dict[str, float]:
    """Seconds a run, by name: the median over the turns of each turn's median.

    A turn takes `seconds`; in the `pause` before it the threads of the one before go to sleep.
    """
    medians: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(pause)
            medians[name].append(time_turn(run, seconds)["median"])
    return {name: statistics.median(found) for name, found in medians.items()}
