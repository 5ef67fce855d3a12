"""A device: what code it runs, and allocations of its memory."""

from __future__ import annotations

import weakref

from bessemer.runtime.cuda.artifact import DeviceProgram
from bessemer.runtime.cuda.driver import Attribute, DeviceError, Driver, NoDeviceError


class Memory:
    """Memory of the device that goes when nothing uses it any more."""

    def __init__(self, driver: Driver, size: int) -> None:
        self.address = driver.allocate(size)
        self._end = weakref.finalize(self, driver.free, self.address)


def compute_capability(driver: Driver, device: int) -> tuple[int, int]:
    """What code a device runs: (9, 0) is the generation of sm_90. Raises NoDeviceError where there
    is no such device."""
    count = driver.device_count()
    if not 0 <= device < count:
        raise NoDeviceError(f"There is no CUDA device {device}: the driver finds {count}.")
    return (
        driver.attribute(device, Attribute.COMPUTE_CAPABILITY_MAJOR),
        driver.attribute(device, Attribute.COMPUTE_CAPABILITY_MINOR),
    )


def check_level(program: DeviceProgram, driver: Driver, device: int) -> None:
    """Raises DeviceError where the device cannot run the program's code."""
    major, minor = compute_capability(driver, device)
    level = 10 * major + minor
    fits = level == program.level if program.exact else level >= program.level
    if not fits:
        raise DeviceError(
            f"'{program.signature.name}' was compiled for {program.signature.target}; "
            f"{driver.device_name(device)} has compute capability {major}.{minor}. "
            "Compile it for that device."
        )
