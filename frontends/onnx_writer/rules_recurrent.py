"""lstm, gru and rnn. ONNX multiplies the input itself, so the product before them is found again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.types import i32
from bessemer.frontends.onnx_writer.emitter import Emitter
from bessemer.frontends.onnx_writer.registry import rule

ACTIVATIONS = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "affine": "Affine", "leakyrelu": "LeakyRelu",
    "thresholdedrelu": "ThresholdedRelu", "scaledtanh": "ScaledTanh", "hardsigmoid": "HardSigmoid",
    "elu": "Elu", "softsign": "Softsign", "softplus": "Softplus",
}  # fmt: skip
"""ONNX's names of the gates' functions."""
WITH_ALPHA = ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu")
WITH_BETA = ("affine", "scaledtanh", "hardsigmoid")


@dataclass(frozen=True)
class _Inputs:
    """x [T, B, I], weights [1, gates, I] and bias [gates], if any, that make the gates' input."""

    x: str
    weights: str
    bias: str | None


def _inputs(emitter: Emitter, gates: Value) -> _Inputs:
    """The product that gives the gates their input; the identity if there is none."""
    bias, product = _without_bias(emitter, gates)
    node = emitter.producers.get(product)
    if node is not None and node.operator.name == "matmul":
        x, weights = node.inputs
        if weights in emitter.graph.constants and weights.type.rank == 2 and x.type.rank == 3:
            first = emitter.ordered(weights, (1, 0))
            return _Inputs(emitter.name_of(x), _with_direction(emitter, first, weights), bias)
    width = gates.type.static_shape_of(-1) if False else gates.type.shape[-1]
    same = np.eye(int(str(width)), dtype=gates.type.dtype.numpy)[None]
    return _Inputs(emitter.name_of(gates), emitter.constant(same, "identity"), None)
