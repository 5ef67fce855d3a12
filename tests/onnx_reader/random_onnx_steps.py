"""Steps of random ONNX graphs: pointwise, moves, reductions and types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.onnx_reader.random_onnx import Author, Item, Refused, Step


def is_number(item: Item) -> bool:
    return item.dtype != np.bool_


def is_integer(item: Item) -> bool:
    return item.dtype.kind in "iu"


def is_truth(item: Item) -> bool:
    return item.dtype == np.bool_


def has_axes(item: Item) -> bool:
    return item.rank > 0


def an_axis(w: Author, x: Item) -> int:
    return w.integer(0, x.rank - 1)


_PLAIN = (
    "Abs", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Neg", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign",
    "Tanh", "Identity", "Sinh", "Cosh", "Asinh", "ThresholdedRelu", "IsNaN",
)  # fmt: skip
_POSITIVE = ("Log", "Sqrt", "Reciprocal")
_BOUNDED = ("Acos", "Asin", "Atanh", "Tan")


def _unary(name: str) -> Step:
    return lambda w: w.apply(name, [w.floats()])


def _positive(name: str) -> Step:
    return lambda w: w.apply(name, [_away_from_zero(w, w.floats())])


def _bounded(name: str) -> Step:
    return lambda w: w.apply(name, [w.apply("Tanh", [w.floats()])])


def _away_from_zero(w: Author, x: Item) -> Item:
    return w.apply("Add", [w.apply("Abs", [x]), w.constant(np.array(0.4, x.dtype))])


def partner(w: Author, x: Item) -> Item:
    """Of x's type, and it broadcasts with x: another value, or something new."""
    alike = [item for item in w.values if item.dtype == x.dtype and _meet(item, x)]
    if alike and w.chance(0.6):
        return w.pick(alike)
    kept = w.integer(0, x.rank)
    axes = range(x.rank - kept, x.rank)
    shape = [x.shape[a] if x.is_fixed(a) and w.chance(0.7) else 1 for a in axes]
    return w.constant(w.array(shape, x.dtype))


def _meet(one: Item, other: Item) -> bool:
    try:
        for a, b in zip(one.arrays, other.arrays):
            np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return False
    return True


def _binary(name: str, fits: Callable[[Item], bool]) -> Step:
    def step(w: Author) -> Item:
        x = w.floats() if fits is is_number and w.chance(0.6) else w.of(fits)
        pair = [x, partner(w, x)]
        return w.apply(name, pair if w.chance(0.6) else pair[::-1])

    return step


_OF_NUMBERS = ("Add", "Sub", "Mul", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
_OF_TRUTHS = ("And", "Or", "Xor", "Equal")


def _quotient(w: Author) -> Item:
    x = w.of(is_number)
    y = partner(w, x)
    if x.dtype.kind == "f":
        y = _away_from_zero(w, y)
    elif any((array == 0).any() for array in y.arrays):
        raise Refused  # onnxruntime ends the process
    name = w.pick(("Div", "Mod"))
    return w.apply(name, [x, y], **({"fmod": int(x.dtype.kind == "f")} if name == "Mod" else {}))


def _power(w: Author) -> Item:
    x = _away_from_zero(w, w.floats())
    if w.chance(0.5):
        return w.apply("Pow", [x, w.apply("Tanh", [partner(w, x)])])
    return w.apply("Pow", [x, w.constant(np.array(w.pick((2, 3, 0.5, -1, 0)), x.dtype))])


def _several(w: Author) -> Item:
    x = w.floats()
    name = w.pick(("Max", "Min", "Mean", "Sum"))
    return w.apply(name, [x, *(partner(w, x) for _ in range(w.integer(0, 2)))])


def _clip(w: Author) -> Item:
    x = w.of(is_number)
    bounds = (-0.5, 0.75) if x.dtype.kind == "f" else (2, 7)
    given = [w.constant(np.array(b, x.dtype)) if w.chance(0.8) else None for b in bounds]
    return w.apply("Clip", [x, *given])


def _where(w: Author) -> Item:
    x = w.of(is_number)
    truth = w.apply("Greater", [x, partner(w, x)])
    return w.apply("Where", [truth, partner(w, x), x])


_TYPES = (
    TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16,
    TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL,
)  # fmt: skip
_UNSIGNED = (TensorProto.UINT8, TensorProto.BOOL)


def _cast(w: Author) -> Item:
    x, kind = w.of(lambda item: True), w.pick(_TYPES)
    if x.dtype.kind == "f" and kind in _UNSIGNED:
        x = w.apply("Abs", [x])  # what others are as such numbers is not defined
    return w.apply("Cast", [x], to=kind)


def _transpose(w: Author) -> Item:
    x = w.of(has_axes)
    return w.apply("Transpose", [x], perm=w.rng.permutation(x.rank).tolist())


def _reshape(w: Author) -> Item:
    """The first axes as they are, the others as one."""
    x = w.of(has_axes)
    kept = w.integer(0, min(x.rank, 3))
    ones = [1] if w.chance(0.3) else []
    return w.apply("Reshape", [x, w.numbers(*[0] * kept, *ones, -1)])


def _split_axis(w: Author) -> Item:
    """An axis as two, the size of one of which the run finds."""
    x = w.of(has_axes)
    axis = an_axis(w, x)
    factor = w.pick((1, 2, 3))
    shape = [0] * axis + w.pick(([-1, factor], [factor, -1]))
    rest = [x.fixed(a) for a in range(axis + 1, x.rank)]
    return w.apply("Reshape", [x, w.numbers(*shape, *rest)])


def _reshape_by_shape(w: Author) -> Item:
    x = w.of(has_axes)
    size = w.apply("Gather", [w.apply("Shape", [x]), w.numbers(an_axis(w, x))])
    parts = [size, w.numbers(-1)] if w.chance(0.5) else [w.numbers(-1), size]
    return w.apply("Reshape", [x, w.apply("Concat", parts, axis=0)])


def _flatten(w: Author) -> Item:
    x = w.of(has_axes)
    return w.apply("Flatten", [x], axis=w.integer(-x.rank, x.rank))


def _unsqueeze(w: Author) -> Item:
    x = w.of(lambda item: item.rank < 5)
    return w.apply("Unsqueeze", [x, w.numbers(w.integer(-x.rank - 1, x.rank))])


def _squeeze(w: Author) -> Item:
    x = w.of(has_axes)
    ones = [a for a in range(x.rank) if x.is_fixed(a) and x.shape[a] == 1]
    if not ones:
        raise Refused
    return w.apply("Squeeze", [x, w.numbers(w.pick(ones))])


_AFAR = 2**63 - 1


def _slice(w: Author) -> Item:
    x = w.of(has_axes)
    count = w.integer(1, x.rank)
    axes = w.rng.choice(x.rank, count, replace=False).tolist()
    steps = [w.pick((1, 1, 2, 3, -1, -2)) for _ in axes]
    starts = [w.integer(-3, 3) if step > 0 else w.pick((-1, _AFAR)) for step in steps]
    ends = [w.pick((_AFAR, -1, w.integer(0, 5))) if s > 0 else w.pick((-_AFAR, 0)) for s in steps]
    return w.apply("Slice", [x, *(w.numbers(*each) for each in (starts, ends, axes, steps))])


def _split(w: Author) -> Item:
    x = w.of(has_axes)
    axis = an_axis(w, x)
    size = x.fixed(axis)
    if size < 2:
        raise Refused
    first = w.integer(0, size)
    return w.apply("Split", [x, w.numbers(first, size - first)], 2, axis=axis)


def _concat(w: Author) -> Item:
    x = w.of(has_axes)
    axis = an_axis(w, x)
    parts = [x, *(item for item in w.values if _joins(item, x, axis) and w.chance(0.3))][:4]
    if all(x.is_fixed(a) for a in range(x.rank) if a != axis) and w.chance(0.5):
        shape = [w.integer(0, 3) if a == axis else size for a, size in enumerate(x.shape)]
        parts.insert(w.integer(0, len(parts)), w.constant(w.array(shape, x.dtype)))
    return w.apply("Concat", parts, axis=axis)


def _joins(one: Item, other: Item, axis: int) -> bool:
    def others(array: Any) -> Sequence[int]:
        return [size for a, size in enumerate(array.shape) if a != axis]

    return (
        one.dtype == other.dtype
        and one.rank == other.rank
        and all(others(a) == others(b) for a, b in zip(one.arrays, other.arrays))
    )


def _expand(w: Author) -> Item:
    x = w.of(lambda item: item.rank < 5)
    shape = [3 if x.is_fixed(a) and x.shape[a] == 1 else 1 for a in range(x.rank)]
    return w.apply("Expand", [x, w.numbers(w.integer(1, 3), *shape)])


def _tile(w: Author) -> Item:
    x = w.of(has_axes)
    return w.apply("Tile", [x, w.numbers(*(w.pick((1, 1, 2, 3)) for _ in range(x.rank)))])


def _pad(w: Author) -> Item:
    x = w.of(lambda item: has_axes(item) and is_number(item))
    mode = w.pick(("constant", "constant", "edge", "reflect"))
    most = [2 if mode == "constant" else min(2, x.least(a) - 1) for a in range(x.rank)]
    if min(most) < 0:
        raise Refused
    pads = [w.integer(0, size) if w.chance(0.6) else 0 for size in (*most, *most)]
    value = [w.constant(w.array((), x.dtype), is_free=False)] if mode == "constant" else []
    return w.apply("Pad", [x, w.numbers(*pads), *value], mode=mode)


_FOLDED = (
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip


def _reduction(name: str) -> Step:
    def step(w: Author) -> Item:
        x = w.floats(low=1)
        if any(0 in array.shape for array in x.arrays):
            raise Refused
        axes = w.rng.choice(x.rank, w.integer(1, x.rank), replace=False).tolist()
        axes = [axis - x.rank if w.chance(0.3) else axis for axis in axes]
        kept = w.integer(0, 1)
        if w.opset >= 18 or name == "ReduceSum":
            return w.apply(name, [x, w.numbers(*axes)], keepdims=kept)
        return w.apply(name, [x], axes=axes, keepdims=kept)

    return step


def _along_an_axis(name: str) -> Step:
    def step(w: Author) -> Item:
        x = w.floats(low=1)
        return w.apply(name, [x], axis=w.integer(-x.rank, x.rank - 1))

    return step


def _place_of_extreme(w: Author) -> Item:
    x = w.of(lambda item: has_axes(item) and is_number(item))
    name = w.pick(("ArgMax", "ArgMin"))
    last = w.integer(0, 1)
    return w.apply(name, [x], axis=an_axis(w, x), keepdims=w.integer(0, 1), select_last_index=last)


def _running_sum(w: Author) -> Item:
    x = w.floats(low=1)
    axis = w.constant(np.array(an_axis(w, x), np.int64), is_free=False)
    return w.apply("CumSum", [x, axis], exclusive=w.integer(0, 1), reverse=w.integer(0, 1))


def _shape(w: Author) -> Item:
    return w.apply("Cast", [w.apply("Shape", [w.of(has_axes)])], to=TensorProto.FLOAT)


def _quantize(w: Author) -> Item:
    x = w.floats()
    kind = w.pick((np.uint8, np.int8))
    scale = w.constant(np.array(w.pick((0.05, 0.1)), np.float32), is_free=False)
    zero = w.constant(np.array(w.integer(0, 100), kind), is_free=False)
    found = w.apply("QuantizeLinear", [x, scale, zero])
    return w.apply("DequantizeLinear", [found, scale, zero])


def _another_input(w: Author) -> Item:
    return w.input(w.pick(("f4", "f4", "f8", "f2", "i4", "i8", "u1", "i1", "?")))


STEPS: list[Step] = [
    *map(_unary, _PLAIN), *map(_positive, _POSITIVE), *map(_bounded, _BOUNDED),
    *(_binary(name, is_number) for name in (*_OF_NUMBERS, *_OF_NUMBERS[:3])),
    *(_binary(name, is_truth) for name in _OF_TRUTHS), _quotient, _power, *[_several] * 2, _clip,
    *[_where] * 2, *[_cast] * 3, *[_transpose] * 4, *[_reshape] * 2, *[_split_axis] * 3,
    _reshape_by_shape, _flatten, _unsqueeze, _squeeze, *[_slice] * 4, *[_split] * 2, *[_concat] * 4,
    _expand, _tile, *[_pad] * 3, *map(_reduction, _FOLDED), *map(_reduction, ("ReduceSum",) * 2),
    *map(_along_an_axis, ("Softmax", "Softmax", "LogSoftmax", "Hardmax")), _place_of_extreme,
    *[_running_sum] * 2, _shape, *[_quantize] * 2, _another_input,
]  # fmt: skip
