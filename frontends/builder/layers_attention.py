"""Attention and the transformer's blocks (Vaswani et al., 2017), over [batch, time, features]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import boolean
from bessemer.frontends.builder.activations import gelu, softmax
from bessemer.frontends.builder.functions import arange, where
from bessemer.frontends.builder.initializers import Initializer, Normal, Xavier
from bessemer.frontends.builder.layer import Layer
from bessemer.frontends.builder.layers_dense import Dense, Dropout, affine
from bessemer.frontends.builder.layers_normalization import LayerNorm
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.settings import require_counts


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """softmax(query @ keyᵀ / √width) @ value over [..., time, width].

    `causal`: a step sees itself and earlier steps only. `mask` broadcasts to the scores: bool, true
    where there is something to see, or numbers that are added. A step that sees nothing has no
    result (NaN).
    """
    width = query.shape[-1]
    if not isinstance(width, int):
        raise CompileError(f"the queries are {query.type}: their last axis must be known.")
    scores = (query * (1 / math.sqrt(width))) @ key.swap(-1, -2)
    if causal:
        rows, columns = scores.shape[-2:]
        # With more keys than queries, the last query sees all keys.
        last = arange(query, rows).reshape(rows, 1) + _size(query, columns, rows)
        scores = where(arange(query, columns) <= last, scores, -math.inf)
    if mask is not None and mask.dtype is boolean:
        scores = where(mask, scores, -math.inf)
    elif mask is not None:
        scores = scores + mask
    return softmax(scores) @ value


def _size(like: Tensor, columns: object, rows: object) -> Tensor | int:
    """columns - rows, as a number or as a tensor with a symbol in it."""
    difference = columns - rows  # type: ignore[operator]
    if isinstance(difference, int):
        return difference
    return like.with_value(like.builder.scalar_size(difference))


@dataclass(frozen=True, eq=False, repr=False)
class MultiHeadAttention(Layer):
    """Attention in `heads` parts of the features, between projections.

    Parameters query, key, value and output, each with weight [inputs, features] and bias.
    `features` is the width inside, that of the input if missing.
    """

    heads: int
    features: int | None = None
    causal: bool = False
    bias: bool = True
    weights: Initializer = field(default=Xavier())

    def __post_init__(self) -> None:
        require_counts(self, 1, "heads", "features")

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Every step of x attends to the steps of `context`, or of x itself."""
        if x.rank != 3:
            raise CompileError(f"the input is {x.type}; it must be [batch, time, features].")
        width = x.shape[-1]
        inside = width if self.features is None else self.features
        if not isinstance(inside, int) or not isinstance(width, int) or inside % self.heads:
            raise CompileError(f"{self.heads} heads cannot share {inside} features.")
        seen = x if context is None else context
        query = self._projected(x, "query", inside)
        key = self._projected(seen, "key", inside)
        value = self._projected(seen, "value", inside)
        found = attend(query, key, value, causal=self.causal, mask=mask)
        joined = found.transpose(0, 2, 1, 3).reshape(*x.shape[:2], inside)
        return affine(joined, width, self.weights, bias=self.bias, prefix="output.")

    def _projected(self, x: Tensor, name: str, inside: int) -> Tensor:
        """[batch, heads, time, width of a head]."""
        whole = affine(x, inside, self.weights, bias=self.bias, prefix=f"{name}.")
        parts = whole.reshape(*x.shape[:2], self.heads, inside // self.heads)
        return parts.transpose(0, 2, 1, 3)


class FeedForward(Layer):
    """Dense, activation, dense: the part of a transformer that looks at one step alone."""

    def __init__(
        self,
        hidden: int,
        features: int,
        activation: Callable[[Tensor], Tensor] = gelu,
        weights: Initializer | None = None,
    ) -> None:
        chosen = weights or Xavier()
        self.expand = Dense(hidden, activation, weights=chosen)
        self.contract = Dense(features, weights=chosen)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.expand(x))


class TransformerBlock(Layer):
    """Attention and a feed-forward part, each added to its input.

    `norm_first`: layers see normalized inputs (GPT-2); else their sums are normalized (BERT).
    `hidden` is four times `features` if missing. With `cross=True` there is a second attention, to
    a context: the block of a decoder.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        hidden: int | None = None,
        *,
        causal: bool = False,
        cross: bool = False,
        norm_first: bool = True,
        dropout: float = 0.0,
        activation: Callable[[Tensor], Tensor] = gelu,
        weights: Initializer | None = None,
        epsilon: float = 1e-5,
    ) -> None:
        chosen = weights or Normal(0.02)
        self.norm_first = norm_first
        self.attention = MultiHeadAttention(heads, causal=causal, weights=chosen)
        self.norm_attention = LayerNorm(epsilon=epsilon)
        self.cross = MultiHeadAttention(heads, weights=chosen) if cross else None
        self.norm_cross = LayerNorm(epsilon=epsilon)
        self.feed_forward = FeedForward(hidden or 4 * features, features, activation, chosen)
        self.norm_feed_forward = LayerNorm(epsilon=epsilon)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """`mask` is the first attention's; see `attend`."""
        x = self._added(x, self.norm_attention, lambda y: self.attention(y, mask=mask))
        cross = self.cross
        if cross is not None:
            if context is None:
                raise CompileError("a block with cross attention wants a context.")
            x = self._added(x, self.norm_cross, lambda y: cross(y, context))
        return self._added(x, self.norm_feed_forward, self.feed_forward)

    def _added(self, x: Tensor, norm: LayerNorm, part: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return x + self.dropout(part(norm(x)))
        return norm(x + self.dropout(part(x)))
