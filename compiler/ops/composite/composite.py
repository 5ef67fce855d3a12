"""What models say and the graph language composes: scalars, broadcasting, products of any rank.

Every function writes nodes into a builder and returns values. Both the ONNX reader and the Python
builder are written with these.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import Size, format_size
from bessemer.compiler.ir.graph import Value
from bessemer.compiler.ir.types import DType, bf16, f16, f32
from bessemer.compiler.ops.check import listed

Number = float | int | bool


def scalar_like(b: GraphBuilder, x: Value, value: Number) -> Value:
    """A tensor of x's type with one value everywhere; it costs nothing."""
    return b.apply("full", shape=x.type.shape, value=value, dtype=x.type.dtype)


def cast(b: GraphBuilder, x: Value, dtype: DType) -> Value:
    """x in another element type; x itself if it has that type."""
    return x if x.type.dtype == dtype else b.apply("cast", x, dtype=dtype)


def reshape(b: GraphBuilder, x: Value, shape: Sequence[Size]) -> Value:
    """x under another shape; x itself if it has that shape."""
    return x if x.type.shape == tuple(shape) else b.apply("reshape", x, shape=tuple(shape))


def transpose(b: GraphBuilder, x: Value, permutation: Sequence[int]) -> Value:
    """x with its axes in another order; x itself if that is their order."""
    if tuple(permutation) == tuple(range(x.type.rank)):
        return x
    return b.apply("transpose", x, permutation=tuple(permutation))


def broadcast_to(b: GraphBuilder, x: Value, shape: Sequence[Size]) -> Value:
    """x repeated along axes by NumPy's rules; x itself if it has that shape."""
    return x if x.type.shape == tuple(shape) else b.apply("broadcast_to", x, shape=tuple(shape))


def broadcast_shape(*shapes: Sequence[Size]) -> tuple[Size, ...]:
    """The shape that all broadcast to; CompileError where sizes are not 1 and not surely equal."""
    rank = max(map(len, shapes), default=0)
    result: list[Size] = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, start=rank - len(shape)):
            if result[axis] == 1:
                result[axis] = size
            elif size not in (1, result[axis]):
                raise CompileError(_misfit(result[axis], size, shapes))
    return tuple(result)


def _misfit(one: Size, other: Size, shapes: Sequence[Sequence[Size]]) -> str:
    both = " and ".join(f"[{','.join(map(format_size, shape))}]" for shape in shapes)
    message = f"the shapes {both} do not broadcast: {format_size(one)} meets {format_size(other)}"
    if isinstance(one, int) and isinstance(other, int):
        return f"{message}."
    return (
        f"{message}, and nothing says that they are equal. If they always are, give both "
        f"dimensions one name, or fix their sizes when compiling."
    )


def broadcast(b: GraphBuilder, *values: Value) -> tuple[Value, ...]:
    """All values in the shape that they broadcast to."""
    shape = broadcast_shape(*(value.type.shape for value in values))
    return tuple(broadcast_to(b, value, shape) for value in values)


def binary(b: GraphBuilder, name: str, x: Value | Number, y: Value | Number) -> Value:
    """A binary operator after broadcasting; a Python number takes the other's type."""
    if not isinstance(x, Value):
        if not isinstance(y, Value):
            raise CompileError(f"{name} wants a tensor on one side at least.")
        return b.apply(name, scalar_like(b, y, x), y)
    if not isinstance(y, Value):
        return b.apply(name, x, scalar_like(b, x, y))
    if x.type.dtype != y.type.dtype:
        raise CompileError(
            f"{name} wants one element type, but its inputs are {listed((x.type, y.type))}. "
            f"Cast one of them."
        )
    return b.apply(name, *broadcast(b, x, y))


def where(
    b: GraphBuilder, condition: Value, then: Value | Number, otherwise: Value | Number
) -> Value:
    """select after broadcasting; a Python number takes the other branch's type."""
    if not isinstance(then, Value):
        if not isinstance(otherwise, Value):
            raise CompileError("where wants a tensor as one of its branches at least.")
        then = scalar_like(b, otherwise, then)
    if not isinstance(otherwise, Value):
        otherwise = scalar_like(b, then, otherwise)
    return b.apply("select", *broadcast(b, condition, then, otherwise))


def in_f32(b: GraphBuilder, x: Value) -> Value:
    """f16 and bf16 as f32, in which statistics are computed; other types as they are."""
    return cast(b, x, f32) if x.type.dtype in (f16, bf16) else x


def along_axis(b: GraphBuilder, vector: Value, axis: int, rank: int) -> Value:
    """A vector as a tensor of size 1 in all axes but one, ready to broadcast."""
    shape: list[Size] = [1] * rank
    shape[axis] = vector.type.numel
    return reshape(b, vector, shape)


def normal_axis(axis: int, rank: int) -> int:
    """An axis counted from 0; CompileError if there is no such axis."""
    if not -rank <= axis < max(rank, 1):
        raise CompileError(f"axis {axis} of a tensor with {rank} axes: there is none.")
    return axis % max(rank, 1)


def normal_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from 0, in order; CompileError if one is not there or named twice."""
    found = sorted(normal_axis(axis, rank) for axis in axes)
    if len(set(found)) != len(found):
        raise CompileError(f"the axes {tuple(axes)} name one axis twice.")
    return tuple(found)


def matmul(b: GraphBuilder, x: Value, y: Value) -> Value:
    """The product as NumPy's matmul: a vector is a row on the left and a column on the right."""
    if x.type.rank == 0 or y.type.rank == 0:
        raise CompileError(f"matmul wants no scalars, but got {listed((x.type, y.type))}.")
    left = reshape(b, x, (1, *x.type.shape)) if x.type.rank == 1 else x
    right = reshape(b, y, (*y.type.shape, 1)) if y.type.rank == 1 else y
    result = b.apply("matmul", left, right)
    shape = list(result.type.shape)
    if y.type.rank == 1:
        del shape[-1]
    if x.type.rank == 1:
        del shape[-2 if y.type.rank > 1 else -1]
    return reshape(b, result, shape)


def size_as(b: GraphBuilder, size: Size, dtype: DType, shape: Sequence[Size]) -> Value:
    """A size, maybe known only at run time, as a number in every element of a tensor."""
    if isinstance(size, int):
        return b.apply("full", shape=tuple(shape), value=size, dtype=dtype)
    return broadcast_to(b, cast(b, b.scalar_size(size), dtype), shape)
