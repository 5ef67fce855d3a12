"""Fourier transforms of many lengths against NumPy's in float64."""

import numpy as np
import onnx
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.composite.composite_fourier import fourier_transform, real_signal
from bessemer.frontends.compile import compile
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.graph_runs import run
from tests.onnx_check import node_model, parsed

LENGTHS = [1, 2, 9, 64, 390, 509, 512, 1024]  # 509 is prime


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


def test_transforms_of_a_length_that_a_run_tells() -> None:
    model = parsed(
        """g (float[2,3,N,1] x, float[2,3,N,2] z)
        => (float[2,3,M,2] half, float[2,3,N,2] whole, float[2,3,N,2] back, float[2,3,K,1] y)
        <int64 at = {2}>
        { half = DFT<onesided=1>(x, "", at) whole = DFT(z, "", at) back = DFT<inverse=1>(z, "", at)
          y = DFT<inverse=1, onesided=1>(z, "", at) }""",
        20,
    )
    compiled = compile(model, threads=1)
    for length in (2, 7, 30, 509):
        x, z = signal(length, 1), signal(length, 2)
        half, whole, back, y = compiled.run({"x": x, "z": z})
        tolerance = 1e-5 * np.sqrt(length)
        expected = parts_of(np.fft.rfft(complex_of(x)))
        np.testing.assert_allclose(half, expected, rtol=0, atol=tolerance)
        expected = parts_of(np.fft.fft(complex_of(z)))
        np.testing.assert_allclose(whole, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(back, parts_of(np.fft.ifft(complex_of(z))), rtol=0, atol=1e-5)
        expected = np.fft.irfft(complex_of(z), 2 * length - 2)[..., None]
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_cosines_of_half_precision_are_rounded_once() -> None:
    """The transform of an impulse has cosines and sines for its numbers."""
    model = parsed("g (float16[B,N,1] x) => (float16[B,N,2] y) { y = DFT<axis=1>(x) }", 17)
    x = np.eye(100, dtype=np.float16)[..., None]
    (y,) = compile(model, threads=1).run({"x": x})
    np.testing.assert_allclose(y, parts_of(np.fft.fft(np.eye(100))), rtol=0, atol=2.0**-12 + 1e-6)


@pytest.mark.parametrize(
    ("opset", "columns", "rows"),
    [
        (17, "DFT<axis=2>(x)", "DFT<axis=1, inverse=1>(z, n)"),
        (20, 'DFT(x, "", second)', "DFT<inverse=1>(z, n, first)"),
    ],
)
def test_a_model_transforms_axes_of_any_length(opset: int, columns: str, rows: str) -> None:
    """The columns of images of any size, and back as many rows as another input has."""
    model = parsed(
        f"""g (float[B,H,W,1] x, float[K] like) => (float[B,H,W,2] z, float[B,K,W,2] y)
        <int64 first = {{1}}, int64 second = {{2}}>
        {{ n = Size(like) z = {columns} y = {rows} }}""",
        opset,
    )
    compiled = compile(model, threads=1)
    for batch, height, width, count in ((2, 5, 8, 5), (1, 1, 33, 1), (3, 6, 1, 9), (1, 7, 4, 3)):
        x = np.random.default_rng(width).standard_normal((batch, height, width, 1))
        z, y = compiled.run({"x": x.astype(np.float32), "like": np.zeros(count, np.float32)})
        expected = np.fft.fft(x[..., 0])
        np.testing.assert_allclose(z, parts_of(expected), rtol=0, atol=1e-5)
        back = np.fft.ifft(expected, count, axis=1)
        np.testing.assert_allclose(y, parts_of(back), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [0, 10007, 2 * 8209, 8193 * 8192, 10**18])
def test_lengths_whose_matrices_are_too_large_are_refused(length: int) -> None:
    """10007 and 8209 are prime."""
    node = onnx.helper.make_node("DFT", ["x", "n"], ["y"], axis=1)
    model = node_model(node, [("x", signal(9, 1)[0])], 17, [("n", np.array(length))])
    with pytest.raises(CompileError, match=f"length {length}, no product of two numbers"):
        read_onnx(model)
