"""Steps of random graphs: indices, windows and images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ops.composite import composite
from tests.training.random_graphs import Pair, Step, Writer

torch = pytest.importorskip("torch")


def _gather_elements(w: Writer, x: Value, t: Any) -> Pair:
    rows, columns = x.type.static_shape
    places = w.rng.integers(0, columns, (rows, 3))
    found = w.b.apply("gather_elements", x, w.b.constant(places), axis=1)
    return found, t.gather(1, torch.tensor(places))


def _gather_nd(w: Writer, x: Value, t: Any) -> Pair:
    places = np.stack([w.rng.integers(0, size, (2, 3)) for size in x.type.static_shape], -1)
    found = w.b.apply("gather_nd", x, w.b.constant(places), batch_dims=0)
    return found, t[torch.tensor(places[..., 0]), torch.tensor(places[..., 1])]


def _scatter(reduction: str, theirs: str) -> Step:
    """Of elements, into what is there."""

    def step(w: Writer, x: Value, t: Any) -> Pair:
        rows, columns = x.type.static_shape
        places = w.rng.integers(0, columns, (rows, 3))
        y, u = w.constant(rows, 3)
        y, u = w.b.apply("mul", y, _first_column(w, x, 3)), u * t[:, :1].expand(-1, 3)
        bounded = w.b.apply("tanh", x)
        given = {"axis": 1, "reduction": reduction}
        found = w.b.apply("scatter_elements", bounded, w.b.constant(places), y, **given)
        return found, t.tanh().scatter_reduce(1, torch.tensor(places), u, theirs)

    return step


def _first_column(w: Writer, x: Value, count: int) -> Value:
    rows = x.type.static_shape[0]
    column = w.b.apply("slice", x, starts=(0, 0), shape=(rows, 1), steps=(1, 1))
    return composite.broadcast_to(w.b, column, (rows, count))


def _scatter_rows(w: Writer, x: Value, t: Any) -> Pair:
    rows, columns = x.type.static_shape
    places = w.rng.integers(0, rows, (4, 1))
    y, u = w.constant(4, columns)
    y, u = w.b.apply("mul", y, y), u * u
    found = w.b.apply("scatter_nd", x, w.b.constant(places), y, reduction="add")
    return found, t.index_add(0, torch.tensor(places[:, 0]), u)


def _top(w: Writer, x: Value, t: Any) -> Pair:
    rows, columns = x.type.static_shape
    noise, other = w.constant(rows, columns)
    count = (columns + 1) // 2
    moved = w.b.apply("add", x, noise)
    found, _ = w.b.apply_many("top_k", moved, k=count, axis=1)
    return found, (t + other).topk(count, 1).values


def _image(w: Writer, x: Value) -> Value:
    return composite.reshape(w.b, x, (1, *x.type.static_shape, 1))


def _flat(w: Writer, x: Value) -> Value:
    _, rows, columns, channels = x.type.static_shape
    return composite.reshape(w.b, x, (rows, columns * channels))


def _flat_torch(t: Any) -> Any:
    rows, columns = t.shape[2:]
    return t.permute(0, 2, 3, 1).reshape(rows, columns * t.shape[1])


_SAME = {"strides": (1, 1), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}


def _conv(w: Writer, x: Value, t: Any) -> Pair:
    if x.type.static_shape[1] > 8:
        return x, t
    weight, theirs = w.constant(3, 3, 1, 2)
    image = _image(w, w.b.apply("tanh", x))
    found = w.b.apply("conv", image, weight, **_SAME, groups=1)
    other = torch.nn.functional.conv2d(t.tanh()[None, None], theirs.permute(3, 2, 0, 1), padding=1)
    return _flat(w, found), _flat_torch(other)


def _conv_transpose(w: Writer, x: Value, t: Any) -> Pair:
    if max(x.type.static_shape) > 6:
        return x, t
    weight, theirs = w.constant(2, 2, 1, 1)
    given = {"strides": (2, 2), "dilations": (1, 1), "low": (0, 0), "high": (0, 0)}
    image = _image(w, w.b.apply("tanh", x))
    found = w.b.apply("conv_transpose", image, weight, **given, output_padding=(0, 0), groups=1)
    other = torch.nn.functional.conv_transpose2d(
        t.tanh()[None, None], theirs.permute(2, 3, 0, 1), stride=2
    )
    return _flat(w, found), _flat_torch(other)


def _max_pool(w: Writer, x: Value, t: Any) -> Pair:
    noise, other = w.constant(*x.type.static_shape)
    image = _image(w, w.b.apply("add", x, noise))
    found = w.b.apply("max_pool", image, kernel=(3, 3), **_SAME)
    return _flat(w, found), torch.nn.functional.max_pool2d((t + other)[None, None], 3, 1, 1)[0, 0]


def _average_pool(w: Writer, x: Value, t: Any) -> Pair:
    counts = bool(w.rng.integers(2))
    given = {"kernel": (3, 3), "count_include_pad": counts}
    found = w.b.apply("average_pool", _image(w, x), **_SAME, **given)
    other = torch.nn.functional.avg_pool2d(t[None, None], 3, 1, 1, count_include_pad=counts)
    return _flat(w, found), other[0, 0]


_UPWARDS = {"nearest": "round_prefer_ceil"}
"""As torch rounds halves."""


def _resize(mode: str, theirs: str) -> Step:
    def step(w: Writer, x: Value, t: Any) -> Pair:
        shape = (5, 3)
        found = w.b.apply("resize", _image(w, x), shape=(1, *shape, 1), mode=mode, **_UPWARDS)
        image = torch.nn.functional.interpolate(t[None, None], shape, mode=theirs)
        return _flat(w, found), image[0, 0]

    return step


def _grid_sample(w: Writer, x: Value, t: Any) -> Pair:
    """At places that depend on the image too."""
    rows, columns = x.type.static_shape
    noise, other = w.constant(rows, columns, 2)
    shape = (rows, columns, 2)
    wide = composite.broadcast_to(w.b, composite.reshape(w.b, x, (rows, columns, 1)), shape)
    grid = composite.reshape(w.b, w.b.apply("sin", w.b.apply("add", wide, noise)), (1, *shape))
    mode = ("linear", "cubic")[int(w.rng.integers(2))]
    padding = ("zeros", "border", "reflection")[int(w.rng.integers(3))]
    found = w.b.apply("grid_sample", _image(w, x), grid, mode=mode, padding=padding)
    sampled = torch.nn.functional.grid_sample(
        t[None, None], (t[..., None] + other).sin()[None],
        {"linear": "bilinear", "cubic": "bicubic"}[mode], padding, align_corners=False,
    )  # fmt: skip
    return _flat(w, found), sampled[0, 0]


def _fold(w: Writer, x: Value, t: Any) -> Pair:
    """Rows as overlapping blocks of one image."""
    rows, columns = x.type.static_shape
    if rows * columns > 60:
        return x, t
    blocks = composite.reshape(w.b, x, (1, rows, columns, 1))
    found = w.b.apply(
        "col2im", blocks, image=(rows + columns - 1,), strides=(1,), dilations=(1,), low=(0,)
    )
    # In torch an image of one row.
    size = (1, rows + columns - 1)
    other = torch.nn.functional.fold(t.T[None], size, (1, columns))
    return composite.reshape(w.b, found, size), other[0, 0]


PLACE_STEPS: list[Step] = [
    _gather_elements, _gather_nd, _scatter("add", "sum"), _scatter("mul", "prod"),
    _scatter("max", "amax"), _scatter("min", "amin"), _scatter_rows, _top, _conv, _conv_transpose,
    _max_pool, _average_pool, _resize("linear", "bilinear"), _resize("cubic", "bicubic"),
    _resize("nearest", "nearest-exact"), _grid_sample, _fold,
]  # fmt: skip
