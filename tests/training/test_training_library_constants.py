"""The constants of the graphs of a training library, which lie one behind the other."""

from pathlib import Path
from typing import Any

import numpy as np

from bessemer.frontends.builder.layer import Sequential
from bessemer.frontends.builder.layers_dense import Dense, Flatten
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.train import losses
from bessemer.frontends.train.optimizers import Adam
from bessemer.frontends.train.trainer import Trainer
from bessemer.runtime.artifact import Status
from tests.training.training_library import TrainingLibrary


def test_each_graph_finds_its_own_constants(tmp_path: Path) -> None:
    """The step, the evaluation and the prediction have some of the same, at other places."""
    rng = np.random.default_rng(4)
    tables = [rng.standard_normal((64, width)).astype(np.float32) for width in (9, 30, 17)]

    def loss(y: Tensor, label: Tensor, other: Tensor) -> Tensor:
        return losses.cross_entropy(y, label) + (other @ tables[0] @ tables[0].T).mean()

    layers = Sequential(
        Flatten(), lambda x: x @ tables[1], Dense(64), lambda x: x @ tables[2], Dense(4)
    )
    network = Network(layers, Input("x", ("batch", 1, 8, 8)), seed=3)
    targets = [Input("label", ("batch",), "i64"), Input("other", ("batch", 64))]
    trainer = Trainer(network, loss, targets, optimizer=Adam())
    library = TrainingLibrary(trainer.export(tmp_path / "tables.so")[0])
    assert library.init(24) == Status.OK, library.message
    x = rng.standard_normal((24, 1, 8, 8)).astype(np.float32)
    label = rng.integers(0, 4, 24)
    other = rng.standard_normal((24, 64)).astype(np.float32)
    data: dict[str, np.ndarray[Any, Any]] = {"x": x, "label": label, "other": other}
    for _ in range(2):
        status, numbers = library.evaluate([x, label, other])
        assert (status, numbers) == (Status.OK, [trainer.evaluate(data)["loss"]])
        found = np.zeros((24, 4), np.float32)
        assert library.predict([x], [found]) == Status.OK
        np.testing.assert_array_equal(found, trainer.predict({"x": x})[0])
        status, numbers = library.step([x, label, other], 1e-3)
        assert (status, numbers) == (Status.OK, [trainer.step(data)["loss"]])
    library.close()
