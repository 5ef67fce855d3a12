"""Support vector machines of ai.onnx.ml."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import Array, f32
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_reduce import reduce
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import with_size
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.matmul import product
from bessemer.frontends.onnx_reader.operators.ml import float_input
from bessemer.frontends.onnx_reader.operators.trees import class_labels, post_transformed
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "ai.onnx.ml"
_COUPLED = 16
"""At most so many classes are coupled into probabilities: every sweep is written out."""
_SWEEPS = 6
"""Sweeps until probabilities are settled: none of 12,000 random cases needed more than five."""


def _weighed(context: NodeContext, vectors: Array, weights: Array) -> Value:
    """[samples, columns]: how like each sample is to the vectors, weighed by each column."""
    b, x = context.builder, with_size(context.builder, float_input(context), -1, vectors.shape[1])
    if context.text("kernel_type") == "LINEAR":
        # The columns are planes: one vector each, summed up before the terms lose their digits.
        vectors, weights = vectors.astype(np.float64).T, weights.astype(np.float64)
        return context.apply("matmul", x, b.constant((vectors @ weights).astype(np.float32)))
    # Vectors lie class by class, and the weights of two classes cancel: one after the other, a sum
    # of hundreds loses the digits of what is left over. Shuffled, it stays small all the way; in
    # strict turns, each lane of a vector register would still see one class alone.
    order = np.random.default_rng(0).permutation(len(vectors))
    return context.apply("matmul", _kernel(context, x, vectors[order]), b.constant(weights[order]))


def _kernel(context: NodeContext, x: Value, vectors: Array) -> Value:
    """[samples, vectors]: how like each sample is to each support vector."""
    b = context.builder
    gamma, coef0, degree = (*context.numbers("kernel_params", ()), 0.0, 0.0, 0.0)[:3]
    products = context.apply("matmul", x, b.constant(np.ascontiguousarray(vectors.T)))
    kind = context.text("kernel_type")
    if kind == "RBF":
        squares = b.constant(np.square(vectors.astype(np.float64)).sum(1).astype(np.float32))
        own = reduce(b, "sum", b.apply("mul", x, x), (1,), keep=True)
        away = context.elementwise("sub", own, binary(b, "mul", products, 2.0))
        away = context.elementwise("add", away, squares)
        return b.apply("exp", binary(b, "mul", binary(b, "max", away, 0.0), -gamma))
    shifted = binary(b, "add", binary(b, "mul", products, gamma), coef0)
    if kind == "POLY":
        return b.apply("pow", shifted, context.like(shifted, degree))
    if kind == "SIGMOID":
        return b.apply("tanh", shifted)
    context.unsupported(f"kernel_type = {kind}")


def _numbers(context: NodeContext, name: str) -> Array:
    return np.array(context.numbers(name, ()), dtype=np.float32)


@rule("SVMRegressor", domain=_DOMAIN)
def read_svm_regressor(context: NodeContext) -> Value:
    b, weights = context.builder, _numbers(context, "coefficients").reshape(-1, 1)
    count, rho = context.integer("n_supports"), _numbers(context, "rho")
    if count:
        vectors = _numbers(context, "support_vectors").reshape(count, -1)
        total = _weighed(context, vectors, weights)
    else:
        total = product(context, float_input(context), b.constant(weights))
    total = binary(b, "add", total, float(rho[0]) if rho.size else 0.0)
    if context.integer("one_class"):
        inside = binary(b, "gt", total, 0.0)
        total = b.apply("select", inside, context.like(total, 1.0), context.like(total, -1.0))
    return post_transformed(context, total, context.text("post_transform"))


@rule("SVMClassifier", domain=_DOMAIN)
def read_svm_classifier(context: NodeContext) -> list[Item]:
    labels = context.integers("classlabels_ints", ())
    count = len(labels) or len(context.texts("classlabels_strings", ()))
    sizes = context.integers("vectors_per_class", ())
    if not sizes:
        return _linear(context, labels, count)
    scores = _pair_scores(context, sizes)
    label = context.apply("arg_max", _votes(context, scores, count), axis=1, last=False)
    if context.numbers("prob_a", ()):
        scores = _probabilities(context, scores, count)
    elif count == 2:
        # One margin decides; both columns are written, each with its own sign.
        scores = context.apply("concat", context.apply("neg", scores), scores, axis=1)
    transform = context.text("post_transform")
    return [class_labels(context, label, labels), post_transformed(context, scores, transform)]


def _linear(context: NodeContext, labels: tuple[int, ...], count: int) -> list[Item]:
    """Without support vectors the coefficients are the classes' own."""
    rho, planes = _numbers(context, "rho"), _numbers(context, "coefficients").reshape(count, -1)
    scores = _weighed(context, planes, np.eye(count, dtype=np.float32))
    if rho.size:
        scores = binary(context.builder, "add", scores, float(rho[0]))
    label = context.apply("arg_max", scores, axis=1, last=False)
    transform = context.text("post_transform")
    return [class_labels(context, label, labels), post_transformed(context, scores, transform)]


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(one, other) for one in range(count) for other in range(one + 1, count)]


def _pair_scores(context: NodeContext, sizes: tuple[int, ...]) -> Value:
    """[samples, pairs]: which of two classes, for each pair: one product with the kernel."""
    vectors = sum(sizes)
    coefficients = _numbers(context, "coefficients").reshape(-1, vectors)
    ends = np.cumsum((0, *sizes))
    pairs = _pairs(len(sizes))
    weights = np.zeros((vectors, len(pairs)), np.float32)
    for at, (one, other) in enumerate(pairs):
        mine, theirs = slice(ends[one], ends[one + 1]), slice(ends[other], ends[other + 1])
        weights[mine, at] = coefficients[other - 1, mine]
        weights[theirs, at] = coefficients[one, theirs]
    supports = _numbers(context, "support_vectors").reshape(vectors, -1)
    scores = _weighed(context, supports, weights)
    return context.elementwise("add", scores, context.builder.constant(_numbers(context, "rho")))


def _votes(context: NodeContext, scores: Value, count: int) -> Value:
    """[samples, classes]: how many pairs each class has won."""
    won = context.cast(binary(context.builder, "gt", scores, 0.0), f32)
    pairs = _pairs(count)
    weights, rest = np.zeros((len(pairs), count), np.float32), np.zeros(count, np.float32)
    for at, (one, other) in enumerate(pairs):
        weights[at, one], weights[at, other] = 1, -1
        rest[other] += 1
    votes = context.apply("matmul", won, context.builder.constant(weights))
    return context.elementwise("add", votes, context.builder.constant(rest))


def _probabilities(context: NodeContext, scores: Value, count: int) -> Value:
    """Platt's sigmoid of each pair's margin, and from these the classes' probabilities.

    The coupling is that of Wu, Lin and Weng, "Probability Estimates for Multi-class Classification
    by Pairwise Coupling" (2004), algorithm 2, as in libsvm: ended where the error is below
    0.005 / classes, which decides the third digit of the result.
    """
    if count > _COUPLED:
        context.unsupported(f"prob_a with more than {_COUPLED} classes")
    b, pairs = context.builder, _pairs(count)
    slopes, shifts = (b.constant(_numbers(context, name)) for name in ("prob_a", "prob_b"))
    margins = context.elementwise("add", context.elementwise("mul", scores, slopes), shifts)
    won = b.apply(
        "clip", b.apply("sigmoid", b.apply("neg", margins)), minimum=1e-7, maximum=1 - 1e-7
    )
    lost = binary(b, "sub", context.like(won, 1.0), won)
    # One row a class: of class t the chances of every other class against it.
    both = b.apply("concat", won, lost, context.like(_column(context, won, 0), 0.0), axis=1)
    place = np.full((count, count), 2 * len(pairs))
    for at, (one, other) in enumerate(pairs):
        place[other, one], place[one, other] = at, at + len(pairs)
    against = b.apply("gather", both, b.constant(place), axis=1)
    mirrored = b.apply("gather", both, b.constant(np.ascontiguousarray(place.T)), axis=1)
    own = reduce(b, "sum", b.apply("mul", against, against), (2,), keep=True)
    eye = b.constant(np.eye(count, dtype=np.float32))
    between = b.apply("neg", b.apply("mul", against, mirrored))
    matrix = b.apply("add", between, context.elementwise("mul", own, eye))
    return _coupled(context, matrix, count)


def _column(context: NodeContext, x: Value, at: int) -> Value:
    """Column `at` of the last axis, kept as one of size 1."""
    starts = (*(0,) * (x.type.rank - 1), at)
    shape = (*x.type.shape[:-1], 1)
    return context.apply("slice", x, starts=starts, shape=shape, steps=(1,) * x.type.rank)


def _coupled(context: NodeContext, matrix: Value, count: int) -> Value:
    """The p [samples, classes] that minimizes p' matrix p, by sweeps over the classes."""
    b = context.builder
    samples = matrix.type.shape[0]
    rows = [
        context.reshape(
            b.apply("slice", matrix, starts=(0, t, 0), shape=(samples, 1, count), steps=(1, 1, 1)),
            (samples, count),
        )
        for t in range(count)
    ]
    p = context.full(rows[0].type, 1 / count)
    for _ in range(_SWEEPS):
        column = context.reshape(p, (samples, 1, count))
        q = reduce(b, "sum", context.elementwise("mul", matrix, column), (2,))
        total = reduce(b, "sum", b.apply("mul", p, q), (1,), keep=True)
        error = reduce(
            b, "max", b.apply("abs", context.elementwise("sub", q, total)), (1,), keep=True
        )
        better = p
        for t, row in enumerate(rows):
            own, here = _column(context, row, t), _column(context, q, t)
            step = b.apply("div", b.apply("sub", total, here), own)
            scale = binary(b, "add", step, 1.0)
            gain = b.apply("add", b.apply("mul", step, own), binary(b, "mul", here, 2.0))
            total = b.apply("add", total, b.apply("mul", step, gain))
            total = b.apply("div", total, b.apply("mul", scale, scale))
            q = context.elementwise("add", q, context.elementwise("mul", step, row))
            q = context.elementwise("div", q, scale)
            unit = b.constant(np.eye(count, dtype=np.float32)[t])
            better = context.elementwise("add", better, context.elementwise("mul", step, unit))
            better = context.elementwise("div", better, scale)
        settled = binary(b, "lt", error, 0.005 / count)
        p = context.elementwise("select", settled, p, better)
    return p
