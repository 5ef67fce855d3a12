"""Gradients vanish in a deep sigmoid network; ReLU, He's weights and batch norm repair it.

python examples/vanishing_gradients.py [PICTURE]   # a table, and as a picture
"""

import sys
from collections.abc import Callable
from pathlib import Path

from bessemer.frontends.builder import (
    BatchNorm,
    Dense,
    Flatten,
    He,
    Input,
    Layer,
    Network,
    Normal,
    Sequential,
    Tensor,
    relu,
    sigmoid,
)
from bessemer.frontends.train.datasets import digits
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.metrics import accuracy
from bessemer.frontends.train.optimizers import SGD
from bessemer.frontends.train.pictures import draw_gradients
from bessemer.frontends.train.statistics import Statistics
from bessemer.frontends.train.trainer import Trainer

DEPTH, WIDTH, EPOCHS = 10, 32, 15
KINDS = ("sigmoid", "ReLU", "ReLU, He", "sigmoid, batch norm")


def network(kind: str) -> Network:
    """Ten hidden layers and the classes."""
    unit: Callable[[Tensor], Tensor] = sigmoid if "sigmoid" in kind else relu
    weights = He() if "He" in kind else Normal(0.1)
    layers: list[Layer | Callable[[Tensor], Tensor]] = [Flatten()]
    for _ in range(DEPTH):
        layers.append(Dense(WIDTH, weights=weights))
        layers.extend([BatchNorm(), unit] if "norm" in kind else [unit])
    shape = ("batch", 1, 8, 8)
    return Network(Sequential(*layers, Dense(10, weights=weights)), Input("image", shape))


def experiment(kind: str) -> tuple[Statistics, float]:
    """The statistics of the first step, and the accuracy after some epochs."""
    data, test = digits()
    trainer = Trainer(
        network(kind), cross_entropy, [Input("label", ("batch",), "i64")], optimizer=SGD(0.02, 0.9),
        metrics={"accuracy": accuracy}, statistics=True,
    )  # fmt: skip
    trainer.step({name: array[:256] for name, array in data.items()})
    first = trainer.statistics
    assert first is not None
    trainer.fit(data, epochs=EPOCHS, batch=32)
    return first, trainer.evaluate(test)["accuracy"]


def main() -> None:
    found = {kind: experiment(kind) for kind in KINDS}
    print("| gradient of the weights of | " + " | ".join(KINDS) + " |")
    print("|---" * (len(KINDS) + 1) + "|")
    for layer in (1, 3, 5, 7, 9, 11):
        sizes = [first.gradients[f"dense{layer}.weight"] for first, _ in found.values()]
        print(f"| layer {layer} | " + " | ".join(f"{size:.1e}" for size in sizes) + " |")
    shares = " | ".join(f"{accuracy:.1%}" for _, accuracy in found.values())
    print(f"| test accuracy after {EPOCHS} epochs | {shares} |")
    if len(sys.argv) > 1:
        firsts = {kind: first for kind, (first, _) in found.items()}
        draw_gradients(firsts, Path(sys.argv[1]), "dense*.weight")


if __name__ == "__main__":
    main()
