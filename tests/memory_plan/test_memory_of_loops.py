"""What is known before a run about the memory of loops and of sizes that the data decides."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import CompileError
from tests.onnx_check import expected, parsed

COLLECTING = """g (float[n, 5] x) => (float[m, 5] y) {
    shape = Shape (x)
    zero = Constant <value_int = 0> ()
    count = Gather (shape, zero)
    first = ReduceMean <axes = [0], keepdims = 0> (x)
    going = Constant <value = bool {1}> ()
    last, all = Loop (count, going, first) <body = b (int64 i, bool c, float[5] s)
        => (bool d, float[5] t, float[5] u) {
        d = Identity (c)
        row = Gather (x, i)
        t = Add (s, row)
        u = Tanh (t)
    }>
    y = Mul (all, all)
}"""


def test_a_loop_over_an_axis_takes_memory_that_its_size_tells(rng: np.random.Generator) -> None:
    onnx_model = parsed(COLLECTING)
    model = bessemer.compile(onnx_model, threads=1, memory="64K", sizes={"n": 40}, cache=False)
    for rows in (40, 3, 7):
        x = rng.standard_normal((rows, 5)).astype(np.float32)
        (ours,), (theirs,) = model.run({"x": x}), expected(onnx_model, {"x": x})
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_budget_for_sizes_that_the_data_decides_is_refused() -> None:
    onnx_model = parsed(
        """g (float[n, 5] x) => (float[2, k] y) {
             at = NonZero (x)
             place = Cast <to = 1> (at)
             sums = CumSum (place, axis)
             y = Softmax <axis = 1> (sums)
        }""".replace("{\n", "{ axis = Constant <value_int = 1> ()\n")
    )
    with pytest.raises(CompileError, match="the data decides during the run"):
        bessemer.compile(onnx_model, memory="64K", sizes={"n": 4}, cache=False)
