"""No kernel reads or writes outside of an array, not even what it does not use."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.codegen.guard_page_cases import CASES

_FAULT = """
import ctypes
from tests.codegen.guard_pages import Fenced
from bessemer.runtime.arrays import address
fenced = Fenced(12, is_first={is_first}).bytes
start = address(fenced)
print("inside", fenced[0], fenced[11], flush=True)
ctypes.string_at(start + {place}, 1)
print("outside", flush=True)
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(("is_first", "place"), [(False, 12), (True, -1)])
def test_a_fence_ends_a_process_that_looks_behind_it(is_first: bool, place: int) -> None:
    ended = _run("-c", _FAULT.format(is_first=is_first, place=place))
    assert ended.returncode < 0 and ended.stdout == "inside 0 0\n"


def test_nothing_is_touched_outside_of_an_array() -> None:
    ended = _run("-m", "tests.codegen.guard_pages")
    told = ended.stdout.splitlines()
    assert ended.returncode == 0, f"after {told[-1:]}: {ended.returncode} {ended.stderr[-2000:]}"
    assert len(told) == int(np.sum([len(case.sizes) for case in CASES]))
