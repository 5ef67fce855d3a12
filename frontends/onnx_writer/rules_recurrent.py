"""lstm, gru and rnn. ONNX multiplies the input itself: the product before them is found again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import i32
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.model_parts import unsupported
from bessemer.frontends.onnx_writer.registry import rule

ACTIVATIONS = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "affine": "Affine",
    "leakyrelu": "LeakyRelu", "thresholdedrelu": "ThresholdedRelu", "scaledtanh": "ScaledTanh",
    "hardsigmoid": "HardSigmoid", "elu": "Elu", "softsign": "Softsign", "softplus": "Softplus",
}  # fmt: skip
"""ONNX's names of the gates' functions."""
WITH_ALPHA = ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu")
WITH_BETA = ("affine", "scaledtanh", "hardsigmoid")
DEFAULTS = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}


@dataclass(frozen=True)
class _Product:
    """x [T, B, I] and weights [gates, I] whose product goes into the gates, and a bias [gates]."""

    x: str
    weights: str
    bias: str


def _product(emitter: Emitter, gates: Value) -> _Product:
    """What gave the gates their input; the identity times it, where it was no such product."""
    dtype, width = gates.type.dtype.numpy, _width(gates)
    made, bias = _without_bias(emitter, gates)
    node = emitter.producers.get(made)
    if node is not None and node.operator.name == "matmul":
        x, weights = node.inputs
        if weights in emitter.graph.constants and weights.type.rank == 2 and x.type.rank == 3:
            return _Product(emitter.name_of(x), emitter.ordered(weights, (1, 0)), bias)
    nothing = emitter.constant(np.zeros(width, dtype), "no_bias")
    identity = emitter.constant(np.eye(width, dtype=dtype), "identity")
    return _Product(emitter.name_of(gates), identity, nothing)


def _without_bias(emitter: Emitter, gates: Value) -> tuple[Value, str]:
    """What a vector was added to, and the vector."""
    node = emitter.producers.get(gates)
    if node is not None and node.operator.name == "add":
        for made, added in (node.inputs, node.inputs[::-1]):
            spread = emitter.producers.get(added)
            if spread is None or spread.operator.name != "broadcast_to":
                continue
            (vector,) = spread.inputs
            if vector.type.shape == gates.type.shape[-1:]:
                return made, emitter.name_of(vector)
    zeros = np.zeros(_width(gates), gates.type.dtype.numpy)
    return gates, emitter.constant(zeros, "no_bias")


def _width(gates: Value) -> int:
    width = gates.type.shape[-1]
    assert isinstance(width, int)
    return width


@rule("lstm", "gru", "rnn")
def write_recurrent(emitter: Emitter, node: Node) -> None:
    name = node.operator.name
    if node.attributes.get("keeps_steps"):
        raise unsupported(node, "ONNX keeps nothing of the steps for a gradient.")
    gates, recurrent, h0, *rest = node.inputs
    c0 = rest.pop(0) if name == "lstm" else None
    lengths = rest.pop(0) if node.attributes.get("has_lengths") else None
    hidden = recurrent.type.shape[0]
    if not isinstance(hidden, int):
        raise unsupported(node, "ONNX wants a known number of hidden units.")
    product = _product(emitter, gates)
    own_bias = rest.pop() if node.attributes.get("linear_before_reset") else None
    peepholes = rest.pop() if node.attributes.get("has_peepholes") else None
    inputs = [
        product.x,
        _one_direction(emitter, product.weights),
        _one_direction(emitter, emitter.ordered(recurrent, (1, 0))),
        _biases(emitter, product.bias, own_bias, hidden, gates),
        emitter.cast(emitter.name_of(lengths), i32) if lengths else "",
        _state(emitter, h0),
    ]
    if c0 is not None:
        inputs.append(_state(emitter, c0))
    if peepholes is not None:
        inputs.append(_one_direction(emitter, emitter.name_of(peepholes)))
    results = emitter.emit(name.upper(), inputs, len(node.outputs), **_settings(node, hidden))
    first = emitter.integers([0])
    for position, (value, result) in enumerate(zip(node.outputs, results)):
        place = emitter.integers([1]) if position == 0 else first
        emitter.store(value, emitter.one("Squeeze", result, place))


def _state(emitter: Emitter, state: Value) -> str:
    """A first state; ONNX takes zeros if there is none."""
    node = emitter.producers.get(state)
    if node is not None and node.operator.name == "full" and node.attributes["value"] == 0:
        return ""
    return _one_direction(emitter, emitter.name_of(state))


def _one_direction(emitter: Emitter, name: str) -> str:
    """With a first axis of size 1."""
    array = emitter.parts.arrays.get(name)
    if array is not None:
        return emitter.reshaped(name, (1, *array.shape))
    return emitter.one("Unsqueeze", name, emitter.integers([0]))


def _biases(emitter: Emitter, inputs: str, own: Value | None, hidden: int, gates: Value) -> str:
    """[1, 2 * gates]: the input's, then the state's, of which a GRU can have the last third."""
    width, dtype = _width(gates), gates.type.dtype.numpy
    if own is None:
        pieces = [inputs, emitter.constant(np.zeros(width, dtype), "no_bias")]
    else:
        nothing = emitter.constant(np.zeros(width - hidden, dtype), "no_bias")
        pieces = [inputs, nothing, emitter.name_of(own)]
    arrays = [emitter.parts.arrays.get(piece) for piece in pieces]
    known = [array for array in arrays if array is not None]
    if len(known) == len(pieces):
        return emitter.constant(np.concatenate(known)[None], inputs)
    return emitter.one("Unsqueeze", emitter.one("Concat", *pieces, axis=0), emitter.integers([0]))


def _settings(node: Node, hidden: int) -> dict[str, Any]:
    given = node.attributes
    names = given.get("activations", DEFAULTS[node.operator.name])
    alphas, betas = given.get("alphas", ()), given.get("betas", ())
    return {
        "hidden_size": hidden,
        "direction": "reverse" if given.get("reverse") else "forward",
        "activations": [ACTIVATIONS[name] for name in names],
        "activation_alpha": [float(a) for n, a in zip(names, alphas) if n in WITH_ALPHA] or None,
        "activation_beta": [float(b) for n, b in zip(names, betas) if n in WITH_BETA] or None,
        "clip": float(given["clip"]) if given.get("clip") else None,
        "input_forget": 1 if given.get("input_forget") else None,
        "linear_before_reset": 1 if given.get("linear_before_reset") else None,
    }
