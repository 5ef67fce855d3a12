"""The adjoints of pooling: every output position hands its cotangent back to what its window saw.

max_pool_gradient gives it to the first of the largest elements, average_pool_gradient to all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import numpy as np

from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.differential import Cotangents, Differential
from bessemer.compiler.ir.dims import Size, maximum
from bessemer.compiler.ir.expr import Buffer, Expression, constant, convert, index_value, select
from bessemer.compiler.ir.op import OPS, Example, Operator, register
from bessemer.compiler.ir.types import FLOATS, Array, TensorType, f64
from bessemer.compiler.ops.check import listed, require, require_dtype
from bessemer.compiler.ops.example_arrays import ramp
from bessemer.compiler.ops.pooling.gradients_pool import max_pool_gradient_gradient
from bessemer.compiler.ops.pooling.pool import counted_taps, has_few_taps
from bessemer.compiler.ops.precise import rounded_once
from bessemer.compiler.ops.window import Window, tap_views, window_of

_Visit: TypeAlias = Callable[[tuple[Size, ...], Expression | None], None]
"""Writes what is done for a tap; given are its input position and whether that is inside, or None:
surely."""


def _require_window(name: str, window: Window, x: TensorType, dy: TensorType) -> None:
    require_dtype(name, x, FLOATS)
    window.check(name, x)
    wanted = x.with_shape((x.shape[0], *window.positions(name, x), x.shape[-1]))
    require(dy == wanted, f"{name} of {x} wants a cotangent {wanted}, not {dy}.")


def _is_tiled(window: Window, spatial: Sequence[Size]) -> bool:
    """Whether every position is in exactly one window."""
    return all(
        isinstance(size, int) and isinstance(taps, int) and taps == stride and size % taps == 0
        for size, taps, stride in zip(spatial, window.kernel, window.strides, strict=True)
    ) and not (any(window.low) or any(window.high) or any(d != 1 for d in window.dilations))


@contextmanager
def _each_position(
    builder: KernelBuilder, dx: Buffer, dy: Buffer, clear: bool = True
) -> Iterator[tuple[Size, tuple[Size, ...], Size]]:
    """Zeros in dx, if asked for, then loops over dy: sample (parallel), position, and channel
    (vector)."""
    with builder.loop(dx.shape[0], "parallel") as sample:
        if clear:
            with ExitStack() as nest:
                place = [nest.enter_context(builder.loop(size)) for size in dx.shape[1:-1]]
                channel = nest.enter_context(builder.loop(dx.shape[-1], "vector", lanes=0))
                builder.store(dx, (sample, *place, channel), 0)
        with ExitStack() as nest:
            output = tuple(nest.enter_context(builder.loop(size)) for size in dy.shape[1:-1])
            channel = nest.enter_context(builder.loop(dx.shape[-1], "vector", lanes=0))
            yield sample, output, channel


def _each_tap(
    builder: KernelBuilder,
    window: Window,
    output: Sequence[Size],
    spatial: Sequence[Size],
    visit: _Visit,
) -> None:
    """Visits the taps in order: each is code of its own, or, if there are many, a turn of loops."""

    def visit_tap(tap: Sequence[Size]) -> None:
        place = window.source(output, tap)
        inside = window.is_inside(place, spatial)
        always = isinstance(inside, expr.Constant) and bool(inside.value)
        visit(place, None if always else inside)

    if has_few_taps(window.kernel):
        sizes = [size for size in window.kernel if isinstance(size, int)]
        for tap in itertools.product(*map(range, sizes)):
            visit_tap(tap)
        return
    with ExitStack() as nest:
        visit_tap([nest.enter_context(builder.loop(size)) for size in window.kernel])


# max_pool_gradient


def _max_infer(
    x: TensorType, y: TensorType, dy: TensorType, *, kernel: tuple[Size, ...],
    strides: tuple[int, ...], dilations: tuple[int, ...], low: tuple[Size, ...],
    high: tuple[Size, ...],
) -> TensorType:  # fmt: skip
    """(x, max_pool(x), its cotangent) -> x's cotangent."""
    require(y == dy, f"max_pool_gradient wants one type of y and dy: {listed((y, dy))}")
    _require_window("max_pool_gradient", window_of(kernel, strides, dilations, low, high), x, dy)
    return x


def _scatter(x: Array, window: Window, parts: Callable[[Array], Array]) -> Array:
    """Adds `parts(places)` to the elements of x's shape whose numbers `places` are; -1 is a pad."""
    numbers = np.arange(1, x.size + 1, dtype=np.int64).reshape(x.shape)
    seen = np.stack([view for _, view in tap_views(numbers, window, 0)]) - 1
    total = np.zeros(x.size + 1, np.float64)
    np.add.at(total, seen, parts(seen))
    return total[:-1].reshape(x.shape).astype(x.dtype)


def _max_reference(
    x: Array, y: Array, dy: Array, *, kernel: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...],
) -> Array:  # fmt: skip
    def first_largest(seen: Array) -> Array:
        values = np.append(x.reshape(-1).astype(np.float64), np.nan)[seen]
        is_hit = values == y
        first = is_hit & (np.cumsum(is_hit, axis=0) == 1)
        return np.where(first, dy.astype(np.float64), 0.0)

    return _scatter(x, window_of(kernel, strides, dilations, low, high), first_largest)


def _max_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], *,
    kernel: tuple[Size, ...], strides: tuple[int, ...], dilations: tuple[int, ...],
    low: tuple[Size, ...], high: tuple[Size, ...],
) -> None:  # fmt: skip
    x, y, dy = inputs
    (dx,) = outputs
    window = window_of(kernel, strides, dilations, low, high)
    is_tiled = _is_tiled(window, x.shape[1:-1])
    with _each_position(builder, dx, dy, clear=not is_tiled) as (sample, output, channel):
        largest = builder.define(y[(sample, *output, channel)], "largest").value
        left = builder.define(dy[(sample, *output, channel)], "left")
        zero = constant(0, x.dtype)

        def visit(place: tuple[Size, ...], inside: Expression | None) -> None:
            at = (sample, *place, channel)
            is_hit = expr.binary("eq", expr.load(x, at, inside), largest)
            is_hit = is_hit if inside is None else inside & is_hit
            given = builder.define(select(is_hit, left.value, zero), "given").value
            if not is_tiled:
                given = expr.load(dx, at, inside) + given
            builder.store(dx, at, given, inside)
            left.set(select(is_hit, zero, left.value))

        _each_tap(builder, window, output, x.shape[1:-1], visit)


def _case(
    window: tuple[int, ...], stride: int, low: int, high: int, x: Array, dilation: int = 1,
    **more: Any,
) -> Example:  # fmt: skip
    """x and the right kind of cotangent; the largest are unique but for what clip made equal."""
    count = len(window)
    attributes: dict[str, Any] = {
        "kernel": window,
        "strides": (stride,) * count,
        "dilations": (dilation,) * count,
        "low": (low,) * count,
        "high": (high,) * count,
    }
    pool = "average_pool" if more else "max_pool"
    y = OPS[pool].compute([x], attributes | more)[0]
    dy = np.linspace(-1, 2, y.size).reshape(y.shape).astype(x.dtype)
    if not more:
        return Example((x, y, dy), attributes, 1e-5)
    return Example((dy,), {**attributes, **more, "spatial": x.shape[1:-1]}, 1e-5)


def _examples(**more: Any) -> tuple[Example, ...]:
    def image(*shape: int) -> Array:
        numbers = np.random.default_rng(sum(shape)).standard_normal(shape)
        return numbers.astype(np.float32)

    equal = np.maximum(image(1, 6, 6, 3), 0)
    return (
        _case((2, 2), 2, 0, 0, image(2, 6, 8, 3), **more),
        _case((3, 3), 2, 1, 1, image(1, 7, 9, 17), **more),
        _case((3, 2), 1, 1, 0, equal, **more),
        _case((2,), 3, 0, 1, image(2, 9, 2), **more),
        _case((2, 2), 1, 0, 0, image(1, 7, 7, 2), 2, **more),
        _case((2, 2, 2), 2, 0, 0, image(1, 4, 4, 4, 2), **more),
        _case((9, 8), 2, 3, 4, equal, **more),
        _case((2, 2), 2, 0, 0, ramp((1, 4, 6, 5), f64), **more),
    )


register(
    Operator(
        "max_pool_gradient",
        _max_infer,
        _max_reference,
        statements=_max_statements,
        gradient=max_pool_gradient_gradient,
        examples=_examples(),
    )
)


# average_pool_gradient


def _average_infer(
    dy: TensorType, *, spatial: tuple[Size, ...], kernel: tuple[Size, ...],
    strides: tuple[int, ...], dilations: tuple[int, ...], low: tuple[Size, ...],
    high: tuple[Size, ...], count_include_pad: bool, uncounted: tuple[Size, ...] = (),
) -> TensorType:  # fmt: skip
    """The cotangent of average_pool's output -> that of its input, whose size is `spatial`."""
    x = dy.with_shape((dy.shape[0], *spatial, dy.shape[-1]))
    window = window_of(kernel, strides, dilations, low, high)
    _require_window("average_pool_gradient", window, x, dy)
    return x


@rounded_once
def _average_reference(
    dy: Array, *, spatial: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...],
    count_include_pad: bool, uncounted: tuple[int, ...] = (),
) -> Array:  # fmt: skip
    """Of a linear function of ones: a tap hands on what the average of a single one would be."""
    x = np.zeros((dy.shape[0], *spatial, dy.shape[-1]), np.float64)
    window = window_of(kernel, strides, dilations, low, high)
    spread = np.zeros_like(dy, np.float64)
    given = {
        "kernel": kernel, "strides": strides, "dilations": dilations, "low": low, "high": high,
        "count_include_pad": count_include_pad, "uncounted": uncounted,
    }  # fmt: skip
    inside = sum(seen for _, seen in tap_views(np.ones_like(x), window, 0))
    average = OPS["average_pool"].compute([np.ones_like(x)], given)[0]
    # The average of ones is the number of taps inside over the divisor.
    np.divide(dy * average, inside, out=spread, where=inside > 0)
    return _scatter(x, window, lambda seen: np.broadcast_to(spread, seen.shape))


def _average_statements(
    builder: KernelBuilder, inputs: list[Buffer], outputs: list[Buffer], *,
    spatial: tuple[Size, ...], kernel: tuple[Size, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], low: tuple[Size, ...], high: tuple[Size, ...],
    count_include_pad: bool, uncounted: tuple[Size, ...] = (),
) -> None:  # fmt: skip
    (dy,) = inputs
    (dx,) = outputs
    window = window_of(kernel, strides, dilations, low, high)
    with _each_position(builder, dx, dy) as (sample, output, channel):
        count = counted_taps(window, output, spatial, count_include_pad, uncounted)
        divisor = convert(index_value(maximum(count, 1)), dx.dtype)
        share = builder.define(dy[(sample, *output, channel)] / divisor, "share").value

        def visit(place: tuple[Size, ...], inside: Expression | None) -> None:
            at = (sample, *place, channel)
            builder.store(dx, at, expr.load(dx, at, inside) + share, inside)

        _each_tap(builder, window, output, spatial, visit)


def _average_gradient(d: Differential) -> Cotangents:
    """The adjoint of the adjoint."""
    given = {name: value for name, value in d.attributes.items() if name != "spatial"}
    return (d.apply("average_pool", d.dy, **given),)


register(
    Operator(
        "average_pool_gradient",
        _average_infer,
        _average_reference,
        statements=_average_statements,
        gradient=_average_gradient,
        examples=(
            *_examples(count_include_pad=False),
            *_examples(count_include_pad=True),
        ),
    )
)
