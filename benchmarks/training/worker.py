"""One system that trains one network, in a process of its own, driven by lines of JSON.

    python -m benchmarks.training.worker

The first line says what to start (a `Job`), the answer how long that took. After that, {"seconds":
s} is a measurement of steps, {"stop": true} the end; the answer is the most memory that the process
ever had.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.training.networks import NETWORKS, TrainingNetwork, loss, torch_loss
from bessemer.compiler.ir.types import Array
from bessemer.frontends.cli.bench_worker import Job, peak_memory, time_runs
from bessemer.frontends.train.trainer import Trainer

OURS, EAGER, EAGER_LAST, COMPILED = (
    "bessemer",
    "torch eager",
    "torch channels last",
    "torch.compile",
)
"""Ours, and torch's ways: as it comes, with images' channels last in memory, and compiled."""
_BATCHES = 4


def main() -> None:
    """Serves one job until it is told to stop."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    try:
        for found in _serve(Job(**json.loads(sys.stdin.readline()))):
            answer(found)
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})


def _serve(job: Job) -> Iterator[dict[str, Any]]:
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(allowed[: job.threads]))
    network = NETWORKS[job.model]
    is_ours = job.system == OURS
    step: Callable[[], object] | None = None
    yield {}
    for line in sys.stdin:
        request = json.loads(line)
        if "stop" in request:
            yield {"peak_memory": peak_memory()}
            return
        if step is None:
            start = time.perf_counter()
            step = _our_step(network, job) if is_ours else _torch_step(network, job)
            step()
            yield {"first": time.perf_counter() - start}
            continue
        yield time_runs(step, request["seconds"])


def _our_step(network: TrainingNetwork, job: Job) -> Callable[[], object]:
    trainer = Trainer(
        network.network(), loss, [network.target], optimizer=network.optimizer, threads=job.threads
    )
    batches = itertools.cycle(list(network.batches(_BATCHES)))
    return lambda: trainer.step(next(batches))


def _torch_step(network: TrainingNetwork, job: Job) -> Callable[[], object]:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(job.threads)
    model = network.torch_model(network.network().arrays())
    is_last = job.system == EAGER_LAST
    if is_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = network.torch_optimizer(model)
    called = torch.compile(model) if job.system == COMPILED else model

    def tensor(array: Array) -> Any:
        made = torch.tensor(array)
        return made.to(memory_format=torch.channels_last) if is_last and made.ndim == 4 else made

    batches = itertools.cycle([[*map(tensor, b.values())] for b in network.batches(_BATCHES)])

    def step() -> object:
        x, label = next(batches)
        optimizer.zero_grad()
        found = torch_loss(called(x), label)
        found.backward()
        optimizer.step()
        return found.item()

    return step


if __name__ == "__main__":
    main()
