"""Random numbers of ONNX models: from where their distributions say, and the same in every run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import node_model

_DOUBLE, _HALF = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16


def _drawn(
    operator: str, x: Array | None = None, opset: int = 15, name: str = "", **more: Any
) -> Array:
    inputs = [] if x is None else [("x", x)]
    node = onnx.helper.make_node(operator, [n for n, _ in inputs], ["y"], name=name, **more)
    (y,) = run_graph(read_onnx(node_model(node, inputs, opset)), dict(inputs))
    return y


@pytest.mark.parametrize("like", [False, True])
def test_uniform_numbers_fill_their_interval(like: bool) -> None:
    shape = (50, 400)

    def uniform(**more: Any) -> Array:
        if like:
            return _drawn("RandomUniformLike", np.zeros(shape, np.float16), **more)
        return _drawn("RandomUniform", shape=shape, **more)

    plain, moved = uniform(seed=3.0), uniform(low=-2.0, high=4.0, dtype=_DOUBLE)
    assert plain.shape == moved.shape == shape and moved.dtype == np.float64
    assert plain.dtype == (np.float16 if like else np.float32)
    for numbers, low, high in ((plain.astype(np.float64), 0, 1), (moved, -2, 4)):
        assert low <= numbers.min() < numbers.max() <= high
        found = np.histogram(numbers, 10, (low, high))[0] / numbers.size
        np.testing.assert_allclose(found, 0.1, atol=0.015)


@pytest.mark.parametrize("like", [False, True])
def test_normal_numbers_have_their_mean_and_spread(like: bool) -> None:
    shape = (50, 400)

    def normal(**more: Any) -> Array:
        if like:
            return _drawn("RandomNormalLike", np.zeros(shape, np.float64), **more)
        return _drawn("RandomNormal", shape=shape, **more)

    plain, moved = normal(), normal(mean=3.0, scale=0.5, dtype=_HALF)
    assert plain.dtype == (np.float64 if like else np.float32) and moved.dtype == np.float16
    for numbers, mean, scale in ((plain, 0, 1), (moved.astype(np.float64), 3, 0.5)):
        assert numbers.shape == shape
        np.testing.assert_allclose(numbers.mean(), mean, atol=0.03 * scale)
        np.testing.assert_allclose(numbers.std(), scale, rtol=0.02)
        within = np.abs(numbers - mean) < scale
        np.testing.assert_allclose(within.mean(), 0.6827, atol=0.015)


def test_a_seed_gives_the_same_numbers_and_without_one_the_node_s_name_does() -> None:
    def of(name: str, **more: Any) -> bytes:
        return _drawn("RandomUniform", shape=(9,), name=name, **more).tobytes()

    assert of("a", seed=1.0) == of("b", seed=1.0) != of("a", seed=2.0)
    assert of("a") == of("a") != of("b")


def test_bernoulli_gives_ones_as_often_as_it_should() -> None:
    p = np.repeat(np.array([0.0, 0.1, 0.75, 1.0], np.float32), 5000).reshape(4, 5000)
    plain = _drawn("Bernoulli", p, seed=2.0)
    truth = _drawn("Bernoulli", p, seed=2.0, dtype=onnx.TensorProto.BOOL)
    assert plain.dtype == np.float32 and truth.dtype == np.bool_
    for found in (plain, truth):
        assert set(np.unique(found)) <= {0, 1}
        np.testing.assert_allclose(found.mean(axis=1), p[:, 0], atol=0.02)
        assert not found[0].any() and found[3].all()


def test_multinomial_draws_classes_by_their_log_probabilities() -> None:
    shares = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], np.float32)
    with np.errstate(divide="ignore"):
        logits = np.log(shares) + np.array([[3], [-1]], np.float32)
    found = _drawn("Multinomial", logits, sample_size=20000)
    assert found.dtype == np.int32 and found.shape == (2, 20000)
    for row, wanted in zip(found, shares):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / row.size, wanted, atol=0.012)
    once = _drawn("Multinomial", logits.astype(np.float16), dtype=onnx.TensorProto.INT64)
    assert once.dtype == np.int64 and once.shape == (2, 1)
    with pytest.raises(CompileError, match=r"\[batch, classes\] is wanted"):
        _drawn("Multinomial", logits[0])
