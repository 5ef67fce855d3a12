"""Layers compute what they say: compared with onnxruntime, NumPy, and PyTorch where it is there."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends import builder as nn
from bessemer.frontends.builder import Layer
from tests.network_runs import (
    assert_near,
    by_onnxruntime,
    network_of,
    numbers,
    run,
    run_network,
    with_random,
)

IMAGE = numbers(2, 6, 9, 8)
SIGNAL = numbers(2, 6, 11)
VOLUME = numbers(1, 2, 5, 4, 6)


def _applied(layer: Layer, x: Array) -> tuple[Array, Callable[[str], Array]]:
    """The layer's output, with random parameters, and these by name."""
    network = with_random(network_of(layer, x))
    return run_network(network, x)[0], network.array


# Images


CONVOLUTIONS: list[tuple[Array, nn.Conv, dict[str, Any]]] = [
    (IMAGE, nn.Conv(4, 3), {}),
    (IMAGE, nn.Conv(4, 3, 2, 1), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    (IMAGE, nn.Conv(4, (3, 2), (1, 2), (0, 1)), {"strides": [1, 2], "pads": [0, 1, 0, 1]}),
    (IMAGE, nn.Conv(4, 3, padding=((1, 2), (0, 1))), {"pads": [1, 0, 2, 1]}),
    (IMAGE, nn.Conv(9, 3, dilation=2, groups=3), {"dilations": [2, 2], "group": 3}),
    (IMAGE, nn.Conv(4, 3, 2, "same"), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    (IMAGE, nn.Conv(4, 4, padding="same"), {"auto_pad": "SAME_UPPER"}),
    (IMAGE, nn.Conv(4, 1, bias=False), {}),
    (IMAGE, nn.DepthwiseConv(kernel=3, padding=1), {"pads": [1] * 4, "group": 6}),
    (IMAGE, nn.DepthwiseConv(2, 3), {"group": 6}),
    (SIGNAL, nn.Conv(4, 5, 3, 2), {"strides": [3], "pads": [2, 2]}),
    (VOLUME, nn.Conv(3, 2, padding=1), {"pads": [1] * 6}),
]


@pytest.mark.parametrize(("x", "layer", "attributes"), CONVOLUTIONS, ids=str)
def test_convolution(x: Array, layer: nn.Conv, attributes: dict[str, Any]) -> None:
    actual, array = _applied(layer, x)
    weight = np.moveaxis(array("weight"), (-1, -2), (0, 1))
    bias = array("bias") if layer.bias else None
    assert_near(actual, by_onnxruntime("Conv", x, weight, bias, **attributes), 1e-4)


TRANSPOSED: list[tuple[Array, nn.ConvTranspose, dict[str, Any]]] = [
    (IMAGE, nn.ConvTranspose(4, 3), {}),
    (IMAGE, nn.ConvTranspose(4, 4, 2, 1), {"strides": [2, 2], "pads": [1] * 4}),
    (
        IMAGE,
        nn.ConvTranspose(4, 3, 2, 1, output_padding=1, groups=2),
        {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1], "group": 2},
    ),
    (SIGNAL, nn.ConvTranspose(3, 3, dilation=2, bias=False), {"dilations": [2]}),
]


@pytest.mark.parametrize(("x", "layer", "attributes"), TRANSPOSED, ids=str)
def test_transposed_convolution(
    x: Array, layer: nn.ConvTranspose, attributes: dict[str, Any]
) -> None:
    actual, array = _applied(layer, x)
    weight = np.moveaxis(array("weight"), (-1, -2), (0, 1))
    bias = array("bias") if layer.bias else None
    assert_near(actual, by_onnxruntime("ConvTranspose", x, weight, bias, **attributes), 1e-4)


POOLS: list[tuple[Array, Layer, str, dict[str, Any]]] = [
    (IMAGE, nn.MaxPool(2), "MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    (
        IMAGE,
        nn.MaxPool(3, 2, 1),
        "MaxPool",
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4},
    ),
    (
        SIGNAL,
        nn.MaxPool(3, 1, dilation=2),
        "MaxPool",
        {"kernel_shape": [3], "dilations": [2]},
    ),
    (
        IMAGE,
        nn.AveragePool(3, 2, 1),
        "AveragePool",
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4},
    ),
    (
        VOLUME,
        nn.AveragePool(3, 1, 1, count_padding=True),
        "AveragePool",
        {"kernel_shape": [3] * 3, "pads": [1] * 6, "count_include_pad": 1},
    ),
    (IMAGE, nn.GlobalAveragePool(keep=True), "GlobalAveragePool", {}),
    (IMAGE, nn.GlobalMaxPool(keep=True), "GlobalMaxPool", {}),
]


@pytest.mark.parametrize(("x", "layer", "kind", "attributes"), POOLS, ids=str)
def test_pool(x: Array, layer: Layer, kind: str, attributes: dict[str, Any]) -> None:
    assert_near(run(layer, x), by_onnxruntime(kind, x, **attributes))


def test_global_pools_leave_vectors() -> None:
    assert_near(run(nn.GlobalAveragePool(), IMAGE), IMAGE.mean((2, 3)))
    assert_near(run(nn.GlobalMaxPool(), VOLUME), VOLUME.max((2, 3, 4)))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode: Any) -> None:
    expected = by_onnxruntime(
        "Resize", IMAGE, None, np.array([1, 1, 2, 3], np.float32), mode=mode,
        coordinate_transformation_mode="asymmetric" if mode == "nearest" else "half_pixel",
        nearest_mode="floor",
    )  # fmt: skip
    assert_near(run(nn.Upsample((2, 3), mode), IMAGE), expected)


# Normalizations


def test_batch_norm() -> None:
    for x in (IMAGE, SIGNAL, numbers(3, 6)):
        actual, array = _applied(nn.BatchNorm(1e-3), x)
        names = ("weight", "bias", "running_mean", "running_variance")
        given = [array(name) for name in names]
        assert_near(actual, by_onnxruntime("BatchNormalization", x, *given, epsilon=1e-3))


def test_layer_norm() -> None:
    x = numbers(2, 3, 4, 5)
    for axes in (1, 2):
        actual, array = _applied(nn.LayerNorm(axes, 1e-3), x)
        given = array("weight"), array("bias")
        assert_near(
            actual, by_onnxruntime("LayerNormalization", x, *given, axis=-axes, epsilon=1e-3)
        )


def test_instance_norm() -> None:
    actual, array = _applied(nn.InstanceNorm(), IMAGE)
    given = array("weight"), array("bias")
    assert_near(actual, by_onnxruntime("InstanceNormalization", IMAGE, *given, epsilon=1e-5))


def test_group_norm() -> None:
    actual, array = _applied(nn.GroupNorm(3), IMAGE)
    grouped = IMAGE.reshape(2, 3, -1).astype(np.float64)
    spread = np.sqrt(grouped.var(2, keepdims=True) + 1e-5)
    normal = ((grouped - grouped.mean(2, keepdims=True)) / spread).reshape(IMAGE.shape)
    scale, bias = (array(name).reshape(6, 1, 1) for name in ("weight", "bias"))
    assert_near(actual, normal * scale + bias)


def test_rms_norm() -> None:
    x = numbers(2, 3, 8)
    actual, array = _applied(nn.RMSNorm(1e-3), x)
    assert_near(actual, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * array("weight"))


def test_local_response_norm() -> None:
    expected = by_onnxruntime("LRN", IMAGE, size=3, alpha=0.1, beta=0.5, bias=2.0)
    assert_near(run(nn.LocalResponseNorm(3, 0.1, 0.5, 2.0), IMAGE), expected)


# Layouts


def test_channels_last_computes_the_same() -> None:
    layers = nn.Sequential(
        nn.Conv(8, 3, padding=1), nn.BatchNorm(), nn.PReLU(), nn.MaxPool(2),
        nn.DenseConnection(nn.Sequential(nn.Conv(4, 3, padding=1), nn.GroupNorm(2))),
        nn.ConvTranspose(3, 2, 2), nn.Upsample(2), nn.Parallel(nn.Conv(2, 1), nn.AveragePool(1)),
    )  # fmt: skip
    first = with_random(network_of(layers, IMAGE))
    transposed = np.ascontiguousarray(IMAGE.transpose(0, 2, 3, 1))
    last = with_random(network_of(layers, transposed, channels_last=True))
    expected = run_network(first, IMAGE)[0].transpose(0, 2, 3, 1)
    assert_near(run_network(last, transposed)[0], expected)


# Activations

_X = np.linspace(-4, 4, 41).reshape(1, 41).astype(np.float32)
_SIGMOID = 1 / (1 + np.exp(-_X.astype(np.float64)))
_PHI = np.array([[0.5 * (1 + math.erf(v / math.sqrt(2))) for v in _X[0].astype(float)]])
ACTIVATIONS: list[tuple[Layer, Array]] = [
    (nn.ReLU(), np.maximum(_X, 0)),
    (nn.ReLU6(), np.clip(_X, 0, 6)),
    (nn.LeakyReLU(0.2), np.where(_X > 0, _X, 0.2 * _X)),
    (nn.ThresholdedReLU(0.7), np.where(_X > 0.7, _X, 0)),
    (nn.PReLU(), np.where(_X > 0, _X, 0.25 * _X)),
    (nn.PReLU(shared=True), np.where(_X > 0, _X, 0.25 * _X)),
    (nn.ELU(0.5), np.where(_X > 0, _X, 0.5 * np.expm1(_X))),
    (nn.CELU(0.5), np.where(_X > 0, _X, 0.5 * np.expm1(_X / 0.5))),
    (nn.SELU(), 1.0507009873 * np.where(_X > 0, _X, 1.6732632423 * np.expm1(_X))),
    (nn.GELU(), _X * _PHI),
    (
        nn.GELU(approximate=True),
        0.5 * _X * (1 + np.tanh(math.sqrt(2 / math.pi) * (_X + 0.044715 * _X**3))),
    ),
    (nn.SiLU(), _X * _SIGMOID),
    (nn.Mish(), _X * np.tanh(np.log1p(np.exp(_X)))),
    (nn.Sigmoid(), _SIGMOID),
    (nn.Sigmoid(2.0, 0.5), 1 / (1 + np.exp(-2.0 * (_X - 0.5)))),
    (nn.HardSigmoid(), np.clip(_X / 6 + 0.5, 0, 1)),
    (nn.HardSwish(), _X * np.clip(_X / 6 + 0.5, 0, 1)),
    (nn.Tanh(), np.tanh(_X)),
    (nn.HardTanh(), np.clip(_X, -1, 1)),
    (nn.Step(), (_X >= 0).astype(np.float32)),
    (nn.Ramp(), np.clip(_X, 0, 1)),
    (nn.Gaussian(), np.exp(-(_X**2))),
    (nn.Softplus(), np.log1p(np.exp(_X))),
    (nn.Softsign(), _X / (1 + np.abs(_X))),
    (nn.Softmax(), np.exp(_X) / np.exp(_X).sum()),
    (nn.LogSoftmax(), _X - np.log(np.exp(_X).sum())),
    (nn.Activation(lambda x: x * 2), _X * 2),
]


@pytest.mark.parametrize(("layer", "expected"), ACTIVATIONS, ids=lambda value: str(value)[:30])
def test_activation(layer: Layer, expected: Array) -> None:
    assert_near(run(layer, _X), expected.astype(np.float32))


def test_prelu_has_a_slope_for_every_channel() -> None:
    actual, array = _applied(nn.PReLU(), IMAGE)
    assert_near(actual, np.where(IMAGE > 0, IMAGE, IMAGE * array("weight")[:, None, None]))


# Features


def test_embedding_and_its_logits_share_a_weight() -> None:
    layer = nn.Embedding(5, 3)
    tokens = np.array([[0, 4], [2, 2]])
    network = network_of(lambda t: layer.logits(layer(t)), tokens)
    weight = network.array("embedding1.weight")
    assert list(network.parameters) == ["embedding1.weight"]
    assert_near(run_network(network, tokens)[0], weight[tokens] @ weight.T)


def test_dropout_does_nothing_without_training() -> None:
    assert np.array_equal(run(nn.Dropout(0.9), IMAGE), IMAGE)


def test_flatten_and_reshape() -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Reshape(12, -1))
    assert np.array_equal(run(layers, IMAGE), IMAGE.reshape(2, 12, -1))
    with pytest.raises(CompileError, match="-1 stands for no size"):
        run(nn.Reshape(7, -1), IMAGE)
