"""Resize in all its versions, and Upsample before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import f32, i64
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.equal_sizes import require_elements
from bessemer.frontends.onnx_reader.known import known_ratios
from bessemer.frontends.onnx_reader.registry import rule

_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}


@rule("Upsample")
def read_upsample(context: NodeContext) -> Value:
    x = context.input(0)
    if context.opset >= 9:
        scales = _scales(context, 1)
    elif context.has("scales"):
        scales = list(context.numbers("scales"))
    else:
        scales = [1.0, 1.0, context.number("height_scale"), context.number("width_scale")]
    return _scaled_by_old_rules(context, x, scales)


def _scaled_by_old_rules(context: NodeContext, x: Value, scales: Sequence[float]) -> Value:
    """Before opset 11 positions are index / scale; the nearest is the one before that along axes
    that grow, the one behind it along axes that shrink."""
    nearest = _MODES.get(context.text("mode")) == "nearest"
    growing = [max(scale, 1.0) for scale in scales]
    shrinking = [min(scale, 1.0) for scale in scales]
    steps = [(growing, "floor"), (shrinking, "ceil")] if nearest else [(list(scales), "floor")]
    for step, rounding in steps:
        if any(scale != 1 for scale in step):
            rules: dict[str, object] = {"coordinate": "asymmetric", "nearest": rounding}
            x = _resized(context, x, _scaled(context, x, step), step, rules)
    return x


@rule("Resize")
def read_resize(context: NodeContext) -> Value:
    x = context.input(0)
    if context.opset < 11:
        scales = _scales(context, 1)
        return _scaled_by_old_rules(context, x, scales)
    rank = x.type.rank
    axes = context.integers("axes", range(rank))
    axes = tuple(context.axis(rank, axis, "axes") for axis in axes)
    shape = list(x.type.shape)
    scales = [1.0] * rank
    if _is_given(context, 3):
        scales = []
        wanted = context.sizes(3)
        _check_count(context, wanted, axes, "sizes")
        for axis, size in zip(axes, wanted):
            shape[axis] = size
        require_elements(context.builder, x.type.shape, shape)
        policy = context.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            shape, scales = _keeping_aspect(context, x, axes, shape, policy)
    elif _is_given(context, 2):
        given = _scales(context, 2)
        _check_count(context, given, axes, "scales")
        for axis, scale in zip(axes, given):
            scales[axis] = scale
        shape = _scaled(context, x, scales)
    else:
        context.wrong("neither scales nor sizes are given")
    rules: dict[str, object] = {
        "coordinate": context.text("coordinate_transformation_mode", "half_pixel"),
        "nearest": context.text("nearest_mode", "round_prefer_floor"),
        "cubic_a": context.number("cubic_coeff_a", -0.75),
        "exclude_outside": bool(context.integer("exclude_outside", 0)),
        "antialias": bool(context.integer("antialias", 0)),
        "extrapolation": context.number("extrapolation_value", 0.0),
    }
    if rules["coordinate"] == "tf_crop_and_resize":
        rules["roi"] = _region(context, rank, axes)
    return _resized(context, x, shape, scales, rules)


def _check_count(
    context: NodeContext, given: Sequence[object], axes: Sequence[int], what: str
) -> None:
    if len(given) != len(axes):
        context.wrong(f"{len(given)} {what} for {len(axes)} axes")


def _is_given(context: NodeContext, position: int) -> bool:
    value = context.optional(position)
    return value is not None and value.type.numel != 0


def _scales(context: NodeContext, position: int) -> list[float]:
    array = context.array(position)
    if array is not None:
        scales = [float(scale) for scale in array.reshape(-1)]
    else:
        ratios = known_ratios(context.builder, context.input(position))
        if ratios is None:
            context.unsupported("scales that are known only when the model runs")
        scales = [float(ratio) for ratio in ratios]
    if any(not math.isfinite(scale) or scale <= 0 for scale in scales):
        context.wrong(f"the scales are {scales}")
    return scales


def _scaled(context: NodeContext, x: Value, scales: Sequence[float]) -> list[Size]:
    if len(scales) != x.type.rank:
        context.wrong(f"{len(scales)} scales for {x.type}")
    return [_scaled_size(context, size, scale) for size, scale in zip(x.type.shape, scales)]


def _scaled_size(context: NodeContext, size: Size, scale: float) -> Size:
    """floor(size * scale), in float32 as onnxruntime has it."""
    if scale == 1:
        return size
    if isinstance(size, int):
        return math.floor(np.float32(size) * np.float32(scale))
    exact = Fraction(scale)
    if exact.denominator <= 1024:
        return dims.floordiv(size * exact.numerator, exact.denominator)
    number = context.cast(context.builder.scalar_size(size), f32)
    product = context.apply("mul", number, context.like(number, scale))
    whole = context.cast(context.apply("floor", product), i64)
    return context.builder.bind(whole, context.symbol_prefix())[0]


def _keeping_aspect(
    context: NodeContext, x: Value, axes: Sequence[int], shape: list[Size], policy: str
) -> tuple[list[Size], list[float]]:
    """One scale for all axes: the smallest or the largest that the sizes ask for."""
    ratios: list[Fraction] = []
    for axis in axes:
        own, wanted = x.type.shape[axis], shape[axis]
        if not isinstance(own, int) or not isinstance(wanted, int) or own == 0:
            context.unsupported(f"keep_aspect_ratio_policy = {policy} on sizes not known")
        ratios.append(Fraction(wanted, own))
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    scales = [1.0] * x.type.rank
    for axis in axes:
        own = x.type.static_shape[axis] if isinstance(x.type.shape[axis], int) else 0
        shape[axis] = math.floor(own * scale + Fraction(1, 2))
        scales[axis] = float(scale)
    return shape, scales


def _region(context: NodeContext, rank: int, axes: Sequence[int]) -> tuple[float, ...]:
    """The starts of all axes, then the ends."""
    given = [float(bound) for bound in context.constant_array(1, "roi").reshape(-1)]
    if len(given) != 2 * len(axes):
        context.wrong(f"roi has {len(given)} numbers for {len(axes)} axes")
    region = [0.0] * rank + [1.0] * rank
    for position, axis in enumerate(axes):
        region[axis] = given[position]
        region[rank + axis] = given[position + len(axes)]
    return tuple(region)


def _resized(
    context: NodeContext,
    x: Value,
    shape: Sequence[Size],
    scales: Sequence[float],
    rules: dict[str, object],
) -> Value:
    """Resizes images with channels last, as convolutions want them; other tensors as they are."""
    mode = _MODES.get(context.text("mode"))
    if mode is None:
        context.wrong(f"mode is {context.text('mode')!r}")
    rank = x.type.rank
    is_image = rank >= 3 and tuple(shape[:2]) == x.type.shape[:2]
    order = (0, *range(2, rank), 1) if is_image else tuple(range(rank))
    roi = rules.get("roi", ())
    assert isinstance(roi, tuple)
    if roi:
        halves = (roi[:rank], roi[rank:])
        rules = {**rules, "roi": tuple(half[axis] for half in halves for axis in order)}
    result = context.apply(
        "resize",
        context.transpose(x, order),
        shape=tuple(shape[axis] for axis in order),
        scales=tuple(scales[axis] for axis in order) if scales else (),
        mode=mode,
        **rules,
    )
    back = tuple(int(axis) for axis in np.argsort(order))
    return context.transpose(result, back)
