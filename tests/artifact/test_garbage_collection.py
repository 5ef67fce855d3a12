"""A compilation collects garbage seldom, leaves the collector as it was, and no weights to it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from bessemer.compiler.driver import build, compiling
from bessemer.compiler.options import Options
from bessemer.frontends.models_in import as_graph


@pytest.fixture
def thresholds() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    gc.set_threshold(700, 11, 12)
    yield 700, 11, 12
    gc.set_threshold(*before)


def test_thresholds_are_as_before_behind_a_failure(thresholds: tuple[int, int, int]) -> None:
    with pytest.raises(KeyError), compiling():
        assert gc.get_threshold()[0] > thresholds[0]
        raise KeyError
    assert gc.get_threshold() == thresholds


def test_a_collector_without_a_threshold_stays_so(thresholds: tuple[int, int, int]) -> None:
    gc.set_threshold(0)
    with compiling():
        assert gc.get_threshold()[0] == 0
    assert gc.get_threshold() == (0, *thresholds[1:])


def test_weights_do_not_wait_for_the_collector(thresholds: tuple[int, int, int]) -> None:
    gc.set_threshold(0)
    made = build(as_graph("examples/lenet.onnx"), Options())
    arrays = [weakref.ref(array) for array in made.program.weights.values()]
    assert arrays
    del made
    assert [array() for array in arrays if array() is not None] == []
