"""Matrix products in bfloat16 against torch's (oneDNN), one thread, in turns in one process."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import bessemer
from benchmarks.plan import Plan, is_installed
from benchmarks.record import Row
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import TensorType, bf16
from bessemer.frontends.relative_error import relative_error

SIZES = (512, 1024)


def measure_products_bf16(plan: Plan) -> dict[str, Row]:
    """A row for every size; the right operand is constant, as weights are."""
    names = [f"{size}^3" for size in SIZES]
    return plan.record.fill("products_bf16", names, lambda name: _measure(int(name[:-2]), plan))


def _measure(size: int, plan: Plan) -> Row:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((size, size)).astype(bf16.numpy) for _ in range(2))
    builder = GraphBuilder("product")
    a = builder.input("x", TensorType(bf16, (size, size)))
    y = builder.apply("matmul", a, builder.constant(w))
    model = bessemer.compile(builder.finish([y], ["y"]), threads=1, cache=False)
    exact = x.astype(np.float64) @ w.astype(np.float64)
    out = model.run([x])
    row: Row = {"error": relative_error(exact, out[0].astype(np.float64))}
    runs: dict[str, Callable[[], Any]] = {"bessemer": lambda: model.run([x], out)}
    if is_installed("torch"):
        runs["torch"] = _torch(x, w)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(max(plan.rounds, 7)):
        for name, run in runs.items():
            times[name].append(_turn(run))
    for name, found in times.items():
        row[f"{name}_gflops"] = 2e-9 * size**3 / statistics.median(found)
    return row


def _torch(x: Any, w: Any) -> Callable[[], Any]:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    a, b = (torch.from_numpy(m.astype(np.float32)).to(torch.bfloat16) for m in (x, w))
    out = torch.empty(a.shape[0], b.shape[1], dtype=torch.bfloat16)
    return lambda: torch.mm(a, b, out=out)


def _turn(run: Callable[[], Any]) -> float:
    run()
    found = []
    for _ in range(10):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def show_products_bf16(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    keys = ("bessemer_gflops", "torch_gflops")
    return ["bf16 product", "bessemer GFLOP/s", "torch GFLOP/s", "ratio", "error"], [
        [
            name,
            *(f"{row[key]:.0f}" if key in row else "–" for key in keys),
            f"{row[keys[0]] / row[keys[1]]:.2f}" if all(key in row for key in keys) else "–",
            f"{row['error']:.1e}" if "error" in row else row.get("failed", "–"),
        ]
        for name, row in rows.items()
    ]
