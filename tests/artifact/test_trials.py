"""Of the smallest jobs that threads share, runs try out three sizes and keep the fastest."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bessemer.compiler.codegen.support.trials import (
    ALONE_PERIOD,
    ALONE_TIME,
    FEWEST,
    FIRST_PERIOD,
    LONG,
    PERIOD,
    RUNS,
    UNTRIED,
)
from tests.support_calls import Context, Graph, Pool, SupportCode

COUNT = len(FEWEST)
TRIAL = RUNS * COUNT
_ARGUMENTS = [ctypes.c_void_p] * 6 + [ctypes.c_int64]


class _Model:
    """A model whose runs take as long as the test says, and that knows what each shared."""

    def __init__(self) -> None:
        self.now, self.status = 10**15, 0
        self.shared: list[int] = []
        self.times: Callable[[int, int], int] = lambda way, run: 1000
        self.code = SupportCode({"bessemer_nanoseconds": lambda: self.now})
        self.pool = Pool()
        self.context = Context(pool=ctypes.addressof(self.pool))
        self.body = ctypes.CFUNCTYPE(ctypes.c_int32, *_ARGUMENTS)(self._run)
        self.graphs = [self._graph() for _ in range(2)]
        self._call = self.code["bessemer_body"]

    def _graph(self) -> Any:
        body = ctypes.cast(self.body, ctypes.c_void_p)
        return Graph(body=body, input_dim_count=2, dim_count=3)

    def _run(self, *arguments: int | None) -> int:
        assert arguments[1:] == (11, 12, arguments[3], 14, 15, 16)
        way = FEWEST.index(self.pool.fewest)
        self.now += self.times(way, self.shared.count(way) % RUNS)
        self.shared.append(way)
        return self.status

    def run(self, count: int = 1, dims: Sequence[int] = (5, 7, 9), graph: int = 0) -> list[int]:
        """What so many runs shared; the last of `dims` is not the inputs'."""
        self.shared = []
        sizes = (ctypes.c_int64 * len(dims))(*dims)
        for _ in range(count):
            given = [ctypes.addressof(self.context), 11, 12, ctypes.addressof(sizes), 14, 15, 16]
            assert self._call(*given, ctypes.addressof(self.graphs[graph])) == self.status
        return self.shared


@pytest.fixture(scope="module")
def model() -> _Model:
    return _Model()


def _in_order(kept: int, count: int = FIRST_PERIOD) -> list[int]:
    """The ways of a trial, there and back, and of the runs behind it."""
    there = range(COUNT)
    tried = [way for turn in range(RUNS) for way in (reversed(there) if turn % 2 else there)]
    return [*tried, *[kept] * (count - TRIAL)]


@pytest.mark.parametrize("best", range(COUNT))
@pytest.mark.parametrize("shortest", range(RUNS))
def test_the_way_of_the_shortest_run_is_kept_until_the_next_trial(
    model: _Model, best: int, shortest: int
) -> None:
    model.times = lambda way, run: 990 if (way, run) == (best, shortest) else 1000 + 50 * run
    assert model.run(FIRST_PERIOD, (best, shortest)) == _in_order(best)
    model.times = lambda way, run: 2000 - 100 * ((best + 1) % COUNT == way)
    assert model.run(TRIAL + 1, (best, shortest)) == _in_order((best + 1) % COUNT, TRIAL + 1)


def test_each_period_is_twice_as_long_as_the_one_before_it_up_to_the_longest(
    model: _Model,
) -> None:
    model.times = lambda way, run: 1000 - 10 * (way == 1)
    for sizes in ((2, 1), (2, 2)):
        period = FIRST_PERIOD
        while period < PERIOD:
            assert model.run(period, sizes) == _in_order(1, period)
            period *= 2
        for _ in range(2):
            assert model.run(PERIOD, sizes) == _in_order(1, PERIOD)


@pytest.mark.parametrize(
    ("time", "longest"), [(1000, PERIOD), (ALONE_TIME // 500, 500), (10**6, ALONE_PERIOD)]
)
def test_trials_come_sooner_while_small_jobs_are_not_shared(
    model: _Model, time: int, longest: int
) -> None:
    model.times = lambda way, run: time + 10 * (way != COUNT - 1)
    period = FIRST_PERIOD
    for _ in range(6):
        assert model.run(period, (5, time)) == _in_order(COUNT - 1, period)
        period = min(2 * period, longest)


def test_of_ways_that_take_as_long_the_first_is_kept(model: _Model) -> None:
    model.times = lambda way, run: 1000
    assert model.run(20, (1, 2)) == _in_order(0, 20)
    model.times = lambda way, run: 1000 - 10 * (way > 0)
    assert model.run(20, (1, 3)) == _in_order(1, 20)


@pytest.mark.parametrize("longer", [0, 1])
def test_other_ways_are_not_tried_where_all_runs_take_long(model: _Model, longer: int) -> None:
    model.times = lambda way, run: LONG + longer
    if longer:
        wanted = [0, *[UNTRIED] * (FIRST_PERIOD - TRIAL)]
        assert model.run(len(wanted) + 1, (4, longer)) == [*wanted, 0]
    else:
        assert model.run(TRIAL, (4, longer)) == _in_order(0, TRIAL)


def test_other_sizes_of_inputs_and_other_graphs_begin_a_trial(model: _Model) -> None:
    model.times = lambda way, run: 1000 - way
    whole = _in_order(2, TRIAL + 1)
    assert model.run(TRIAL + 1, (6, 6)) == whole
    assert model.run(1, (6, 6, 100)) == [2]
    for sizes, graph in (((6, 7), 0), ((7, 6), 0), ((6, 6), 0), ((6, 6), 1)):
        assert model.run(TRIAL + 1, sizes, graph) == whole


def test_a_trial_that_was_left_begins_again(model: _Model) -> None:
    model.times = lambda way, run: 1000 + way
    assert model.run(4, (8, 8)) == _in_order(0)[:4]
    assert model.run(1, (8, 9)) == [0]
    assert model.run(TRIAL + 1, (8, 8)) == _in_order(0, TRIAL + 1)


def test_runs_that_fail_are_tried_again(model: _Model) -> None:
    model.times = lambda way, run: 1
    model.status = 6
    assert model.run(5, (9, 9)) == [0] * 5
    model.status, model.times = 0, lambda way, run: 1000 - way
    assert model.run(TRIAL + 1, (9, 9)) == _in_order(2, TRIAL + 1)


def test_without_workers_nothing_is_tried(model: _Model) -> None:
    pool, model.context.pool = model.context.pool, None
    model.pool.fewest = FEWEST[1]
    for model.status in (0, 6):
        assert model.run(TRIAL, (3, 3)) == [1] * TRIAL
    model.context.pool, model.status = pool, 0
