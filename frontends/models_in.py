"""Turns models of any form (path, bytes, proto, network) into graphs, and compiles them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bessemer.compiler.driver import Compilation, build
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import Array
from bessemer.compiler.options import Options
from bessemer.frontends.builder.network import Network
from bessemer.frontends.given_sizes import given_sizes
from bessemer.frontends.onnx_reader.read import read_onnx

Model = str | Path | bytes | onnx.ModelProto | Graph | Network


def build_model(
    model: Model,
    options: Options,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Array | None] | None = None,
    **hooks: Callable[[Any], None],
) -> Compilation:
    """Compiles without loading; `hooks` are those of `build`."""
    return build(as_graph(model, dims, values, mapped=True), options, **hooks)


def as_graph(
    model: Model,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Array | None] | None = None,
    mapped: bool = False,
    broadcasts: bool = True,
) -> Graph:
    """The graph of a model in any form; `mapped` and `broadcasts` as in `read_onnx`. Raises
    CompileError for what is not a model or a size."""
    dims = given_sizes(dims, "dims")
    for name, value in (values or {}).items():
        if not isinstance(value, np.ndarray | None):
            raise CompileError(f"values: '{name}' is a {type(value).__name__}, not a NumPy array.")
    if isinstance(model, Network) and not values:
        return model.with_dims(dims).graph
    if isinstance(model, Network):
        raise CompileError("A network built in Python has no values to fix: build it with them.")
    if isinstance(model, Graph):
        if dims or values:
            raise CompileError("A graph built in Python has its dims and values already.")
        return model
    if not isinstance(model, Model):
        raise CompileError(
            "A model is a path, bytes, an onnx.ModelProto or a network built in Python, not "
            f"{type(model).__name__}.{_advice(model)}"
        )
    return read_onnx(model, dims=dims, values=values or {}, mapped=mapped, broadcasts=broadcasts)


def _advice(given: object) -> str:
    """What to give instead of a file object, or of another library's model."""
    if hasattr(given, "model_proto"):
        return " Give its model_proto."
    if any(kind.__module__.startswith("torch.") for kind in type(given).__mro__):
        return " Export it: torch.onnx.export(model, arguments, 'model.onnx')."
    if hasattr(given, "read"):
        return " Give its path, or what read() returns."
    return ""
