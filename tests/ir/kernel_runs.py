"""Small kernels, written and interpreted at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.expr import (
    Buffer,
    Expression,
)
from bessemer.compiler.ir.interpreter.interpret_loops import KernelResult, run_kernel
from bessemer.compiler.ir.loops import Kernel
from bessemer.compiler.ir.types import (
    Array,
    DType,
    dtype_of,
    f32,
)


def run(
    builder: KernelBuilder,
    inputs: Sequence[Buffer],
    outputs: Sequence[Buffer],
    arrays: Sequence[Array] = (),
    **symbols: int,
) -> KernelResult:
    """Runs what the builder holds."""
    kernel = Kernel("k", (*inputs, *outputs), len(outputs), tuple(symbols), builder.block())
    return run_kernel(kernel, arrays, symbols)


def apply(function: Callable[..., Expression], *arrays: Array) -> Array:
    """function(elements of the arrays), for every place of vectors of one size."""
    size = len(arrays[0])
    inputs = [Buffer(f"x{i}", dtype_of(array), (size,)) for i, array in enumerate(arrays)]
    builder = KernelBuilder()
    with builder.loop(size) as i:
        value = function(*(x[i] for x in inputs))
        out = Buffer("out", value.dtype, (size,))
        builder.store(out, (i,), value)
    return run(builder, inputs, [out], arrays).outputs[0]


def vector(name: str, dtype: DType = f32, size: int = 5) -> Buffer:
    return Buffer(name, dtype, (size,))
