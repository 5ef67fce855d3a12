"""Runs AMX code on processors without AMX: see amx_emulator.c."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bessemer.compiler.targets import x86
from bessemer.compiler.targets.choose import host_target

SOURCE = Path(__file__).with_name("amx_emulator.c")
_folder = tempfile.TemporaryDirectory(prefix="amx")  # removed when the tests end
COUNTED = ("ldtilecfg", "sttilecfg", "load", "store", "zero", "release", "product")
"""What the emulator counts, in the order of its numbers."""

_RUNS_THE_REST = set(x86.AVX512.features) <= set(host_target().features)
needs_emulator = pytest.mark.skipif(
    platform.system() != "Linux"
    or platform.machine() != "x86_64"
    or shutil.which("gcc") is None
    or not _RUNS_THE_REST,
    reason="the emulator of AMX wants gcc, Linux and AVX-512",
)


@cache
def library_path() -> Path:
    """The emulator, compiled once."""
    flags = "-O3 -mavx2 -mfma -ffp-contract=off -Wall -Wextra -Werror -shared -fPIC"
    path = Path(_folder.name) / "amx_emulator.so"
    subprocess.run(["gcc", *flags.split(), str(SOURCE), "-o", str(path)], check=True)
    return path


@cache
def emulator() -> Any:
    """The emulator, at work in this process from the first call on."""
    library = ctypes.CDLL(str(library_path()))
    library.amx_emulator_count.restype = ctypes.c_long
    assert library.amx_emulator_install() == 0
    return library


def counts() -> dict[str, int]:
    """How often each kind of instruction was carried out since `reset`."""
    return {name: int(emulator().amx_emulator_count(i)) for i, name in enumerate(COUNTED)}


def reset() -> None:
    """Starts counting anew."""
    emulator().amx_emulator_reset()
