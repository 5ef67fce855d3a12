"""Matrix products in bfloat16 against torch's (oneDNN), one thread, interleaved in one process; and
what the machine can do at most: a loop of nothing but its dot products, interleaved with them.

Our right operand is constant and packed when the model is compiled, as weights are; torch packs its
own in every call. Where both are computed in the run, ours is packed in the run, too.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import bessemer
from benchmarks.machine_code import Peak
from benchmarks.plan import Plan, is_installed, not_installed
from benchmarks.record import Row
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import TensorType, bf16
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.relative_error import relative_error

SIZES = (512, 1024)


COMPUTED = " computed"
_PEAK_ITERATIONS = 3_500_000  # about 10 ms


def measure_products_bf16(plan: Plan) -> dict[str, Row]:
    """A row for every size, with a constant right operand and with a computed one."""
    names = [f"{size}^3{kind}" for kind in ("", COMPUTED) for size in SIZES]
    wanted = plan.chosen("products_bf16", names)
    absent = not_installed("torch")
    return plan.record.fill("products_bf16", wanted, lambda name: _measure(name, plan), absent)


def _measure(name: str, plan: Plan) -> Row:
    size = int(name.partition("^")[0])
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((size, size)).astype(bf16.numpy) for _ in range(2))
    run, out = _bessemer(x, w, name.endswith(COMPUTED))
    exact = x.astype(np.float64) @ w.astype(np.float64)
    row: Row = {"error": relative_error(exact, out.astype(np.float64))}
    runs: dict[str, Callable[[], Any]] = {"bessemer": run}
    if is_installed("torch"):
        runs["torch"] = _torch(x, w)
    times: dict[str, list[float]] = {name: [] for name in runs}
    target = host_target()
    peak = Peak(target, dots=True) if target.has_dot_bf16 else None
    rates: list[float] = []
    for _ in range(max(plan.rounds, 7)):
        for name, run in runs.items():
            times[name].append(_measured(run))
        if peak is not None:
            rates.append(peak.rate(_PEAK_ITERATIONS))
    for name, found in times.items():
        row[f"{name}_gflops"] = 2e-9 * size**3 / statistics.median(found)
    if rates:
        row["peak_gflops"] = statistics.median(rates) / 1e9
    return row


def _bessemer(x: Any, w: Any, computed: bool) -> tuple[Callable[[], Any], Any]:
    """A run, and its result. Results are new arrays: the way into given ones is 7 us longer."""
    builder = GraphBuilder("product")
    a = builder.input("x", TensorType(bf16, x.shape))
    b = builder.input("w", TensorType(bf16, w.shape)) if computed else builder.constant(w)
    y = builder.apply("matmul", a, b)
    model = bessemer.compile(builder.finish([y], ["y"]), threads=1, cache=False)
    inputs = [x, w] if computed else [x]
    return lambda: model.run(inputs), model.run(inputs)[0]


def _torch(x: Any, w: Any) -> Callable[[], Any]:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    a, b = (torch.from_numpy(m.astype(np.float32)).to(torch.bfloat16) for m in (x, w))
    out = torch.empty(a.shape[0], b.shape[1], dtype=torch.bfloat16)
    return lambda: torch.mm(a, b, out=out)


def _measured(run: Callable[[], Any]) -> float:
    run()
    found = []
    for _ in range(10):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def show_products_bf16(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    keys = ("bessemer_gflops", "torch_gflops", "peak_gflops")
    columns = ["bf16 product", "bessemer GFLOP/s", "torch GFLOP/s", "dot products alone"]
    return [*columns, "ratio", "of the peak", "torch of it", "error"], [
        [
            name,
            *(f"{row[key]:.0f}" if key in row else "–" for key in keys),
            _quotient(row, keys[0], keys[1], ".2f"),
            _quotient(row, keys[0], keys[2], ".1%"),
            _quotient(row, keys[1], keys[2], ".1%"),
            f"{row['error']:.1e}" if "error" in row else row.get("failed", "–"),
        ]
        for name, row in rows.items()
    ]


def _quotient(row: Row, above: str, below: str, form: str) -> str:
    return f"{row[above] / row[below]:{form}}" if above in row and below in row else "–"
