"""Groups of parameters, accumulated gradients and averages, against torch in float64."""

from typing import Any

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder.layer import Sequential
from bessemer.frontends.builder.layers_dense import Dense
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.train.losses import mean_squared_error
from bessemer.frontends.train.optimizers import SGD, AdamW
from bessemer.frontends.train.schedules import steps
from bessemer.frontends.train.step import Regularization
from bessemer.frontends.train.trainer import Trainer

torch = pytest.importorskip("torch")


def _trainer(**options: Any) -> Trainer:
    network = Network(Sequential(Dense(4), Dense(4), Dense(2)), Input("x", (3, 5), "f64"))
    target = [Input("y", (3, 2), "f64")]
    return Trainer(network, mean_squared_error, target, threads=1, **options)


def _batches(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"x": rng.standard_normal((3, 5)), "y": rng.standard_normal((3, 2))} for _ in range(count)
    ]


def _of_torch(trainer: Trainer) -> Any:
    """The same network; torch keeps weights transposed."""
    layers = [torch.nn.Linear(*trainer.state[f"dense{k}.weight"].shape).double() for k in (1, 2, 3)]
    for k, layer in enumerate(layers, 1):
        layer.weight.data = torch.tensor(trainer.state[f"dense{k}.weight"].T.copy())
        layer.bias.data = torch.tensor(trainer.state[f"dense{k}.bias"].copy())
    return torch.nn.Sequential(*layers)


def _same(arrays: Any, theirs: Any) -> None:
    for k, layer in enumerate(theirs, 1):
        np.testing.assert_allclose(
            arrays[f"dense{k}.weight"], layer.weight.detach().numpy().T, rtol=1e-10, atol=1e-12
        )
        np.testing.assert_allclose(
            arrays[f"dense{k}.bias"], layer.bias.detach().numpy(), rtol=1e-10, atol=1e-12
        )


def test_groups_have_their_own_rates_and_decays_and_may_stay() -> None:
    groups = {"dense1.*": None, "*.bias": AdamW(0.02, weight_decay=0.0), "*": AdamW(0.01)}
    trainer = _trainer(optimizer=groups, schedule=steps(2, 0.5))
    theirs = _of_torch(trainer)
    theirs[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [
            {"params": [theirs[k].bias for k in (1, 2)], "lr": 0.02, "weight_decay": 0.0},
            {"params": [theirs[k].weight for k in (1, 2)], "lr": 0.01},
        ]
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for batch in _batches(4):
        trainer.step(batch)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(
            theirs(torch.tensor(batch["x"])), torch.tensor(batch["y"])
        ).backward()
        optimizer.step()
        schedule.step()
    _same(trainer.state, theirs)
    assert "dense1.weight.mean" not in trainer.state


def test_accumulated_gradients_are_clipped_together_and_averages_follow_moves() -> None:
    trainer = _trainer(
        optimizer=AdamW(0.01), accumulation=2, average=0.9,
        regularization=Regularization(clip_norm=0.05),
    )  # fmt: skip
    theirs = _of_torch(trainer)
    optimizer = torch.optim.AdamW(theirs.parameters(), 0.01)
    decay = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    average = torch.optim.swa_utils.AveragedModel(theirs, multi_avg_fn=decay)
    for place, batch in enumerate(_batches(7)):
        trainer.step(batch)
        loss = torch.nn.functional.mse_loss(
            theirs(torch.tensor(batch["x"])), torch.tensor(batch["y"])
        )
        (loss / 2).backward()
        if place % 2:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)
            optimizer.step()
            optimizer.zero_grad()
            average.update_parameters(theirs)
    _same(trainer.state, theirs)
    _same(trainer.averaged.arrays(), average.module)
    batch = _batches(1)[0]
    (predicted,) = trainer.predict({"x": batch["x"]})
    wanted = average.module(torch.tensor(batch["x"])).detach()
    np.testing.assert_allclose(predicted, wanted.numpy(), rtol=1e-9)
    loss = torch.nn.functional.mse_loss(wanted, torch.tensor(batch["y"])).item()
    np.testing.assert_allclose(trainer.evaluate(batch)["loss"], loss, rtol=1e-9)


def test_averages_begin_with_the_parameters() -> None:
    trainer, plain = _trainer(average=0.9, accumulation=2), _trainer()
    (batch,) = _batches(1)
    assert trainer.evaluate(batch) == plain.evaluate(batch)
    trainer.step(batch)
    assert trainer.evaluate(batch) == plain.evaluate(batch)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"optimizer": {"*.bais": SGD()}},
            r"optimizer for \*.bais has no parameter .* dense1.bias",
        ),
        ({"optimizer": {"*": None}}, "are all None"),
        ({"optimizer": {"*.bias": SGD(), "*": SGD(0.0)}}, "leads those before it; it is 0"),
        ({"optimizer": {"*": "adam"}}, "The optimizer is 'adam'"),
        ({"accumulation": 0}, "accumulation is 0"),
        ({"average": 1.0}, "average is 1.0; it must be a share below 1"),
    ],
)
def test_what_fits_nothing_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(CompileError, match=text):
        _trainer(**options)


def test_a_trainer_without_averages_says_so() -> None:
    with pytest.raises(CompileError, match="keeps no averages"):
        _ = _trainer().averaged
