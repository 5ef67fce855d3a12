"""No kernel reads or writes behind the end of an array, not even what it does not use."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from tests.guard_page_cases import CASES

_FAULT = """
import numpy as np
from tests.guard_pages import Fenced
fenced = Fenced(12).bytes
print("inside", fenced[11], flush=True)
np.lib.stride_tricks.as_strided(fenced, (13,))[12]
print("behind", flush=True)
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


def test_a_fence_ends_a_process_that_looks_behind_it() -> None:
    ended = _run("-c", _FAULT)
    assert ended.returncode < 0 and ended.stdout == "inside 0\n"


def test_nothing_is_touched_behind_the_end_of_an_array() -> None:
    ended = _run("-m", "tests.guard_pages")
    told = ended.stdout.splitlines()
    assert ended.returncode == 0, f"after {told[-1:]}: {ended.returncode} {ended.stderr[-2000:]}"
    assert len(told) == int(np.sum([len(case.sizes) for case in CASES]))
