"""The lectures' networks of dense layers, trained: perceptron, XOR, MLP, autoencoders, DBN."""

import numpy as np
import pytest

import bessemer
from bessemer.frontends.builder import Dense, Input, Network, sigmoid, tanh
from bessemer.frontends.train.layerwise import (
    pretrain_autoencoders,
    pretrain_machines,
    with_layers,
)
from bessemer.frontends.train.losses import binary_cross_entropy, hinge, mean_squared_error
from bessemer.frontends.train.metrics import binary_accuracy
from bessemer.frontends.train.optimizers import SGD, Adam
from bessemer.frontends.train.trainer import Trainer
from bessemer.frontends.zoo import autoencoder, boltzmann_machine, mlp
from tests.training.lecture_runs import Array, Arrays, digits_accuracy, flat_digits

pytestmark = pytest.mark.lectures
neural_network = pytest.importorskip("sklearn.neural_network")

CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
GATES = {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "xor": [0, 1, 1, 0]}
TARGET = [Input("target", ("batch", 1))]


def _gate(name: str) -> Arrays:
    return {"x": CORNERS, "target": np.array(GATES[name], np.float32)[:, None]}


@pytest.mark.parametrize("name", GATES)
def test_a_single_unit_learns_and_and_or_but_never_xor(name: str) -> None:
    network = Network(Dense(1), Input("x", ("batch", 2)))
    trainer = Trainer(
        network, lambda y, t: hinge(y, t * 2 - 1), TARGET, optimizer=SGD(0.5), threads=1,
        metrics={"accuracy": binary_accuracy},
    )  # fmt: skip
    trainer.fit(_gate(name), epochs=200, batch=4)
    found = trainer.evaluate(_gate(name))["accuracy"]
    # No line has the two corners of XOR on one side and the others on the other.
    assert found <= 0.75 if name == "xor" else found == 1.0


def test_a_hidden_layer_learns_xor() -> None:
    network = mlp(2, [8], 1, activation=tanh)
    trainer = Trainer(
        network, binary_cross_entropy, TARGET, optimizer=Adam(0.05), threads=1,
        metrics={"accuracy": binary_accuracy},
    )  # fmt: skip
    trainer.fit(_gate("xor"), epochs=200, batch=4)
    assert trainer.evaluate(_gate("xor"))["accuracy"] == 1.0
    (logits,) = bessemer.compile(trainer.network).run({"x": CORNERS})
    assert ((logits[:, 0] > 0) == GATES["xor"]).all()


def test_a_perceptron_of_many_classes_and_an_mlp_on_digits() -> None:
    data, test = flat_digits()
    assert digits_accuracy(mlp(64, [], 10), data, test, epochs=30, rate=0.02) >= 0.93
    assert digits_accuracy(mlp(64, [128, 64], 10), data, test, epochs=30) >= 0.96


def _rebuilding_error(data: Arrays, test: Arrays, code: int) -> float:
    network = autoencoder(64, (48, code), seed=1)
    trainer = Trainer(
        network, lambda rebuilt, code, target: mean_squared_error(rebuilt, target),
        [Input("target", ("batch", 64))], optimizer=Adam(0.003), threads=2,
    )  # fmt: skip
    trainer.fit({"x": data["x"], "target": data["x"]}, epochs=60, batch=32)
    return trainer.evaluate({"x": test["x"], "target": test["x"]})["loss"]


def test_an_autoencoder_rebuilds_digits_better_than_as_many_principal_components() -> None:
    data, test = flat_digits()
    center = data["x"].mean(0)
    _, _, axes = np.linalg.svd(data["x"] - center, full_matrices=False)
    flat = (test["x"] - center) @ axes[:6].T @ axes[:6] + center
    assert _rebuilding_error(data, test, code=6) < float(((flat - test["x"]) ** 2).mean())


def _few(data: Arrays, count: int = 200) -> Arrays:
    return {name: array[:count] for name, array in data.items()}


def test_greedy_autoencoders_give_a_deep_sigmoid_network_a_start() -> None:
    """Few labels, many pictures, five sigmoid layers: from scratch it learns next to nothing."""
    data, test = flat_digits()
    widths = (64, 48, 32, 24)
    layers = pretrain_autoencoders(data["x"], widths, epochs=20, threads=2)
    network = mlp(64, widths, 10, activation=sigmoid)
    started = digits_accuracy(with_layers(network, layers), _few(data), test, epochs=60, batch=32)
    plain = digits_accuracy(network, _few(data), test, epochs=60, batch=32)
    assert started > plain + 0.1
    assert started >= 0.75


def _nearest(hidden: Array, labels: Array) -> float:
    """The share of rows whose nearest neighbour has the same label."""
    distance = ((hidden[:, None] - hidden[None]) ** 2).sum(-1) + np.eye(len(hidden)) * 1e9
    return float((labels[distance.argmin(1)] == labels).mean())


def test_a_boltzmann_machine_sees_digits_in_its_hidden_units() -> None:
    """Beside scikit-learn's, of the same size, after as many epochs."""
    data, test = flat_digits()
    trainer = Trainer(
        boltzmann_machine(64, 64), lambda hidden, rebuilt, contrast: contrast, [],
        optimizer=Adam(0.01), threads=2,
    )  # fmt: skip
    trainer.fit({"x": data["x"]}, epochs=30, batch=32)
    hidden, rebuilt, _ = bessemer.compile(trainer.network).run({"x": test["x"]})
    theirs = neural_network.BernoulliRBM(
        64, learning_rate=0.1, n_iter=30, batch_size=32, random_state=0
    )
    units = theirs.fit(data["x"]).transform(test["x"])
    logits = units @ theirs.components_ + theirs.intercept_visible_
    reference = ((1 / (1 + np.exp(-logits)) - test["x"]) ** 2).mean()
    assert ((rebuilt - test["x"]) ** 2).mean() < 0.9 * reference
    assert _nearest(hidden, test["label"]) > max(0.88, _nearest(units, test["label"]))


def test_a_deep_belief_network_learns_more_of_few_labels() -> None:
    """Hinton's point: what the pictures alone teach is worth labels. Each at its best rate."""
    data, test = flat_digits()
    widths = (64, 64, 64, 64)
    plain = mlp(64, widths, 10, activation=sigmoid)
    machines = pretrain_machines(data["x"], widths, epochs=80, threads=2)

    def best(network: Network) -> float:
        few = _few(data, 100)
        rates = (0.005, 0.01, 0.02, 0.04)
        return max(
            digits_accuracy(network, few, test, epochs=80, rate=rate, batch=20) for rate in rates
        )

    started = best(with_layers(plain, machines))
    assert started >= 0.88
    assert started > best(plain) + 0.03
