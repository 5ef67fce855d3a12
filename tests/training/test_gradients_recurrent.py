"""Gradients of recurrent networks, compiled, against torch in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array, TensorType, dtype_of, f32, f64
from bessemer.compiler.passes.differentiation.differentiate import gradients
from bessemer.frontends.builder.layers_recurrent import GRU, LSTM, RNN, Recurrent
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.train import losses
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.trainer import Trainer

torch = pytest.importorskip("torch")
STEPS, BATCH, FEATURES = 7, 16, 5
# Our order of gates as places in torch's: LSTM i, f, g, o; GRU r, z, n.
ORDER = {LSTM: (0, 3, 1, 2), GRU: (1, 0, 2), RNN: (0,)}
TORCH = {LSTM: torch.nn.LSTM, GRU: torch.nn.GRU, RNN: torch.nn.RNN}


def _as_torch(array: Array, order: tuple[int, ...]) -> Any:
    """[features, gates * hidden] with our gates -> [gates * hidden, features] with torch's."""
    gates = np.split(array, len(order), axis=-1)
    sorted_gates = [gates[order.index(place)] for place in range(len(order))]
    return torch.tensor(np.ascontiguousarray(np.concatenate(sorted_gates, axis=-1).T))


def _torch_layers(layer: Recurrent, arrays: dict[str, Array]) -> Any:
    """A torch module with our weights; the bias is on the input's side."""
    order = ORDER[type(layer)]
    module = TORCH[type(layer)](
        FEATURES, layer.hidden, layer.layers, batch_first=True, bidirectional=layer.bidirectional
    ).double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            kind, side, place = name.split("_", 2)
            suffix = place.removeprefix("l").replace("_reverse", "_back")
            if kind == "weight":
                ours = "input" if side == "ih" else "recurrent"
                parameter.copy_(_as_torch(_named(arrays, f"{ours}_{suffix}.weight"), order))
            elif side == "ih":
                parameter.copy_(_as_torch(_named(arrays, f"bias_{suffix}"), order))
            else:
                parameter.zero_()
                if isinstance(layer, GRU):
                    given = torch.tensor(_named(arrays, f"bias_new_{suffix}"))
                    parameter[2 * layer.hidden :] = given
    return module


def _named(arrays: dict[str, Array], ending: str) -> Array:
    (found,) = (array for name, array in arrays.items() if name.endswith(ending))
    return found


def _forget_hidden_biases(module: Any, layer: Recurrent) -> None:
    """We have one bias where torch has two: the second stays as it is."""
    for name, parameter in module.named_parameters():
        if name.startswith("bias_hh"):
            kept = slice(2 * layer.hidden, None) if isinstance(layer, GRU) else slice(0, 0)
            held = torch.zeros_like(parameter)
            held[kept] = parameter.grad[kept]
            parameter.grad.copy_(held)


LAYERS = [
    LSTM(8, layers=2, bidirectional=True),
    GRU(8, bidirectional=True),
    RNN(8, layers=2),
    # Wide enough for a team and packed weights, and not a whole number of vectors.
    LSTM(70),
    GRU(70),
    RNN(150),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: f"{type(layer).__name__}{layer.hidden}")
def test_training_is_torchs(layer: Recurrent) -> None:
    network = Network(layer, Input("x", (BATCH, STEPS, FEATURES), "f64"))
    width = layer.hidden * (2 if layer.bidirectional else 1)
    target = Input("y", (BATCH, STEPS, width), "f64")
    rng = np.random.default_rng(5)
    x = rng.standard_normal((BATCH, STEPS, FEATURES))
    y = rng.standard_normal((BATCH, STEPS, width))
    module = _torch_layers(layer, network.arrays())
    trainer = Trainer(
        network, losses.mean_squared_error, targets=[target], optimizer=SGD(2.0), threads=2
    )
    optimizer = torch.optim.SGD(module.parameters(), lr=2.0)
    for _ in range(5):
        loss = torch.nn.functional.mse_loss(module(torch.tensor(x))[0], torch.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        _forget_hidden_biases(module, layer)
        optimizer.step()
        assert trainer.step({"x": x, "y": y})["loss"] == pytest.approx(loss.item(), rel=1e-10)


def test_sequences_of_different_lengths_learn_as_torchs_packed_ones() -> None:
    layer = LSTM(8, bidirectional=True, outputs="last")

    def forward(x: Tensor, lengths: Tensor) -> Tensor:
        return layer(x, lengths=lengths)

    given = [Input("x", (BATCH, STEPS, FEATURES), "f64"), Input("lengths", (BATCH,), "i64")]
    network = Network(forward, *given)
    rng = np.random.default_rng(6)
    batch = {
        "x": rng.standard_normal((BATCH, STEPS, FEATURES)),
        "lengths": rng.integers(1, STEPS + 1, BATCH),
        "y": rng.standard_normal((BATCH, 16)),
    }
    module = _torch_layers(layer, network.arrays())
    target = Input("y", (BATCH, 16), "f64")
    trainer = Trainer(network, losses.mean_squared_error, [target], optimizer=SGD(1.0))
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(4):
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            torch.tensor(batch["x"]), torch.tensor(batch["lengths"]), True, enforce_sorted=False
        )
        _, (last, _) = module(packed)
        found = torch.cat([last[0], last[1]], dim=-1)
        loss = torch.nn.functional.mse_loss(found, torch.tensor(batch["y"]))
        optimizer.zero_grad()
        loss.backward()
        _forget_hidden_biases(module, layer)
        optimizer.step()
        assert trainer.step(batch)["loss"] == pytest.approx(loss.item(), rel=1e-10)


@pytest.mark.parametrize("operator", ["lstm", "gru", "rnn"])
def test_a_wide_cell_compiled_is_its_reference_at_any_number_of_threads(operator: str) -> None:
    rng = np.random.default_rng(1)
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[operator]
    steps, batch, hidden = 6, 16, 160
    arrays = {
        "x": rng.standard_normal((steps, batch, gates * hidden)),
        "r": rng.standard_normal((hidden, gates * hidden)) / 16,
        "h": rng.standard_normal((batch, hidden)),
    }
    if operator == "lstm":
        arrays["c"] = rng.standard_normal((batch, hidden))
    b = GraphBuilder("cell")
    values = [b.input(name, TensorType(dtype_of(a), a.shape)) for name, a in arrays.items()]
    y, *_ = b.apply_many(operator, *values)
    loss = b.apply("reduce_sum", b.apply("mul", y, y), axes=(0, 1, 2))
    graph = b.finish(gradients(b, loss, values))
    results = [
        bessemer.compile(graph, optimize=optimize, threads=threads).run(arrays)
        for optimize, threads in ((0, 1), (2, 1), (2, 2))
    ]
    for plain, one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, plain, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("operator", ["lstm", "gru"])
def test_the_gradient_by_the_inputs_goes_through_weights_that_are_constants(operator: str) -> None:
    rng = np.random.default_rng(5)
    gates = {"lstm": 4, "gru": 3}[operator]
    b = GraphBuilder("cell")
    x = b.input("x", TensorType(f64, (3, 2, gates * 5)))
    weights = b.constant(rng.standard_normal((5, gates * 5)) / 4)
    states = [
        b.constant(rng.standard_normal((2, 5))) for _ in range(2 if operator == "lstm" else 1)
    ]
    y, *_ = b.apply_many(operator, x, weights, *states)
    loss = b.apply("reduce_sum", b.apply("mul", y, y), axes=(0, 1, 2))
    graph = b.finish(gradients(b, loss, [x]))
    arrays = {"x": rng.standard_normal((3, 2, gates * 5))}
    (found,), (wanted,) = bessemer.compile(graph).run(arrays), run_graph(graph, arrays)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_a_gate_at_its_bound_hands_nothing_back(activation: str) -> None:
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((6, 3, 8), (8, 8), (3, 8))]
    b = GraphBuilder("cell")
    values = [b.input(f"x{k}", TensorType(f32, array.shape)) for k, array in enumerate(arrays)]
    _, last = b.apply_many("rnn", *values, clip=0.5, activations=(activation,))
    loss = b.apply("reduce_sum", b.apply("mul", last, last), axes=(0, 1))
    model = bessemer.compile(b.finish(gradients(b, loss, values)))
    found = model.run({f"x{k}": array for k, array in enumerate(arrays)})
    x, r, h = tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    for row in x:
        h = getattr(torch, activation)((row + h @ r).clamp(-0.5, 0.5))
    wanted = torch.autograd.grad((h * h).sum(), tensors)
    assert (wanted[0] == 0).any()
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_a_cell_whose_gates_hide_their_slopes_says_that_it_has_no_gradient() -> None:
    b = GraphBuilder("cell")
    x, r = b.input("x", TensorType(f32, (2, 1, 3))), b.input("r", TensorType(f32, (3, 3)))
    h = b.input("h", TensorType(f32, (1, 3)))
    with b.source("my_rnn"):
        y, last = b.apply_many("rnn", x, r, h, activations=("leakyrelu",), alphas=(-0.5,))
    loss = b.apply("reduce_sum", last, axes=(0, 1))
    with pytest.raises(UnsupportedError, match=r"my_rnn: .* rnn with .* leakyrelu and alpha -0.5"):
        gradients(b, loss, [x])
    assert y.type == x.type


def _torch_cell(operator: str, row: Any, states: list[Any], weights: Any) -> list[Any]:
    """The states after a step; the first one is what is shown."""
    h, *content = states
    if operator == "rnn":
        return [torch.tanh(row + h @ weights)]
    if operator == "lstm":
        i, o, f, g = (row + h @ weights).chunk(4, 1)
        c = torch.sigmoid(f) * content[0] + torch.sigmoid(i) * torch.tanh(g)
        return [torch.sigmoid(o) * torch.tanh(c), c]
    width = h.shape[1]
    z, r = torch.sigmoid(row[:, : 2 * width] + h @ weights[:, : 2 * width]).chunk(2, 1)
    n = torch.tanh(row[:, 2 * width :] + (r * h) @ weights[:, 2 * width :])
    return [(1 - z) * n + z * h]


@pytest.mark.parametrize("operator", ["lstm", "gru", "rnn"])
def test_gradients_of_gradients_are_torchs(operator: str) -> None:
    """Of a penalty on the gradient of the input, with a sequence shorter than the others."""
    rng = np.random.default_rng(2)
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[operator]
    steps, batch, hidden = 4, 3, 5
    shapes = [(steps, batch, gates * hidden), (hidden, gates * hidden), (batch, hidden)]
    arrays = [rng.standard_normal(shape) for shape in shapes + shapes[2:] * (operator == "lstm")]
    lengths = np.array([4, 2, 4])
    b = GraphBuilder("penalty")
    values = [b.input(f"x{k}", TensorType(f64, array.shape)) for k, array in enumerate(arrays)]
    y, *_ = b.apply_many(operator, *values, b.constant(lengths), has_lengths=True)
    (slope,) = gradients(b, b.apply("reduce_sum", b.apply("sin", y), axes=(0, 1, 2)), values[:1])
    penalty = b.apply("reduce_sum", b.apply("mul", slope, slope), axes=(0, 1, 2))
    graph = b.finish([penalty, *gradients(b, penalty, values)])
    found = run_graph(graph, {f"x{k}": array for k, array in enumerate(arrays)})

    x, weights, *states = tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    total = 0
    for time in range(steps):
        goes_on = torch.tensor(time < lengths)[:, None]
        after = _torch_cell(operator, x[time], states, weights)
        states = [torch.where(goes_on, *pair) for pair in zip(after, states, strict=True)]
        total = total + torch.where(goes_on, torch.sin(after[0]), 0.0).sum()
    (theirs,) = torch.autograd.grad(total, x, create_graph=True)
    wanted = [(theirs**2).sum(), *torch.autograd.grad((theirs**2).sum(), tensors)]
    for ours, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, other.detach().numpy(), rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_a_penalty_on_slopes_compiled() -> None:
    rng = np.random.default_rng(4)
    arrays = {f"x{k}": rng.standard_normal(s) for k, s in enumerate(((3, 2, 8), (8, 8), (2, 8)))}
    b = GraphBuilder("penalty")
    values = [b.input(name, TensorType(f64, array.shape)) for name, array in arrays.items()]
    y, _ = b.apply_many("rnn", *values, reverse=True)
    (slope,) = gradients(b, b.apply("reduce_sum", b.apply("mul", y, y), axes=(0, 1, 2)), values[:1])
    penalty = b.apply("reduce_sum", b.apply("mul", slope, slope), axes=(0, 1, 2))
    graph = b.finish([penalty, *gradients(b, penalty, values)])
    for ours, other in zip(
        bessemer.compile(graph, threads=2).run(arrays), run_graph(graph, arrays), strict=True
    ):
        np.testing.assert_allclose(ours, other, rtol=1e-9, atol=1e-11)


def test_one_recurrence_serves_two_losses() -> None:
    rng = np.random.default_rng(5)
    arrays = {f"x{k}": rng.standard_normal(s) for k, s in enumerate(((3, 2, 4), (4, 4), (2, 4)))}

    def slopes(*chosen: int) -> Graph:
        b = GraphBuilder("two")
        values = [b.input(name, TensorType(f64, array.shape)) for name, array in arrays.items()]
        y, last = b.apply_many("rnn", *values)
        losses = (
            b.apply("reduce_sum", b.apply("mul", y, y), axes=(0, 1, 2)),
            b.apply("reduce_sum", b.apply("exp", last), axes=(0, 1)),
        )
        return b.finish([g for place in chosen for g in gradients(b, losses[place], values)])

    apart = [*run_graph(slopes(0), arrays), *run_graph(slopes(1), arrays)]
    both = slopes(0, 1)
    assert [node.operator.name for node in both.nodes].count("rnn_gradient") == 2
    for ours, other in zip(run_graph(both, arrays), apart, strict=True):
        np.testing.assert_array_equal(ours, other)
