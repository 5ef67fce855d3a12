"""Losses: from a network's outputs and what they should be to one number, the mean over a batch.

Every function takes tensors of one network, the prediction first. Classes are i64 labels. `weight`s
and reductions other than the mean are plain arithmetic on tensors: write them out.
"""

from __future__ import annotations

import math

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ops.composite import composite_ctc
from bessemer.frontends.builder.activations import log_softmax, softplus
from bessemer.frontends.builder.functions import equal, log, maximum, one_hot, where
from bessemer.frontends.builder.tensor import Tensor
from bessemer.frontends.given_sizes import is_number


def _check_same(name: str, prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise CompileError(
            f"{name} compares tensors of one shape, not {prediction.type} and {target.type}."
        )


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean of squared distances."""
    _check_same("mean_squared_error", prediction, target)
    distance = prediction - target
    return (distance * distance).mean()


def mean_absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean of distances."""
    _check_same("mean_absolute_error", prediction, target)
    return abs(prediction - target).mean()


def huber(prediction: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """Half the squared distance up to `delta`, from there on a straight line."""
    _check_same("huber", prediction, target)
    distance = abs(prediction - target)
    near = distance * distance * 0.5
    return where(distance <= delta, near, (distance - 0.5 * delta) * delta).mean()


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Of probabilities sigmoid(logits) against targets in [0, 1], stable for any logit."""
    _check_same("binary_cross_entropy", logits, target)
    return (softplus(logits) - logits * target).mean()


def binary_cross_entropy_of_probabilities(prediction: Tensor, target: Tensor) -> Tensor:
    """As binary_cross_entropy, of probabilities; logarithms are kept above -100."""
    _check_same("binary_cross_entropy_of_probabilities", prediction, target)
    yes, no = _bounded_log(prediction), _bounded_log(1.0 - prediction)
    return -(target * yes + (1.0 - target) * no).mean()


def _bounded_log(share: Tensor) -> Tensor:
    """Its logarithm, or -100. A sigmoid that has come to 0 or 1 has no slope to multiply: that of
    the logarithm is kept finite there, or the gradient would be no number."""
    none = equal(share, 0.0)
    return maximum(where(none, -100.0, log(where(none, 1.0, share))), -100.0)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Of softmax(logits) over the last axis against labels, or against probabilities.

    Labels are integers, one axis less; of one that names no class the loss is NaN. `smoothing` is
    the share of every target that all classes get alike (Szegedy et al., "Rethinking the Inception
    Architecture", 2016).
    """
    classes = logits.shape[-1]
    if labels.dtype.is_float:
        _check_same("cross_entropy", logits, labels)
        return -(log_softmax(logits) * _smoothed(labels, smoothing)).sum(-1).mean()
    if labels.shape != logits.shape[:-1]:
        raise CompileError(
            f"cross_entropy of logits {logits.type} wants labels of shape "
            f"{list(logits.shape[:-1])}, not {labels.type}."
        )
    if isinstance(classes, int):
        labels.trace.limit(labels.value, classes)
    labels = labels.cast("i64")
    target = one_hot(labels, classes, logits.dtype)
    if smoothing:
        parts = log_softmax(logits) * _smoothed(target, smoothing)
    else:
        # Not a product: a class that is ruled out, by a logit of minus infinity, is no one's label.
        parts = where(target > 0.0, log_softmax(logits), 0.0)
    # One byte of a class too many would otherwise learn nothing, in silence.
    return where((labels >= 0) & (labels < classes), -parts.sum(-1), math.nan).mean()


def _smoothed(target: Tensor, smoothing: float) -> Tensor:
    if not smoothing:
        return target
    if not is_number(smoothing) or not 0 <= smoothing <= 1:
        raise CompileError(f"Label smoothing is a share from 0 to 1, not {smoothing!r}.")
    classes = target.shape[-1]
    if not isinstance(classes, int):
        raise CompileError("Label smoothing wants a known number of classes.")
    return target * (1.0 - smoothing) + smoothing / classes


def kl_divergence(log_prediction: Tensor, target: Tensor) -> Tensor:
    """sum(target * (log target - log_prediction)) over all but the batch, the mean over that."""
    _check_same("kl_divergence", log_prediction, target)
    positive = target > 0.0
    entropy = target * log(where(positive, target, 1.0))
    total = where(positive, entropy - target * log_prediction, 0.0)
    return total.reshape(total.shape[0], -1).sum(-1).mean()


def hinge(scores: Tensor, target: Tensor) -> Tensor:
    """max(0, 1 - target * score), for targets of 1 and -1."""
    _check_same("hinge", scores, target)
    return maximum(1.0 - target * scores, 0.0).mean()


def discriminator_loss(real: Tensor, fake: Tensor, *others: Tensor) -> Tensor:
    """What a GAN's discriminator makes small: logits above 0 for what is real, else below."""
    return (softplus(-real) + softplus(fake)).mean()


def generator_loss(real: Tensor, fake: Tensor, *others: Tensor) -> Tensor:
    """What a GAN's generator makes small, in the form that does not saturate."""
    return softplus(-fake).mean()


ADVERSARIAL = {"discriminator.*": discriminator_loss, "generator.*": generator_loss}
"""The losses of a network with a generator and a discriminator, in one step."""


def ctc(logits: Tensor, labels: Tensor, steps: Tensor, lengths: Tensor, blank: int = 0) -> Tensor:
    """Connectionist temporal classification (Graves et al., 2006), each loss over its labels.

    `logits` [batch, time, classes] of softmax; `labels`, integers [batch, longest], from which
    `blank` is left out; `steps` and `lengths`, integers [batch]: how many steps and labels count.
    It is infinite where a sequence has too few steps for its labels.
    """
    batch = logits.shape[:1]
    if logits.rank != 3 or labels.rank != 2 or not labels.shape[:1] == steps.shape == batch:
        raise CompileError(
            f"ctc wants logits [batch, time, classes], labels [batch, longest], and steps and "
            f"lengths [batch], not {logits.type}, {labels.type}, {steps.type} and {lengths.type}."
        )
    if lengths.shape != batch or any(t.dtype.is_float for t in (labels, steps, lengths)):
        raise CompileError(
            f"ctc wants integers as labels, and lengths [batch], not {lengths.type}."
        )
    scores = log_softmax(logits).value
    found = logits.with_value(
        composite_ctc.ctc(logits.builder, scores, labels.value, steps.value, lengths.value, blank)
    )
    counts = maximum(lengths.cast(logits.dtype), 1.0)
    return (found / counts).mean()
