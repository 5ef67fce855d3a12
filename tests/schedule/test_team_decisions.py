"""When kernels with teams run alone, how many members they have, and which waits count as long."""

from __future__ import annotations

import ctypes

import pytest

from bessemer.compiler.codegen.support.team import (
    CELL_BYTES,
    FEWEST_ALONE,
    LONG_WAIT,
    MOST_ALONE,
    MOST_MEMBERS,
    SHARES,
)
from tests.support_calls import Context, Pool, SupportCode

CELL = CELL_BYTES // 8
_KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)


class _Team:
    """A kernel of a context with workers, whose members wait as long as the test says."""

    def __init__(self) -> None:
        self.now, self.takes, self.waits = 5_000_000, 0, [0]
        self.members: list[int] = []
        self.pool = Pool()
        self.kernel = _KERNEL(self._alone)
        self.buffers, self.dims = (ctypes.c_void_p * 3)(), (ctypes.c_int64 * 3)(-1, -1, -1)
        self.code = SupportCode(
            {
                "bessemer_pool": lambda _: ctypes.addressof(self.pool),
                "bessemer_parallel": self._together,
                "bessemer_microseconds": lambda: self.now,
            }
        )
        self._join = self.code["bessemer_join_team"]
        self.context = Context()

    def begin(self, workers: int, spin: int = 200) -> None:
        """A pool of so many workers which has run no team."""
        self.pool.workers, self.pool.teamless, self.pool.caution = workers, 0, 0
        self.context.options.threads, self.context.options.spin = workers + 1, spin

    def join(self, most: int = 99, takes: int = 1000, waits: list[int] | None = None) -> int:
        """How many members a kernel has that takes so long, in microseconds."""
        self.takes, self.waits, self.members = takes, waits or [0], []
        given = [ctypes.addressof(self.context), ctypes.cast(self.kernel, ctypes.c_void_p)]
        self._join(*given, self.buffers, self.dims, 1, 2, most)
        (members,) = self.members
        return members

    def _alone(self, _buffers: object, _dims: object, begin: int, end: int) -> None:
        assert (begin, end, self.dims[2]) == (0, 1, 1)
        self.members.append(1)

    def _together(
        self, context: int, kernel: int, buffers: int, dims: int, members: int, shares: int
    ) -> None:
        given = [ctypes.addressof(one) for one in (self.context, self.buffers, self.dims)]
        assert [context, buffers, dims] == given
        assert kernel == ctypes.cast(self.kernel, ctypes.c_void_p).value
        assert (shares, members) == (SHARES, self.dims[2]) and members > 1
        counters = (ctypes.c_int64 * (MOST_MEMBERS * CELL)).from_address(self.buffers[1] or 0)
        assert not any(counters) and ctypes.addressof(counters) % CELL_BYTES == 0
        for member in range(members):
            counters[member * CELL + 1] = self.waits[member % len(self.waits)]
        self.now += self.takes
        self.members.append(members)


@pytest.fixture(scope="module")
def team() -> _Team:
    return _Team()


def test_members_are_threads_as_far_as_they_are_of_use(team: _Team) -> None:
    team.begin(workers=3)
    assert [team.join(most) for most in (0, 1, 2, 4, 5)] == [1, 1, 2, 4, 4]
    team.begin(workers=40)
    assert [team.join(most) for most in (15, 17, 99)] == [15, MOST_MEMBERS, MOST_MEMBERS]
    for workers, spin in ((0, 200), (3, 0), (3, -1)):
        team.begin(workers, spin)
        assert team.join() == 1
    team.begin(3)
    team.context.options.parallel_for = 1
    assert team.join() == 1
    team.context.options.parallel_for = None
    assert team.join() == 4


# Of two members, one that waits for half of the time leaves the kernel as slow as one thread.
GOOD, BAD = {"takes": 1000, "waits": [3, 500]}, {"takes": 1000, "waits": [501, 3]}


def test_a_team_is_disturbed_where_one_thread_would_have_been_as_fast(team: _Team) -> None:
    for workers, longest in ((1, 500), (2, 666), (3, 750)):
        for wait, is_disturbed in ((longest, False), (longest + 1, True)):
            team.begin(workers)
            team.join(takes=1000, waits=[0, wait])
            assert (team.join() == 1) is is_disturbed


def _alone_before(team: _Team) -> int:
    """How many kernels run alone until there is a team again, which is disturbed."""
    for count in range(2 * MOST_ALONE):
        if team.join(**BAD) > 1:  # type: ignore[arg-type]
            return count
    pytest.fail("no team comes any more")


def test_kernels_run_alone_four_times_as_often_after_every_disturbance(team: _Team) -> None:
    team.begin(1)
    counts = [_alone_before(team) for _ in range(6)]
    assert counts == [0, FEWEST_ALONE, 4 * FEWEST_ALONE, 16 * FEWEST_ALONE, MOST_ALONE, MOST_ALONE]


def test_teams_that_are_not_disturbed_win_back_trust(team: _Team) -> None:
    team.begin(1)
    for _ in range(3):
        _alone_before(team)
    while team.join(**GOOD) == 1:  # type: ignore[arg-type]
        pass
    assert team.pool.caution == 8 * FEWEST_ALONE
    assert _alone_before(team) == 0
    assert _alone_before(team) == 32 * FEWEST_ALONE == MOST_ALONE


class _Barrier:
    """The first of two members at a barrier, to which the other comes after so many microseconds;
    the clock is read once before, and goes on by what is missing."""

    def __init__(self) -> None:
        self.cells = (ctypes.c_int64 * (2 * CELL + CELL))()
        start = -ctypes.addressof(self.cells) % CELL_BYTES
        self.at = ctypes.addressof(self.cells) + start
        self.words = (ctypes.c_int32 * (4 * CELL)).from_address(self.at)
        self.now, self.looks, self.comes = 7_000_000, 0, [0]
        code = SupportCode({"bessemer_microseconds": self._clock})
        self._wait = code["bessemer_barrier"]

    def _clock(self) -> int:
        self.looks += 1
        if self.looks == 2:
            self.now += self.comes.pop()
            self.words[2 * CELL] += 1
        return self.now

    def meet(self, after: int) -> int:
        """The microseconds that are counted."""
        before = self.waited()
        self.looks, self.comes = 0, [after]
        self._wait(self.at, 0, 2)
        assert self.words[0] == self.words[2 * CELL] and self.looks in (2, 3)
        return self.waited() - before

    def waited(self) -> int:
        return ctypes.c_int64.from_address(self.at + 8).value


def test_long_waits_are_added_up_from_the_second_barrier_on() -> None:
    barrier = _Barrier()
    waits = [9999, LONG_WAIT + 1, LONG_WAIT, 3, 5000]
    assert [barrier.meet(wait) for wait in waits] == [0, LONG_WAIT + 1, 0, 0, 5000]


def test_a_member_alone_and_one_that_comes_last_do_not_wait() -> None:
    barrier = _Barrier()
    barrier._wait(barrier.at, 0, 1)
    assert list(barrier.words) == [0] * (4 * CELL)
    barrier.words[2 * CELL] = 1
    barrier._wait(barrier.at, 0, 2)
    assert (barrier.words[0], barrier.looks) == (1, 0)
    barrier.words[2 * CELL] = 3  # it may be ahead of this one
    barrier._wait(barrier.at, 0, 2)
    assert (barrier.words[0], barrier.looks) == (2, 0)
