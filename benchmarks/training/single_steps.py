"""Each step of a training by itself: how far the loss and the momentum behind it are from float64.

Where a network's steps enlarge rounding, two curves say little after some steps. Here ours leads,
at usual rates and from usual first weights, and before every step torch is given the same weights,
and computes the same loss and gradients in float32 and in float64. What float64 finds is right;
torch's float32 says how near to that one comes.

    python -m benchmarks.training.single_steps

prints the errors for ResNet-18 as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.training.subjects import BATCH, Subject, resnet_18
from bessemer.compiler.ir.types import Array
from bessemer.frontends.builder import Input
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.trainer import Trainer

RATE, MOMENTUM = 0.01, 0.9
_SLOT = ".velocity"


@dataclass(frozen=True, eq=False)
class Errors:
    """Of every step, relative to float64: of the loss, and of all velocities together."""

    loss: Array
    velocity: Array


def usual_resnet() -> Subject:
    """ResNet-18 whose scales all begin as 1."""
    return resnet_18(16, 16, pace=1.0, zeros="")


def step_errors(subject: Subject) -> tuple[Errors, Errors]:
    """Ours, and torch's in float32, for SGD with momentum."""
    torch.set_num_threads(1)
    optimizer = SGD(RATE * subject.pace, MOMENTUM)
    target = Input("label", (BATCH,), "i64")
    trainer = Trainer(subject.network("f32"), cross_entropy, [target], optimizer=optimizer)
    models = {dtype: subject.model(dtype).train() for dtype in ("f32", "f64")}
    found: list[list[float]] = []
    for batch in subject.batches("f32"):
        state = {name: array.copy() for name, array in trainer.state.items()}
        theirs, exact = (_torch_step(subject, models[d], state, batch) for d in ("f32", "f64"))
        loss = trainer.step(batch)["loss"]
        ours = loss, _velocities(subject, trainer.state)
        found.append([*_errors(ours, exact), *_errors(theirs, exact)])
    columns = np.array(found).T
    return Errors(*columns[:2]), Errors(*columns[2:])


_Step = tuple[float, dict[str, Array]]
"""A loss, and the velocities after it under torch's names."""


def _velocities(subject: Subject, state: dict[str, Array]) -> dict[str, Array]:
    own = {n.removesuffix(_SLOT): a for n, a in state.items() if n.endswith(_SLOT)}
    return subject.convert({n: own.get(n, a) for n, a in state.items() if _SLOT not in n})


def _torch_step(
    subject: Subject, model: nn.Module, state: dict[str, Array], batch: dict[str, Array]
) -> _Step:
    parameters = dict(model.named_parameters())
    given = subject.convert({n: a for n, a in state.items() if _SLOT not in n})
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.tensor(given[name]))
    model.zero_grad()
    x = torch.tensor(batch["x"]).to(next(iter(parameters.values())).dtype)
    loss = nn.functional.cross_entropy(model(x), torch.tensor(batch["label"]))
    loss.backward()  # type: ignore[no-untyped-call]
    before = _velocities(subject, state)
    after: dict[str, Array] = {}
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        gradient = parameter.grad.numpy()
        after[name] = MOMENTUM * before[name].astype(gradient.dtype) + gradient
    return loss.item(), after


def _errors(found: _Step, exact: _Step) -> tuple[float, float]:
    distance = sum(float(np.square(found[1][n] - a).sum()) for n, a in exact[1].items())
    size = sum(float(np.square(array).sum()) for array in exact[1].values())
    return abs(found[0] - exact[0]) / abs(exact[0]), float(np.sqrt(distance / size))


def main() -> None:
    """Medians and maxima over the steps."""
    rows = {}
    for who, errors in zip(("ours", "torch"), step_errors(usual_resnet())):
        rows[who] = {
            f"{what} {name}": float(function(column))
            for what, column in (("loss", errors.loss), ("velocity", errors.velocity))
            for name, function in (("median", np.median), ("maximum", np.max))
        }
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
