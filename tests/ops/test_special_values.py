"""Infinities, NaN and the lowest numbers, where kernels and rewritings are easily wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.types import Array
from tests.compiled_math import RUNNABLE
from tests.onnx_check import expected, parsed
from tests.onnx_nodes import run_node

SPECIAL = np.array(
    [np.inf, -np.inf, np.nan, 0.0, 1.0, 4.0, 1e-30, 3e38, -1.0, -3e38, 2.0, 0.5, 9.0], np.float32
)


def compiled(text: str, x: Array) -> list[Array]:
    """The outputs of an ONNX graph of one input."""
    return bessemer.compile(parsed(text, 18), threads=1, cache=False).run([x])


@pytest.mark.parametrize("exponent", [0.5, -0.5, 0.75])
def test_powers_that_become_roots_are_those_of_c(exponent: float) -> None:
    """C17, F.10.4.4: of minus infinity they are those of infinity."""
    text = f"""agraph (float[13] x) => (float[13] y) {{
        e = Constant<value = float {{{exponent}}}>()
        y = Pow(x, e)
    }}"""
    (found,) = compiled(text, SPECIAL)
    (wanted,) = run_node("Pow", [SPECIAL, np.array(exponent, np.float32)])
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found[1] == wanted[1] == (np.inf if exponent > 0 else 0)


@pytest.mark.parametrize("level", ["avx2", "avx512"])
@pytest.mark.parametrize("name", ["Gelu", 'Gelu<approximate = "tanh">', "HardSwish", "Mish"])
def test_minus_infinity_times_a_gate_is_no_number(name: str, level: str) -> None:
    if level not in RUNNABLE:
        pytest.skip("not on this machine")
    model = parsed(f"agraph (float[13] x) => (float[13] y) {{ y = {name}(x) }}", 20)
    (found,) = bessemer.compile(model, target=f"x86_64-{level}", threads=1, cache=False).run(
        [SPECIAL]
    )
    (wanted,) = expected(model, {"x": SPECIAL})
    assert np.isnan(wanted[1])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_maximum_as_low_as_padding_is_found_in_the_image(dilation: int) -> None:
    x = np.full((1, 2, 5, 4), -np.inf, np.float32)
    x[0, 0, 2, 1] = 1
    text = f"""agraph (float[1, 2, 5, 4] x) => (float[1, 2, n, m] y, int64[1, 2, n, m] i) {{
        y, i = MaxPool<kernel_shape = [3, 2], pads = [1, 1, 1, 1], dilations = [{dilation}, 1]>(x)
    }}"""
    wanted = run_node(
        "MaxPool", [x], 2, kernel_shape=[3, 2], pads=[1, 1, 1, 1], dilations=[dilation, 1]
    )
    np.testing.assert_array_equal(compiled(text, x)[1], wanted[1])


def test_the_place_of_a_maximum_that_is_nan() -> None:
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 8)
    x[0, 0, 2] = np.nan
    text = """agraph (float[1, 1, 8] x) => (float[1, 1, 4] y, int64[1, 1, 4] i) {
        y, i = MaxPool<kernel_shape = [2], strides = [2]>(x)
    }"""
    found = compiled(text, x)
    np.testing.assert_array_equal(found[0].ravel(), [1, np.nan, 5, 7])
    np.testing.assert_array_equal(found[1].ravel(), [1, 2, 5, 7])


@pytest.mark.parametrize(
    ("dtype", "numpy"), [("float", np.float32), ("double", np.float64), ("float16", np.float16)]
)
def test_the_sign_of_what_is_no_number_is_none(dtype: str, numpy: Any) -> None:
    x = np.clip(SPECIAL, -6e4, 6e4).astype(numpy)
    (found,) = compiled(f"agraph ({dtype}[13] x) => ({dtype}[13] y) {{ y = Sign(x) }}", x)
    np.testing.assert_array_equal(found, np.sign(x))
