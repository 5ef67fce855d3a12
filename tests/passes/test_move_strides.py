"""Strides move back to what produces a value."""

from collections.abc import Callable

import numpy as np
import pytest

from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.passes.convolution.move_strides import move_strides
from bessemer.compiler.passes.simplification.remove_dead import remove_dead
from bessemer.compiler.passes.simplification.simplify import simplify
from tests.pass_runs import Case, changed, lines, widen


def _conv(c: Case, x: Value, outputs: int, kernel: int = 1, stride: int = 1) -> Value:
    rank, pad = x.type.rank - 2, kernel // 2
    channels = x.type.static_shape[-1] if x.type.is_static else 4
    w = c.b.constant(
        np.arange(kernel**rank * channels * outputs, dtype=np.float32).reshape(
            *[kernel] * rank, channels, outputs
        )
        % 5
        - 2
    )
    return c.b.apply(
        "conv", x, w, strides=(stride,) * rank, dilations=(1,) * rank, low=(pad,) * rank,
        high=(pad,) * rank, groups=1,
    )  # fmt: skip


def _bottleneck(c: Case, x: Value) -> list[Value]:
    """The last block of a stage, and the first of the next with a shortcut of its own."""
    y = c.of("relu", _conv(c, c.of("relu", _conv(c, x, 4)), 4, kernel=3))
    bias = widen(c, c.b.constant(np.ones(4, np.float32)), *x.type.shape)
    y = c.of("relu", c.of("add", c.of("add", _conv(c, y, 4), bias), x))
    return [c.of("add", _conv(c, y, 4, stride=2), c.of("relu", _conv(c, y, 4, stride=2)))]


def _transposed(c: Case, x: Value) -> list[Value]:
    y = c.of("transpose", _conv(c, x, 4, kernel=3), permutation=(0, 3, 1, 2))
    y = c.of("concat", c.of("relu", y), c.of("neg", y), axis=1)
    samples, channels, height, width = y.type.shape
    return [
        c.of(
            "slice",
            y,
            starts=(0, 1, 0, 0),
            shape=(samples, channels - 2, (height + 2) // 3, (width + 1) // 2),
            steps=(1, 1, 3, 2),
        )
    ]


def _of_several_steps(c: Case, x: Value) -> list[Value]:
    y = c.of("relu", _conv(c, x, 4, kernel=3))
    return [_conv(c, y, 4, stride=2), _conv(c, c.of("relu", y), 4, stride=4)]


def _output(c: Case, x: Value) -> list[Value]:
    y = _conv(c, x, 4, kernel=3)
    return [y, _conv(c, c.of("relu", y), 4, stride=2)]


def _pixels_elsewhere(c: Case, x: Value) -> list[Value]:
    y = _conv(c, x, 4, kernel=3)
    samples, height, width, channels = y.type.shape
    shape = (samples, height // 2, width // 2, channels)
    return [c.of("slice", y, starts=(0, 1, 0, 0), shape=shape, steps=(1, 2, 2, 1))]


def _pooled(c: Case, x: Value) -> list[Value]:
    window = {"strides": (1, 1), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}
    y = c.of("max_pool", _conv(c, x, 4), kernel=(3, 3), **window)
    pixels = {"strides": (2, 2), "dilations": (1, 1), "low": (0, 0), "high": (0, 0)}
    return [c.of("max_pool", c.of("relu", y), kernel=(1, 1), **pixels)]


def _line(c: Case, x: Value) -> list[Value]:
    x = c.of("reduce_max", x, axes=(2,))
    return [_conv(c, c.of("sigmoid", _conv(c, x, 4, kernel=3, stride=3)), 4, stride=2)]


_CASES: list[tuple[Callable[[Case, Value], list[Value]], list[tuple[int, ...]]]] = [
    (_bottleneck, [(1, 1), (2, 2), (1, 1), (1, 1), (1, 1)]),
    (_transposed, [(3, 2)]),
    (_of_several_steps, [(2, 2), (1, 1), (2, 2)]),
    (_output, [(1, 1), (2, 2)]),
    (_pixels_elsewhere, [(1, 2)]),
    (_pooled, [(1, 1), (2, 2)]),
    (_line, [(6,), (1,)]),
]


@pytest.mark.parametrize("sizes", [(8, 12), (9, 7), (symbol("h"), symbol("w"))])
@pytest.mark.parametrize(("network", "wanted"), _CASES)
def test_only_what_is_read_is_computed(
    network: Callable[[Case, Value], list[Value]],
    wanted: list[tuple[int, ...]],
    sizes: tuple[Size, Size],
    rng: np.random.Generator,
) -> None:
    c = Case()
    x = c.x(2, *sizes, 4)
    x = c.of("pad", x, low=(0, 4, 3, 0), high=(0, 5, 2, 0), mode="constant", value=0)
    before = c.b.finish(network(c, x))
    after = changed(before, [simplify, move_strides, remove_dead], rng, rtol=1e-6)
    windows = [n for n in after.nodes if n.operator.name in ("conv", "max_pool")]
    assert [node.attributes["strides"] for node in windows] == wanted
    for old, new in zip(before.outputs, after.outputs, strict=True):
        assert old.type == new.type


def test_what_others_read_whole_is_sliced(rng: np.random.Generator) -> None:
    c = Case()
    graph = c.b.finish(_bottleneck(c, c.x(1, 7, 8, 4)))
    after = changed(graph, [move_strides, remove_dead], rng, rtol=1e-6)
    (line,) = [line for line in lines(after) if " slice(" in f" {line.split('= ')[-1]}"]
    assert "slice(%0" in line and "steps=(1, 2, 2, 1)" in line
    assert any("broadcast_to" in line and "(1, 4, 4, 4)" in line for line in lines(after))


def test_nothing_is_sliced_without_a_gain(rng: np.random.Generator) -> None:
    c = Case()
    graph = c.b.finish([_conv(c, c.of("relu", c.x(1, 7, 8, 4)), 4, stride=2)])
    assert changed(graph, [move_strides], rng) is graph


def test_what_nobody_reads_keeps_nothing(rng: np.random.Generator) -> None:
    c = Case()
    y = _conv(c, c.x(1, 7, 8, 4), 4, kernel=3)
    c.of("transpose", y, permutation=(0, 3, 1, 2))
    after = changed(c.b.finish([_conv(c, y, 4, stride=2)]), [move_strides], rng, rtol=1e-6)
    assert [node.attributes["strides"] for node in after.nodes] == [(2, 2), (1, 1)]
