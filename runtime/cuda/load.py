"""Loads models for GPUs from their files."""

from __future__ import annotations

from pathlib import Path

from bessemer.runtime.cuda.device import compute_capability
from bessemer.runtime.cuda.driver import Driver
from bessemer.runtime.cuda.libcuda import CudaDriver
from bessemer.runtime.cuda.model import DeviceModel
from bessemer.runtime.cuda.program_file import choose_form, read_forms


def load_for_device(path: Path, driver: Driver | None = None, device: int = 0) -> DeviceModel:
    """The model in a file on a device of the driver: libcuda's where none is given.

    Of several levels the most able one that the device runs is taken, as a cubin where there is one
    for it. Raises ArtifactError for the file, NoDeviceError where there is no driver or device,
    other DeviceErrors where no level fits or the device refuses.
    """
    forms = read_forms(path)
    driver = driver or CudaDriver()
    major, minor = compute_capability(driver, device)
    level = 10 * major + minor
    form = choose_form(forms, level, driver.device_name(device))
    return DeviceModel(form.program, form.weights, driver, device, cubin=form.cubin_for(level))
