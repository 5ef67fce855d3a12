"""The networks whose training is measured: each in ours and in torch, with the same weights.

torch is imported only by what builds or runs its side.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bessemer.compiler.ir.types import Array
from bessemer.frontends import zoo
from bessemer.frontends.builder.network import Input, Network
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.train.losses import cross_entropy
from bessemer.frontends.train.optimizers import SGD, Adam, Optimizer
from bessemer.frontends.zoo.residual import STAGES

WORDS, STEPS, POSITIONS = 256, 100, 128
"""Words are bytes; the LSTM sees so many steps, the transformer so many positions."""


@dataclass(frozen=True)
class TrainingNetwork:
    """A network with its batch and its optimizer.

    `symbolic` makes ours, `module` torch's, whose parameters, in its order, are what `order` makes
    of ours. `steps` is the length of texts. `bar` is the most that our step may take of torch's.
    """

    name: str
    batch: int
    bar: float
    symbolic: Callable[[], Network]
    module: Callable[[], Any]
    optimizer: Optimizer
    order: Callable[[Mapping[str, Array]], list[Array]]
    classes: int
    steps: int = 0

    def network(self) -> Network:
        """Ours, with numbers for all sizes."""
        dims = {"batch": self.batch} | ({"time": self.steps} if self.steps else {})
        return self.symbolic().with_dims(dims)

    @property
    def target(self) -> Input:
        """The labels: a class for each image, or for each step of each text."""
        output = self.network().structure.outputs[0].type
        return Input("label", output.static_shape[:-1], "i64")

    def batches(self, count: int, seed: int = 0) -> Iterator[dict[str, Array]]:
        """Batches of random inputs (f32, or words) and labels."""
        rng = np.random.default_rng(seed)
        (given,) = self.network().inputs
        label = self.target.type.static_shape
        shape = given.type.static_shape
        for _ in range(count):
            x: Array = rng.integers(0, WORDS, shape)
            if given.type.dtype.is_float:
                x = rng.standard_normal(shape).astype(np.float32)
            yield {given.name: x, "label": rng.integers(0, self.classes, label)}

    def torch_model(self, arrays: Mapping[str, Array]) -> Any:
        """torch's module with our parameters, those of `Network.arrays`."""
        torch: Any = importlib.import_module("torch")
        model = self.module()
        targets = [p for p in model.parameters() if p.requires_grad]
        with torch.no_grad():
            for array, target in zip(self.order(arrays), targets, strict=True):
                target.copy_(torch.tensor(np.ascontiguousarray(array)))
        return model

    def torch_optimizer(self, model: Any) -> Any:
        """torch's optimizer with the settings of ours."""
        torch: Any = importlib.import_module("torch")
        moved = [p for p in model.parameters() if p.requires_grad]
        match self.optimizer:
            case SGD(rate, momentum):
                return torch.optim.SGD(moved, rate, momentum, fused=True)
            case Adam():
                return torch.optim.Adam(moved, self.optimizer.learning_rate, fused=True)
            case _:
                raise ValueError(f"no counterpart of {self.optimizer}")


def loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross entropy over all that has a label."""
    return cross_entropy(logits, label)


def torch_loss(logits: Any, label: Any) -> Any:
    """The same loss in torch."""
    functional: Any = importlib.import_module("torch.nn.functional")
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), label.reshape(-1))


def _torch_layout(array: Array) -> Array:
    """Outputs, inputs, kernel in place of kernel, inputs, outputs."""
    rank = array.ndim
    return array.transpose(rank - 1, rank - 2, *range(rank - 2)) if rank > 1 else array


def _in_order(arrays: Mapping[str, Array]) -> list[Array]:
    return [_torch_layout(a) for name, a in arrays.items() if "running" not in name]


def _lenet() -> Any:
    nn: Any = importlib.import_module("torch.nn")
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10),
    )  # fmt: skip


def _mlp() -> Any:
    nn: Any = importlib.import_module("torch.nn")
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def _conv_norm(before: int, features: int, kernel: int, stride: int = 1) -> list[Any]:
    nn: Any = importlib.import_module("torch.nn")
    conv = nn.Conv2d(before, features, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(features)]


def _residual(body: Sequence[Any], shortcut: Sequence[Any]) -> Any:
    nn: Any = importlib.import_module("torch.nn")

    class Residual(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(*body)
            self.shortcut = nn.Sequential(*shortcut)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.shortcut(x))

    return Residual()


def _block(depth: int, before: int, features: int, stride: int) -> Any:
    nn: Any = importlib.import_module("torch.nn")
    narrow = features // 4
    if depth < 50:
        body = [
            *_conv_norm(before, features, 3, stride), nn.ReLU(inplace=True),
            *_conv_norm(features, features, 3),
        ]  # fmt: skip
    else:
        body = [
            *_conv_norm(before, narrow, 1), nn.ReLU(inplace=True),
            *_conv_norm(narrow, narrow, 3, stride), nn.ReLU(inplace=True),
            *_conv_norm(narrow, features, 1),
        ]  # fmt: skip
    is_same = stride == 1 and before == features
    return _residual(body, [] if is_same else _conv_norm(before, features, 1, stride))


def _resnet(depth: int, classes: int, small_images: bool) -> Any:
    nn: Any = importlib.import_module("torch.nn")
    layers = _conv_norm(3, 64, 3) if small_images else _conv_norm(3, 64, 7, 2)
    layers.append(nn.ReLU(inplace=True))
    if not small_images:
        layers.append(nn.MaxPool2d(3, 2, 1))
    before, expansion = 64, 1 if depth < 50 else 4
    for stage, count in enumerate(STAGES[depth]):
        features = expansion * 64 * 2**stage
        for place in range(count):
            layers.append(_block(depth, before, features, 2 if stage > 0 and place == 0 else 1))
            before = features
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def _lstm() -> Any:
    nn: Any = importlib.import_module("torch.nn")

    class Text(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(WORDS, 128)
            self.lstm = nn.LSTM(128, 256, 2, batch_first=True)
            self.classify = nn.Linear(256, WORDS)
            for layer in range(2):
                # One bias is enough; two would move twice as far.
                bias = getattr(self.lstm, f"bias_hh_l{layer}")
                nn.init.zeros_(bias)
                bias.requires_grad_(False)

        def forward(self, tokens: Any) -> Any:
            return self.classify(self.lstm(self.embed(tokens))[0])

    return Text()


def _lstm_order(arrays: Mapping[str, Array]) -> list[Array]:
    """Gates as torch has them: input, forget, cell, output."""

    def gates(array: Array) -> Array:
        i, o, f, c = np.split(array, 4, axis=-1)
        return np.concatenate([i, f, c, o], axis=-1)

    found = []
    for name, array in arrays.items():
        if name.startswith("embed."):
            found.append(array)
        else:
            found.append(_torch_layout(gates(array) if name.startswith("lstm.") else array))
    return found


def _transformer() -> Any:
    torch: Any = importlib.import_module("torch")
    nn = torch.nn

    class Causal(nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Embedding(WORDS, 256)
            self.position = nn.Embedding(POSITIONS, 256)
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    256, 4, 1024, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(4)
            )
            self.norm = nn.LayerNorm(256)
            mask = nn.Transformer.generate_square_subsequent_mask(POSITIONS)
            self.register_buffer("mask", mask)

        def forward(self, tokens: Any) -> Any:
            x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x, self.mask, is_causal=True)
            return self.norm(x) @ self.token.weight.T

    return Causal()


def _transformer_order(arrays: Mapping[str, Array]) -> list[Array]:
    """torch has the three projections of attention as one, and a block's norms at its end."""
    kinds = ("weight", "bias")
    token, position = (name for name in arrays if "token" in name or "position" in name)
    found = [arrays[token], arrays[position]]
    blocks = sorted({name.rsplit(".attention.", 1)[0] for name in arrays if ".attention." in name})
    for block in blocks:
        for kind in kinds:
            parts = [
                arrays[f"{block}.attention.{part}.{kind}"] for part in ("query", "key", "value")
            ]
            found.append(_torch_layout(np.concatenate(parts, axis=-1)))
        layers = ("attention.output", "feed_forward.expand", "feed_forward.contract")
        for name in (*layers, "norm_attention", "norm_feed_forward"):
            found += [_torch_layout(arrays[f"{block}.{name}.{kind}"]) for kind in kinds]
    return found + [arrays[f"norm.{kind}"] for kind in kinds]


NETWORKS = {
    each.name: each
    for each in (
        TrainingNetwork(
            "lenet", 64, 0.35, zoo.lenet, _lenet, Adam(0.001), _in_order, 10
        ),
        TrainingNetwork("mlp", 64, 0.4, zoo.mlp, _mlp, Adam(0.001), _in_order, 10),
        TrainingNetwork(
            "resnet18", 32, 0.7, partial(zoo.resnet, 18, 10, size=32, small_images=True),
            partial(_resnet, 18, 10, True), SGD(0.01, 0.9), _in_order, 10,
        ),
        TrainingNetwork(
            "resnet50", 8, 0.7, partial(zoo.resnet, 50), partial(_resnet, 50, 1000, False),
            SGD(0.01, 0.9), _in_order, 1000,
        ),
        TrainingNetwork(
            "lstm", 16, 0.7, partial(zoo.lstm_text, WORDS, WORDS), _lstm, Adam(0.001), _lstm_order,
            WORDS, STEPS,
        ),
        TrainingNetwork(
            "transformer", 8, 0.7,
            partial(
                zoo.causal_transformer, WORDS, positions=POSITIONS, features=256, heads=4, layers=4
            ),
            _transformer, Adam(0.001), _transformer_order, WORDS, POSITIONS,
        ),
    )
}  # fmt: skip
"""By name. The ResNet of 18 layers is for 32x32 images, that of 50 for 224x224."""
