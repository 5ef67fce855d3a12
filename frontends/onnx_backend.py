"""Bessemer as a backend of the onnx package: `prepare`, `run_model`, `run_node`, `supports_device`.

    import bessemer.frontends.onnx_backend as backend
    outputs = backend.prepare(model, device="CPU").run([array])

A model is compiled when it first runs. Its inputs' sizes stay symbolic where the model leaves them
open. Where a model cannot be compiled because something about it depends on an input's numbers
(the target shape of a Reshape, say), it is compiled again for the numbers at hand. Sequences are
lists, an absent optional is None; a model is compiled for each length. What is given by name may
also replace an initializer that is among the graph's inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.types import Array
from bessemer.frontends.compile import compile
from bessemer.frontends.onnx_sequences import (
    flat_inputs,
    in_tensors,
    outputs_in_order,
    type_of_item,
)
from bessemer.runtime.errors import ExecutionError
from bessemer.runtime.model import CompiledModel

Item: TypeAlias = Array | list[Array] | None
"""An input: a tensor, a sequence, or nothing."""
_SPECIALIZED_SIZE = 1024
"""Inputs with more elements are never compiled into a model."""


class BessemerBackendRep(BackendRep):
    """A model that is compiled on its first run, and again where other inputs need it."""

    def __init__(self, model: onnx.ModelProto, options: Mapping[str, Any]) -> None:
        self._model = model
        self._options = dict(options)
        self._weights = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [v for v in model.graph.input if v.name not in self._weights]
        self._compiled: dict[tuple[Any, ...], CompiledModel] = {}
        self._fixed: tuple[str, ...] | None = None  # inputs compiled in; None: not tried yet

    def run(self, inputs: Any, **options: Any) -> tuple[Any, ...]:
        """The outputs, in the graph's order. `inputs`: arrays (or lists of them, or None) in the
        graph's order, or by name."""
        given = self._by_name(inputs)
        arrays = flat_inputs(given)
        choices = [self._fixed] if self._fixed is not None else list(_choices(arrays))
        first: Exception | None = None
        for fixed in choices:
            try:
                compiled = self._compile(given, arrays, fixed)
                outputs = compiled.run(
                    {name: array for name, array in arrays.items() if name not in fixed}
                )
            except (CompileError, ExecutionError) as error:
                first = first or error
                continue
            self._fixed = fixed
            named = {info.name: y for info, y in zip(compiled.signature.outputs, outputs)}
            return outputs_in_order(self._model.graph.output, named)
        assert first is not None
        raise first

    def _by_name(self, inputs: Any) -> dict[str, Item]:
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        else:
            listed = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if len(listed) > len(self._inputs):
                raise CompileError(f"{len(listed)} inputs for a model that has {len(self._inputs)}")
            given = {value.name: item for value, item in zip(self._inputs, listed)}
        tensors = {
            value.name
            for value in self._inputs
            if value.type.WhichOneof("value") in (None, "tensor_type")
        }
        return {
            name: _array(name, item) if name in tensors else _item(name, item)
            for name, item in given.items()
        }

    def _compile(
        self, given: Mapping[str, Item], arrays: Mapping[str, Array], fixed: tuple[str, ...]
    ) -> CompiledModel:
        absent = tuple(sorted(name for name, item in given.items() if item is None))
        ranks = tuple(sorted((name, array.ndim) for name, array in arrays.items()))
        open_weights: dict[str, Array | None] = dict.fromkeys(self._weights & arrays.keys())
        values = {name: arrays[name] for name in fixed}
        key = (ranks, absent, *((name, *_content(array)) for name, array in values.items()))
        if key not in self._compiled:
            model = _with_ranks(in_tensors(self._model, given), arrays)
            self._compiled[key] = compile(model, values=open_weights | values, **self._options)
        return self._compiled[key]


def _item(name: str, item: Any) -> Item:
    """An input: an array, a list of arrays (a sequence), or None (an absent optional)."""
    if isinstance(item, list):
        return [_array(name, part) for part in item]
    return None if item is None else _array(name, item)


def _array(name: str, item: Any) -> Array:
    if item is None or isinstance(item, (list, dict, str)):
        kind = "an absent optional" if item is None else f"a {type(item).__name__}"
        raise CompileError(f"input '{name}': {kind} is not supported, only tensors are")
    return np.asarray(item)


def _content(array: Array) -> tuple[Any, ...]:
    """What tells one array from another, also one of strings."""
    held = str(array.tolist()) if array.dtype.hasobject else array.tobytes()
    return array.shape, array.dtype.str, held


def _choices(arrays: Mapping[str, Array]) -> Iterator[tuple[str, ...]]:
    """Which inputs to compile in: none; then small vectors of integers; then all small vectors."""
    yield ()
    small = [n for n, a in arrays.items() if a.ndim <= 1 and a.size <= _SPECIALIZED_SIZE]
    integers = tuple(name for name in small if arrays[name].dtype.kind in "iub")
    if integers:
        yield integers
    if tuple(small) != integers:
        yield tuple(small)


def _with_ranks(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> onnx.ModelProto:
    """The model, inputs that have no shape given their number of dimensions."""
    missing = [
        value.name
        for value in model.graph.input
        if value.name in arrays
        and value.type.HasField("tensor_type")
        and not value.type.tensor_type.HasField("shape")
    ]
    if not missing:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for value in changed.graph.input:
        if value.name in missing:
            value.type.tensor_type.shape.SetInParent()
            for _ in range(arrays[value.name].ndim):
                value.type.tensor_type.shape.dim.add()
    return changed


class BessemerBackend(Backend):
    """The functions of this module, in the form that onnx's test runner wants."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **options: Any) -> bool:
        """Whether `prepare` may be tried; what a model needs is found out when it is compiled."""
        return cls.supports_device(device)

    @classmethod
    def prepare(
        cls, model: onnx.ModelProto, device: str = "CPU", **options: Any
    ) -> BessemerBackendRep:
        """A model that is ready to be run; options are those of `bessemer.compile`."""
        if not cls.supports_device(device):
            raise CompileError(f"the device {device!r} is not supported, only CPU is")
        return BessemerBackendRep(model, options)

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **options: Any
    ) -> tuple[Any, ...]:
        """Compiles a model and runs it once."""
        return cls.prepare(model, device, **options).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[Any] | None = None,
        **options: Any,
    ) -> tuple[Any, ...]:
        """Runs one node as a model of its own; `opset_version` may be among the options."""
        version = options.pop("opset_version", onnx.defs.onnx_opset_version())
        names = [name for name in node.input if name]
        given = inputs if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=True))
        items = {name: _item(name, given[name]) for name in names}
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [
                onnx.helper.make_value_info(name, type_of_item(item))
                for name, item in items.items()
                if item is not None
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        opset = onnx.helper.make_opsetid(node.domain, version)
        model = onnx.helper.make_model(graph, opset_imports=[opset])
        return cls.run_model(model, items, device, **options)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPU only."""
        return device.split(":")[0].upper() == "CPU"


is_compatible = BessemerBackend.is_compatible
prepare = BessemerBackend.prepare
run_model = BessemerBackend.run_model
run_node = BessemerBackend.run_node
supports_device = BessemerBackend.supports_device
