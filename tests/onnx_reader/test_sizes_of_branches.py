"""Arrays whose sizes the data decides, in branches and loops that may not run."""

from __future__ import annotations

import numpy as np
import pytest

import bessemer
from tests.onnx_check import expected, parsed


def _summed(number: int, source: str) -> str:
    """A subgraph whose arrays are as long as `source` has elements that are not zero."""
    a = number
    return f"""{{
        places{a} = NonZero({source})
        flat{a} = Constant<value_ints = [-1]>()
        row{a} = Reshape(places{a}, flat{a})
        found{a} = Gather({source}, row{a})
        zero{a} = Constant<value = int64 {{0}}>()
        once{a} = CumSum(found{a}, zero{a})
        twice{a} = CumSum<reverse = 1>(once{a}, zero{a})
        axis{a} = Constant<value_ints = [0]>()
        sum{a} = ReduceSum<keepdims = 0>(twice{a}, axis{a})
        out{a} = Add({source}, sum{a})
    }}"""


@pytest.mark.parametrize("size", [3, 500])
def test_places_behind_a_branch_that_was_not_taken(size: int) -> None:
    model = parsed(
        f"""agraph (float[n] x, bool a, bool b) => (float[n] y) {{
            p = If(a) <
                then_branch = one () => (float[n] out1) {_summed(1, "x")},
                else_branch = two () => (float[n] q) {{ q = Neg(x) }}
            >
            y = If(b) <
                then_branch = three () => (float[n] out2) {_summed(2, "p")},
                else_branch = four () => (float[n] r) {{ r = Neg(p) }}
            >
        }}"""
    )
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    x = np.random.default_rng(0).random(size, dtype=np.float32)
    x[::3] = 0
    for a, b in ((False, True), (True, False), (True, True), (False, False)):
        inputs = {"x": x, "a": np.array(a), "b": np.array(b)}
        (want,) = expected(model, inputs)
        np.testing.assert_allclose(compiled.run(inputs)[0], want, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_places_behind_a_loop_without_iterations(trips: int) -> None:
    model = parsed(
        f"""agraph (float[n] x, int64 trips) => (float[n] y) {{
            going = Constant<value = bool {{1}}>()
            p = Loop(trips, going, x) <
                body = step (int64 i, bool c, float[n] s) => (bool d, float[n] out1) {{
                    d = Identity(c)
                    {_summed(1, "s").strip("{} ")}
                }}
            >
            {_summed(2, "p").strip("{} ")}
            y = Identity(out2)
        }}"""
    )
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    x = np.random.default_rng(1).random(300, dtype=np.float32)
    x[::2] = 0
    inputs = {"x": x, "trips": np.array(trips)}
    np.testing.assert_allclose(compiled.run(inputs)[0], expected(model, inputs)[0], rtol=1e-5)


@pytest.mark.parametrize("most", [None, 3])
def test_finds_of_one_row_after_the_other_in_one_array(most: int | None) -> None:
    """Detections of each class by turns: where one class's lie in all of them, its kernel cannot
    know if that depends on how many the next class has."""
    rows = "\n".join(
        f"""place{row} = Constant<value = int64 {{{row}}}>()
            line{row} = Gather(x, place{row})
            above{row} = Relu(line{row})
            found{row} = NonZero(above{row})
            all{row} = Reshape(found{row}, flat)
            best{row} = {f"Slice(all{row}, none, most)" if most else f"Identity(all{row})"}
            picked{row} = Gather(line{row}, best{row})
            part{row} = Exp(picked{row})"""
        for row in range(3)
    )
    model = parsed(
        f"""agraph (float[3, 20] x) => (float[m] y) {{
            flat = Constant<value_ints = [-1]>()
            none = Constant<value_ints = [0]>()
            most = Constant<value_ints = [{most or 0}]>()
            {rows}
            y = Concat<axis = 0>(part0, part1, part2)
        }}"""
    )
    compiled = bessemer.compile(model)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((3, 20)).astype(np.float32)
        (result,) = compiled.run({"x": x})
        np.testing.assert_allclose(result, expected(model, {"x": x})[0], rtol=1e-5)
