"""lstm, gru and rnn mean what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.recurrence.activations import ACTIVATIONS
from tests.onnx_check import agrees, floats, node_model
from tests.onnx_nodes import run_node

STEPS, BATCH, INPUTS, HIDDEN = 5, 3, 4, 7
LENGTHS = np.array([5, 2, 3], np.int32)


class Cell:
    """Weights in ONNX's layout for a cell with a number of gates."""

    def __init__(self, rng: np.random.Generator, gates: int) -> None:
        def normal(*shape: int) -> Array:
            return (rng.standard_normal(shape) * 0.7).astype(np.float32)

        self.x = normal(STEPS, BATCH, INPUTS)
        self.w = normal(1, gates * HIDDEN, INPUTS)
        self.r = normal(1, gates * HIDDEN, HIDDEN)
        self.b = normal(1, 2 * gates * HIDDEN)
        self.h = normal(1, BATCH, HIDDEN)
        self.c = normal(1, BATCH, HIDDEN)
        self.peepholes = normal(1, 3 * HIDDEN)

    @property
    def inputs(self) -> tuple[Array, Array]:
        """gates_x with the input's bias only, and recurrent weights."""
        gates_x = self.x @ self.w[0].T + np.split(self.b[0], 2)[0]
        return gates_x, self.r[0].T

    @property
    def recurrent_bias(self) -> Array:
        return np.split(self.b[0], 2)[1]


def assert_results(ours: tuple[Array, ...], theirs: list[Array]) -> None:
    """Theirs have an axis of directions; their y is [T, directions, B, H]."""
    y, *states = ours
    expected_y, *expected_states = theirs
    np.testing.assert_allclose(y, expected_y[:, 0], rtol=1e-5, atol=1e-5)
    for state, expected in zip(states, expected_states, strict=True):
        np.testing.assert_allclose(state, expected[0], rtol=1e-5, atol=1e-5)


def direction(reverse: bool) -> str:
    return "reverse" if reverse else "forward"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("has_lengths", [False, True])
@pytest.mark.parametrize("has_peepholes", [False, True])
@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("input_forget", [False, True])
def test_lstm(
    rng: np.random.Generator,
    reverse: bool,
    has_lengths: bool,
    has_peepholes: bool,
    clip: float,
    input_forget: bool,
) -> None:
    cell = Cell(rng, 4)
    lengths = LENGTHS if has_lengths else None
    more: dict[str, Any] = {"clip": clip} if clip else {}
    theirs = run_node(
        "LSTM",
        [
            cell.x, cell.w, cell.r, cell.b, lengths, cell.h, cell.c,
            cell.peepholes if has_peepholes else None,
        ],
        outputs=3,
        hidden_size=HIDDEN,
        direction=direction(reverse),
        input_forget=int(input_forget),
        **more,
    )  # fmt: skip
    gates_x, recurrent = cell.inputs
    optional = [LENGTHS] * has_lengths + [cell.peepholes[0]] * has_peepholes
    ours = OPS["lstm"].compute(
        [gates_x + cell.recurrent_bias, recurrent, cell.h[0], cell.c[0], *optional],
        {
            "reverse": reverse,
            "clip": clip,
            "input_forget": input_forget,
            "has_lengths": has_lengths,
            "has_peepholes": has_peepholes,
        },
    )
    assert_results(ours, theirs)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("has_lengths", [False, True])
@pytest.mark.parametrize("linear_before_reset", [False, True])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_gru(
    rng: np.random.Generator,
    reverse: bool,
    has_lengths: bool,
    linear_before_reset: bool,
    clip: float,
) -> None:
    cell = Cell(rng, 3)
    more: dict[str, Any] = {"clip": clip} if clip else {}
    theirs = run_node(
        "GRU",
        [cell.x, cell.w, cell.r, cell.b, LENGTHS if has_lengths else None, cell.h],
        outputs=2,
        hidden_size=HIDDEN,
        direction=direction(reverse),
        linear_before_reset=int(linear_before_reset),
        **more,
    )
    gates_x, recurrent = cell.inputs
    bias = cell.recurrent_bias
    new_bias = bias[2 * HIDDEN :]
    if linear_before_reset:
        bias = np.concatenate([bias[: 2 * HIDDEN], np.zeros(HIDDEN, np.float32)])
    optional = [LENGTHS] * has_lengths + [new_bias] * linear_before_reset
    ours = OPS["gru"].compute(
        [gates_x + bias, recurrent, cell.h[0], *optional],
        {
            "reverse": reverse,
            "clip": clip,
            "linear_before_reset": linear_before_reset,
            "has_lengths": has_lengths,
        },
    )
    assert_results(ours, theirs)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("has_lengths", [False, True])
def test_rnn(rng: np.random.Generator, reverse: bool, has_lengths: bool) -> None:
    cell = Cell(rng, 1)
    theirs = run_node(
        "RNN",
        [cell.x, cell.w, cell.r, cell.b, LENGTHS if has_lengths else None, cell.h],
        outputs=2,
        hidden_size=HIDDEN,
        direction=direction(reverse),
    )
    gates_x, recurrent = cell.inputs
    ours = OPS["rnn"].compute(
        [gates_x + cell.recurrent_bias, recurrent, cell.h[0], *[LENGTHS] * has_lengths],
        {"reverse": reverse, "has_lengths": has_lengths},
    )
    assert_results(ours, theirs)


ONNX_NAMES = {
    name.lower(): name
    for name in (
        "Sigmoid", "Tanh", "Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh",
        "HardSigmoid", "Elu", "Softsign", "Softplus",
    )
}  # fmt: skip


WITHOUT_DEFAULTS = ("affine", "scaledtanh", "thresholdedrelu")
"""ONNX names none for the first two; for the third it says 1, and ONNX Runtime takes 0."""


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("given", [False, True])
def test_an_activation(rng: np.random.Generator, name: str, given: bool) -> None:
    cell = Cell(rng, 1)
    parameters: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    takes_alpha = ACTIVATIONS[name].alpha != 0
    takes_beta = name in ("affine", "scaledtanh", "hardsigmoid")
    if takes_alpha and (given or name in WITHOUT_DEFAULTS):
        parameters["activation_alpha"], attributes["alphas"] = [0.7], (0.7,)
    if takes_beta and (given or name in WITHOUT_DEFAULTS):
        parameters["activation_beta"], attributes["betas"] = [0.3], (0.3,)
    theirs = run_node(
        "RNN",
        [cell.x, cell.w, cell.r, cell.b, None, cell.h],
        outputs=2,
        hidden_size=HIDDEN,
        activations=[ONNX_NAMES[name]],
        **parameters,
    )
    gates_x, recurrent = cell.inputs
    ours = OPS["rnn"].compute(
        [gates_x + cell.recurrent_bias, recurrent, cell.h[0]],
        {"activations": (name,), **attributes},
    )
    assert_results(ours, theirs)


def test_activations_take_what_they_want_in_order() -> None:
    """As many numbers as there are activations still go to those that take one."""
    x, names = floats(4, 2, 3), ["Sigmoid", "Elu", "LeakyRelu"]
    weights = [("w", floats(1, 20, 3)), ("r", floats(1, 20, 5))]
    node = onnx.helper.make_node(
        "LSTM", ["x", "w", "r"], ["y"], hidden_size=5, activations=names,
        activation_alpha=[0.3, 1.2, 0.5],
    )  # fmt: skip
    agrees(node_model(node, [("x", x)], 14, weights), {"x": x})
