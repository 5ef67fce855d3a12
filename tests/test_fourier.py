"""Fourier transforms of many lengths against NumPy's in float64."""

import numpy as np
import onnx
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.composite.composite_fourier import fourier_transform, real_signal
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.graph_runs import run
from tests.onnx_check import node_model

LENGTHS = [1, 2, 9, 384, 390, 509, 512, 1024]  # 509 is prime


def signal(length: int, parts: int) -> Array:
    return np.random.default_rng(length).standard_normal((2, 3, length, parts)).astype(np.float32)


def complex_of(x: Array) -> Array:
    wide = x.astype(np.float64)
    return wide[..., 0] + (1j * wide[..., 1] if x.shape[-1] == 2 else 0)


def parts_of(z: Array) -> Array:
    return np.stack([z.real, z.imag], axis=-1)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("parts", [1, 2])
def test_transforms(length: int, parts: int) -> None:
    x = signal(length, parts)
    whole, half, back = run(
        lambda b, x: (
            fourier_transform(b, x, inverse=False, onesided=False),
            fourier_transform(b, x, inverse=False, onesided=True),
            fourier_transform(b, x, inverse=True, onesided=False),
        ),
        [x],
    )
    expected = np.fft.fft(complex_of(x))
    tolerance = 1e-5 * np.sqrt(length)
    np.testing.assert_allclose(whole, parts_of(expected), rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        half, parts_of(expected[..., : length // 2 + 1]), rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(back, parts_of(np.fft.ifft(complex_of(x))), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7, 510, 1023])
def test_a_real_signal_comes_back_from_half_its_spectrum(length: int) -> None:
    half = signal(length // 2 + 1, 2)
    (found,) = run(lambda b, x: real_signal(b, x, length), [half])
    expected = np.fft.irfft(complex_of(half), length)[..., None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [0, 10007, 2 * 8209, 8193 * 8192, 10**18])
def test_lengths_whose_matrices_are_too_large_are_refused(length: int) -> None:
    """10007 and 8209 are prime."""
    node = onnx.helper.make_node("DFT", ["x", "n"], ["y"], axis=1)
    model = node_model(node, [("x", signal(9, 1)[0])], 17, [("n", np.array(length))])
    with pytest.raises(CompileError, match=f"length {length}, no product of two numbers"):
        read_onnx(model)
