"""Layers on vectors of features: dense, embedding, dropout, flatten, reshape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.dims import Dim, Size
from bessemer.frontends.builder.functions import gather, where
from bessemer.frontends.builder.initializers import ZEROS, Initializer, Normal, Xavier
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.builder.randomness import uniform
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.settings import require_share


def affine(
    x: Tensor, features: int, weights: Initializer, *, bias: bool = True, prefix: str = ""
) -> Tensor:
    """x @ weight + bias over the last axis, with parameters of the layer being applied."""
    if x.rank == 0:
        raise CompileError("the input is a single number; there must be an axis of features.")
    weight = x.parameter(f"{prefix}weight", (x.shape[-1], features), weights)
    result = x @ weight
    return result + x.parameter(f"{prefix}bias", (features,), ZEROS) if bias else result


@dataclass(frozen=True, eq=False, repr=False)
class Dense(Layer):
    """x @ weight + bias over the last axis; weight is [inputs, features]."""

    features: int
    activation: Callable[[Tensor], Tensor] | None = None
    bias: bool = True
    weights: Initializer = field(default=Xavier())

    def forward(self, x: Tensor) -> Tensor:
        result = affine(x, self.features, self.weights, bias=self.bias)
        return result if self.activation is None else self.activation(result)


@dataclass(frozen=True, eq=False, repr=False)
class Embedding(Layer):
    """The row of weight [vocabulary, features] that each integer names."""

    vocabulary: int
    features: int
    weights: Initializer = field(default=Normal(1.0))

    def _weight(self, x: Tensor) -> Tensor:
        return x.parameter("weight", (self.vocabulary, self.features), self.weights)

    def forward(self, x: Tensor) -> Tensor:
        if not x.dtype.is_integer:
            raise CompileError(f"the input is {x.type}; it must be integers (i32 or i64).")
        x.trace.limit(x.value, self.vocabulary)
        return gather(self._weight(x), x)

    def logits(self, x: Tensor) -> Tensor:
        """x @ weightᵀ: how much each entry of the vocabulary resembles x, with the same weight."""
        return self.within((x,), lambda: x @ self._weight(x).transpose(1, 0))


@dataclass(frozen=True, eq=False, repr=False)
class Dropout(Layer):
    """Training sets a share `rate` of the elements to zero; without training, x itself."""

    rate: float = 0.5

    def __post_init__(self) -> None:
        require_share(self, "rate", below_one=True)

    def forward(self, x: Tensor) -> Tensor:
        return dropped(x, self.rate)


def dropped(x: Tensor, rate: float) -> Tensor:
    """What Dropout does."""
    if x.trace.step is None or rate == 0:
        return x
    return where(uniform(x, x.shape, x.dtype) >= rate, x / (1 - rate), 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class Flatten(Layer):
    """All axes but the first as one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Reshape(Layer):
    """The axes after the first under another shape; one size may be -1."""

    def __init__(self, *shape: Size) -> None:
        self.shape: tuple[int | Dim, ...] = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)
