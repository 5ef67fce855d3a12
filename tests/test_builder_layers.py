"""Layers compute what they say: compared with onnxruntime, NumPy, and PyTorch where it is there."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends import builder as nn
from bessemer.frontends.builder import Layer, Network, Tensor
from tests.network_runs import network_of, numbers, run, run_network

IMAGE = numbers(2, 6, 9, 8)
SIGNAL = numbers(2, 6, 11)
VOLUME = numbers(1, 2, 5, 4, 6)


def _onnx(kind: str, x: Array, *constants: Array | None, **attributes: Any) -> Array:
    """One node by onnxruntime, its first output."""
    names = [f"c{k}" if c is not None else "" for k, c in enumerate(constants)]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(c), n) for n, c in zip(names, constants) if n
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    output = helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph([node], "one", inputs, [output], tensors)
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(
        onnx.shape_inference.infer_shapes(model).SerializeToString()
    )
    return np.asarray(session.run(["y"], {"x": x})[0])


def _near(actual: Array, expected: Array, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def _with_random(network: Network) -> Network:
    """All parameters random, so that a scale that is forgotten shows."""
    arrays = {
        name: np.abs(numbers(*parameter.type.static_shape, seed=seed + 7)) * 0.5 + 0.1
        for seed, (name, parameter) in enumerate(network.parameters.items())
    }
    return network.with_arrays(arrays)


def _applied(layer: Layer, x: Array) -> tuple[Array, Callable[[str], Array]]:
    """The layer's output, with random parameters, and these by name."""
    network = _with_random(network_of(layer, x))
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
    _near(actual, _onnx("Conv", x, weight, bias, **attributes), 1e-4)


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
    _near(actual, _onnx("ConvTranspose", x, weight, bias, **attributes), 1e-4)


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
    _near(run(layer, x), _onnx(kind, x, **attributes))


def test_global_pools_leave_vectors() -> None:
    _near(run(nn.GlobalAveragePool(), IMAGE), IMAGE.mean((2, 3)))
    _near(run(nn.GlobalMaxPool(), VOLUME), VOLUME.max((2, 3, 4)))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode: Any) -> None:
    expected = _onnx(
        "Resize", IMAGE, None, np.array([1, 1, 2, 3], np.float32), mode=mode,
        coordinate_transformation_mode="asymmetric" if mode == "nearest" else "half_pixel",
        nearest_mode="floor",
    )  # fmt: skip
    _near(run(nn.Upsample((2, 3), mode), IMAGE), expected)


# Normalizations


def test_batch_norm() -> None:
    for x in (IMAGE, SIGNAL, numbers(3, 6)):
        actual, array = _applied(nn.BatchNorm(1e-3), x)
        names = ("weight", "bias", "running_mean", "running_variance")
        given = [array(name) for name in names]
        _near(actual, _onnx("BatchNormalization", x, *given, epsilon=1e-3))


def test_layer_norm() -> None:
    x = numbers(2, 3, 4, 5)
    for axes in (1, 2):
        actual, array = _applied(nn.LayerNorm(axes, 1e-3), x)
        given = array("weight"), array("bias")
        _near(actual, _onnx("LayerNormalization", x, *given, axis=-axes, epsilon=1e-3))


def test_instance_norm() -> None:
    actual, array = _applied(nn.InstanceNorm(), IMAGE)
    given = array("weight"), array("bias")
    _near(actual, _onnx("InstanceNormalization", IMAGE, *given, epsilon=1e-5))


def test_group_norm() -> None:
    actual, array = _applied(nn.GroupNorm(3), IMAGE)
    grouped = IMAGE.reshape(2, 3, -1).astype(np.float64)
    spread = np.sqrt(grouped.var(2, keepdims=True) + 1e-5)
    normal = ((grouped - grouped.mean(2, keepdims=True)) / spread).reshape(IMAGE.shape)
    scale, bias = (array(name).reshape(6, 1, 1) for name in ("weight", "bias"))
    _near(actual, normal * scale + bias)


def test_rms_norm() -> None:
    x = numbers(2, 3, 8)
    actual, array = _applied(nn.RMSNorm(1e-3), x)
    _near(actual, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * array("weight"))


def test_local_response_norm() -> None:
    expected = _onnx("LRN", IMAGE, size=3, alpha=0.1, beta=0.5, bias=2.0)
    _near(run(nn.LocalResponseNorm(3, 0.1, 0.5, 2.0), IMAGE), expected)


# Layouts


def test_channels_last_computes_the_same() -> None:
    layers = nn.Sequential(
        nn.Conv(8, 3, padding=1), nn.BatchNorm(), nn.PReLU(), nn.MaxPool(2),
        nn.DenseConnection(nn.Sequential(nn.Conv(4, 3, padding=1), nn.GroupNorm(2))),
        nn.ConvTranspose(3, 2, 2), nn.Upsample(2), nn.Parallel(nn.Conv(2, 1), nn.AveragePool(1)),
    )  # fmt: skip
    first = _with_random(network_of(layers, IMAGE))
    turned = np.ascontiguousarray(IMAGE.transpose(0, 2, 3, 1))
    last = _with_random(network_of(layers, turned, channels_last=True))
    expected = run_network(first, IMAGE)[0].transpose(0, 2, 3, 1)
    _near(run_network(last, turned)[0], expected)


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
    _near(run(layer, _X), expected.astype(np.float32))


def test_prelu_has_a_slope_for_every_channel() -> None:
    actual, array = _applied(nn.PReLU(), IMAGE)
    _near(actual, np.where(IMAGE > 0, IMAGE, IMAGE * array("weight")[:, None, None]))


# Features


def test_embedding_and_its_logits_share_a_weight() -> None:
    layer = nn.Embedding(5, 3)
    tokens = np.array([[0, 4], [2, 2]])
    network = network_of(lambda t: layer.logits(layer(t)), tokens)
    weight = network.array("embedding1.weight")
    assert list(network.parameters) == ["embedding1.weight"]
    _near(run_network(network, tokens)[0], weight[tokens] @ weight.T)


def test_dropout_does_nothing_without_training() -> None:
    assert np.array_equal(run(nn.Dropout(0.9), IMAGE), IMAGE)


def test_flatten_and_reshape() -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Reshape(12, -1))
    assert np.array_equal(run(layers, IMAGE), IMAGE.reshape(2, 12, -1))
    with pytest.raises(CompileError, match="-1 stands for no size"):
        run(nn.Reshape(7, -1), IMAGE)


# Recurrent layers

SEQUENCE = numbers(3, 7, 5)
RECURRENT = [nn.LSTM, nn.GRU, nn.RNN]


def _one_cell(kind: str, network: Network, x: Array, suffix: str = "_0") -> Array:
    """[batch, time, features] through one layer of ONNX, forwards."""
    inputs = network.array(f"input{suffix}.weight").T[None]
    recurrent = network.array(f"recurrent{suffix}.weight").T[None]
    bias, hidden = network.array(f"bias{suffix}"), recurrent.shape[2]
    own = np.zeros_like(bias)
    if kind == "GRU":
        own[2 * hidden :] = network.array(f"bias_new{suffix}")
    attributes = {"linear_before_reset": 1} if kind == "GRU" else {}
    y = _onnx(
        kind, x.transpose(1, 0, 2), inputs, recurrent, np.concatenate([bias, own])[None],
        hidden_size=hidden, **attributes,
    )  # fmt: skip
    return y[:, 0].transpose(1, 0, 2)


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_recurrent_layer_is_onnx_s(kind: Any) -> None:
    network = _with_random(network_of(kind(4), SEQUENCE, symbolic=(0, 1)))
    _near(run_network(network, SEQUENCE)[0], _one_cell(kind.__name__, network, SEQUENCE))


@pytest.mark.parametrize("kind", RECURRENT)
def test_layers_and_directions_are_stacked(kind: Any) -> None:
    network = _with_random(network_of(kind(4, 2, bidirectional=True), SEQUENCE, symbolic=(0, 1)))
    steps = SEQUENCE
    for layer in range(2):
        ahead = _one_cell(kind.__name__, network, steps, f"_{layer}")
        back = _one_cell(kind.__name__, network, steps[:, ::-1].copy(), f"_{layer}_back")
        steps = np.concatenate([ahead, back[:, ::-1]], axis=2)
    _near(run_network(network, SEQUENCE)[0], steps)
    last = network_of(kind(4, 2, True, "last"), SEQUENCE, symbolic=(0, 1))
    ends = np.concatenate([steps[:, -1, :4], steps[:, 0, 4:]], axis=1)
    _near(run_network(last.with_arrays(network.arrays()), SEQUENCE)[0], ends)


@pytest.mark.parametrize("kind", RECURRENT)
def test_states_carry_a_sequence_on(kind: Any) -> None:
    layer = kind(4, 2)

    def in_two_parts(x: Tensor) -> Tensor:
        first, states = layer.run(x[:, :3])
        second, _ = layer.run(x[:, 3:], states)
        return nn.concat([first, second], axis=1)

    _near(run(in_two_parts, SEQUENCE, symbolic=(0,)), run(lambda x: layer(x), SEQUENCE))


def test_lengths_end_sequences_early() -> None:
    layer, lengths = nn.LSTM(4, outputs="last"), np.array([7, 2, 4])
    actual = run(lambda x, n: layer(x, lengths=n), SEQUENCE, lengths)
    whole = run(lambda x: layer.run(x)[0], SEQUENCE)
    _near(actual, whole[np.arange(3), lengths - 1])


def test_the_rnn_can_have_relu() -> None:
    network = _with_random(network_of(nn.RNN(4, activation="relu"), np.abs(SEQUENCE)))
    assert run_network(network, np.abs(SEQUENCE))[0].max() > 1


# Attention


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _attention(
    network: Network, x: Array, context: Array, heads: int, allowed: Array, prefix: str = ""
) -> Array:
    """Attention head by head, in float64; `allowed` is [.., queries, keys]."""

    def projected(name: str, y: Array) -> Array:
        weight, bias = (network.array(f"{prefix}{name}.{part}") for part in ("weight", "bias"))
        return y @ weight.astype(np.float64) + bias

    query, key, value = (
        projected("query", x),
        projected("key", context),
        projected("value", context),
    )
    width = query.shape[-1] // heads
    found = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].swapaxes(1, 2) / math.sqrt(width)
        found.append(_softmax(np.where(allowed, scores, -np.inf)) @ value[..., part])
    return projected("output", np.concatenate(found, axis=-1))


TEXT, CONTEXT = numbers(2, 5, 6), numbers(2, 4, 6, seed=1)


def test_self_attention() -> None:
    network = network_of(nn.MultiHeadAttention(3), TEXT, symbolic=(0, 1))
    everything = np.ones((5, 5), bool)
    _near(run_network(network, TEXT)[0], _attention(network, TEXT, TEXT, 3, everything))


def test_causal_attention_sees_no_future() -> None:
    network = network_of(nn.MultiHeadAttention(2, causal=True), TEXT, symbolic=(0, 1))
    past = np.tril(np.ones((5, 5), bool))
    _near(run_network(network, TEXT)[0], _attention(network, TEXT, TEXT, 2, past))


def test_attention_to_a_context_with_another_width_inside() -> None:
    layer = nn.MultiHeadAttention(2, features=8)
    network = network_of(lambda x, c: layer(x, c), TEXT, CONTEXT, symbolic=(0, 1))
    actual = run_network(network, TEXT, CONTEXT)[0]
    everything = np.ones((5, 4), bool)
    prefix = "multiheadattention1."
    _near(actual, _attention(network, TEXT, CONTEXT, 2, everything, prefix))


@pytest.mark.parametrize("is_added", [False, True])
def test_attention_with_a_mask(is_added: bool) -> None:
    seen = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 1]], bool)
    mask = np.where(seen, 0, -1e30).astype(np.float32) if is_added else seen
    layer = nn.MultiHeadAttention(3)
    network = network_of(
        lambda x, m: layer(x, mask=nn.unsqueeze(m, 1, 2)), TEXT, mask, symbolic=(0, 1)
    )
    expected = _attention(network, TEXT, TEXT, 3, seen[:, None], "multiheadattention1.")
    _near(run_network(network, TEXT, mask)[0], expected)


def test_the_last_query_of_causal_attention_sees_every_key() -> None:
    def forward(x: Tensor) -> Tensor:
        return nn.attend(x[:, -2:], x, x, causal=True)

    whole = run(lambda x: nn.attend(x, x, x, causal=True), TEXT, symbolic=(0, 1))
    _near(run(forward, TEXT, symbolic=(0, 1)), whole[:, -2:])


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_block_is_pytorch_s(norm_first: bool) -> None:
    torch = pytest.importorskip("torch")
    block = nn.TransformerBlock(6, 2, 10, norm_first=norm_first)
    network = _with_random(network_of(block, TEXT, symbolic=(0, 1)))
    theirs = torch.nn.TransformerEncoderLayer(
        6, 2, 10, 0.0, "gelu", batch_first=True, norm_first=norm_first
    )

    def array(name: str) -> Any:
        return torch.tensor(network.array(name).T.copy())

    parts = ("query", "key", "value")
    state = {
        "self_attn.in_proj_weight": torch.cat([array(f"attention.{p}.weight") for p in parts]),
        "self_attn.in_proj_bias": torch.cat([array(f"attention.{p}.bias") for p in parts]),
    }
    names = {
        "self_attn.out_proj": "attention.output", "linear1": "feed_forward.expand",
        "linear2": "feed_forward.contract", "norm1": "norm_attention",
        "norm2": "norm_feed_forward",
    }  # fmt: skip
    for their_name, name in names.items():
        for part in ("weight", "bias"):
            state[f"{their_name}.{part}"] = array(f"{name}.{part}")
    theirs.load_state_dict(state)
    theirs.eval()
    _near(run_network(network, TEXT)[0], theirs(torch.tensor(TEXT)).detach().numpy(), 1e-4)


def test_a_decoder_block_attends_to_its_context() -> None:
    block = nn.TransformerBlock(6, 2, causal=True, cross=True)
    network = network_of(lambda x, c: block(x, c), TEXT, CONTEXT, symbolic=(0, 1))
    one, other = (run_network(network, TEXT, CONTEXT * k)[0] for k in (1.0, 2.0))
    assert not np.allclose(one, other)
    with pytest.raises(CompileError, match="wants a context"):
        network_of(nn.TransformerBlock(6, 2, cross=True), TEXT)
