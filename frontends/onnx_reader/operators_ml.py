"""Linear models and preparations of features of ai.onnx.ml."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f32
from bessemer.compiler.ops.composite import binary
from bessemer.compiler.ops.composite_reduce import l1_norm, l2_norm, reduce
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators_move import concatenated
from bessemer.frontends.onnx_reader.operators_trees import class_labels, post_transformed
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "ai.onnx.ml"


def _float_input(context: NodeContext) -> Value:
    x = context.cast(context.input(0), f32)
    return context.reshape(x, (1, *x.type.shape)) if x.type.rank == 1 else x


def _vector(context: NodeContext, name: str) -> Value:
    return context.builder.constant(np.array(context.numbers(name), dtype=np.float32))


@rule("Scaler", domain=_DOMAIN)
def read_scaler(context: NodeContext) -> Value:
    x = context.cast(context.input(0), f32)
    if context.has("offset"):
        x = context.elementwise("sub", x, _vector(context, "offset"))
    return context.elementwise("mul", x, _vector(context, "scale")) if context.has("scale") else x


@rule("Binarizer", domain=_DOMAIN)
def read_binarizer(context: NodeContext) -> Value:
    x = context.input(0)
    above = binary(context.builder, "gt", x, context.number("threshold", 0.0))
    return context.cast(above, x.type.dtype)


@rule("Normalizer", domain=_DOMAIN)
def read_normalizer(context: NodeContext) -> Value:
    b = context.builder
    x = context.cast(context.input(0), f32)
    axes = (x.type.rank - 1,)
    match context.text("norm", "MAX"):
        case "L1":
            norm = l1_norm(b, x, axes, True)
        case "L2":
            norm = l2_norm(b, x, axes, True)
        case _:
            norm = reduce(b, "max", x, axes, True)
    safe = context.apply("select", binary(b, "eq", norm, 0.0), context.like(norm, 1.0), norm)
    return context.elementwise("div", x, safe)


def _linear(context: NodeContext, rows: int) -> Value:
    """x times the transposed coefficients [rows, features], plus the intercepts."""
    x = _float_input(context)
    numbers = np.array(context.numbers("coefficients"), dtype=np.float32)
    if rows < 1 or numbers.size % rows:
        context.wrong(f"{numbers.size} coefficients for {rows} rows")
    weights = context.builder.constant(np.ascontiguousarray(numbers.reshape(rows, -1).T))
    result = context.apply("matmul", x, weights)
    if not context.numbers("intercepts", ()):
        return result
    return context.elementwise("add", result, _vector(context, "intercepts"))


@rule("LinearRegressor", domain=_DOMAIN)
def read_linear_regressor(context: NodeContext) -> Value:
    total = _linear(context, context.integer("targets", 1))
    return post_transformed(context, total, context.text("post_transform", "NONE"))


@rule("LinearClassifier", domain=_DOMAIN)
def read_linear_classifier(context: NodeContext) -> list[Item]:
    labels = context.integers("classlabels_ints", ())
    count = len(labels) or len(context.texts("classlabels_strings", ()))
    rows = len(context.numbers("intercepts", ())) or count
    scores = _linear(context, rows)
    if rows == 1 and count == 2:
        scores = context.apply("concat", context.apply("neg", scores), scores, axis=1)
    label = context.apply("arg_max", scores, axis=1, last=False)
    transform = context.text("post_transform", "NONE")
    return [class_labels(context, label, labels), post_transformed(context, scores, transform)]


@rule("OneHotEncoder", domain=_DOMAIN)
def read_one_hot_encoder(context: NodeContext) -> Value:
    x = context.input(0)
    if context.has("cats_strings"):
        context.unsupported("cats_strings: strings are not supported")
    categories = np.array(context.integers("cats_int64s"), dtype=np.int64)
    table = context.builder.constant(categories.astype(x.type.dtype.numpy))
    column = context.reshape(x, (*x.type.shape, 1))
    return context.cast(context.elementwise("eq", column, table), f32)


@rule("FeatureVectorizer", domain=_DOMAIN)
def read_feature_vectorizer(context: NodeContext) -> Value:
    parts = [context.cast(value, f32) for value in context.tensors()]
    rows = [context.reshape(p, (1, *p.type.shape)) if p.type.rank == 1 else p for p in parts]
    return concatenated(context, rows, 1)
