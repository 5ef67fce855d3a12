"""The emulator's exchanges between the lanes of a warp, against loops over lanes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from emulator.errors import DivergentCollective, EmulationError
from emulator.schedule import FOUR_SCHEDULES
from tests.emulator.emulated import Array, apply, run

A = np.random.default_rng(5).integers(0, 1 << 32, 64, np.uint32)
SMALL = A % 5


def _source(mode: str, lane: int, amount: int, clamp: int) -> tuple[int, bool]:
    """The pseudo code of the ISA manual."""
    segment, most = clamp >> 8 & 31, clamp & 31
    highest, lowest = (lane & segment) | (most & ~segment), lane & segment
    amount &= 31
    if mode == "up":
        source, valid = lane - amount, lane - amount >= highest
    elif mode == "down":
        source, valid = lane + amount, lane + amount <= highest
    elif mode == "bfly":
        source, valid = lane ^ amount, lane ^ amount <= highest
    else:
        source = lowest | (amount & ~segment)
        valid = source <= highest
    return (source if valid else lane), valid


@pytest.mark.parametrize("clamp", [0x1F, 0x181F, 0x1C07, 0])
@pytest.mark.parametrize("amount", [0, 1, 4, 7, 16, 31])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(mode: str, amount: int, clamp: int) -> None:
    body = (
        f"shfl.sync.{mode}.b32 $0|%p1, $1, {amount}, {clamp}, 0xffffffff; selp.b32 %r9, 1, "
        f"0, %p1; xor.b32 $0, $0, %r9;"
    )
    found = apply(body, [A], np.uint32)
    expected = []
    for thread in range(64):
        source, valid = _source(mode, thread % 32, amount, clamp)
        expected.append(int(A[thread // 32 * 32 + source]) ^ int(valid))
    assert found.tolist() == expected


def test_a_shuffle_with_an_amount_for_every_lane() -> None:
    found = apply("shfl.sync.idx.b32 $0, $1, $2, 31, -1;", [A, SMALL], np.uint32)
    assert (found == A.reshape(2, 32)[np.arange(64) // 32, SMALL]).all()


VOTES: dict[str, Callable[[Array], bool]] = {
    "all": lambda one: bool(one.all()),
    "any": lambda one: bool(one.any()),
    "uni": lambda one: bool(one.all() or not one.any()),
}


@pytest.mark.parametrize("mode", VOTES)
@pytest.mark.parametrize("limit", [0, 2, 5])
def test_votes(mode: str, limit: int) -> None:
    found = apply(
        f"setp.lt.u32 %p1, $1, {limit}; vote.sync.{mode}.pred %p0, %p1, 0xffffffff;",
        [SMALL],
        np.bool_,
    )
    expected = [VOTES[mode](SMALL.reshape(2, 32)[warp] < limit) for warp in (0, 1)]
    assert found.reshape(2, 32).tolist() == [[one] * 32 for one in expected]


def test_ballots() -> None:
    found = apply("setp.lt.u32 %p1, $1, 2; vote.sync.ballot.b32 $0, %p1, -1;", [SMALL], np.uint32)
    expected = [
        sum(int(SMALL[32 * warp + lane] < 2) << lane for lane in range(32)) for warp in (0, 1)
    ]
    assert found.reshape(2, 32).tolist() == [[one] * 32 for one in expected]


@pytest.mark.parametrize(
    "operation", ["add.u32", "min.s32", "max.u32", "and.b32", "or.b32", "xor.b32"]
)
def test_reductions_over_a_warp(operation: str) -> None:
    name, kind = operation.split(".")
    found = apply(f"redux.sync.{operation} $0, $1, 0xffffffff;", [A], np.uint32)
    values = A.view(np.int32) if kind == "s32" else A
    function = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }[name]
    for warp in (0, 1):
        total = function.reduce(values[32 * warp : 32 * warp + 32], dtype=values.dtype)
        assert (found[32 * warp : 32 * warp + 32] == total.view(np.uint32)).all()


def test_matches() -> None:
    found = apply("match.any.sync.b32 $0, $1, 0xffffffff;", [SMALL], np.uint32)
    expected = [
        sum(int(SMALL[32 * (thread // 32) + lane] == SMALL[thread]) << lane for lane in range(32))
        for thread in range(64)
    ]
    assert found.tolist() == expected
    same = np.repeat(np.array([7, 8], np.uint32), 32)
    same[63] = 1
    found = apply("match.all.sync.b32 $0|%p1, $1, -1;", [same], np.uint32)
    assert found.tolist() == [0xFFFFFFFF] * 32 + [0] * 32


def test_elections_and_masks() -> None:
    found = apply(
        "elect.sync %r9|%p1, -1; selp.b32 %r8, 100, 0, %p1; add.u32 $0, %r8, $1;",
        [SMALL],
        np.uint32,
    )
    assert (found == SMALL + np.where(np.arange(64) % 32 == 0, 100, 0)).all()
    found = apply(
        "mov.u32 $0, %lanemask_lt; mov.u32 %r9, %lanemask_ge; add.u32 $0, $0, %r9;",
        [SMALL],
        np.uint32,
    )
    assert (found == 0xFFFFFFFF).all()


PART = """
    and.b32 %r1, %thread, 31; setp.lt.u32 %p1, %r1, 8; mov.u32 %r5, 0;
    @!%p1 bra DONE;
    {inside}
    DONE: mad.wide.u32 %at0, %thread, 4, %base0; st.global.b32 [%at0], %r5;
"""


@pytest.mark.parametrize("schedule", FOUR_SCHEDULES, ids=str)
def test_a_part_of_a_warp_may_meet_under_its_mask(schedule: object) -> None:
    body = PART.format(
        inside="redux.sync.add.u32 %r5, %r1, 0xff; activemask.b32 %r6; add.u32 %r5, %r5, %r6;"
    )
    found = run(body, [], np.zeros(64, np.uint32), 64, schedule)  # type: ignore[arg-type]
    assert (found == np.where(np.arange(64) % 32 < 8, 28 + 255, 0)).all()


def test_a_collective_that_lanes_never_reach_is_found() -> None:
    body = PART.format(inside="shfl.sync.bfly.b32 %r5, %r1, 1, 31, 0xffffffff;")
    with pytest.raises(DivergentCollective, match="wait for the rest of their warp"):
        run(body, [], np.zeros(64, np.uint32), 64)
    with pytest.raises(DivergentCollective, match="not in its own mask"):
        run(
            PART.format(inside="redux.sync.add.u32 %r5, %r1, 0xf0;"),
            [],
            np.zeros(64, np.uint32),
            64,
        )
    with pytest.raises(DivergentCollective, match="part of the warp"):
        run("setp.lt.u32 %p1, %thread, 9; @%p1 bar.sync 0;", [], np.zeros(1, np.uint32))


def test_a_value_from_a_lane_that_takes_no_part_is_found() -> None:
    body = PART.format(inside="shfl.sync.idx.b32 %r5, %r1, 9, 31, 0xff;")
    with pytest.raises(EmulationError, match="takes no part"):
        run(body, [], np.zeros(64, np.uint32), 64)
