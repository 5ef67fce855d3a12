"""Requests permission to use AMX from Linux, which saves a thread's tiles only on request."""

from __future__ import annotations

import ctypes
import sys

_ARCH_PRCTL = 158
_REQUEST_PERMISSION = 0x1023
_TILE_DATA = 18


def request_tiles() -> bool:
    """Asks for the tiles, for all threads of this process; whether they may be used."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)
