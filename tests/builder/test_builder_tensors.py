"""Tensors of a network being written mean what NumPy's arrays mean."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.frontends.builder import (
    Tensor,
    arange,
    arg_max,
    arg_min,
    concat,
    einsum,
    equal,
    logsumexp,
    maximum,
    one_hot,
    pad,
    split,
    stack,
    top_k,
    where,
)
from tests.network_runs import numbers, run

KEYS: list[Any] = [
    0, -1, slice(1, None), slice(None, -1), slice(None, None, 2), slice(None, None, -1),
    slice(-2, None), slice(3, 1), slice(5, None, -2), slice(-100, 100), None, ...,
    (slice(None), 1), (..., -1), (0, ..., slice(1, 3)), (slice(None), None, slice(None, 2)),
    (slice(None), [2, 0, -1]), (np.array([[1, 0], [1, 1]]),), (1, [0, 0], slice(1, None)),
    (0, 1, 2), (slice(None), slice(4, 0, -1), slice(0, 9, 4)),
]  # fmt: skip


@pytest.mark.parametrize("symbolic", [(), (0, 1, 2)])
@pytest.mark.parametrize("key", KEYS, ids=str)
def test_brackets_are_numpy_s(key: Any, symbolic: tuple[int, ...]) -> None:
    x = numbers(4, 3, 5)
    assert np.array_equal(run(lambda t: t[key], x, symbolic=symbolic), x[key])


def test_an_index_outside_is_an_error() -> None:
    with pytest.raises(CompileError, match="index 4 is outside an axis"):
        run(lambda x: x[4], numbers(4, 3), symbolic=())
    with pytest.raises(CompileError, match=r"3 indices for .* which has 2 axes"):
        run(lambda x: x[0, 0, 0], numbers(4, 3))
    with pytest.raises(CompileError, match="next to each other"):
        run(lambda x: x[1, :, [0, 0]], numbers(4, 3, 5))


X, Y = numbers(4, 3), numbers(4, 3, seed=1)
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Any]]] = {
    "sums": (lambda x, y: 1 + x - y * 2 - (3 - y), lambda x, y: 1 + x - y * 2 - (3 - y)),
    "quotients": (lambda x, y: x / y + 1 / y, lambda x, y: x / y + 1 / y),
    "whole quotients": (lambda x, y: x // y, lambda x, y: np.floor(x / y)),
    "rests": (lambda x, y: x % 0.7, lambda x, y: np.mod(x, np.float32(0.7))),
    "powers": (lambda x, y: x**2 + 2**y + abs(x) ** 1.5, lambda x, y: x**2 + 2**y + abs(x) ** 1.5),
    "arrays": (lambda x, y: np.arange(3) + x * np.ones((1, 3)), lambda x, y: np.arange(3) + x),
    "products": (lambda x, y: x @ y.transpose(), lambda x, y: x @ y.T),
    "products with arrays": (lambda x, y: np.eye(4) @ x @ np.ones(3), lambda x, y: x.sum(1)),
    "comparison": (
        lambda x, y: where((x > y) & ~(x <= 0.1) | (y >= 1) ^ (y < -1), x, 0.0),
        lambda x, y: np.where((x > y) & ~(x <= 0.1) | (y >= 1) ^ (y < -1), x, 0.0),
    ),
    "equality": (
        lambda x, y: equal(maximum(x, y), x).cast("f32"), lambda x, y: (np.maximum(x, y) == x)
    ),
    "reductions": (
        lambda x, y: x.sum(0) + x.mean(0, keep=True) + x.max((0, 1)) - x.min(-2) + x.variance(),
        lambda x, y: x.sum(0) + x.mean(0, keepdims=True) + x.max() - x.min(0) + x.var(),
    ),
    "joins": (
        lambda x, y: concat([stack([x, y], axis=1), x[:, None]], axis=1),
        lambda x, y: np.concatenate([np.stack([x, y], 1), x[:, None]], 1),
    ),
    "splits": (
        lambda x, y: concat([*split(x, [1, 2], axis=1)][::-1], axis=1),
        lambda x, y: np.concatenate([x[:, 1:], x[:, :1]], 1),
    ),
    "shapes": (
        lambda x, y: x.reshape(2, -1).swap(0, 1).flatten(0).broadcast_to(2, 12),
        lambda x, y: np.broadcast_to(x.reshape(2, -1).T.ravel(), (2, 12)),
    ),
    "pads": (
        lambda x, y: pad(x, (0, 1), (2, -1), value=3.0),
        lambda x, y: np.pad(x, ((0, 2), (1, 0)), constant_values=3.0)[:, :-1],
    ),
    "einsum": (
        lambda x, y: einsum("ij,kj->ki", x, y), lambda x, y: np.einsum("ij,kj->ki", x, y)
    ),
    "one_hot": (
        lambda x, y: one_hot((x > 0).cast("i64"), 2), lambda x, y: np.eye(2)[(x > 0).astype(int)]
    ),
    "top_k": (lambda x, y: top_k(x, 2)[0], lambda x, y: -np.sort(-x, axis=1)[:, :2]),
}  # fmt: skip


@pytest.mark.parametrize("symbolic", [(), (0,)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_arithmetic_is_numpy_s(name: str, symbolic: tuple[int, ...]) -> None:
    ours, theirs = FUNCTIONS[name]
    if symbolic and name in ("shapes", "products with arrays"):
        pytest.skip("says sizes itself")
    actual, expected = run(ours, X, Y, symbolic=symbolic), np.asarray(theirs(X, Y))
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_symbol_can_be_computed_with() -> None:
    def forward(x: Tensor) -> Tensor:
        n, m = x.shape
        return x.reshape(n * m // 2, 2)[: n * m // 4]

    x = numbers(4, 6)
    assert np.array_equal(run(forward, x, symbolic=(0, 1)), x.reshape(12, 2)[:6])


def test_a_symbol_is_a_number_among_tensors() -> None:
    def forward(x: Tensor) -> Tensor:
        n = x.shape[0]
        rows = arange(x, n)
        inside = where(rows < n - 1, rows + n, n * rows).cast("f32")
        return inside * (n * x - x / n).sum(1) % n

    x = numbers(4, 6)
    rows = np.arange(4)
    inside = np.where(rows < 3, rows + 4, 4 * rows)
    expected = np.mod(inside * (4 * x - x / 4).sum(1), 4)
    np.testing.assert_allclose(run(forward, x, symbolic=(0,)), expected, rtol=1e-4, atol=1e-4)


def test_what_is_no_number_is_told() -> None:
    with pytest.raises(CompileError, match="None meets f32"):
        run(lambda x: x + None, X)
    with pytest.raises(CompileError, match="'2' meets f32"):
        run(lambda x: x * "2", X)


def test_a_tensor_has_no_truth_and_is_not_looped_over() -> None:
    with pytest.raises(TypeError, match=r"where\(condition"):
        run(lambda x: x if x[0, 0] > 0 else -x, X)
    with pytest.raises(TypeError, match=r"split\(x"):
        run(lambda x: sum(x), X)


def test_tensors_of_two_networks_do_not_mix() -> None:
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    run(keep, X)
    with pytest.raises(CompileError, match="two networks"):
        run(lambda x: x + kept[0], X)


def test_element_types_do_not_mix_silently() -> None:
    with pytest.raises(CompileError, match=r"one element type.*f32\[.*i64\["):
        run(lambda x, y: x + y, X, np.zeros((4, 3), np.int64))
    with pytest.raises(CompileError, match=r"number 0\.5 meets i64"):
        run(lambda x: x * 0.5, np.zeros((4, 3), np.int64))
    with pytest.raises(CompileError, match="'complex' is not an element type"):
        run(lambda x: x.cast("complex"), X)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_of_equals_the_first_is_the_extreme(axis: int) -> None:
    x = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.float32)
    assert np.array_equal(run(lambda t: arg_max(t, axis), x), x.argmax(axis))
    assert np.array_equal(run(lambda t: arg_min(t, axis), x), x.argmin(axis))


@pytest.mark.parametrize("keep", [False, True])
def test_a_logarithm_of_a_sum_does_not_overflow(keep: bool) -> None:
    x = 100 * numbers(3, 7, 4)
    exact = np.log(np.exp(x.astype(np.float64)).sum(1, keepdims=keep))
    np.testing.assert_allclose(run(lambda t: logsumexp(t, 1, keep), x), exact, rtol=1e-6)


def test_where_wants_a_tensor_to_choose() -> None:
    with pytest.raises(CompileError, match="where wants a tensor as one of its branches"):
        run(lambda t: where(t, 1.0, 0.0), numbers(3) > 0)
