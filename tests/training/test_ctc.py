"""The CTC loss and its gradient against torch."""

from __future__ import annotations

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder.layers_dense import Dense
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.train import losses
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.trainer import Trainer, TrainingError

torch = pytest.importorskip("torch")
BATCH, TIME, CLASSES, LONGEST = 5, 9, 6, 4
TARGETS = [
    Input("labels", (BATCH, LONGEST), "i64"),
    Input("steps", (BATCH,), "i64"),
    Input("lengths", (BATCH,), "i64"),
]
LABELS = np.array([[1, 2, 3, 4], [2, 2, 1, 0], [5, 1, 1, 1], [3, 0, 0, 0], [1, 1, 0, 0]])


def _trainer() -> Trainer:
    network = Network(Dense(CLASSES), Input("x", (BATCH, TIME, 3), "f64"))
    return Trainer(network, losses.ctc, TARGETS, optimizer=SGD(0.5))


def test_training_with_it_is_torchs() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((BATCH, TIME, 3))
    steps, lengths = np.array([9, 7, 9, 4, 3]), np.array([4, 3, 4, 0, 2])
    trainer = _trainer()
    weight, bias = (
        torch.tensor(array, requires_grad=True) for array in trainer.network.arrays().values()
    )
    for _ in range(4):
        scores = (torch.tensor(x) @ weight + bias).log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(
            scores, torch.tensor(LABELS), torch.tensor(steps), torch.tensor(lengths)
        )
        given = torch.autograd.grad(loss, (weight, bias))
        with torch.no_grad():
            weight -= 0.5 * given[0]
            bias -= 0.5 * given[1]
        batch = {"x": x, "labels": LABELS, "steps": steps, "lengths": lengths}
        assert trainer.step(batch)["loss"] == pytest.approx(loss.item(), rel=1e-11)


def test_labels_that_do_not_fit_into_the_steps_have_no_probability() -> None:
    batch = {"x": np.ones((BATCH, TIME, 3)), "labels": LABELS}
    # Two equal labels need a blank between them.
    batch |= {"steps": np.array([9, 9, 9, 9, 2]), "lengths": np.array([4, 3, 4, 1, 2])}
    with pytest.raises(TrainingError, match="inf"):
        _trainer().step(batch)


def test_shapes_that_do_not_belong_together_are_told() -> None:
    network = Network(Dense(CLASSES), Input("x", (BATCH, 3), "f64"))
    with pytest.raises(CompileError, match="ctc wants logits"):
        Trainer(network, losses.ctc, TARGETS)
