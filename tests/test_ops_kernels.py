"""Operators that are kernels: interpreted, they give what the reference gives."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import bessemer.compiler.ops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import symbol_names
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.interpret_loops import KernelResult, run_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.op import OPS, Example, Operator
from bessemer.compiler.ir.types import Array, TensorType, type_of

for _module in pkgutil.iter_modules(bessemer.compiler.ops.__path__):
    importlib.import_module(f"bessemer.compiler.ops.{_module.name}")

EXAMPLES = [
    pytest.param(operator, example, id=f"{operator.name}-{number}")
    for operator in OPS.values()
    if operator.statements is not None
    for number, example in enumerate(operator.examples)
]


def arrays_of(example: Example) -> list[Array]:
    """An example's inputs; shapes become seeded float32 normal numbers."""
    rng = np.random.default_rng(len(example.inputs))
    return [
        rng.standard_normal(given).astype(np.float32) if isinstance(given, tuple) else given
        for given in example.inputs
    ]


def kernel_of(
    operator: Operator, types: Sequence[TensorType], attributes: Mapping[str, Any]
) -> Kernel:
    """The kernel of an operator on inputs of these types."""
    results = operator.infer_types(types, attributes)
    inputs = [Buffer(f"in{i}", type.dtype, type.shape) for i, type in enumerate(types)]
    outputs = [Buffer(f"out{i}", type.dtype, type.shape) for i, type in enumerate(results)]
    builder = KernelBuilder()
    assert operator.statements is not None
    operator.statements(builder, inputs, outputs, **attributes)
    written = (*outputs, *builder.scratch_buffers)
    sizes = [size for buffer in (*inputs, *written) for size in buffer.shape]
    names = sorted(set().union(*map(symbol_names, sizes)))
    return Kernel(operator.name, (*inputs, *written), len(written), tuple(names), builder.block())


def run(
    operator: Operator,
    arrays: Sequence[Array],
    attributes: Mapping[str, Any],
    types: Sequence[TensorType] = (),
    symbols: Mapping[str, int] = {},
) -> KernelResult:
    """Interprets an operator's kernel; the symbol that it sets may be as large as all inputs."""
    kernel = kernel_of(operator, types or [type_of(array) for array in arrays], attributes)
    most = sum(array.size for array in arrays)
    return run_kernel(kernel, arrays, {"n": most, **symbols})


def check(result: KernelResult, expected: Sequence[Array], tolerance: float) -> None:
    """The result's outputs are those expected; scratch comes after them."""
    for got, wanted in zip(result.outputs, expected):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        if wanted.dtype.kind in "iub":
            np.testing.assert_array_equal(got, wanted)
        else:
            wide = wanted.astype(np.float64)
            np.testing.assert_allclose(got.astype(np.float64), wide, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("operator,example", EXAMPLES)
def test_a_kernel_does_what_the_reference_does(operator: Operator, example: Example) -> None:
    arrays = arrays_of(example)
    result = run(operator, arrays, example.attributes)
    assert result.failures == ()
    expected = operator.compute(arrays, example.attributes)
    check(result, expected, example.tolerance)
