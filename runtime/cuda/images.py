"""Loads code onto a device: the cubin that was made for it, or else PTX."""

from __future__ import annotations

from bessemer.runtime.cuda.driver import DeviceError, Driver


def load_image(driver: Driver, cubin: bytes, ptx: str) -> int:
    """The module. Where there is no cubin, or the driver refuses it (one that is older than the
    assembler does), it translates the PTX. Raises DeviceError."""
    if cubin:
        try:
            return driver.load_module(cubin)
        except DeviceError:
            pass  # what is wrong with more than the cubin, the PTX will show
    return driver.load_module(ptx.encode())
