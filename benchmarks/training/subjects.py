"""Small networks that learn digits: ours, torch's with the same first weights, the batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn

from bessemer.compiler.ir.types import Array
from bessemer.frontends import zoo
from bessemer.frontends.builder import (
    LSTM,
    Dense,
    Input,
    LayerNorm,
    Network,
    Sequential,
    TransformerBlock,
    Xavier,
)
from bessemer.frontends.train.datasets import digits

BATCH, STEPS, CLASSES = 8, 50, 10
ORDER = 98
Arrays = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network of ours, torch's, and how torch's weights come from ours.

    `side` is the pictures' height and width; the network sees them as arrays of `shape`.
    `convert` gives torch's trained parameters by name; `pace` is a factor of all learning rates.
    Parameters whose names fit the pattern `zeros` begin as zeros.
    """

    forward: Any
    shape: tuple[int, ...]
    twin: Callable[[], Any]
    convert: Callable[[Arrays], dict[str, Array]]
    side: int = 8
    pace: float = 1.0
    zeros: str = ""

    def network(self, dtype: str) -> Network:
        """Ours; the same first weights in every type."""
        made = {
            each: Network(self.forward(), Input("x", (BATCH, *self.shape), each))
            for each in ("f32", dtype)
        }
        arrays = made["f32"].arrays()
        empty = {n: np.zeros_like(a) for n, a in arrays.items() if fnmatchcase(n, self.zeros)}
        return made[dtype].with_arrays({**arrays, **empty})

    def model(self, dtype: str) -> Any:
        """Torch's, with our weights."""
        model = self.twin().to(getattr(torch, _TORCH[dtype]))
        given = self.convert(self.network(dtype).arrays())
        own = dict(model.named_parameters())
        for name, parameter in own.items():
            parameter.requires_grad_(name in given)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(torch.tensor(given.get(name, np.zeros(parameter.shape))))
        return model

    def batches(self, dtype: str) -> list[dict[str, Array]]:
        """The digits in an order of their own, as many as there are steps."""
        data, _ = digits(size=self.side)
        order = np.random.default_rng(ORDER).permutation(len(data["label"]))[: BATCH * STEPS]
        image = data["image"].reshape(-1, *self.shape).astype(_TORCH[dtype])
        return [
            {"x": image[rows], "label": data["label"][rows]} for rows in order.reshape(STEPS, BATCH)
        ]


_TORCH = {"f32": "float32", "f64": "float64"}


def _outputs_first(array: Array) -> Array:
    """A weight [*kernel, inputs, outputs] as torch has it, or a vector."""
    order = (array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
    return array.transpose(order) if array.ndim > 1 else array


def _in_order(twin: Callable[[], Any]) -> Callable[[Arrays], dict[str, Array]]:
    """For networks whose parameters come in one order here and there."""

    def convert(arrays: Arrays) -> dict[str, Array]:
        own = [_outputs_first(array) for name, array in arrays.items() if "running" not in name]
        names = [name for name, _ in twin().named_parameters()]
        return dict(zip(names, own, strict=True))

    return convert


def _mlp() -> Any:
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, CLASSES)
    )


def _lenet() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES),
    )  # fmt: skip


class _Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, before: int, features: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, features, 3, stride, 1, bias=False), nn.BatchNorm2d(features),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, 1, 1, bias=False), nn.BatchNorm2d(features),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride != 1 or before != features:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, features, 1, stride, bias=False), nn.BatchNorm2d(features)
            )

    def forward(self, x: Any) -> Any:
        return nn.functional.relu(self.body(x) + self.shortcut(x))


def _resnet(width: int) -> Any:
    layers: list[Any] = [
        nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    ]  # fmt: skip
    before = width
    for stage in range(4):
        for place in range(2):
            features = width * 2**stage
            stride = 2 if stage and not place else 1
            layers.append(_Block(before, features, stride))
            before = features
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES)]
    return nn.Sequential(*layers, *head)


class _Lstm(nn.Module):
    """Two layers; the last state gives the class."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, 2, batch_first=True)
        self.classify = nn.Linear(32, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.classify(self.lstm(x)[0][:, -1])


def _lstm_weights(arrays: Arrays) -> dict[str, Array]:
    """Gates input, output, forget, cell become input, forget, cell, output.

    Torch's second bias stays zero and untrained: with both moving, they would go twice as far.
    """

    def gates(array: Array) -> Array:
        i, o, f, c = np.split(array, 4, axis=-1)
        return _outputs_first(np.concatenate([i, f, c, o], axis=-1))

    found = {
        "classify.weight": _outputs_first(arrays["classify.weight"]),
        "classify.bias": arrays["classify.bias"],
    }
    for layer in range(2):
        found[f"lstm.weight_ih_l{layer}"] = gates(arrays[f"lstm.input_{layer}.weight"])
        found[f"lstm.weight_hh_l{layer}"] = gates(arrays[f"lstm.recurrent_{layer}.weight"])
        found[f"lstm.bias_ih_l{layer}"] = gates(arrays[f"lstm.bias_{layer}"])
    return found


class _Transformer(nn.Module):
    """Two blocks that normalize first, over the rows of a picture; the mean tells the class."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                32, 4, 128, 0.0, nn.functional.gelu, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(32)
        self.classify = nn.Linear(32, CLASSES)

    def forward(self, x: Any) -> Any:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.classify(self.norm(x).mean(1))


_BLOCK = {
    "self_attn.out_proj": "attention.output",
    "linear1": "feed_forward.expand",
    "linear2": "feed_forward.contract",
    "norm1": "norm_attention",
    "norm2": "norm_feed_forward",
}
"""Torch's names in a block, and ours."""


def _transformer_weights(arrays: Arrays) -> dict[str, Array]:
    pairs = {name: name for name in ("embed", "norm", "classify")}
    for block in range(2):
        here = f"blocks.{block}"
        pairs |= {f"{here}.{theirs}": f"block{block}.{ours}" for theirs, ours in _BLOCK.items()}
    found = {
        f"{theirs}.{kind}": _outputs_first(arrays[f"{ours}.{kind}"])
        for theirs, ours in pairs.items()
        for kind in ("weight", "bias")
    }
    for block in range(2):
        for kind in ("weight", "bias"):
            parts = [arrays[f"block{block}.attention.{each}.{kind}"] for each in _PROJECTIONS]
            name = f"blocks.{block}.self_attn.in_proj_{kind}"
            found[name] = np.concatenate([_outputs_first(part) for part in parts])
    return found


_PROJECTIONS = ("query", "key", "value")


def _our_transformer() -> Sequential:
    blocks = [TransformerBlock(32, 4, weights=Xavier()) for _ in range(2)]
    return Sequential(
        embed=Dense(32), block0=blocks[0], block1=blocks[1], norm=LayerNorm(),
        mean=lambda x: x.mean(1), classify=Dense(CLASSES),
    )  # fmt: skip


def resnet_18(
    width: int, side: int, pace: float = 0.03, zeros: str = "*.body.batchnorm2.weight"
) -> Subject:
    """ResNet-18 for small pictures, `width` features in its first stage.

    As Goyal et al. ("Accurate, large minibatch SGD", 2017) train it, every block begins as its
    shortcut, the last scales in it being 0: otherwise rounding that puts a ReLU on the other side
    of 0 grows tenfold with every step. At three times these rates it still shows now and then.
    """

    def forward() -> Any:
        return zoo.resnet(18, CLASSES, width=width, channels=1, small_images=True).forward

    def twin() -> Any:
        return _resnet(width)

    return Subject(forward, (1, side, side), twin, _in_order(twin), side, pace, zeros)


SUBJECTS: dict[str, Subject] = {
    "MLP": Subject(
        lambda: zoo.mlp(64, (128, 64), CLASSES).forward, (64,), _mlp, _in_order(_mlp)
    ),
    "LeNet": Subject(
        lambda: zoo.lenet(size=16).forward, (1, 16, 16), _lenet, _in_order(_lenet), 16
    ),
    "ResNet-18": resnet_18(16, 16),
    "LSTM": Subject(
        lambda: Sequential(lstm=LSTM(32, 2, outputs="last"), classify=Dense(CLASSES)),
        (8, 8), _Lstm, _lstm_weights,
    ),
    "transformer": Subject(_our_transformer, (8, 8), _Transformer, _transformer_weights),
}  # fmt: skip
