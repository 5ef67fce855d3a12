"""`bessemer.compile` for GPUs: from a model in any form to a callable on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bessemer.compiler.cache import key_of
from bessemer.compiler.device_driver import DeviceCompilation, build_for_device
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options, Tuning
from bessemer.compiler.targets.nvptx import CUDA, DEVICES, DeviceTarget, device_of_capability
from bessemer.frontends.model_content import content_of
from bessemer.frontends.models_in import Model, as_graph
from bessemer.frontends.save_device import form_of, levels_named, save_forms
from bessemer.frontends.tuning.device_key import device_key
from bessemer.frontends.tuning.tune_device import tune_for_device
from bessemer.frontends.tuning_file import keep_choices, kept_choices, read_choices
from bessemer.runtime.cuda.device import compute_capability
from bessemer.runtime.cuda.driver import Driver
from bessemer.runtime.cuda.libcuda import CudaDriver
from bessemer.runtime.cuda.model import DeviceModel


def compile_for_device(
    model: Model,
    options: Options,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Array | None] | None = None,
    driver: Driver | None = None,
    device: int = 0,
    *,
    tune: float = 0.0,
    tuning: str | Path | Tuning | None = None,
    folder: Path | None = None,
) -> DeviceModel:
    """Compiles a model and puts it on a device of the driver: libcuda's where none is given.

    `tune`, `tuning`: as those of `compile`; `folder` keeps what was found, None for nowhere.
    Raises CompileError for a model or a GPU that there is no code for, NoDeviceError where there is
    no driver or no device, other DeviceErrors where the device refuses.
    """
    if options.target != CUDA:
        levels_named(options.target)
    # First of all: who has no device shall not wait for the compilation to hear of it.
    driver = driver or CudaDriver()
    target = _target_of(options.target, driver, device)
    key = device_key(driver, device, target)
    if tuning is not None:
        known = tuning if isinstance(tuning, Tuning) else read_choices(Path(tuning), key)
        options = replace(options, tuning=known)
    if tune:
        place = _place(folder, model, dims or {}, options, key) if folder and not values else None
        found = kept_choices(place, key)
        if found is None:
            tuned = tune_for_device(model, options, tune, target, driver, device, dims, values)
            found = tuned.tuning
            keep_choices(place, found, key)
        options = replace(options, tuning=found)
    made = build_model_for_device(model, options, target, dims, values)

    def save(path: str | Path) -> list[Path]:
        return save_forms([form_of(made)], path)

    return DeviceModel(made.artifact, made.weights, driver, device, saver=save)


def _place(
    folder: Path, model: Model, dims: Mapping[str, int], options: Options, device: str
) -> Path | None:
    """The file for what is found for a model on a device; None for a model that is not known by its
    content."""
    content = content_of(model, folder)
    if content is None:
        return None
    given = repr((sorted(dims.items()), options.precision, options.optimize, options.tuning))
    key = key_of((content, given.encode(), device.encode()))
    return folder / "tuning" / f"{key}.json"


def build_model_for_device(
    model: Model,
    options: Options,
    target: DeviceTarget,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Array | None] | None = None,
) -> DeviceCompilation:
    """Compiles without a device."""
    return build_for_device(as_graph(model, dims, values, broadcasts=False), options, target)


def target_at_hand(driver: Driver | None = None, device: int = 0) -> DeviceTarget:
    """The level of a device; raises NoDeviceError, or CompileError where no code runs on it."""
    driver = driver or CudaDriver()
    major, minor = compute_capability(driver, device)
    try:
        return device_of_capability(major, minor)
    except CompileError as error:
        raise CompileError(f"{driver.device_name(device)}: {error}") from None


def _target_of(name: str, driver: Driver, device: int) -> DeviceTarget:
    at_hand = target_at_hand(driver, device)
    return at_hand if name == CUDA else best_level(name, at_hand)


def best_level(name: str, at_hand: DeviceTarget) -> DeviceTarget:
    """Of the levels that a target names the best for this device, or else the lowest."""
    order = list(DEVICES.values())
    levels = sorted(levels_named(name), key=order.index)
    fitting = [level for level in levels if order.index(level) <= order.index(at_hand)]
    return fitting[-1] if fitting else levels[0]
