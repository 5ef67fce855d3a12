"""`bessemer.compile`: from a model in any form to a callable, through the compile cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from bessemer.compiler.cache import Cache, key_of
from bessemer.compiler.driver import Compilation, build, machine_of
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array
from bessemer.compiler.jit import load_code
from bessemer.compiler.options import Options, Precision, cache_folder, dump_folder
from bessemer.compiler.targets.choose import host_target, parse_target
from bessemer.frontends.builder.network import Network
from bessemer.frontends.content import content_of
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.runtime.model import CompiledModel

Model = str | Path | bytes | onnx.ModelProto | Graph | Network


def compile(
    model: Model,
    *,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    precision: Precision = "float32",
    target: str = "",
    optimize: int = 2,
    values: Mapping[str, Array] | None = None,
    cache: bool = True,
) -> CompiledModel:
    """Compiles a model for this machine, or loads it from the compile cache.

    `model` is an ONNX file's path, its bytes, an onnx.ModelProto, or a network or graph built in
    Python. `dims` fixes symbolic dimensions, `values` fixes whole inputs. `threads`: None or 0
    means all processors that the process may use. `optimize`: 0 unfused plain loops, 1 unfused
    vector loops, 2 everything.
    Raises CompileError for anything in the model or the options that cannot be compiled.
    """
    options = Options(
        target=target,
        threads=threads or 0,
        precision=precision,
        optimize=optimize,
        dump=dump_folder(),
    )
    machine_target = parse_target(target) if target else host_target()
    folder = cache_folder() if cache and not values and options.dump is None else None
    key = _key(model, dims or {}, options) if folder else None
    if folder and key:
        found = Cache(folder).load(key)
        if found is not None:
            return load_code(*found, machine_of(machine_target), options.threads)
    made = build_model(model, options, dims or {}, values or {})
    if folder and key:
        Cache(folder).store(key, made.code, made.weights)
    return load_code(made.code, made.weights, machine_of(made.target), options.threads)


def build_model(
    model: Model,
    options: Options,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Array] | None = None,
) -> Compilation:
    """Compiles without loading: what the command line inspects, and saves for other machines."""
    return build(as_graph(model, dims, values), options)


def as_graph(
    model: Model,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Array] | None = None,
) -> Graph:
    """The graph of a model in any form."""
    if isinstance(model, Network) and not values:
        return model.with_dims(dims or {}).graph
    if isinstance(model, Network):
        raise CompileError("A network built in Python has no values to fix: build it with them.")
    if isinstance(model, Graph):
        if dims or values:
            raise CompileError("A graph built in Python has its dims and values already.")
        return model
    return read_onnx(model, dims=dims or {}, values=values or {})


def _key(model: Model, dims: Mapping[str, int], options: Options) -> str | None:
    """The cache key; None for a model whose content is not a matter of bytes alone."""
    content = content_of(model)
    if content is None:
        return None
    choices = repr((sorted(dims.items()), options.precision, options.optimize, options.target))
    target = parse_target(options.target) if options.target else host_target()
    return key_of((content, choices.encode(), repr(target).encode()))
