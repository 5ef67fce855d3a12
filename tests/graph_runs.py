"""Runs what a function writes into a graph builder, by the references of the operators."""

from collections.abc import Callable, Sequence

from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, symbol
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array, TensorType, dtype_of

Build = Callable[..., Value | tuple[Value, ...]]


def run(build: Build, arrays: Sequence[Array], *, symbolic: bool = False) -> list[Array]:
    """The outputs of what `build` writes; sizes above 1 become symbols, equal ones the same one."""
    b = GraphBuilder("test")
    inputs = []
    for k, array in enumerate(arrays):
        shape: tuple[Size, ...] = array.shape
        if symbolic:
            shape = tuple(symbol(f"n{size}") if size > 1 else size for size in array.shape)
        inputs.append(b.input(f"x{k}", TensorType(dtype_of(array), shape)))
    outputs = build(b, *inputs)
    listed = outputs if isinstance(outputs, tuple) else (outputs,)
    graph = b.finish(listed, [f"y{k}" for k in range(len(listed))])
    return run_graph(graph, {f"x{k}": array for k, array in enumerate(arrays)})
