"""Recurrent layers and attention compute what they say, by onnxruntime, NumPy and PyTorch."""

import math
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends import builder as nn
from bessemer.frontends.builder import Network, Tensor
from tests.network_runs import (
    assert_near,
    by_onnxruntime,
    network_of,
    numbers,
    run,
    run_network,
    with_random,
)

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
    y = by_onnxruntime(
        kind, x.transpose(1, 0, 2), inputs, recurrent, np.concatenate([bias, own])[None],
        hidden_size=hidden, **attributes,
    )  # fmt: skip
    return y[:, 0].transpose(1, 0, 2)


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_recurrent_layer_is_onnx_s(kind: Any) -> None:
    network = with_random(network_of(kind(4), SEQUENCE, symbolic=(0, 1)))
    assert_near(run_network(network, SEQUENCE)[0], _one_cell(kind.__name__, network, SEQUENCE))


@pytest.mark.parametrize("kind", RECURRENT)
def test_layers_and_directions_are_stacked(kind: Any) -> None:
    network = with_random(network_of(kind(4, 2, bidirectional=True), SEQUENCE, symbolic=(0, 1)))
    steps = SEQUENCE
    for layer in range(2):
        ahead = _one_cell(kind.__name__, network, steps, f"_{layer}")
        back = _one_cell(kind.__name__, network, steps[:, ::-1].copy(), f"_{layer}_back")
        steps = np.concatenate([ahead, back[:, ::-1]], axis=2)
    assert_near(run_network(network, SEQUENCE)[0], steps)
    last = network_of(kind(4, 2, True, "last"), SEQUENCE, symbolic=(0, 1))
    ends = np.concatenate([steps[:, -1, :4], steps[:, 0, 4:]], axis=1)
    assert_near(run_network(last.with_arrays(network.arrays()), SEQUENCE)[0], ends)


@pytest.mark.parametrize("kind", RECURRENT)
def test_states_carry_a_sequence_on(kind: Any) -> None:
    layer = kind(4, 2)

    def in_two_parts(x: Tensor) -> Tensor:
        first, states = layer.run(x[:, :3])
        second, _ = layer.run(x[:, 3:], states)
        return nn.concat([first, second], axis=1)

    assert_near(run(in_two_parts, SEQUENCE, symbolic=(0,)), run(lambda x: layer(x), SEQUENCE))


def test_lengths_end_sequences_early() -> None:
    layer, lengths = nn.LSTM(4, outputs="last"), np.array([7, 2, 4])
    actual = run(lambda x, n: layer(x, lengths=n), SEQUENCE, lengths)
    whole = run(lambda x: layer.run(x)[0], SEQUENCE)
    assert_near(actual, whole[np.arange(3), lengths - 1])


def test_the_rnn_can_have_relu() -> None:
    network = with_random(network_of(nn.RNN(4, activation="relu"), np.abs(SEQUENCE)))
    assert run_network(network, np.abs(SEQUENCE))[0].max() > 1


# Attention


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


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
    assert_near(run_network(network, TEXT)[0], _attention(network, TEXT, TEXT, 3, everything))


def test_causal_attention_sees_no_future() -> None:
    network = network_of(nn.MultiHeadAttention(2, causal=True), TEXT, symbolic=(0, 1))
    past = np.tril(np.ones((5, 5), bool))
    assert_near(run_network(network, TEXT)[0], _attention(network, TEXT, TEXT, 2, past))


def test_attention_to_a_context_with_another_width_inside() -> None:
    layer = nn.MultiHeadAttention(2, features=8)
    network = network_of(lambda x, c: layer(x, c), TEXT, CONTEXT, symbolic=(0, 1))
    actual = run_network(network, TEXT, CONTEXT)[0]
    everything = np.ones((5, 4), bool)
    prefix = "multiheadattention1."
    assert_near(actual, _attention(network, TEXT, CONTEXT, 2, everything, prefix))


@pytest.mark.parametrize("is_added", [False, True])
def test_attention_with_a_mask(is_added: bool) -> None:
    seen = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 1]], bool)
    mask = np.where(seen, 0, -1e30).astype(np.float32) if is_added else seen
    layer = nn.MultiHeadAttention(3)
    network = network_of(
        lambda x, m: layer(x, mask=nn.unsqueeze(m, 1, 2)), TEXT, mask, symbolic=(0, 1)
    )
    expected = _attention(network, TEXT, TEXT, 3, seen[:, None], "multiheadattention1.")
    assert_near(run_network(network, TEXT, mask)[0], expected)


def test_the_last_query_of_causal_attention_sees_every_key() -> None:
    def forward(x: Tensor) -> Tensor:
        return nn.attend(x[:, -2:], x, x, causal=True)

    whole = run(lambda x: nn.attend(x, x, x, causal=True), TEXT, symbolic=(0, 1))
    assert_near(run(forward, TEXT, symbolic=(0, 1)), whole[:, -2:])


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_block_is_pytorch_s(norm_first: bool) -> None:
    torch = pytest.importorskip("torch")
    block = nn.TransformerBlock(6, 2, 10, norm_first=norm_first)
    network = with_random(network_of(block, TEXT, symbolic=(0, 1)))
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
    assert_near(run_network(network, TEXT)[0], theirs(torch.tensor(TEXT)).detach().numpy(), 1e-4)


def test_a_decoder_block_attends_to_its_context() -> None:
    block = nn.TransformerBlock(6, 2, causal=True, cross=True)
    network = network_of(lambda x, c: block(x, c), TEXT, CONTEXT, symbolic=(0, 1))
    one, other = (run_network(network, TEXT, CONTEXT * k)[0] for k in (1.0, 2.0))
    assert not np.allclose(one, other)
    with pytest.raises(CompileError, match="wants a context"):
        network_of(nn.TransformerBlock(6, 2, cross=True), TEXT)
