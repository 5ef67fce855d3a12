"""Interleaved measurements in one process, so that slow phases of the machine affect all alike.

`bessemer.frontends.cli.bench_rounds` interleaves systems that have a process each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from benchmarks.plan import PAUSE
from bessemer.frontends.cli.bench_worker import time_runs


def interleaved_medians(
    runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float, pause: float = PAUSE
) -> dict[str, float]:
    """Seconds of a run, by name: the median over the rounds of each round's median.

    In a round, each is run for `seconds`; in the `pause` before that, the threads of the one before
    go to sleep.
    """
    medians: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(pause)
            medians[name].append(time_runs(run, seconds)["median"])
    return {name: statistics.median(found) for name, found in medians.items()}
