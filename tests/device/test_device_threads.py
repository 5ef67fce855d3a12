"""What the threads of a group share: where barriers are needed, which arrays need no memory, who
stores."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bessemer.compiler.codegen.ptx.barriers import with_barriers
from bessemer.compiler.codegen.ptx.kernel import emit_device_kernel
from bessemer.compiler.codegen.ptx.local_arrays import kept_arrays
from bessemer.compiler.codegen.ptx.module import ptx_of
from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.interpreter.interpret_loops import run_kernel
from bessemer.compiler.ir.loops import Barrier, For, Kernel
from bessemer.compiler.ir.text.parse_loops import parse_kernel
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.targets.nvptx import SM80
from bessemer.runtime.cuda.driver import pointer
from emulator.driver import EmulatedDriver
from emulator.errors import EmulationError
from emulator.schedule import FOUR_SCHEDULES

ROWS = 3
MAPPINGS = [ThreadMapping(128, 32), ThreadMapping(128, 128), ThreadMapping(64, 1)]

REVERSED = """kernel reversed(in0 : f32[300], out0 : f32[300]) writes 1 operations 1
  parallel i1 in 0..3
    allocate row : f32[100]
    vector i2 in 0..100 by 4
      row[i2] = in0[100*i1+i2] * 2.0
    vector i3 in 0..100
      out0[100*i1+i3] = row[-i3+99]
"""
KEPT = """kernel kept(in0 : f32[300], out0 : f32[300]) writes 1 operations 1
  parallel i1 in 0..3
    allocate row : f32[100]
    total : f32 = 0.0
    vector i2 in 0..100 by 4
      row[i2] = in0[100*i1+i2] * 2.0
      total += row[i2]
    vector i3 in 0..100 by 4
      out0[100*i1+i3] = row[i3] - total
"""
REPEATED = """kernel repeated(in0 : f32[300], out0 : f32[300]) writes 1 operations 1
  parallel i1 in 0..3
    vector i2 in 0..100
      out0[100*i1+i2] = in0[100*i1+i2]
    for i3 in 0..4
      last : f32 = out0[100*i1+99]
      vector i4 in 0..100
        out0[100*i1+i4] = out0[100*i1+i4] + last
"""
ONCE = """kernel once(in0 : f32[300], out0 : f32[300]) writes 1 operations 1
  parallel i1 in 0..3
    vector i2 in 0..100
      out0[100*i1+i2] = in0[100*i1+i2]
    out0[100*i1+5] = out0[100*i1+5] + out0[100*i1+6]
    if in0[100*i1] > 0.0
      out0[100*i1+7] = out0[100*i1+5] * 3.0
"""
KERNELS = [REVERSED, KEPT, REPEATED, ONCE]


def body_of(kernel: Kernel) -> tuple[object, ...]:
    (loop,) = kernel.body
    assert isinstance(loop, For)
    return loop.body


def run(kernel: Kernel, mapping: ThreadMapping, x: np.ndarray, schedule: object) -> np.ndarray:
    driver = EmulatedDriver(schedule)  # type: ignore[arg-type]
    driver.open(0)
    text = ptx_of(emit_device_kernel(kernel, SM80, mapping), SM80)
    function = driver.function(driver.load_module(text.encode()), kernel.name)
    places = [driver.allocate(x.nbytes) for _ in range(2)]
    driver.copy_in(places[0], x, 0)
    grid = -(-ROWS // mapping.iterations)
    given = [pointer(place) for place in places]
    driver.launch(function, (grid, 1, 1), (mapping.threads, 1, 1), 0, 0, given)
    found = np.empty_like(x)
    driver.copy_out(found, places[1], 0)
    return found


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda m: f"{m.group}-of-{m.threads}")
@pytest.mark.parametrize("text", KERNELS, ids=lambda text: text.split("(")[0])
def test_a_group_does_what_one_thread_does(text: str, mapping: ThreadMapping) -> None:
    kernel = parse_kernel(text)
    x = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    (expected,) = run_kernel(kernel, [x], {}).outputs
    for schedule in FOUR_SCHEDULES:
        np.testing.assert_allclose(
            run(kernel, mapping, x, schedule), expected, rtol=2e-5, atol=2e-5
        )


@pytest.mark.parametrize("text", [REVERSED, REPEATED])
def test_every_barrier_is_needed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the emulator sees a race, or a result is wrong under some schedule."""
    kernel = parse_kernel(text)
    x = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    (expected,) = run_kernel(kernel, [x], {}).outputs
    name = "bessemer.compiler.codegen.ptx.kernel.with_barriers"
    monkeypatch.setattr(name, lambda block, kept: block)
    failures = 0
    for schedule in FOUR_SCHEDULES:
        try:
            found = run(kernel, ThreadMapping(128, 128), x, schedule)
            failures += not np.allclose(found, expected, rtol=2e-5, atol=2e-5)
        except EmulationError:
            failures += 1
    assert failures


def test_barriers_stand_only_where_threads_meet() -> None:
    counts = {}
    for text in KERNELS:
        kernel = parse_kernel(text)
        block = kernel.body[0].body  # type: ignore[union-attr]
        kept = frozenset(kept_arrays(block, ThreadMapping(128, 128)))
        found = [s for s in walk(with_barriers(block, kept)) if isinstance(s, Barrier)]
        counts[kernel.name] = len(found)
    # `once` waits for the row, between reading and storing (twice), and for the first store.
    assert counts == {"reversed": 1, "kept": 0, "repeated": 3, "once": 4}


def test_an_array_stays_in_registers_if_every_thread_reads_its_own_elements() -> None:
    blocks = {t: parse_kernel(t).body[0].body for t in (REVERSED, KEPT)}  # type: ignore[union-attr]
    assert kept_arrays(blocks[REVERSED], ThreadMapping(32, 32)) == {}
    (array,) = kept_arrays(blocks[KEPT], ThreadMapping(32, 32)).values()
    assert (array.lanes, array.slots) == (4, 1)
    texts = {
        t: ptx_of(emit_device_kernel(parse_kernel(t), SM80, ThreadMapping(32, 32)), SM80)
        for t in blocks
    }
    assert ".shared" in texts[REVERSED]
    assert not re.search(r"\.shared|\.local", texts[KEPT])
