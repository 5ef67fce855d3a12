"""Who gets a share of a job: workers that are awake, and when several jobs missed them, all."""

from __future__ import annotations

import ctypes
import time

import pytest

from bessemer.compiler.codegen.support.support import WORTH_WAKING
from bessemer.compiler.codegen.support.trials import FEWEST, UNTRIED
from tests.support_calls import Context, Pool, Slot, SupportCode

ALONE = -1
_KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)
_LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 2)


class _Caller:
    """A context with workers, of which the test says how many are awake."""

    def __init__(self) -> None:
        self.now, self.awake, self.has_pool = 50_000, 0, True
        self.pool = Pool()
        self.given: list[int] = []
        self.awaited: list[int] = []
        self.kernel, self.loop = _KERNEL(self._alone), _LOOP(self._outside)
        self.code = SupportCode(
            {
                "bessemer_pool": lambda _: ctypes.addressof(self.pool) if self.has_pool else None,
                "bessemer_awake": lambda _, count: min(count, self.awake),
                "bessemer_hand_out": self._hand_out,
                "bessemer_chunk": lambda _job, index: self.given.append(index),
                "bessemer_claim": self._claim,
                "bessemer_await": lambda _, count: self.awaited.append(count),
                "bessemer_microseconds": lambda: self.now,
            }
        )
        self._parallel = self.code["bessemer_parallel"]

    def begin(self, threads: int = 4, workers: int = 3, spin: int = 200) -> None:
        """Workers that nobody has missed."""
        self.context = Context()
        self.context.options.threads = threads
        self.pool.workers, self.pool.spin, self.pool.fewest = workers, spin, 0
        self.pool.missed, self.pool.missed_at, self.has_pool = 0, 0, True

    def helpers(self, shares: int, extent: int = 1000, awake: int = 0) -> int | None:
        """How many workers have a share of a job; ALONE for one that is not divided at all."""
        self.given, self.awaited, self.awake = [], [], awake
        kernel = ctypes.cast(self.kernel, ctypes.c_void_p)
        self.extent = extent
        self._parallel(ctypes.addressof(self.context), kernel, 11, 12, extent, shares)
        if not self.given:
            return None
        if self.given == [ALONE]:
            return ALONE
        *handed, own, claimed = self.given
        assert handed == list(range(1, claimed + 1)) and own == 0
        assert self.awaited in ([], [claimed])
        return claimed

    def _alone(self, buffers: int, dims: int, begin: int, end: int) -> None:
        assert (buffers, dims, begin, end) == (11, 12, 0, self.extent)
        self.given.append(ALONE)

    def _outside(self, user: int, count: int, _task: int, _job: int) -> None:
        assert user == 13
        self.given += [*range(1, count), 0, count - 1]

    def _hand_out(self, _slot: int, _job: int, index: int, surely: bool) -> None:
        self.given.append(index)
        self.surely = surely

    def _claim(self, _pool: int, job: int, count: int) -> None:
        extent, chunks = (ctypes.c_int64 * 2).from_address(job + 24)
        assert (extent, chunks) == (self.extent, count + 1)
        self.given.append(count)


@pytest.fixture(scope="module")
def caller() -> _Caller:
    return _Caller()


def test_a_job_has_no_more_shares_than_threads_items_or_work(caller: _Caller) -> None:
    caller.begin(threads=6, workers=5)
    assert [caller.helpers(99, extent, awake=5) for extent in (-1, 0, 1, 2, 5, 6, 7)] == [
        None, None, ALONE, 1, 4, 5, 5,
    ]  # fmt: skip
    found = [caller.helpers(shares, awake=5) for shares in (0, 1, 2, 6, 7)]
    assert found == [ALONE, ALONE, 1, 5, 5]
    caller.begin(threads=6, workers=2)  # the system gave no more
    assert caller.helpers(99, awake=5) == 2
    caller.has_pool = False
    assert caller.helpers(99, awake=5) == ALONE


def test_jobs_that_are_too_small_to_share_are_not(caller: _Caller) -> None:
    caller.begin()
    caller.pool.fewest = 9
    assert [caller.helpers(shares, awake=3) for shares in (8, 9)] == [ALONE, 3]


def test_a_callers_loop_gets_all_but_small_jobs(caller: _Caller) -> None:
    caller.begin()
    caller.context.options.parallel_for = ctypes.cast(caller.loop, ctypes.c_void_p).value
    caller.context.options.parallel_user = 13
    caller.has_pool = False
    small = FEWEST[UNTRIED]
    assert [caller.helpers(shares) for shares in (small - 1, small)] == [ALONE, 3]


def test_a_large_job_wakes_who_sleeps_and_a_small_one_does_not(caller: _Caller) -> None:
    for awake in (0, 1, 2):
        caller.begin()
        assert caller.helpers(WORTH_WAKING - 1, awake=awake) == (awake or ALONE)
        caller.begin()
        assert caller.helpers(WORTH_WAKING, awake=awake) == 3 and caller.surely


def test_only_large_jobs_are_sure_to_wake_who_falls_asleep_meanwhile(caller: _Caller) -> None:
    for shares, surely in ((WORTH_WAKING - 1, False), (WORTH_WAKING, True)):
        caller.begin()
        assert caller.helpers(shares, awake=3) == 3 and caller.surely == surely


def test_small_jobs_that_follow_one_another_wake_workers(caller: _Caller) -> None:
    third = WORTH_WAKING // 3
    for spin, pause, wanted in ((200, 200, 3), (200, 201, ALONE), (20, 201, ALONE)):
        caller.begin(spin=spin)
        for _ in range(2):
            found = []
            for _ in range(3):
                caller.now += pause
                found.append(caller.helpers(third))
            assert found == [ALONE, ALONE, wanted]


def test_jobs_that_find_everybody_awake_are_not_counted(caller: _Caller) -> None:
    caller.begin()
    half = WORTH_WAKING // 2
    assert [caller.helpers(half, awake=n) for n in (0, 3, 3, 3, 1)] == [ALONE, 3, 3, 3, 3]
    assert [caller.helpers(half, awake=n) for n in (1, 1)] == [1, 3]


def test_a_worker_that_is_signalled_late_says_again_that_it_sleeps() -> None:
    """As by a caller that was interrupted between finding it asleep and signalling, while it did
    the job of its own accord."""
    code, threads = SupportCode({}), ctypes.CDLL(None)
    context = Context()
    context.options.threads = 2
    pool = code["bessemer_pool"](ctypes.addressof(context))
    slot = code["bessemer_slot"](pool, 0)
    sleeping, mutex, wake = (
        slot + getattr(Slot, name).offset for name in ("sleeping", "mutex", "wake")
    )
    state = ctypes.c_int32.from_address(sleeping)

    def falls_asleep() -> bool:
        end = time.monotonic() + 2.0
        while not state.value and time.monotonic() < end:
            time.sleep(0.001)
        return state.value == 1

    assert falls_asleep()
    threads.pthread_mutex_lock(ctypes.c_void_p(mutex))
    state.value = 0
    threads.pthread_cond_signal(ctypes.c_void_p(wake))
    threads.pthread_mutex_unlock(ctypes.c_void_p(mutex))
    assert falls_asleep()
    code["bessemer_pool_stop"](ctypes.addressof(context))
