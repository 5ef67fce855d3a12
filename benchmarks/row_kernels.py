"""Layer norm, softmax and GELU over 16 MiB against the copy bandwidth measured beside them.

Both are the best of three batches of runs: the first ones move into the caches what fits there.
The bar is about copying by ordinary stores. Copying by streaming stores is measured too: for
arrays no smaller than half of the last cache it is the faster way, and what our kernels do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

import bessemer
from benchmarks.plan import Plan
from benchmarks.record import Row
from bessemer.compiler.ir.types import Array
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends import builder as nn
from bessemer.frontends.builder.network import Network
from bessemer.frontends.profiling.bandwidth import measure_copy, measure_stream, prepare_mover
from bessemer.runtime.arrays import aligned_empty

ROWS, COLUMNS = 4096, 1024
KERNELS: dict[str, Callable[[nn.Tensor], nn.Tensor]] = {
    "layer_norm": nn.LayerNorm(),
    "softmax": nn.softmax,
    "gelu": nn.gelu,
}


def measure_row_kernels(plan: Plan) -> dict[str, Row]:
    """A row for every kernel and number of threads."""
    mover = prepare_mover(host_target())
    # In cache lines of its own, as the copy's arrays are: NumPy begins an array anywhere.
    x = aligned_empty((ROWS, COLUMNS), np.dtype(np.float32))
    x[...] = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))

    def one(name: str) -> Row:
        kernel, threads = name.rsplit("/", 1)
        network = Network(KERNELS[kernel], nn.Input("x", (ROWS, COLUMNS)), name=kernel)
        model = bessemer.compile(network, threads=int(threads), cache=False)
        out = model.run([x])
        seconds, copies, streams = [], [], []
        for _ in range(max(5, plan.rounds)):
            copies.append(measure_copy(mover, 2 * x.nbytes, int(threads), 0.03))
            streams.append(measure_stream(mover, 2 * x.nbytes, int(threads), 0.03))
            seconds.append(_time(lambda: model.run([x], out), 8))
        taken = statistics.median(seconds)
        copy = statistics.median(copies)
        moved = 2 * x.nbytes / taken
        return {
            "ms": taken * 1e3,
            "gb_s": moved / 1e9,
            "copy_gb_s": copy / 1e9,
            "stream_gb_s": statistics.median(streams) / 1e9,
            "share": moved / copy,
        }

    wanted = plan.chosen("row_kernels", KERNELS)
    names = [f"{name}/{threads}" for name in wanted for threads in plan.threads]
    return plan.record.fill("row_kernels", names, one)


def _time(run: Callable[[], list[Array]], count: int) -> float:
    """Seconds a run, measured as copying is."""

    def batch() -> float:
        start = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - start) / count

    batch()
    return min(batch() for _ in range(3))


def show_row_kernels(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    cells = [
        [
            name,
            f"{row['ms']:.3f}",
            f"{row['gb_s']:.1f}",
            f"{row['copy_gb_s']:.1f}",
            f"{row['stream_gb_s']:.1f}" if "stream_gb_s" in row else "–",
            f"{row['share']:.0%}",
        ]
        if "ms" in row
        else [name, "–", "–", "–", "–", row.get("failed", "")]
        for name, row in rows.items()
    ]
    columns = [
        "kernel/threads, 16 MiB",
        "ms",
        "GB/s",
        "copy GB/s",
        "streaming copy GB/s",
        "of copy",
    ]
    return columns, cells
