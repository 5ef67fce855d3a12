"""Steps of random ONNX graphs: products, windows, places, recurrences and control flow."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from tests.onnx_reader.random_onnx import Author, Item, Refused, Step


def _matmul(w: Author) -> Item:
    x = w.floats(low=1)
    lead = [1] * w.integer(0, max(x.rank - 2, 0))
    shape = (*lead, x.fixed(-1), w.pick((1, 3, 7, 16, 17, 33)))
    y = w.apply("MatMul", [x, w.constant(w.array(shape, x.dtype))])
    if w.chance(0.5):
        return w.apply("Add", [y, w.constant(w.array(shape[-1:], x.dtype))])
    return y


def _from_the_left(w: Author) -> Item:
    x = w.floats(low=2)
    return w.apply("MatMul", [w.constant(w.array((w.pick((1, 2, 5)), x.fixed(-2)), x.dtype)), x])


def _transposed(w: Author, x: Item) -> Item:
    axes = list(range(x.rank))
    return w.apply("Transpose", [x], perm=[*axes[:-2], axes[-1], axes[-2]])


def _attention(w: Author) -> Item:
    x = w.floats(low=2)
    scores = w.apply("MatMul", [x, _transposed(w, x)])
    return w.apply("MatMul", [w.apply("Softmax", [scores], axis=-1), x])


def _gemm(w: Author) -> Item:
    x = w.floats(low=2, high=2)
    left, right = w.integer(0, 1), w.integer(0, 1)
    depth, columns = x.fixed(0 if left else 1), w.pick((1, 3, 17))
    weight = w.constant(w.array((columns, depth) if right else (depth, columns), x.dtype))
    bias = w.constant(w.array(w.pick(((columns,), (1,), ())), x.dtype))
    alpha, beta = w.pick((1.0, 0.5)), w.pick((1.0, -2.0))
    return w.apply("Gemm", [x, weight, bias], transA=left, transB=right, alpha=alpha, beta=beta)


_EQUATIONS = (
    "ij->ji", "ij->i", "ij,ij->ij", "ij,ij->i", "ij,kj->ik", "bij,bkj->bik", "bij,bkj->bki",
    "bij,bij->b", "i,i->", "i,j->ij", "ij->",
)  # fmt: skip


def _einsum(w: Author) -> Item:
    equation = w.pick(_EQUATIONS)
    terms = equation.split("->")[0].split(",")
    x = w.floats(low=len(terms[0]), high=len(terms[0]))
    return w.apply("Einsum", [x] * len(terms), equation=equation)


def _image(w: Author) -> Item:
    """Channels first, with one or two axes more."""
    x = w.floats(low=3, high=4)
    if any(0 in array.shape for array in x.arrays):
        raise Refused
    return x


def _window(w: Author, x: Item) -> dict[str, Any]:
    count = x.rank - 2
    kernel = [w.integer(1, 4) for _ in range(count)]
    found: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [w.pick((1, 1, 2, 3)) for _ in kernel],
    }
    pads = [w.integer(0, size - 1) for size in (*kernel, *kernel)]
    if w.chance(0.3):
        found["auto_pad"] = w.pick(("SAME_UPPER", "SAME_LOWER"))
    elif w.chance(0.7):
        found["pads"] = pads
    sizes = [x.least(axis) for axis in range(2, x.rank)]
    # What comes of a window that is larger than the image is not defined.
    if any(size < wide for size, wide in zip(sizes, kernel)):
        raise Refused
    return found


def _conv(w: Author) -> Item:
    x = _image(w)
    channels = x.fixed(1)
    given = _window(w, x)
    groups = w.pick((1, 1, channels))
    filters = groups * w.pick((1, 2, 5, 17 if groups < 3 else 1))
    weight = w.constant(w.array((filters, channels // groups, *given["kernel_shape"]), x.dtype))
    bias = [w.constant(w.array((filters,), x.dtype))] if w.chance(0.6) else []
    y = w.apply("Conv", [x, weight, *bias], group=groups, **given)
    return w.apply(w.pick(("Relu", "Sigmoid", "HardSwish")), [y]) if w.chance(0.4) else y


def _conv_transpose(w: Author) -> Item:
    x = _image(w)
    channels = x.fixed(1)
    kernel = [w.integer(1, 4) for _ in range(x.rank - 2)]
    weight = w.constant(w.array((channels, w.integer(1, 3), *kernel), x.dtype))
    strides = [w.pick((1, 2, 3)) for _ in kernel]
    pads = [w.integer(0, 1) for _ in (*kernel, *kernel)]
    group = w.pick((1, 1, channels))
    return w.apply("ConvTranspose", [x, weight], strides=strides, pads=pads, group=group)


def _max_pool(w: Author) -> Item:
    x = _image(w)
    return w.apply("MaxPool", [x], w.integer(1, 2), **_window(w, x))


def _average_pool(w: Author) -> Item:
    x = _image(w)
    return w.apply("AveragePool", [x], count_include_pad=w.integer(0, 1), **_window(w, x))


def _global_pool(w: Author) -> Item:
    return w.apply(w.pick(("GlobalAveragePool", "GlobalMaxPool")), [_image(w)])


def _batch_norm(w: Author) -> Item:
    x = w.floats(low=2)
    shape = (x.fixed(1),)
    vectors = [w.constant(w.array(shape, x.dtype)) for _ in range(3)]
    width = w.constant(np.abs(w.array(shape, x.dtype)) + np.float32(0.3))
    return w.apply("BatchNormalization", [x, *vectors, width])


def _layer_norm(w: Author) -> Item:
    x = w.floats(low=1)
    if w.opset < 17:
        raise Refused
    scale = w.constant(w.array((x.fixed(-1),), x.dtype))
    return w.apply("LayerNormalization", [x, scale])


_PLACES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")


def _resize(w: Author) -> Item:
    x = _image(w)
    if x.rank != 4:
        raise Refused
    mode = w.pick(("nearest", "linear", "cubic"))
    factors = np.array([1, 1, *(w.pick((0.5, 1, 2, 3)) for _ in range(2))], np.float32)
    scales = w.constant(factors, is_free=False)
    where = w.pick(_PLACES)
    sizes = np.array([array.shape for array in x.arrays]) * factors
    if where == "align_corners" and (sizes % 1).any():
        raise Refused  # onnxruntime takes the whole size for the last place, onnx the fraction
    return w.apply("Resize", [x, None, scales], mode=mode, coordinate_transformation_mode=where)


def _places(w: Author, limit: int, shape: tuple[int, ...]) -> Item:
    if not limit:
        raise Refused
    low = -limit if w.chance(0.4) else 0
    return w.constant(w.rng.integers(low, limit, shape))


def _gather(w: Author) -> Item:
    x = w.of(lambda item: item.rank > 0)
    axis = w.integer(0, x.rank - 1)
    shape = w.pick(((), (1,), (3,), (2, 2)))
    return w.apply("Gather", [x, _places(w, x.least(axis), shape)], axis=axis)


def _gather_elements(w: Author) -> Item:
    x = w.of(lambda item: item.rank > 0)
    axis = w.integer(0, x.rank - 1)
    shape = tuple(3 if a == axis else x.fixed(a) for a in range(x.rank))
    return w.apply("GatherElements", [x, _places(w, x.least(axis), shape)], axis=axis)


def _scatter_rows(w: Author) -> Item:
    x = w.floats(low=1)
    shape = [x.fixed(a) for a in range(1, x.rank)]
    count = x.least(0)
    if count < 1:
        raise Refused
    rows = w.rng.choice(count, min(count, 3), replace=False).reshape(-1, 1)
    updates = w.constant(w.array((len(rows), *shape), x.dtype))
    return w.apply("ScatterND", [x, w.constant(rows.astype(np.int64)), updates])


def _top(w: Author) -> Item:
    x = w.floats(low=1)
    axis = w.integer(0, x.rank - 1)
    count = w.numbers(w.integer(1, max(x.least(axis), 1)))
    return w.apply("TopK", [x, count], 2, axis=axis, largest=w.integer(0, 1))


def _chosen_rows(w: Author) -> Item:
    """Rows that a condition chooses: how many is known when the graph runs."""
    x = w.of(lambda item: item.rank > 0)
    condition = w.constant(w.array((w.integer(1, max(x.least(0), 1)),), np.bool_))
    return w.apply("Compress", [x, condition], axis=0)


def _countdown(w: Author) -> Item:
    """Whole numbers from a size down to 0."""
    x = w.of(lambda item: item.rank > 0)
    size = w.apply("ReduceProd", [w.apply("Shape", [x])], keepdims=0)
    end = w.constant(np.array(-1), is_free=False)
    return w.apply("Cast", [w.apply("Range", [size, end, end])], to=1)


def _one_hot(w: Author) -> Item:
    x = w.of(lambda item: item.dtype == np.int64)
    depth = w.constant(np.array(5), is_free=False)
    values = w.constant(np.array([-1, 2], np.float32))
    return w.apply("OneHot", [x, depth, values], axis=w.integer(-x.rank - 1, x.rank))


_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _recurrence(name: str) -> Step:
    def step(w: Author) -> Item:
        x = w.floats(low=3, high=3)
        if any(0 in array.shape for array in x.arrays):
            raise Refused
        size, direction = w.pick((1, 2, 5)), w.pick(("forward", "reverse", "bidirectional"))
        both, rows = 1 + (direction == "bidirectional"), _GATES[name] * size

        def small(*shape: int) -> Item:
            return w.constant(w.array(shape, x.dtype) * np.float32(0.4), is_free=False)

        given = [x, small(both, rows, x.fixed(2)), small(both, rows, size)]
        if w.chance(0.6):
            given.append(small(both, 2 * rows))
        return w.apply(name, given, 2, hidden_size=size, direction=direction)

    return step


def _branch(w: Author) -> Item:
    """One of two branches, each of one node."""
    x = w.constant(w.array((3, 2), np.float32))
    truth = w.constant(np.array(w.chance(0.5)))
    value = helper.make_tensor_value_info("inside", 1, [3, 2])
    parts = {}
    for part in ("then_branch", "else_branch"):
        array = helper.make_tensor("c", 1, [3, 2], w.array((3, 2), np.float32).ravel().tolist())
        node = helper.make_node("Constant", [], ["inside"], value=array)
        parts[part] = helper.make_graph([node], part, [], [value])
    return w.apply("Add", [w.apply("If", [truth], **parts), x])


PRODUCTS: list[Step] = [
    *[_matmul] * 5, *[_from_the_left] * 2, *[_attention] * 2, *[_gemm] * 2, *[_einsum] * 2,
    *[_conv] * 6, *[_conv_transpose] * 2, *[_max_pool] * 2, *[_average_pool] * 2, _global_pool,
    _batch_norm, *[_layer_norm] * 2, *[_resize] * 3, *[_gather] * 3, _gather_elements,
    _scatter_rows, _top, _chosen_rows, _countdown, _one_hot, *map(_recurrence, _GATES), _branch,
]  # fmt: skip
