"""A compilation collects garbage seldom, and leaves the collector as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from bessemer.compiler.driver import compiling


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
