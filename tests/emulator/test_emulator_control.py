"""Branches, barriers, schedules, and the faults of threads that do not agree."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.errors import BarrierMisuse, Deadlock, DivergentCollective, Race
from emulator.language.order import priorities
from emulator.language.parse import parse_module
from emulator.schedule import FOUR_SCHEDULES, Schedule
from tests.emulator.emulated import Array, kernel, run

each_schedule = pytest.mark.parametrize("schedule", [*FOUR_SCHEDULES, Schedule(seed=9)], ids=str)
OUT = "mad.wide.u32 %at0, %thread, 4, %base0; st.global.b32 [%at0], %r1;"
SHARED = ".shared .align 16 .b32 room[256];"
OWN = "shl.b32 %r20, %thread, 2; mov.u32 %r21, room; add.u32 %r20, %r20, %r21;"


def _run(body: str, schedule: Schedule | None = None, threads: int = 64, **launch: int) -> Array:
    return run(body, [], np.zeros(1024, np.uint32), threads, schedule, SHARED, **launch)


@each_schedule
def test_threads_part_and_meet_again(schedule: Schedule) -> None:
    """Collatz: every thread loops as long as it must, then the warp adds up."""
    body = (
        "add.u32 %r2, %thread, 1; mov.u32 %r1, 0;\n"
        "LOOP: setp.eq.u32 %p1, %r2, 1; @%p1 bra DONE; and.b32 %r3, %r2, 1; setp.eq.u32 %p2, "
        "%r3, 0; @%p2 bra EVEN;\n"
        "mad.lo.u32 %r2, %r2, 3, 1; bra NEXT;\nEVEN: shr.u32 %r2, %r2, 1;\nNEXT: add.u32 %r1, "
        "%r1, 1; bra LOOP;\n"
        "DONE: redux.sync.add.u32 %r5, %r1, -1; shl.b32 %r5, %r5, 8; or.b32 %r1, %r1, %r5;" + OUT
    )

    def steps(number: int) -> int:
        count = 0
        while number != 1:
            number, count = (3 * number + 1 if number % 2 else number // 2), count + 1
        return count

    counts = [steps(thread + 1) for thread in range(64)]
    expected = [counts[thread] | sum(counts[thread // 32 * 32 :][:32]) << 8 for thread in range(64)]
    assert _run(body, schedule)[:64].tolist() == expected


def test_a_jump_table() -> None:
    body = (
        "rem.u32 %r2, %thread, 3; mov.u32 %r1, 0;\nTABLE: .branchtargets A, B, C;\nbrx.idx %r2, "
        "TABLE;\n"
        "A: mov.u32 %r1, 11; bra DONE;\nB: mov.u32 %r1, 22; bra DONE;\nC: mov.u32 %r1, 33;\nDONE:"
        + OUT
    )
    assert _run(body)[:64].tolist() == [11 + 11 * (thread % 3) for thread in range(64)]


@each_schedule
def test_a_barrier_shows_what_others_wrote(schedule: Schedule) -> None:
    body = OWN + (
        "st.shared.b32 [%r20], %thread; bar.sync 0; mov.u32 %r2, %ntid.x; sub.u32 %r3, %r2, "
        "%thread; "
        "sub.u32 %r3, %r3, 1;"
        "shl.b32 %r3, %r3, 2; add.u32 %r3, %r3, %r21; ld.shared.b32 %r1, [%r3]; mov.u32 %r4, "
        "%ctaid.x;"
        "mad.lo.u32 %r4, %r4, %r2, %thread; mad.wide.u32 %at0, %r4, 4, %base0; st.global.b32 "
        "[%at0], %r1;"
    )
    found = _run(body, schedule, 96, blocks=7)
    assert (found[: 7 * 96].reshape(7, 96) == np.arange(96)[::-1]).all()


@pytest.mark.parametrize("schedule", FOUR_SCHEDULES, ids=str)
def test_a_missing_barrier_is_a_race_in_every_order(schedule: Schedule) -> None:
    body = OWN + "st.shared.b32 [%r20], %thread; xor.b32 %r3, %r20, 128; ld.shared.b32 %r1, [%r3];"
    with pytest.raises(Exception, match=r"race|which nothing wrote"):
        _run(body, schedule)
    filled = OWN + "st.shared.b32 [%r20], %thread; bar.sync 0;" + body.removeprefix(OWN)
    with pytest.raises(Race, match=r"is not in order with a (write|read) by warp"):
        _run(filled, schedule)


def test_overwriting_what_others_still_read_is_a_race() -> None:
    body = OWN + (
        "st.shared.b32 [%r20], %thread; bar.sync 0; xor.b32 %r3, %r20, 128; ld.shared.b32 %r1, "
        "[%r3]; {sync}"
        "st.shared.b32 [%r20], %r1;"
    )
    _run(body.format(sync="bar.sync 0;"))
    with pytest.raises(Race, match=r"write of byte .* is not in order with a read by warp"):
        _run(body.format(sync=""))


def test_lanes_of_a_warp_need_their_own_barrier() -> None:
    body = (
        OWN
        + "st.shared.b32 [%r20], %thread; {sync} xor.b32 %r3, %r20, 4; ld.shared.b32 %r1, [%r3];"
        + OUT
    )
    found = _run(body.format(sync="bar.warp.sync 0xffffffff;"), threads=32)
    assert found[:32].tolist() == [thread ^ 1 for thread in range(32)]
    with pytest.raises(Race):
        _run(body.format(sync=""), threads=32)


def test_two_writers_of_one_word_are_a_race() -> None:
    with pytest.raises(Race, match="two lanes write different values"):
        _run("st.shared.b32 [room], %thread;", threads=32)
    with pytest.raises(Race):
        _run("st.shared.b32 [room], 5;", threads=64)
    _run("st.shared.b32 [room], 5;", threads=32)


@each_schedule
def test_named_barriers_hold_a_part_of_the_block(schedule: Schedule) -> None:
    """Warps 0 and 1 hand over to warps 2 and 3: arrive without waiting, and sync."""
    body = OWN + (
        "setp.ge.u32 %p1, %thread, 64; @%p1 bra CONSUME;\n"
        "st.shared.b32 [%r20], %thread; bar.arrive 3, 128; bra END;\n"
        "CONSUME: bar.sync 3, 128; sub.u32 %r3, %r20, 256; ld.shared.b32 %r1, [%r3];"
        + OUT
        + "\nEND: ret;"
    )
    assert _run(body, schedule, 128)[64:128].tolist() == list(range(64))
    half = OWN + (
        "shr.u32 %r5, %thread, 6; add.u32 %r5, %r5, 1; st.shared.b32 [%r20], %thread; bar.sync "
        "%r5, 64;"
        "xor.b32 %r3, %r20, 128; ld.shared.b32 %r1, [%r3];" + OUT
    )
    assert _run(half, schedule, 128)[:128].tolist() == [thread ^ 32 for thread in range(128)]


def test_a_barrier_that_does_not_hold_the_writer_is_a_race() -> None:
    body = OWN + (
        "setp.ge.u32 %p1, %thread, 64; @%p1 bra CONSUME;\nst.shared.b32 [%r20], %thread; bra END;\n"
        "CONSUME: bar.sync 3, 64; sub.u32 %r3, %r20, 256; ld.shared.b32 %r1, [%r3];\nEND: ret;"
    )
    with pytest.raises(Exception, match=r"race|nothing wrote"):
        _run(body, None, 128)


def test_misused_barriers() -> None:
    with pytest.raises(BarrierMisuse, match="which waits for 32"):
        _run(
            "setp.lt.u32 %p1, %thread, 64; bar.arrive 1, 32; bar.arrive 1, 32;bar.arrive 1, 64;",
            threads=64,
        )
    with pytest.raises(BarrierMisuse, match="not whole warps"):
        _run("bar.sync 1, 33;")
    with pytest.raises(BarrierMisuse, match="some say"):
        _run(
            (
                "setp.lt.u32 %p1, %thread, 32; @%p1 bra A; bar.sync 1, 96; bra END;\nA: "
                "bar.sync 1, "
                "64;\nEND: ret;"
            ),
            threads=96,
        )


@each_schedule
def test_counting_barriers(schedule: Schedule) -> None:
    body = (
        "rem.u32 %r2, %thread, 3; setp.eq.u32 %p1, %r2, 0; barrier.cta.red.popc.aligned.u32 %r1, "
        "0, %p1;"
    ) + OUT
    assert (_run(body, schedule, 96)[:96] == 32).all()
    body = (
        "setp.lt.u32 %p1, %thread, 95; bar.red.and.pred %p2, 0, %p1; bar.red.or.pred %p3, 0, %p1; "
        "selp.b32 %r1, 2, 0, %p2; @%p3 add.u32 %r1, %r1, 1;"
    ) + OUT
    assert (_run(body, schedule, 96)[:96] == 1).all()


def test_a_warp_that_never_comes_is_a_deadlock() -> None:
    with pytest.raises(Deadlock, match=r"barrier 0 of block 0 has 32 of 64 threads"):
        _run("setp.lt.u32 %p1, %thread, 32; @%p1 bra END; bar.sync 0;\nEND: ret;")


def test_lanes_that_never_come_are_told() -> None:
    with pytest.raises(DivergentCollective, match="wait for the rest of their warp"):
        _run("setp.lt.u32 %p1, %thread, 40; @%p1 bra END; bar.sync 0;\nEND: ret;")


@each_schedule
def test_a_thread_that_spins_lets_others_go_on(schedule: Schedule) -> None:
    """Warp 1 waits in a loop for a flag that warp 0 sets later in the text."""
    body = (
        "setp.ge.u32 %p1, %thread, 32; @!%p1 bra SET;\n"
        "SPIN: ld.relaxed.gpu.global.b32 %r1, [%base0]; setp.eq.u32 %p2, %r1, 0; @%p2 bra SPIN;"
        " bra END;\n"
        "SET: mov.u32 %r1, 5; st.relaxed.gpu.global.b32 [%base0], %r1;\nEND:" + OUT
    )
    assert (_run(body, schedule)[:64] == 5).all()


def test_loops_come_before_what_follows_them() -> None:
    """The text has the exit in the middle of the loop, as LLVM may lay it out."""
    body = (
        "HEAD: setp.eq.u32 %p1, %r1, 0; @%p1 bra LATCH; bra BODY;\nEXIT: ret;\n"
        "BODY: add.u32 %r1, %r1, 1;\nLATCH: setp.eq.u32 %p2, %r1, 9; @%p2 bra EXIT; bra HEAD;"
    )
    program = parse_module(kernel(1, body)).kernels["k"]
    order = priorities(program)
    assert (
        order[program.labels["EXIT"]]
        > order[program.labels["LATCH"]]
        > order[program.labels["BODY"]]
    )


def test_hints_do_nothing() -> None:
    body = (
        "griddepcontrol.wait; mov.u32 %r1, 3; nanosleep.u32 20; "
        "griddepcontrol.launch_dependents; fence.acq_rel.gpu; membar.gl;"
    )
    assert (_run(body + OUT)[:64] == 3).all()
