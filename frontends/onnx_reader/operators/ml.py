"""Linear models, preparations of features and of results of ai.onnx.ml."""

from __future__ import annotations

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ops.composite.composite import binary
from bessemer.compiler.ops.composite.composite_reduce import l1_norm, l2_norm, reduce
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.operators.matmul import product
from bessemer.frontends.onnx_reader.operators.move import concatenated, piece
from bessemer.frontends.onnx_reader.operators.trees import class_labels, post_transformed
from bessemer.frontends.onnx_reader.registry import rule

_DOMAIN = "ai.onnx.ml"


def float_input(context: NodeContext) -> Value:
    """The samples, one a row, in float32."""
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
    above = binary(context.builder, "gt", x, context.number("threshold"))
    return context.cast(above, x.type.dtype)


@rule("Normalizer", domain=_DOMAIN)
def read_normalizer(context: NodeContext) -> Value:
    b = context.builder
    x = context.cast(context.input(0), f32)
    axes = (x.type.rank - 1,)
    match context.text("norm"):
        case "L1":
            norm = l1_norm(b, x, axes, keep=True)
        case "L2":
            norm = l2_norm(b, x, axes, keep=True)
        case _:
            norm = reduce(b, "max", x, axes, keep=True)
    safe = context.apply("select", binary(b, "eq", norm, 0.0), context.like(norm, 1.0), norm)
    return context.elementwise("div", x, safe)


def _linear(context: NodeContext, rows: int) -> Value:
    """x times the transposed coefficients [rows, features], plus the intercepts."""
    x = float_input(context)
    numbers = np.array(context.numbers("coefficients"), dtype=np.float32)
    features = x.type.shape[-1]
    if isinstance(features, int) and numbers.size > rows * features:
        # The declared width decides, as in onnxruntime: the coefficients left over are not read.
        numbers = numbers[: rows * features]
    if rows < 1 or numbers.size % rows:
        context.wrong(f"{numbers.size} coefficients for {rows} rows")
    weights = context.builder.constant(np.ascontiguousarray(numbers.reshape(rows, -1).T))
    result = product(context, x, weights)
    if not context.numbers("intercepts", ()):
        return result
    return context.elementwise("add", result, _vector(context, "intercepts"))


@rule("LinearRegressor", domain=_DOMAIN)
def read_linear_regressor(context: NodeContext) -> Value:
    total = _linear(context, context.integer("targets"))
    return post_transformed(context, total, context.text("post_transform"))


@rule("LinearClassifier", domain=_DOMAIN)
def read_linear_classifier(context: NodeContext) -> list[Item]:
    labels = context.integers("classlabels_ints", ())
    count = len(labels) or len(context.texts("classlabels_strings", ()))
    rows = len(context.numbers("intercepts", ())) or count
    scores = _linear(context, rows)
    if rows == 1 and count == 2:
        scores = context.apply("concat", context.apply("neg", scores), scores, axis=1)
    label = context.apply("arg_max", scores, axis=1, last=False)
    transform = context.text("post_transform")
    return [class_labels(context, label, labels), post_transformed(context, scores, transform)]


@rule("FeatureVectorizer", domain=_DOMAIN)
def read_feature_vectorizer(context: NodeContext) -> Value:
    parts = [_features(context, context.cast(value, f32)) for value in context.tensors()]
    widths = context.integers("inputdimensions", ())
    if len(widths) not in (0, len(parts)):
        context.wrong(f"{len(widths)} inputdimensions for {len(parts)} inputs")
    if widths:
        parts = [_resized(context, x, width) for x, width in zip(parts, widths)]
    return concatenated(context, parts, 1)


def _features(context: NodeContext, x: Value) -> Value:
    """One sample a row, as `float_input`; axes behind the first are one."""
    if x.type.rank == 1:
        return context.reshape(x, (1, *x.type.shape))
    return context.reshape(x, (x.type.shape[0], dims.product(x.type.shape[1:])))


def _resized(context: NodeContext, x: Value, width: int) -> Value:
    """The first `width` columns; zeros where there are fewer. A symbolic width is taken to fit."""
    rows, given = x.type.shape
    if not isinstance(given, int) or given == width:
        return x
    if given > width:
        return piece(context, x, 1, 0, width)
    return concatenated(context, [x, context.full(TensorType(f32, (rows, width - given)), 0.0)], 1)


@rule("Imputer", domain=_DOMAIN)
def read_imputer(context: NodeContext) -> Value:
    x = context.input(0)
    kind = "floats" if x.type.dtype.is_float else "int64s"
    filled = np.array(context.attributes.get(f"imputed_value_{kind}", ()), dtype=x.type.dtype.numpy)
    replaced = context.attributes.get("replaced_value_" + kind.removesuffix("s"), 0)
    if replaced != replaced:
        missing = context.apply("ne", x, x)
    else:
        missing = binary(context.builder, "eq", x, replaced)
    return context.elementwise("select", missing, context.builder.constant(filled), x)


@rule("ZipMap", domain=_DOMAIN)
def read_zip_map(context: NodeContext) -> Value:
    """The matrix itself, one column a class: a map from labels to numbers is not for C."""
    return float_input(context)
