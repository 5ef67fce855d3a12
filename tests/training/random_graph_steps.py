"""Steps of random graphs: pointwise, moves, reductions and products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite import composite
from tests.training.random_graphs import Pair, Step, Writer

torch = pytest.importorskip("torch")


def _unary(name: str) -> Step:
    functions = {"relu": torch.relu, "neg": torch.neg, "abs": torch.abs, "erf": torch.erf}
    function = functions.get(name) or getattr(torch, name)
    return lambda w, x, t: (w.b.apply(name, x), function(t))


def _bounded(name: str) -> Step:
    """A function that wants numbers around 0, or grows fast."""

    def step(w: Writer, x: Value, t: Any) -> Pair:
        safe = composite.binary(w.b, "mul", w.b.apply("tanh", x), 0.9)
        return w.b.apply(name, safe), getattr(torch, name)(0.9 * t.tanh())

    return step


def _step_like(name: str) -> Step:
    """A function that is flat almost everywhere, as a factor."""

    def step(w: Writer, x: Value, t: Any) -> Pair:
        safe = composite.binary(w.b, "add", w.b.apply("tanh", x), 0.3)
        factor = w.b.apply(name, composite.binary(w.b, "mul", safe, 2.0))
        return w.b.apply("mul", safe, factor), (t.tanh() + 0.3) * getattr(torch, name)(
            2 * (t.tanh() + 0.3)
        )

    return step


def _acosh(w: Writer, x: Value, t: Any) -> Pair:
    safe = composite.binary(w.b, "add", w.b.apply("abs", x), 1.5)
    return w.b.apply("acosh", safe), torch.acosh(t.abs() + 1.5)


def _power(w: Writer, x: Value, t: Any) -> Pair:
    y, u = w.other(x.type.static_shape)
    safe = composite.binary(w.b, "add", w.b.apply("abs", w.b.apply("sin", x)), 0.5)
    return w.b.apply("pow", safe, w.b.apply("tanh", y)), (t.sin().abs() + 0.5) ** u.tanh()


def _remainder(name: str, function: Callable[[Any, Any], Any]) -> Step:
    def step(w: Writer, x: Value, t: Any) -> Pair:
        y, u = w.other(x.type.static_shape)
        safe = composite.binary(w.b, "add", w.b.apply("sigmoid", y), 0.7)
        return w.b.apply(name, x, safe), function(t, u.sigmoid() + 0.7)

    return step


def _clip(w: Writer, x: Value, t: Any) -> Pair:
    return w.b.apply("clip", x, minimum=-0.7, maximum=0.6), t.clamp(-0.7, 0.6)


def _leaky(w: Writer, x: Value, t: Any) -> Pair:
    return w.b.apply("leaky_relu", x, slope=0.1), torch.nn.functional.leaky_relu(t, 0.1)


def _broadcast(w: Writer, x: Value, t: Any) -> Pair:
    columns = x.type.static_shape[1]
    row = w.b.apply("slice", x, starts=(0, 0), shape=(1, columns), steps=(1, 1))
    return composite.broadcast_to(w.b, row, (3, columns)), t[:1].expand(3, -1)


def _padded(ours: str, theirs: str) -> Step:
    def step(w: Writer, x: Value, t: Any) -> Pair:
        columns = x.type.static_shape[1]
        before, after = min(2, columns - 1), min(1, columns - 1)
        found = w.b.apply("pad", x, low=(0, before), high=(0, after), mode=ours, value=0)
        padded = torch.nn.functional.pad(t[None], (before, after), mode=theirs)[0]
        return found, padded

    return step


def _product(w: Writer, x: Value, t: Any) -> Pair:
    safe = composite.binary(w.b, "add", w.b.apply("abs", w.b.apply("tanh", x)), 0.5)
    found = w.b.apply("cumulative", safe, axis=0, reduction="mul")
    return found, torch.cumprod(t.tanh().abs() + 0.5, 0)


def _batched(w: Writer, x: Value, t: Any) -> Pair:
    """A batch of products."""
    rows, columns = x.type.static_shape
    y, u = w.constant(rows, columns, 2)
    left = composite.reshape(w.b, w.b.apply("tanh", x), (rows, 1, columns))
    found = w.b.apply("matmul", left, y)
    return composite.reshape(w.b, found, (rows, 2)), (t.tanh()[:, None] @ u)[:, 0]


def _positive(name: str) -> Step:
    """A function that wants positive numbers."""

    def step(w: Writer, x: Value, t: Any) -> Pair:
        safe = composite.binary(w.b, "add", w.b.apply("abs", x), 0.5)
        return w.b.apply(name, safe), getattr(torch, name)(t.abs() + 0.5)

    return step


def _binary(name: str, function: Callable[[Any, Any], Any]) -> Step:
    def step(w: Writer, x: Value, t: Any) -> Pair:
        y, u = w.other(x.type.static_shape)
        # Bounded, so that nothing grows beyond all measure.
        return w.b.apply(name, w.b.apply("tanh", x), y), function(torch.tanh(t), u)

    return step


def _quotient(w: Writer, x: Value, t: Any) -> Pair:
    y, u = w.other(x.type.static_shape)
    safe = composite.binary(w.b, "add", w.b.apply("exp", w.b.apply("sin", y)), 1.0)
    return w.b.apply("div", x, safe), t / (u.sin().exp() + 1)


def _matmul(w: Writer, x: Value, t: Any) -> Pair:
    y, u = w.constant(x.type.static_shape[1], int(w.rng.integers(1, 5)))
    return w.b.apply("matmul", x, y), t @ u


def _gram(w: Writer, x: Value, t: Any) -> Pair:
    s, v = w.b.apply("tanh", x), torch.tanh(t)
    return w.b.apply("matmul", s, composite.transpose(w.b, s, [1, 0])), v @ v.T


def _transpose(w: Writer, x: Value, t: Any) -> Pair:
    return composite.transpose(w.b, x, [1, 0]), t.T


def _reshape(w: Writer, x: Value, t: Any) -> Pair:
    rows, columns = x.type.static_shape
    return composite.reshape(w.b, x, (1, rows * columns)), t.reshape(1, -1)


def _backwards(w: Writer, x: Value, t: Any) -> Pair:
    rows, columns = x.type.static_shape
    found = w.b.apply("slice", x, starts=(rows - 1, 0), shape=(rows, columns), steps=(-1, 1))
    return found, t.flip(0)


def _every_second(w: Writer, x: Value, t: Any) -> Pair:
    rows, columns = x.type.static_shape
    shape = (rows, (columns + 1) // 2)
    return w.b.apply("slice", x, starts=(0, 0), shape=shape, steps=(1, 2)), t[:, ::2]


def _concat(w: Writer, x: Value, t: Any) -> Pair:
    y, u = w.other(x.type.static_shape)
    axis = int(w.rng.integers(2))
    if x.type.static_shape[axis] > 8:
        return y, u
    return w.b.apply("concat", x, y, x, axis=axis), torch.cat([t, u, t], axis)


def _pad(w: Writer, x: Value, t: Any) -> Pair:
    found = w.b.apply("pad", x, low=(0, 1), high=(1, -1), mode="constant", value=2.0)
    return found, torch.nn.functional.pad(t, (1, -1, 0, 1), value=2.0)


def _reduce(name: str, function: Callable[[Any], Any]) -> Step:
    def step(w: Writer, x: Value, t: Any) -> Pair:
        rows = x.type.static_shape[0]
        found = w.b.apply(name, x, axes=(1,))
        spread = composite.broadcast_to(w.b, composite.reshape(w.b, found, (rows, 1)), (rows, 2))
        return spread, function(t).reshape(-1, 1).expand(-1, 2)

    return step


def _gather(w: Writer, x: Value, t: Any) -> Pair:
    places = w.rng.integers(0, x.type.static_shape[0], 3)
    return w.b.apply("gather", x, w.b.constant(places), axis=0), t[torch.tensor(places)]


def _select(w: Writer, x: Value, t: Any) -> Pair:
    y, u = w.other(x.type.static_shape)
    return w.b.apply("select", w.b.apply("gt", x, y), w.b.apply("sin", x), y), torch.where(
        t > u, t.sin(), u
    )


def _running(w: Writer, x: Value, t: Any) -> Pair:
    return w.b.apply("cumulative", x, axis=1, reduction="add"), t.cumsum(1)


def _softmax(w: Writer, x: Value, t: Any) -> Pair:
    shifted = w.b.apply("exp", w.b.apply("tanh", x))
    total = composite.reshape(
        w.b, w.b.apply("reduce_sum", shifted, axes=(1,)), (x.type.static_shape[0], 1)
    )
    return composite.binary(w.b, "div", shifted, total), torch.softmax(torch.tanh(t), 1)


PLAIN_STEPS: list[Step] = [
    *map(_unary, (
        "sin", "cos", "tanh", "sigmoid", "relu", "neg", "abs", "erf", "atan", "asinh",
    )),
    *map(_bounded, ("exp", "expm1", "sinh", "cosh", "asin", "acos", "atanh", "tan")), _acosh,
    *map(_positive, ("sqrt", "log", "rsqrt", "log1p")),
    _binary("add", torch.add), _binary("sub", torch.sub), _binary("mul", torch.mul),
    _binary("max", torch.maximum), _binary("min", torch.minimum),
    *map(_step_like, ("floor", "ceil", "round", "trunc")),
    _power, _remainder("mod", torch.remainder), _remainder("fmod", torch.fmod), _clip, _leaky,
    _broadcast, _padded("edge", "replicate"), _padded("reflect", "reflect"),
    _padded("wrap", "circular"), _product, _batched,
    _reduce("reduce_min", lambda t: t.amin(1)),
    _quotient, _matmul, _gram, _transpose, _reshape, _backwards, _every_second, _concat, _pad,
    _reduce("reduce_sum", lambda t: t.sum(1)), _reduce("reduce_max", lambda t: t.amax(1)),
    _reduce("reduce_prod", lambda t: t.prod(1)), _gather, _select, _running, _softmax,
]  # fmt: skip
