"""`bessemer.compile`: from a model in any form to a callable, through the compile cache.

What is in the cache is loaded without importing onnx or the compiler, which takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from bessemer.compiler.cache import Cache, key_of
from bessemer.compiler.codegen.artifact.machine import machine_of
from bessemer.compiler.errors import CompileError
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import (
    Options,
    Precision,
    Tuning,
    cache_folder,
    cache_limit,
    dump_folder,
)
from bessemer.compiler.targets.choose import host_target, parse_target
from bessemer.compiler.targets.machine import Target
from bessemer.compiler.targets.nvptx import is_device
from bessemer.frontends.byte_count import byte_count
from bessemer.frontends.given_sizes import given_sizes
from bessemer.frontends.import_on_use import import_on_use
from bessemer.frontends.model_content import content_of
from bessemer.frontends.tuning_file import given_tuning, keep_choices, kept_choices
from bessemer.runtime.arrays import Array
from bessemer.runtime.model import CompiledModel

if TYPE_CHECKING:
    from bessemer.compiler.driver import Compilation
    from bessemer.frontends.models_in import Model
    from bessemer.runtime.cuda.driver import Driver
    from bessemer.runtime.cuda.model import DeviceModel


class _Choices(TypedDict, total=False):
    """What processors and GPUs have in common."""

    dims: Mapping[str, int] | None
    precision: Precision
    optimize: int
    values: Mapping[str, Array | None] | None
    cache: bool
    tune: float
    tuning: str | Path | Tuning | None


@overload
def compile(  # type: ignore[overload-overlap]  # the name decides, also where it is any text
    model: Model, *, target: Literal["cuda"], device: int = 0, **choices: Unpack[_Choices]
) -> DeviceModel: ...


@overload
def compile(
    model: Model, *, target: str, driver: Driver, device: int = 0, **choices: Unpack[_Choices]
) -> DeviceModel: ...


@overload
def compile(
    model: Model,
    *,
    target: str = "",
    threads: int | None = None,
    memory: int | str | None = None,
    sizes: Mapping[str, int] | None = None,
    grow_in_place: bool = False,
    **choices: Unpack[_Choices],
) -> CompiledModel: ...


def compile(
    model: Model,
    *,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    precision: Precision = "float32",
    target: str = "",
    optimize: int = 2,
    values: Mapping[str, Array | None] | None = None,
    cache: bool = True,
    tune: float = 0.0,
    tuning: str | Path | Tuning | None = None,
    memory: int | str | None = None,
    sizes: Mapping[str, int] | None = None,
    grow_in_place: bool = False,
    driver: Driver | None = None,
    device: int = 0,
) -> CompiledModel | DeviceModel:
    """Compiles a model for this machine, or loads it from the compile cache.

    `model` is an ONNX file's path, its bytes, an onnx.ModelProto, or a network or graph built in
    Python; a file must not change while it is compiled. `dims` fixes symbolic dimensions, `values`
    fixes whole inputs; an input of an ONNX file that has an initializer is a constant, but an input
    of the compiled model if its value is None. `threads`: None or 0 means all processors that the
    process may use.
    `optimize`: 0 unfused plain loops, 1 unfused vector loops, 2 everything. `tune` is the number of
    seconds to spend on measuring variants of the model's kernels on this machine; the cache keeps
    the result. `tuning` is a file written by `bessemer tune`, or its content: with it the
    compilation does not depend on the machine.
    `memory` limits what a run may allocate besides inputs, outputs and weights, such as "512M";
    `sizes` are the values of symbols that the limit is for. `grow_in_place` is for decoders whose
    outputs continue inputs, present = Concat(past, new): both may then be the first places of one
    array, and a run writes what is new (docs/embedding.md).
    With `target` "cuda" the model is compiled for the GPU number `device` and loaded there; targets
    like "nvptx:sm_80" name the level of a GPU, and `driver` may replace libcuda.
    Raises CompileError for anything in the model or the options that cannot be compiled; for GPUs
    DeviceError (NoDeviceError where there is no driver or no GPU).
    """
    dims = given_sizes(dims, "dims")
    if not isinstance(cache, bool):
        raise CompileError(
            f"cache={cache!r} is not True or False; BESSEMER_CACHE_DIR names a folder."
        )
    options = Options(
        target=target,
        threads=threads or 0,
        precision=precision,
        optimize=optimize,
        dump=dump_folder(),
        memory=0 if memory is None else byte_count(memory),
        sizes=tuple(sorted(given_sizes(sizes, "sizes").items())),
        grow_in_place=grow_in_place,
    )
    if options.sizes and not options.memory:
        raise CompileError("sizes are those for which memory is the limit; dims fixes sizes.")
    if is_device(target):
        for name, choice in (("memory", memory), ("grow_in_place", grow_in_place)):
            if choice:
                raise CompileError(f"{name} is for processors, not for {target}.")
        folder = cache_folder() if cache else None
        on_device: DeviceModel = import_on_use("compile_device").compile_for_device(
            model, options, dims, values, driver, device, tune=tune, tuning=tuning, folder=folder
        )
        return on_device
    if device:
        raise CompileError(f'device={device!r} is for GPUs: give target="cuda" too.')
    folder = cache_folder() if cache and not values and options.dump is None else None
    request = _Request(model, dims, values or {}, folder)
    machine = parse_target(target)
    if tune and machine != host_target():
        raise CompileError(f"tune={tune} measures on this machine; it is not {target}.")
    if tuning is not None:
        options = replace(options, tuning=given_tuning(tuning, machine))
    if tune:
        options = replace(options, tuning=request.tuned(options, tune))
    return request.compiled(options, machine)


@dataclass(frozen=True)
class _Request:
    """What to compile for a processor; `folder` is the cache's, None where nothing is kept."""

    model: Model
    dims: Mapping[str, int]
    values: Mapping[str, Array | None]
    folder: Path | None

    def tuned(self, options: Options, seconds: float) -> Tuning:
        """The choices that are fastest on this machine: measured, or kept from the last time."""
        key = self._key(options)
        place = (
            self.folder / "tuning" / f"{key}-{options.threads}.json"
            if self.folder and key
            else None
        )
        found = kept_choices(place, host_target().name)
        if found is None:
            tune_model = import_on_use("tuning.tune").tune_model
            found = tune_model(self.model, options, seconds, self.dims, self.values).tuning
            keep_choices(place, found, host_target().name)
        return found

    def compiled(self, options: Options, target: Target) -> CompiledModel:
        """The model, from the cache or compiled."""
        key = self._key(options)
        if self.folder is None or key is None:
            made = self._built(options)
            return load_code(made.code, made.weights, machine_of(made.target), options.threads)
        kept = Cache(self.folder, cache_limit())
        found = kept.load(key)
        if found is not None:
            return load_code(*found, machine_of(target), options.threads)
        with kept.new(key) as entry:
            made = self._built(options, keep=entry.write_weights)
            # If the file has changed meanwhile, it is not known which content was compiled.
            if not isinstance(self.model, (str, Path)) or self._key(options) == key:
                entry.finish(made.code)
        return load_code(made.code, made.weights, machine_of(made.target), options.threads)

    def _built(self, options: Options, **hooks: Callable[[Any], None]) -> Compilation:
        made: Compilation = import_on_use("models_in").build_model(
            self.model, options, self.dims, self.values, **hooks
        )
        return made

    def _key(self, options: Options) -> str | None:
        """The key in the cache; None without one, and for a model that has no content to hash."""
        content = content_of(self.model, self.folder) if self.folder else None
        if content is None:
            return None
        choices = repr(
            (
                *(sorted(self.dims.items()), options.precision, options.optimize, options.target),
                *(options.memory, options.sizes, options.grow_in_place),
            )
        )
        tuning = repr(options.tuning)
        target = parse_target(options.target)
        return key_of((content, choices.encode(), tuning.encode(), repr(target).encode()))
