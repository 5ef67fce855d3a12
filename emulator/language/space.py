"""Where the memory spaces lie in the generic address space, and how far apart the
buffers of the device are.
"""

from __future__ import annotations

GLOBAL_BASE = 0x7F20_0000_0000
SHARED_WINDOW = 0x7E00_0000_0000
LOCAL_WINDOW = 0x7D00_0000_0000
PARAMETER_WINDOW = 0x7C00_0000_0000
CONSTANT_WINDOW = 0x7B00_0000_0000
WINDOW_BYTES = 1 << 40

SHARED_START = 1024
"""The first bytes of shared memory belong to the system, as on a device."""

SPACES = {
    "shared": SHARED_WINDOW,
    "local": LOCAL_WINDOW,
    "param": PARAMETER_WINDOW,
    "const": CONSTANT_WINDOW,
}
