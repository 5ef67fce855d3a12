"""The benchmark of a matrix unit, under the emulator of one: its times mean nothing here."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gemm import convolution_work, product_work
from benchmarks.matrix_unit import (
    FORMS,
    LIMITS,
    clock_rate,
    measure_limit,
    measure_work,
    show_matrix_unit,
)
from bessemer.compiler.targets import x86
from tests.amx_emulation import counts, emulator, needs_emulator, reset

pytestmark = needs_emulator


def test_limits_are_what_they_say() -> None:
    emulator()
    assert clock_rate(x86.AMX) > 0
    expected = {"products": (1, 12), "a chain of products": (1, 12), "setting up": (4, 0)}
    for name in LIMITS:
        reset()
        row = measure_limit(name, x86.AMX, 3, iterations=3)
        calls = 4 if name == "setting up" else 8
        setups, products = expected[name]
        assert counts()["product"] == calls * products
        assert counts()["ldtilecfg"] == calls * setups
        assert row["cycles"] > 0


@pytest.mark.parametrize("form", FORMS)
def test_kernels_are_right_and_both_units_shown(form: str, rng: np.random.Generator) -> None:
    emulator()
    rows = {
        "gemm": measure_work(product_work(40, 48, 64, rng), FORMS[form], x86.AMX, 1),
        "conv": measure_work(
            convolution_work((1, 6, 32, 20, 3, 1, 1), rng), FORMS[form], x86.AMX, 1
        ),
    }
    for row in rows.values():
        assert row["error"] < (3e-7 if form == "bf16x3" else 5e-3)
        assert ("vector_ms" in row) == (form == "bf16x3")
        assert row["predicted_ms"] > 0
    columns, cells = show_matrix_unit({**rows, "products": {"cycles": 16.0, "gflops": 2000.0}})
    assert all(len(row) == len(columns) for row in cells)
    assert cells[2][2] == "16.0 (27 with loads)"
