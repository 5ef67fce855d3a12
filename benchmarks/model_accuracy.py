"""Whether the machine model is right: for every kernel of the models, its floor and what it took.

The floor is what the model of the machine predicts for perfect code (see the profile); a kernel far
above it is where code or model is wrong.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from benchmarks.plan import Plan
from benchmarks.record import Row
from bessemer.compiler.targets.choose import host_target
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.profiling.machine_limits import measure_limits
from bessemer.frontends.profiling.profile import compile_profiled, merged
from bessemer.frontends.random_inputs import random_inputs


def measure_model_accuracy(plan: Plan) -> dict[str, Row]:
    """A row for every model, with its kernels."""
    files = plan.files()
    if not files:
        return {}
    limits = measure_limits(host_target(), 1)

    def one(name: str) -> Row:
        graph = as_graph(files[name])
        inputs = random_inputs(graph)
        profile = compile_profiled(files[name], threads=1).profile(inputs, plan.seconds, limits)
        kernels = sorted(merged(profile.kernels), key=lambda kernel: -kernel.seconds)
        return {
            "ms": profile.seconds * 1e3,
            "predicted_ms": sum(kernel.floor for kernel in kernels) * 1e3,
            "kernels": [
                {
                    "kernel": kernel.kernel,
                    "us": kernel.seconds * 1e6,
                    "predicted_us": kernel.floor * 1e6,
                    "gflops": kernel.rate / 1e9,
                    "gb_s": kernel.bandwidth / 1e9,
                }
                for kernel in kernels
            ],
        }

    return plan.record.fill("model_accuracy", files, one)


def show_model_accuracy(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells: the models, each with its costliest kernels."""
    cells = []
    for name, row in rows.items():
        if "kernels" not in row:
            cells.append([name, "", "–", "–", "–"])
            continue
        shares = [k["predicted_us"] / k["us"] for k in row["kernels"] if k["us"]]
        middle = f"median of {len(shares)} kernels: {statistics.median(shares):.0%}"
        ratio = row["predicted_ms"] / row["ms"]
        cells.append(
            [name, middle, f"{row['predicted_ms']:.3f} ms", f"{row['ms']:.3f} ms", f"{ratio:.0%}"]
        )
        for kernel in row["kernels"][:8]:
            predicted, taken = kernel["predicted_us"], kernel["us"]
            cells.append(
                [
                    "",
                    kernel["kernel"],
                    f"{predicted:.1f} us",
                    f"{taken:.1f} us",
                    f"{predicted / taken:.0%}",
                ]
            )
    return ["model", "kernel", "predicted", "measured", "ratio"], cells
