"""Training steps against torch: the same weights and batches give the same losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder.activations import relu, sigmoid
from bessemer.frontends.builder.functions import arg_max, equal
from bessemer.frontends.builder.layer import Sequential
from bessemer.frontends.builder.layers_dense import Dense, Dropout, Flatten
from bessemer.frontends.builder.layers_image import AveragePool, Conv, MaxPool
from bessemer.frontends.builder.layers_normalization import BatchNorm
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.train import losses
from bessemer.frontends.train.batches import Augmentation
from bessemer.frontends.train.optimizers import SGD, Adagrad, Adam, AdamW, RMSProp
from bessemer.frontends.train.schedules import cosine, exponential, steps, warm_up
from bessemer.frontends.train.step import Regularization
from bessemer.frontends.train.trainer import Trainer, TrainingError

torch = pytest.importorskip("torch")
nn = torch.nn
LABELS = [Input("label", (8,), "i64")]
STEPS = 20


def accuracy(logits: Tensor, label: Tensor) -> Tensor:
    return equal(arg_max(logits), label).cast("f32").mean()


def _perceptron(dtype: str = "f64") -> Network:
    layers = Sequential(Dense(16), relu, Dense(5))
    return Network(layers, Input("x", (8, 11), dtype))


def _torch_perceptron() -> Any:
    return nn.Sequential(nn.Linear(11, 16), nn.ReLU(), nn.Linear(16, 5)).double()


def _convolutional() -> Network:
    layers = Sequential(
        Conv(4, 3, padding=1), BatchNorm(), relu, MaxPool(3, stride=2, padding=1),
        Conv(6, 3, stride=2, groups=2), relu, AveragePool(2), Flatten(), Dense(5),
    )  # fmt: skip
    return Network(layers, Input("x", (8, 3, 15, 15), "f64"))


def _torch_convolutional() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(6, 5),
    ).double()  # fmt: skip


def _give_weights(network: Network, model: Any) -> None:
    """Copies the parameters in order; torch has outputs first, and kernels last."""
    values = [a for name, a in network.arrays().items() if "running" not in name]
    with torch.no_grad():
        for array, target in zip(values, model.parameters(), strict=True):
            order = (array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
            moved = array.transpose(order) if array.ndim > 1 else array
            target.copy_(torch.tensor(np.ascontiguousarray(moved)))


def _batches(network: Network) -> list[dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(3)
    shape = network.structure.inputs[0].type.static_shape
    return [{"x": rng.standard_normal(shape), "label": rng.integers(0, 5, 8)} for _ in range(STEPS)]


def _torch_losses(model: Any, optimizer: Any, batches: list[Any], clip: float = 0) -> list[float]:
    found = []
    for batch in batches:
        optimizer.zero_grad()
        logits = model(torch.tensor(batch["x"]))
        loss = nn.functional.cross_entropy(logits, torch.tensor(batch["label"]))
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        found.append(loss.item())
    return found


OPTIMIZERS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (SGD(0.05, 0.9), lambda p: torch.optim.SGD(p, 0.05, 0.9)),
    "nesterov": (
        SGD(0.05, 0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.05, 0.9, nesterov=True, weight_decay=0.01),
    ),
    "adagrad": (Adagrad(0.05), lambda p: torch.optim.Adagrad(p, 0.05)),
    "rmsprop": (RMSProp(0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
    "adam": (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adamw": (AdamW(0.01), lambda p: torch.optim.AdamW(p, 0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_torch_s(name: str) -> None:
    network, model = _perceptron(), _torch_perceptron()
    _give_weights(network, model)
    ours, theirs = OPTIMIZERS[name]
    trainer = Trainer(network, losses.cross_entropy, LABELS, optimizer=ours, threads=1)
    batches = _batches(network)
    found = [trainer.step(batch)["loss"] for batch in batches]
    wanted = _torch_losses(model, theirs(model.parameters()), batches)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_a_convolutional_network_and_its_running_statistics() -> None:
    network, model = _convolutional(), _torch_convolutional()
    _give_weights(network, model)
    trainer = Trainer(network, losses.cross_entropy, LABELS, optimizer=SGD(0.05, 0.9), threads=2)
    batches = _batches(network)
    found = [trainer.step(batch)["loss"] for batch in batches]
    wanted = _torch_losses(model, torch.optim.SGD(model.parameters(), 0.05, 0.9), batches)
    np.testing.assert_allclose(found, wanted, rtol=1e-8)
    norm = model[1]
    for name, array in (("mean", norm.running_mean), ("variance", norm.running_var)):
        np.testing.assert_allclose(trainer.state[f"batchnorm1.running_{name}"], array, rtol=1e-7)
    model.eval()
    x = batches[0]["x"]
    (logits,) = bessemer.compile(trainer.network).run({"x": x})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(torch.tensor(x)), rtol=1e-6, atol=1e-8)


def test_clipping_and_regularization() -> None:
    network, model = _perceptron(), _torch_perceptron()
    _give_weights(network, model)
    given = Regularization(clip_norm=0.3)
    trainer = Trainer(
        network, losses.cross_entropy, LABELS, optimizer=SGD(0.1), regularization=given
    )
    batches = _batches(network)
    found = [trainer.step(batch)["loss"] for batch in batches]
    wanted = _torch_losses(model, torch.optim.SGD(model.parameters(), 0.1), batches, clip=0.3)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_weights_of_another_type_than_the_loss_are_regularized(kind: str) -> None:
    layers = Sequential(Dense(3, bias=False), lambda x: x.cast("f64"))
    network = Network(layers, Input("x", (2, 4), "f32"))
    given = Regularization(**{kind: 0.5})
    target = [Input("target", (2, 3), "f64")]
    trainer = Trainer(
        network, losses.mean_squared_error, target, optimizer=SGD(0.1), regularization=given
    )
    before = network.array("dense1.weight")
    trainer.step({"x": np.zeros((2, 4), np.float32), "target": np.zeros((2, 3))})
    slope = before if kind == "l2" else np.sign(before)
    np.testing.assert_allclose(trainer.state["dense1.weight"], before - 0.05 * slope, rtol=1e-6)


LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Any], str]] = {
    "mean squared": (losses.mean_squared_error, nn.functional.mse_loss, "any"),
    "mean absolute": (losses.mean_absolute_error, nn.functional.l1_loss, "any"),
    "huber": (
        lambda y, t: losses.huber(y, t, 0.7),
        lambda y, t: nn.functional.huber_loss(y, t, delta=0.7),
        "any",
    ),
    "binary": (
        losses.binary_cross_entropy,
        nn.functional.binary_cross_entropy_with_logits,
        "share",
    ),
    "smoothed": (
        lambda y, t: losses.cross_entropy(y, t, 0.1),
        lambda y, t: nn.functional.cross_entropy(y, t, label_smoothing=0.1),
        "class",
    ),
    "divergence": (
        losses.kl_divergence,
        lambda y, t: nn.functional.kl_div(y, t, reduction="batchmean"),
        "share",
    ),
    "hinge": (losses.hinge, lambda y, t: torch.clamp(1 - t * y, min=0).mean(), "sign"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_torch_s(name: str) -> None:
    ours, theirs, kind = LOSSES[name]
    rng = np.random.default_rng(5)
    y = rng.standard_normal((8, 5)) * 3
    target: Any = {
        "any": rng.standard_normal((8, 5)),
        "share": rng.random((8, 5)) * (rng.random((8, 5)) > 0.2),
        "class": rng.integers(0, 5, 8),
        "sign": np.sign(rng.standard_normal((8, 5))),
    }[kind]
    dtype = "i64" if kind == "class" else "f64"
    network = Network(
        lambda a, b: ours(a, b), Input("y", (8, 5), "f64"), Input("t", target.shape, dtype)
    )
    (found,) = bessemer.compile(network).run({"y": y, "t": target})
    wanted = theirs(torch.tensor(y), torch.tensor(target)).item()
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_a_class_that_is_ruled_out_costs_nothing() -> None:
    rng = np.random.default_rng(6)
    mask = np.where(rng.random(5) < 0.5, -np.inf, 0.0)
    mask[:2] = 0.0
    layers = Sequential(Dense(5), lambda x: x + mask)
    network = Network(layers, Input("x", (8, 4), "f64"))
    trainer = Trainer(network, losses.cross_entropy, LABELS, optimizer=SGD(1.0), threads=1)
    weight, bias = (torch.tensor(a, requires_grad=True) for a in network.arrays().values())
    x, label = rng.standard_normal((8, 4)), rng.integers(0, 2, 8)
    wanted = nn.functional.cross_entropy(
        torch.tensor(x) @ weight + bias + torch.tensor(mask), torch.tensor(label)
    )
    slopes = torch.autograd.grad(wanted, [weight, bias])
    assert trainer.step({"x": x, "label": label})["loss"] == pytest.approx(wanted.item(), rel=1e-12)
    for array, before, slope in zip(trainer.state.values(), (weight, bias), slopes, strict=True):
        np.testing.assert_allclose(array, (before - slope).detach(), rtol=1e-10, atol=1e-12)


def test_a_saturated_probability_has_a_gradient() -> None:
    layers = Sequential(Dense(1, activation=sigmoid))
    trainer = Trainer(
        Network(layers, Input("x", (3, 2), "f64")),
        losses.binary_cross_entropy_of_probabilities,
        [Input("t", (3, 1), "f64")],
        optimizer=SGD(0.1),
        threads=1,
    )
    start = np.full((2, 1), 20.0)
    trainer.state["dense1.weight"] = start.copy()
    x = np.array([[9.0, 9.0], [-9.0, -9.0], [0.01, 0.02]])
    target = np.array([[0.0], [1.0], [1.0]])
    weight = torch.tensor(start, requires_grad=True)
    wanted = nn.functional.binary_cross_entropy(
        torch.sigmoid(torch.tensor(x) @ weight), torch.tensor(target)
    )
    wanted.backward()
    found = trainer.step({"x": x, "t": target})["loss"]
    np.testing.assert_allclose(found, wanted.item(), rtol=1e-9)
    moved = (start - trainer.state["dense1.weight"]) / 0.1
    np.testing.assert_allclose(moved, weight.grad, rtol=1e-7)


def test_schedules() -> None:
    assert [steps(2, 0.5)(k) for k in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    assert exponential(0.9)(2) == pytest.approx(0.81)
    assert cosine(10)(5) == pytest.approx(0.5)
    assert cosine(10, 0.1)(20) == pytest.approx(0.1)
    assert [warm_up(4)(k) for k in (0, 3, 9)] == [0.25, 1, 1]
    assert [warm_up(2, cosine(2))(k) for k in range(5)] == pytest.approx([0.5, 1, 1, 0.5, 0])


def _digits() -> dict[str, np.ndarray[Any, Any]]:
    """Four kinds of pictures, with noise."""
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((4, 1, 8, 8))
    label = rng.integers(0, 4, 203)
    x = kinds[label] + 0.5 * rng.standard_normal((203, 1, 8, 8))
    return {"x": x.astype(np.float32), "label": label}


def _small(seed: int = 0, threads: int = 1, rate: float = 0.01) -> Trainer:
    layers = Sequential(Conv(4, 3), relu, Dropout(0.2), Flatten(), Dense(4))
    network = Network(layers, Input("x", ("batch", 1, 8, 8)))
    return Trainer(
        network,
        losses.cross_entropy,
        [Input("label", ("batch",), "i64")],
        optimizer=Adam(rate),
        metrics={"accuracy": accuracy},
        seed=seed,
        threads=threads,
    )


def test_fit_learns_and_is_the_same_at_any_number_of_threads() -> None:
    data = _digits()
    trainers = [_small(threads=threads) for threads in (1, 2)]
    histories = [
        trainer.fit(
            data,
            epochs=10,
            batch=32,
            validation=0.2,
            augmentation=Augmentation("x", shift=1, noise=0.1),
        )
        for trainer in trainers
    ]
    assert histories[0].epochs["validation accuracy"][-1] > 0.9
    assert histories[0].losses == histories[1].losses
    for name, array in trainers[0].state.items():
        assert array.tobytes() == trainers[1].state[name].tobytes()


def test_a_loss_that_is_no_number_ends_training_with_the_state_kept() -> None:
    trainer = _small()
    data = _digits()
    before = {name: array.copy() for name, array in trainer.state.items()}
    data["x"][0] = np.nan
    with pytest.raises(TrainingError, match="loss of step 0"):
        trainer.step({name: array[:8] for name, array in data.items()})
    for name, array in trainer.state.items():
        assert array.tobytes() == before[name].tobytes()


def test_bad_data_is_refused() -> None:
    trainer = _small()
    data = _digits()
    with pytest.raises(CompileError, match="no label"):
        trainer.fit({"x": data["x"]})
    with pytest.raises(CompileError, match="different numbers of rows"):
        trainer.fit({"x": data["x"], "label": data["label"][:5]})
    with pytest.raises(CompileError, match="no rows"):
        trainer.fit({name: array[:0] for name, array in data.items()})


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    data, file = _digits(), tmp_path / "state.safetensors"
    whole = _small()
    expected = whole.fit(data, epochs=3, batch=32, augmentation=Augmentation("x", noise=0.1))
    first = _small()
    step = first.step

    def interrupted(batch: Any) -> dict[str, float]:
        if first.steps == 10:
            raise KeyboardInterrupt
        return step(batch)

    first.step = interrupted  # type: ignore[method-assign]
    options: Any = {"epochs": 3, "batch": 32, "augmentation": Augmentation("x", noise=0.1)}
    with pytest.raises(KeyboardInterrupt):
        first.fit(data, checkpoint=file, **options)
    second = _small(seed=9)
    found = second.fit(data, checkpoint=file, **options)
    assert found.losses == expected.losses
    assert found.epochs == expected.epochs
    for name, array in whole.state.items():
        assert array.tobytes() == second.state[name].tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name]


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    other = Trainer(_perceptron(), losses.cross_entropy, LABELS)
    other.save(file)
    trainer = _small()
    with pytest.raises(CompileError, match="another network or optimizer"):
        trainer.restore(file)
    file.write_bytes(b"no such file")
    with pytest.raises(CompileError, match="cannot be read as a checkpoint"):
        trainer.restore(file)
