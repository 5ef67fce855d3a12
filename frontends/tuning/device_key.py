"""The name of a GPU in the files of tunings (tuning_file.py)."""

from __future__ import annotations

from bessemer.compiler.targets.nvptx import DeviceTarget
from bessemer.runtime.cuda.device import compute_capability
from bessemer.runtime.cuda.driver import Driver


def device_key(driver: Driver, device: int, target: DeviceTarget) -> str:
    """A GPU's name, its compute capability, the level; the driver's version is no part of it."""
    major, minor = compute_capability(driver, device)
    return f"{driver.device_name(device)}, {major}.{minor}, {target.description}"
