"""Models for commands that run them: compiled from a file in any form, or loaded from an artifact.

Importing this loads neither LLVM nor onnx; an artifact runs without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bessemer.compiler.ir.types import Array
from bessemer.frontends.cli.output import write_note
from bessemer.frontends.given_sizes import check_dimensions
from bessemer.frontends.import_on_use import import_on_use
from bessemer.frontends.random_inputs import (
    default_sizes,
    index_limits,
    known_texts,
    random_arrays,
)
from bessemer.runtime.cuda.model import DeviceModel
from bessemer.runtime.cuda.program_file import SUFFIX
from bessemer.runtime.model import CompiledModel, load


def is_artifact(path: Path) -> bool:
    """Whether a file is a compiled model, by its name."""
    return path.suffix in (".so", SUFFIX)


def open_on_device(path: Path, dims: Mapping[str, int], target: str, **options: Any) -> DeviceModel:
    """Loads an artifact for GPUs, or compiles a model for the GPU at hand."""
    if is_artifact(path):
        return load(path, device=0)
    model = import_on_use("compile").compile(path, dims=dims, target=target, **options)
    assert isinstance(model, DeviceModel)
    return model


def open_model(path: Path, dims: Mapping[str, int], threads: int, **options: Any) -> CompiledModel:
    """Loads an artifact, or compiles a model (through the cache); options as `bessemer.compile`."""
    if is_artifact(path):
        return load(path, threads=threads)
    model = import_on_use("compile").compile(path, dims=dims, threads=threads, **options)
    assert isinstance(model, CompiledModel)
    return model


def inputs_for(
    model: CompiledModel | DeviceModel, path: Path, dims: Mapping[str, int], seed: int,
    quiet: bool = False,
) -> dict[str, Array]:  # fmt: skip
    """Random inputs for a model; a note on stderr says which sizes they have."""
    signature = model.signature
    sizes = default_sizes(model.inputs, signature.symbols[: signature.input_symbols])
    symbols = tuple(sizes)
    sizes |= {name: size for name, size in dims.items() if name in symbols}
    if is_artifact(path):
        check_dimensions(path.name, dims, symbols)
    if sizes and not quiet:
        text = ", ".join(f"{name}={size}" for name, size in sizes.items())
        write_note(f"random inputs with {text} (choose with --dim)")
    texts = known_texts(signature.strings)
    return random_arrays(model.inputs, sizes, seed, limits_of(model, path, dims), texts)


def limits_of(
    model: CompiledModel | DeviceModel, path: Path, dims: Mapping[str, int]
) -> dict[str, int]:
    """The lengths of the tables that integer inputs index; only a model's file tells them."""
    if is_artifact(path) or not any(info.dtype in ("int32", "int64") for info in model.inputs):
        return {}
    return index_limits(import_on_use("models_in").as_graph(path, dims))
