"""Metrics: numbers reported for a batch besides its loss. They are functions, as losses are."""

from __future__ import annotations

from bessemer.frontends.builder.functions import arg_max, equal
from bessemer.frontends.builder.tensor import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of labels (integers, one axis less) that have the greatest logit."""
    return equal(arg_max(logits), labels.cast("i64")).cast("f32").mean()


def binary_accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """The share of targets, 0 or 1, on whose side of 0 the logit is."""
    return equal((logits > 0.0).cast("f32"), target.cast("f32")).cast("f32").mean()


def absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean of distances."""
    return abs(prediction - target).mean()
