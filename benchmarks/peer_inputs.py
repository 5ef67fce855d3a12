"""Chooses sizes and inputs for models about which nothing is known.

A symbolic size is guessed from its name or its place: a batch is 1, the side of an image 224, a
text 64. If onnxruntime refuses these sizes (two names of one size, a window larger than the image),
others are tried until it runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from benchmarks.inputs import make_inputs
from benchmarks.plan import is_installed
from benchmarks.recipes import RECIPES, Array
from bessemer.compiler.errors import CompileError
from bessemer.frontends.array_files import write_arrays
from bessemer.frontends.cli.bench_process import Worker, WorkerError
from bessemer.frontends.cli.bench_worker import Job
from bessemer.frontends.models_in import as_graph
from bessemer.frontends.random_inputs import index_limits, random_arrays
from bessemer.runtime.artifact import ArrayInfo

Sizes = Mapping[str, int]

SIDE, LENGTH, PAST, SAMPLES = 224, 64, 32, 16000
_OTHERS = (64, 128, 256, 32, 16, 8, 2, 1)
_ROLES = (
    (r"total|\+", PAST + LENGTH),
    (r"past|cache", PAST),
    (r"batch|^b$|^bs$|^n$", 1),
    (r"height|width|^h$|^w$|image|pixel", SIDE),
    (r"sample|audio|wave", SAMPLES),
)
_FEW_CHANNELS = 4
_PATIENCE = 120.0


@dataclass(frozen=True)
class Chosen:
    """Inputs by name, and the free sizes that they have."""

    inputs: Mapping[str, Array]
    sizes: Sizes


def choose_inputs(name: str, path: Path, folder: Path) -> Chosen:
    """Inputs that a model accepts, by its recipe or by trying; `folder` is for files.

    Raises ValueError for a model whose inputs are not tensors of numbers.
    """
    model = onnx.load(path, load_external_data=False)
    infos = _infos(model)
    limits = _limits(path)
    recipe = RECIPES.get(name) or RECIPES.get(path.stem)
    if recipe is not None:
        return Chosen(make_inputs(model, recipe, 0, limits), {})
    tries = [Chosen(_arrays(infos, sizes, limits), sizes) for sizes in sizes_to_try(infos)]
    if len(tries) == 1 or not is_installed("onnxruntime"):
        return tries[0]
    return next((one for one in tries if _runs(path, one, folder)), tries[0])


def _infos(model: onnx.ModelProto) -> list[ArrayInfo]:
    """The inputs that are not weights; free sizes have names, if need be of their place."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found: list[ArrayInfo] = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        if not value.type.HasField("tensor_type"):
            raise ValueError(f"the input {value.name!r} is not a tensor")
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind == "O":
            raise ValueError(f"the input {value.name!r} has strings")
        shape = tuple(
            dim.dim_value or dim.dim_param or f"{value.name}.{axis}"
            for axis, dim in enumerate(tensor.shape.dim)
        )
        found.append(ArrayInfo(value.name, dtype.name, shape))
    return found


def sizes_to_try(infos: Sequence[ArrayInfo]) -> list[dict[str, int]]:
    """Values for the free sizes, the likeliest first."""
    likely: dict[str, int] = {}
    for info in infos:
        for axis, size in enumerate(info.shape):
            if isinstance(size, str):
                likely.setdefault(size, _likely(info, axis, size))
    found = [likely]
    for other in _OTHERS:
        sizes = {name: 1 if size == 1 else other for name, size in likely.items()}
        if sizes not in found:
            found.append(sizes)
    return found


def _likely(info: ArrayInfo, axis: int, name: str) -> int:
    """What a size probably is, by its name, else by its place."""
    for pattern, size in _ROLES:
        if re.search(pattern, name.lower()):
            return size
    if axis == 0:
        return 1
    rank, place = len(info.shape), axis - len(info.shape)
    channels = [size for size in info.shape[1:] if isinstance(size, int)]
    is_image = rank == 4 and "float" in info.dtype and min(channels, default=9) <= _FEW_CHANNELS
    return SIDE if is_image and place >= -3 else LENGTH


def _arrays(infos: Sequence[ArrayInfo], sizes: Sizes, limits: Sizes) -> dict[str, Array]:
    known = [
        replace(info, shape=tuple(sizes[d] if isinstance(d, str) else d for d in info.shape))
        for info in infos
    ]
    return random_arrays(known, {}, 0, limits)


def _limits(path: Path) -> dict[str, int]:
    """How long the tables are that inputs index; nothing of a model that we cannot read."""
    try:
        return index_limits(as_graph(path))
    except CompileError:
        return {}


def _runs(path: Path, chosen: Chosen, folder: Path) -> bool:
    """Whether onnxruntime, in a process of its own, takes these inputs."""
    file = folder / "tried.npz"
    write_arrays(file, chosen.inputs)
    with Worker(Job("onnxruntime", str(path.resolve()), 1, str(file)), folder, _PATIENCE) as worker:
        try:
            worker.answer()
        except WorkerError:
            return False
    return True
