"""Kernels in percent of the multiply-adds measured beside them, one thread: all of this machine's
vectors, and AVX2 only.

A row is a product or a layer of ResNet-50 on a target; convolutions are the direct sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial

import numpy as np

from benchmarks.gemm import (
    PRODUCTS,
    RESNET50,
    Work,
    compile_work,
    convolution_work,
    error,
    layer_name,
    product_work,
)
from benchmarks.machine_code import Peak, measure, prepared
from benchmarks.plan import Plan
from benchmarks.record import Row
from bessemer.compiler.targets.choose import parse_target

TARGETS = ("host", "x86_64-avx2")


def measure_kernels(plan: Plan) -> dict[str, Row]:
    """A row for every kernel and target."""
    works = _works()

    def one(name: str) -> Row:
        kernel, target_name = name.rsplit("@", 1)
        work, target = works[kernel](np.random.default_rng(0)), parse_target(target_name)
        ready = compile_work(work, target)
        wrong = error(work, ready)
        timing = measure(prepared(ready.call), work.operations, _peak(target_name), plan.rounds)
        return {
            "count": work.count,
            "share": timing.share,
            "best": timing.best,
            "ms": timing.seconds * 1e3,
            "gflops": work.operations / timing.seconds / 1e9,
            "peak_gflops": timing.peak / 1e9,
            "error": wrong,
            "tiling": str(ready.tiling),
        }

    kernels = plan.chosen("kernels", works)
    return plan.record.fill("kernels", [f"{n}@{t}" for t in TARGETS for n in kernels], one)


def _works() -> dict[str, partial[Work]]:
    """What makes a work of random numbers, by its name."""
    products = {
        f"gemm {'x'.join(map(str, shape))}": partial(product_work, *shape) for shape in PRODUCTS
    }
    layers = {f"conv {layer_name(layer)}": partial(convolution_work, layer) for layer in RESNET50}
    return products | layers


@cache
def _peak(target_name: str) -> Peak:
    return Peak(parse_target(target_name))


def show_kernels(rows: Mapping[str, Row]) -> tuple[list[str], list[list[str]]]:
    """The table's columns and cells."""
    cells = [
        [
            name,
            f"{row['share']:.1%}",
            f"{row['best']:.1%}",
            f"{row['ms']:.3f}",
            f"{row['error']:.1e}",
        ]
        if "share" in row
        else [name, "–", "–", "–", row.get("failed", "")]
        for name, row in rows.items()
    ]
    return ["kernel@target", "of peak", "best", "ms", "error"], cells
