"""cp.async groups, mbarriers and bulk copies, rightly used and misused."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.errors import (
    BarrierMisuse,
    Deadlock,
    EmulationError,
    Misaligned,
    Race,
    TransactionMismatch,
    UnfinishedRead,
    Uninitialised,
)
from emulator.schedule import FOUR_SCHEDULES, Schedule
from tests.emulator.emulated import Array, run

each_schedule = pytest.mark.parametrize("schedule", [*FOUR_SCHEDULES, Schedule(seed=7)], ids=str)
WORDS = np.arange(1, 2049, dtype=np.uint32)
ROOM = (
    ".shared .align 128 .b8 room[4096];\n.shared .align 8 .b64 full[4];\n.shared .align 8 "
    ".b64 empty[4];"
)
OWN = (
    "shl.b32 %r20, %thread, 4; mov.u32 %r21, room; add.u32 %r20, %r20, %r21; mad.wide.u32 %at0, "
    "%thread, 16, %base0;"
)
OUT = "mad.wide.u32 %at1, %thread, 4, %base1; st.global.b32 [%at1], %r1;"


def _run(body: str, schedule: Schedule | None = None, threads: int = 64, **launch: int) -> Array:
    return run(body, [WORDS], np.zeros(1024, np.uint32), threads, schedule, ROOM, **launch)


TWO_GROUPS = (
    OWN + "cp.async.cg.shared.global [%r20], [%at0], 16; cp.async.commit_group;"
    "cp.async.ca.shared.global [%r20+1024], [%at0+1024], 4; cp.async.commit_group;"
    "cp.async.wait_group {left}; {barrier} xor.b32 %r3, %r20, 512; ld.shared.b32 %r1, "
    "[%r3+{offset}];"
    "cp.async.wait_all;" + OUT
)


@each_schedule
def test_groups_finish_in_their_order(schedule: Schedule) -> None:
    threads = np.arange(64)
    found = _run(TWO_GROUPS.format(left=1, barrier="bar.sync 0;", offset=4), schedule)
    assert (found[:64] == WORDS[4 * (threads ^ 32) + 1]).all()
    found = _run(TWO_GROUPS.format(left=0, barrier="bar.sync 0;", offset=1024), schedule)
    assert (found[:64] == WORDS[256 + 4 * (threads ^ 32)]).all()


@each_schedule
@pytest.mark.parametrize(
    ("left", "barrier", "offset"), [(1, "bar.sync 0;", 1024), (2, "bar.sync 0;", 4), (1, "", 4)]
)
def test_a_copy_that_was_not_waited_for_is_a_race(
    schedule: Schedule, left: int, barrier: str, offset: int
) -> None:
    """A wait for too few groups, for none, and a wait without the barrier that tells
    the other threads.
    """
    with pytest.raises(Exception, match=r"race|nothing wrote"):
        _run(TWO_GROUPS.format(left=left, barrier=barrier, offset=offset), schedule)


@each_schedule
def test_threads_count_their_own_groups(schedule: Schedule) -> None:
    """Odd threads commit one group more, and so may leave one more under way."""
    body = OWN + (
        "and.b32 %r5, %thread, 1; setp.eq.u32 %p1, %r5, 1; cp.async.cg.shared.global [%r20], "
        "[%at0], 16; cp.async.commit_group;"
        "@%p1 cp.async.cg.shared.global [%r20+1024], [%at0], 16; @%p1 cp.async.commit_group;"
        "@%p1 cp.async.wait_group 1; @!%p1 cp.async.wait_group 0; ld.shared.b32 %r1, [%r20+8]; "
        "cp.async.wait_all;" + OUT
    )
    assert (
        _run(body, Schedule(schedule.seed, schedule.async_, races=False))[:64] == WORDS[2:256:4]
    ).all()


def test_missing_bytes_are_zeros() -> None:
    body = (
        OWN
        + (
            "rem.u32 %r5, %thread, 5; shl.b32 %r5, %r5, 2; setp.eq.u32 %p1, %r5, 0; selp.b64 "
            "%at0, 0, "
            "%at0, %p1;"
            "cp.async.cg.shared.global [%r20], [%at0], 16, %r5; cp.async.wait_all; ld.shared.b32 "
            "%r1, [%r20+8];"
        )
        + OUT
    )
    thread = np.arange(64)
    assert (_run(body)[:64] == np.where(thread % 5 > 2, WORDS[4 * thread + 2], 0)).all()


INIT = (
    "setp.eq.u32 %p9, %thread, 0; @!%p9 bra READY;\nmbarrier.init.shared.b64 [full], {full};"
    "\nmbarrier.init.shared.b64 [full+8], {full};\nmbarrier.init.shared.b64 [empty], "
    "{empty};\n{fence}\nREADY: bar.sync 0;\n"
)
FENCE = "fence.mbarrier_init.release.cluster;"
WAIT = "{name}: mbarrier.try_wait.parity.shared.b64 %p1, [{barrier}], {parity}; @!%p1 bra {name};\n"


def _init(full: int = 1, empty: int = 1, fence: str = FENCE) -> str:
    return INIT.format(full=full, empty=empty, fence=fence)


def _wait(name: str, barrier: str, parity: int | str) -> str:
    return WAIT.format(name=name, barrier=barrier, parity=parity)


@each_schedule
def test_an_mbarrier_passes_what_was_written_before(schedule: Schedule) -> None:
    body = _init(full=32) + (
        "setp.lt.u32 %p2, %thread, 32; shl.b32 %r2, %thread, 2; mov.u32 %r3, room; add.u32 "
        "%r2, %r2, "
        "%r3; @!%p2 bra READ;\n"
        "st.shared.b32 [%r2], %thread; mbarrier.arrive.shared.b64 %rd1, [full]; bra END;\n"
        "READ:"
        + _wait("W", "full", 0)
        + "sub.u32 %r2, %r2, 128; ld.shared.b32 %r1, [%r2];"
        + OUT
        + "\nEND: ret;"
    )
    assert (_run(body, schedule)[32:64] == np.arange(32)).all()


def test_an_arrival_that_comes_before_the_write_does_not_pass_it_on() -> None:
    body = _init(full=32) + (
        "setp.lt.u32 %p2, %thread, 32; shl.b32 %r2, %thread, 2; mov.u32 %r3, room; add.u32 "
        "%r2, %r2, "
        "%r3; @!%p2 bra READ;\n"
        "mbarrier.arrive.shared.b64 %rd1, [full]; st.shared.b32 [%r2], %thread; bra END;\n"
        "READ:"
        + _wait("W", "full", 0)
        + "sub.u32 %r2, %r2, 128; ld.shared.b32 %r1, [%r2];"
        + OUT
        + "\nEND: ret;"
    )
    for schedule in FOUR_SCHEDULES:
        with pytest.raises(Exception, match=r"race|nothing wrote"):
            _run(body, schedule)


PIPELINE = (
    _init(full=1, empty=32)
    + """
    mov.u32 %r10, 0; setp.lt.u32 %p2, %thread, 32; @!%p2 bra CONSUME;
    PRODUCE: setp.ge.u32 %p3, %r10, 5; @%p3 bra END; and.b32 %r11, %r10, 1; xor.b32 %r12, %r11, 1;
    {wait_empty}
    elect.sync %r13|%p4, -1; @!%p4 bra SKIP;
    mbarrier.arrive.expect_tx.shared.b64 %rd1, [full], {expected};
    mad.wide.u32 %rd2, %r10, 512, %base0;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [room], [%rd2], 256, [full];
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [room+256],
    [%rd2+256], 256, [full];
    SKIP: add.u32 %r10, %r10, 1; bra PRODUCE;
    CONSUME: setp.ge.u32 %p3, %r10, 5; @%p3 bra WRITE; and.b32 %r11, %r10, 1;
    {wait_full}
    sub.u32 %r14, %thread, 32; shl.b32 %r14, %r14, 2; mov.u32 %r15, room; add.u32 %r14, %r14, %r15;
    ld.shared.b32 %r16, [%r14+256]; add.u32 %r1, %r1, %r16;
    {arrive}
    add.u32 %r10, %r10, 1; bra CONSUME;
    WRITE: mad.wide.u32 %at1, %thread, 4, %base1; st.global.b32 [%at1], %r1;
    END: ret;
"""
)


def pipeline(
    expected: int = 512,
    parity: str = "%r11",
    empty_parity: str = "%r12",
    arrive: str | None = None,
    wait_full: bool = True,
) -> str:
    arrive = "mbarrier.arrive.shared.b64 _, [empty];" if arrive is None else arrive
    body = PIPELINE.format(
        wait_empty=_wait("WE", "empty", empty_parity),
        wait_full=_wait("WF", "full", parity) if wait_full else "",
        expected=expected,
        arrive=arrive,
    )
    return "mov.u32 %r1, 0;" + body


@each_schedule
def test_a_pipeline_of_bulk_copies(schedule: Schedule) -> None:
    found = _run(pipeline(), schedule)
    expected = WORDS[: 5 * 128].reshape(5, 128)[:, 64:96].sum(0)
    assert (found[32:64] == expected).all()


MISUSES = {
    "too few bytes expected": (pipeline(expected=256), (TransactionMismatch, Race)),
    "too many bytes expected": (pipeline(expected=768), (TransactionMismatch,)),
    "the wrong phase awaited": (pipeline(parity="%r12"), (Race, Uninitialised)),
    "the producer awaits the wrong phase": (pipeline(empty_parity="%r11"), (Deadlock, Race)),
    "nobody says that the room is empty": (pipeline(arrive=""), (Deadlock,)),
    "the consumer does not wait": (pipeline(wait_full=False), (Race, Uninitialised)),
    "half the arrivals": (
        pipeline(
            arrive="setp.lt.u32 %p5, %thread, 48; @%p5 mbarrier.arrive.shared.b64 _, [empty];"
        ),
        (Deadlock,),
    ),
    "twice the arrivals": (
        pipeline(
            arrive="mbarrier.arrive.shared.b64 _, [empty]; mbarrier.arrive.shared.b64 _, [empty];"
        ),
        (BarrierMisuse, Race, Deadlock, TransactionMismatch),
    ),
}


@pytest.mark.parametrize("fault", MISUSES)
def test_misused_pipelines_are_found(fault: str) -> None:
    """In one of the four orders at least; most in all."""
    body, kinds = MISUSES[fault]
    found = []
    for schedule in FOUR_SCHEDULES:
        try:
            _run(body, schedule)
        except EmulationError as error:
            assert isinstance(error, kinds), error
            found.append(error)
    assert len(found) >= (3 if "phase" in fault else 4)


def test_misused_mbarriers() -> None:
    with pytest.raises(BarrierMisuse, match=r"before mbarrier.init"):
        _run("mbarrier.arrive.shared.b64 _, [full];")
    with pytest.raises(BarrierMisuse, match="waits for 1 arrivals and gets more"):
        _run(_init() + "setp.eq.u32 %p1, %thread, 0; @%p1 mbarrier.arrive.shared.b64 _, [full], 2;")
    with pytest.raises(BarrierMisuse, match="in use"):
        _run(_init() + "setp.eq.u32 %p1, %thread, 0; @%p1 mbarrier.init.shared.b64 [full], 1;")
    with pytest.raises(Misaligned):
        _run("mbarrier.init.shared.b64 [full+4], 1;")
    with pytest.raises(Deadlock, match="waits for 1 arrivals and 0 bytes"):
        _run(_init() + _wait("W", "full", 0))
    with pytest.raises(BarrierMisuse, match=r"fence.mbarrier_init"):
        _run(pipeline().replace(FENCE, ""))


@each_schedule
def test_waits_by_token_and_tests(schedule: Schedule) -> None:
    body = _init(full=64) + (
        "mbarrier.arrive.shared.b64 %rd1, [full];\nT: mbarrier.test_wait.shared.b64 %p1, "
        "[full], %rd1; @!%p1 bra T;\n"
        "mbarrier.arrive.shared.b64 %rd1, [full];\nU: mbarrier.try_wait.shared.b64 %p1, "
        "[full], %rd1; @!%p1 bra U;\n"
        "cvt.u32.u64 %r1, %rd1;" + OUT
    )
    assert (_run(body, schedule)[:64] == 1).all()


@each_schedule
def test_cp_async_may_report_to_an_mbarrier(schedule: Schedule) -> None:
    body = (
        _init(full=64)
        + OWN
        + (
            (
                "cp.async.cg.shared.global [%r20], [%at0], 16; "
                "cp.async.mbarrier.arrive.noinc.shared.b64 [full];"
            )
            + _wait("W", "full", 0)
            + "xor.b32 %r3, %r20, 512; ld.shared.b32 %r1, [%r3];"
            + OUT
        )
    )
    assert (_run(body, schedule)[:64] == WORDS[4 * (np.arange(64) ^ 32)]).all()
    with pytest.raises(Exception, match=r"race|nothing wrote"):
        _run(body.replace(_wait("W", "full", 0), ""), schedule)


STORE = OWN + (
    "ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%at0]; st.shared.v4.b32 [%r20], {{%r4, %r5, "
    "%r6, %r7}}; {fence} bar.sync 0;"
    "setp.eq.u32 %p1, %thread, 0; @%p1 cp.async.bulk.global.shared::cta.bulk_group [%base1], "
    "[room], 1024;"
    "@%p1 cp.async.bulk.commit_group; {wait} {after}"
)
PROXY = "fence.proxy.async.shared::cta;"
READ = "@%p1 cp.async.bulk.wait_group.read 0;"


@each_schedule
def test_bulk_stores(schedule: Schedule) -> None:
    after = "bar.sync 0; st.shared.v4.b32 [%r20], {%r7, %r7, %r7, %r7};"
    found = _run(STORE.format(fence=PROXY, wait=READ, after=after), schedule)
    assert (found[:256] == WORDS[:256]).all()


@pytest.mark.parametrize("schedule", FOUR_SCHEDULES, ids=str)
def test_misused_bulk_stores_are_found(schedule: Schedule) -> None:
    after = "bar.sync 0; st.shared.v4.b32 [%r20], {%r7, %r7, %r7, %r7};"
    with pytest.raises(Race, match=r"without a fence\.proxy\.async"):
        _run(STORE.format(fence="", wait=READ, after=""), schedule)
    with pytest.raises(UnfinishedRead, match="never waited for"):
        _run(STORE.format(fence=PROXY, wait="", after=""), schedule)
    with pytest.raises(Race):
        _run(STORE.format(fence=PROXY, wait="", after=after), schedule)
    with pytest.raises(Race):
        _run(
            STORE.format(fence=PROXY, wait=READ, after=after.removeprefix("bar.sync 0;")), schedule
        )


def test_a_copy_under_way_at_the_end_is_found() -> None:
    body = pipeline().replace("WRITE:", "WRITE: ret;").replace(_wait("WF", "full", "%r11"), "")
    with pytest.raises(Exception, match=r"race|nothing wrote|under way"):
        _run(body, Schedule(async_="late"))


def test_crooked_bulk_copies_are_found() -> None:
    with pytest.raises(Misaligned, match="source of a bulk copy"):
        _run(pipeline().replace("[%rd2+256], 256", "[%rd2+260], 256"))
    with pytest.raises(Misaligned, match="size of a bulk copy"):
        _run(pipeline().replace("[%rd2], 256", "[%rd2], 250"))


def test_what_cp_async_brought_needs_a_fence_too() -> None:
    body = STORE.replace(
        "ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%at0]; st.shared.v4.b32 [%r20], "
        "{{%r4, %r5, %r6, %r7}};",
        "cp.async.cg.shared.global [%r20], [%at0], 16; cp.async.wait_all;",
    )
    assert "cp.async.cg" in body
    found = _run(body.format(fence=PROXY, wait=READ, after=""))
    assert (found[:256] == WORDS[:256]).all()
    with pytest.raises(Race, match=r"without a fence\.proxy\.async"):
        _run(body.format(fence="", wait=READ, after=""))
