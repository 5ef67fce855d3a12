"""Training that runs into NaNs or infinities says which operator made the first one, and keeps the
last good checkpoint."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bessemer.frontends import builder as nn
from bessemer.frontends import zoo
from bessemer.frontends.builder import Constant, Input, Layer, Network, Tensor
from bessemer.frontends.builder.functions import log, maximum, sqrt
from bessemer.frontends.train.checkpoint import read_checkpoint
from bessemer.frontends.train.losses import cross_entropy, mean_squared_error
from bessemer.frontends.train.optimizers import SGD, Adam, RMSProp
from bessemer.frontends.train.trainer import Trainer, TrainingError

Arrays = dict[str, np.ndarray[Any, Any]]
WIDTH = 4


class Scale(Layer):
    """x times a weight for each feature, all 1 at first, then a function."""

    def __init__(self, function: Callable[[Tensor], Tensor], start: float = 1.0) -> None:
        self.function = function
        self.start = start

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * x.parameter("weight", (WIDTH,), Constant(self.start)))


def _trainer(layer: Layer, optimizer: Any = None, loss: Any = None) -> Trainer:
    """`layer` between two dense ones, called `middle`."""
    chain = nn.Sequential(first=nn.Dense(WIDTH), middle=layer, last=nn.Dense(WIDTH))
    network = Network(chain, Input("x", ("batch", WIDTH)))
    return Trainer(
        network,
        loss or mean_squared_error,
        [Input("target", ("batch", WIDTH))],
        optimizer=optimizer or SGD(0.01),
        threads=1,
    )


def _data(rows: int = 24) -> Arrays:
    rng = np.random.default_rng(0)
    shape = (rows, WIDTH)
    return {name: rng.standard_normal(shape, np.float32) for name in ("x", "target")}


FORWARD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "log of 0": (lambda x: log(x * 0.0), "infinity .* operator log"),
    "log below 0": (lambda x: log(x), "NaN .* operator log"),
    "division by 0": (lambda x: x / (x - x), "infinity .* operator div"),
    "root below 0": (lambda x: sqrt(x), "NaN .* operator sqrt"),
    "overflow": (lambda x: (x * 1e20) * (x * 1e20), "infinity .* operator mul"),
}


@pytest.mark.parametrize("name", FORWARD)
def test_an_operator_of_the_forward_pass_is_named_with_its_layer(name: str) -> None:
    function, expected = FORWARD[name]
    trainer = _trainer(Scale(function))
    before = {name: array.copy() for name, array in trainer.state.items()}
    with pytest.raises(TrainingError, match="loss of step 0") as caught:
        trainer.step(_data())
    assert re.search(expected, str(caught.value))
    assert "layer 'middle'" in str(caught.value)
    assert "in the forward pass" in str(caught.value)
    for each, array in trainer.state.items():
        np.testing.assert_array_equal(array, before[each])


def test_an_operator_of_the_loss_is_named() -> None:
    trainer = _trainer(nn.Dense(WIDTH), loss=lambda y, t: log(t - t).mean())
    with pytest.raises(TrainingError, match=r"infinity came from operator log, in the loss, of 0"):
        trainer.step(_data())


def test_what_the_data_holds_is_named_with_its_row() -> None:
    data = _data()
    data["x"][7, 2] = np.inf
    with pytest.raises(TrainingError, match=r"infinity in the batch's x \(row 7 of it first\)"):
        _trainer(nn.Dense(WIDTH)).step(data)
    data = _data()
    data["target"][3, 0] = np.nan
    with pytest.raises(TrainingError, match=r"NaN in the batch's target \(row 3 of it first\)"):
        _trainer(nn.Dense(WIDTH)).step(data)


def test_infinities_that_are_meant_are_not_named() -> None:
    """log(0) under a maximum and the mask of attention have no part in it; 'last' has."""

    def loss(y: Tensor, target: Tensor) -> Tensor:
        return mean_squared_error(y, target + maximum(log(target - target), -5.0))

    trainer = _trainer(nn.Dense(WIDTH), loss=loss)
    trainer.step(_data())
    trainer.state["last.weight"][:] = 3e38
    with pytest.raises(TrainingError, match="layer 'last', operator matmul"):
        trainer.step(_data())


def test_the_mask_of_attention_is_not_named() -> None:
    network = zoo.causal_transformer(9, positions=6, features=8, heads=2, layers=1)
    target = Input("next", ("batch", "time"), "i64")
    trainer = Trainer(network, cross_entropy, [target], optimizer=SGD(0.01), threads=1)
    tokens = np.random.default_rng(0).integers(0, 9, (2, 6))
    batch = {"tokens": tokens, "next": tokens}
    assert np.isfinite(trainer.step(batch)["loss"])
    for name in ("query", "key"):
        trainer.state[f"blocks.0.attention.{name}.weight"] *= 3e38
    with pytest.raises(TrainingError, match=r"layer 'blocks\.0\.attention', operator matmul"):
        trainer.step(batch)


BACKWARD: dict[str, tuple[Trainer, str]] = {
    # The loss of zeros is fine; the slope of a power below 1 at 0 is not.
    "backward": (
        _trainer(Scale(lambda x: (x * x) ** 0.3, start=0.0)),
        r"layer 'middle', operator \w+, in the backward pass",
    ),
    "optimizer": (
        _trainer(nn.Dense(WIDTH), RMSProp(0.01), lambda y, t: ((y - t) * 1e25).mean() * 1e-3),
        r"parameter '\w+\.\w+', operator mul, in the optimizer",
    ),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_what_breaks_the_state_after_the_loss_is_found(name: str, tmp_path: Path) -> None:
    trainer, expected = BACKWARD[name]
    file = tmp_path / "state"
    with pytest.raises(TrainingError, match=r"Step 0, of loss .*, broke it") as caught:
        trainer.fit(_data(), epochs=2, batch=8, checkpoint=file)
    assert re.search(expected, str(caught.value))
    assert not file.exists()
    assert all(np.isfinite(array).all() for array in trainer.state.values())


def _grown(rate: float, file: Path | None = None, **options: Any) -> tuple[Trainer, str]:
    """A training whose rate jumps after step 7; its error."""
    chain = nn.Sequential(nn.Dense(8), nn.tanh, nn.Dense(WIDTH))
    trainer = Trainer(
        Network(chain, Input("x", ("batch", WIDTH))),
        mean_squared_error,
        [Input("target", ("batch", WIDTH))],
        optimizer=SGD(0.1),
        schedule=lambda step: 1.0 if step < 7 else rate,
        threads=1,
    )
    with pytest.raises(TrainingError) as caught:
        trainer.fit(_data(), epochs=9, batch=8, checkpoint=file, **options)
    return trainer, str(caught.value)


@pytest.mark.parametrize(("every", "kept"), [(0, 6), (1, 8)])
def test_an_exploding_rate_keeps_the_last_good_checkpoint(
    every: int, kept: int, tmp_path: Path
) -> None:
    file = tmp_path / "state"
    trainer, text = _grown(1e30, file, every=every)
    assert "The loss of step 8 is" in text
    assert re.search("layer '.*', operator|operator .*, in the loss", text)
    assert f"The last good state, after {kept} steps, is in {file}" in text
    found = read_checkpoint(file)
    assert found.facts["steps"] == kept == trainer.steps
    for name, array in trainer.state.items():
        np.testing.assert_array_equal(array, found.arrays[name])
        assert np.isfinite(array).all()
    if every:
        return  # the last state that is finite is no longer good for much
    again = Trainer(
        trainer.network, mean_squared_error, [Input("target", ("batch", WIDTH))], optimizer=SGD(0.1)
    )
    again.fit(_data(), epochs=9, batch=8, checkpoint=file)  # with a rate that does not jump
    assert again.steps == 27


def test_a_rate_that_breaks_the_state_at_once_is_told_of_the_step(tmp_path: Path) -> None:
    """The gradient is fine, the new weight overflows: the next loss is NaN, in a broken state."""
    trainer, text = _grown(1e45, tmp_path / "state")
    assert re.search("Step 7, of loss .*, broke it. The first infinity came from", text)
    assert "in the optimizer" in text
    assert f"after 6 steps, is in {tmp_path / 'state'}" in text
    assert trainer.steps == 6


def test_without_a_checkpoint_training_is_done_again_from_the_start() -> None:
    trainer, text = _grown(1e45)
    assert re.search("Step 7, of loss .*, broke it", text)
    assert trainer.steps == 7
    assert all(np.isfinite(array).all() for array in trainer.state.values())


def test_a_large_network_is_searched_in_seconds() -> None:
    network = zoo.resnet(18, 10, width=16, channels=1, size=16, small_images=True)
    target = Input("label", ("batch",), "i64")
    trainer = Trainer(network, cross_entropy, [target], optimizer=Adam(), threads=2)
    trainer.state["stage3.residual1.body.conv2.weight"][0, 0, 0, 0] = 3e38
    image = np.random.default_rng(0).standard_normal((4, 1, 16, 16), np.float32) * 100
    with pytest.raises(TrainingError, match=r"layer 'stage3\.residual1\.body\.\w+'"):
        trainer.step({"image": image, "label": np.arange(4)})
