"""Compositions compute what ONNX says, with constant and with symbolic dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.composite.composite import matmul
from bessemer.compiler.ops.composite.composite_activation import (
    celu,
    elu,
    gelu,
    hard_sigmoid,
    hard_swish,
    mish,
    prelu,
    selu,
    shrink,
    silu,
    softplus,
    softsign,
    thresholded_relu,
)  # fmt: skip
from bessemer.compiler.ops.composite.composite_normalize import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    lrn,
    rms_norm,
    standardize,
)
from bessemer.compiler.ops.composite.composite_quantize import (
    dequantize_linear,
    dynamic_quantize_linear,
    quantize_linear,
)
from bessemer.compiler.ops.composite.composite_reduce import (
    global_average_pool,
    global_lp_pool,
    global_max_pool,
    l1_norm,
    l2_norm,
    log_softmax,
    logsumexp,
    lp_normalize,
    lp_pool,
    mean,
    softmax,
    sum_square,
    variance,
)
from bessemer.compiler.ops.composite.composite_shape import (
    flatten,
    squeeze,
    tile,
    trilu,
    unsqueeze,
)
from tests.graph_runs import Build, run
from tests.op_cases import assert_same


def channels_last(array: Array) -> Array:
    return np.moveaxis(array, 1, -1)


def channels_first(array: Array) -> Array:
    return np.moveaxis(array, -1, 1)


def by_onnx(
    operator: str, arrays: Sequence[Array], opset: int = 22, **attributes: Any
) -> list[Array]:
    """The outputs of one ONNX node by ONNX's own evaluator."""
    names = [f"x{k}" for k in range(len(arrays))]
    outputs = [f"y{k}" for k in range(3 if operator == "DynamicQuantizeLinear" else 1)]
    node = onnx.helper.make_node(operator, names, outputs, **attributes)
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in zip(names, arrays)
    ]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = onnx.helper.make_graph([node], "node", inputs, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(model).run(None, dict(zip(names, arrays)))
    return [np.asarray(array) for array in found]


RANDOM = np.random.default_rng(7)
WIDE = np.array([-700.0, -20, -3, -1, -0.5, -0.0, 0.0, 1e-4, 0.5, 1, 2.9, 3, 20, 700], np.float32)


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Case:
    """A composition, the ONNX node it must equal, their inputs; images are transposed around it."""

    name: str
    build: Build
    operator: str
    arrays: Sequence[Array]
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: Sequence[Array] = ()
    """What the ONNX node has as further inputs and the composition as attributes."""
    image: bool = False
    static: bool = False
    """Whether it wants known sizes."""
    tolerance: float = 2e-5


AXES_1 = np.array([1], np.int64)
AXES_02 = np.array([0, 2], np.int64)
IMAGE = normal(2, 6, 5, 7)
CASES = [
    Case("gelu", gelu, "Gelu", [WIDE]),
    Case("gelu_tanh", lambda b, x: gelu(b, x, tanh=True), "Gelu", [WIDE], {"approximate": "tanh"}),
    Case("hard_sigmoid", hard_sigmoid, "HardSigmoid", [WIDE]),
    Case("hard_swish", hard_swish, "HardSwish", [WIDE]),
    Case("softplus", softplus, "Softplus", [WIDE[1:-1]]),
    Case("softsign", softsign, "Softsign", [WIDE]),
    Case("elu", lambda b, x: elu(b, x, 1.5), "Elu", [WIDE], {"alpha": 1.5}),
    Case("celu", lambda b, x: celu(b, x, 1.5), "Celu", [WIDE], {"alpha": 1.5}),
    Case("selu", selu, "Selu", [WIDE]),
    Case("mish", mish, "Mish", [WIDE[1:-1]]),
    Case("thresholded_relu", thresholded_relu, "ThresholdedRelu", [WIDE], {"alpha": 1.0}),
    Case("prelu", prelu, "PRelu", [normal(3, 4, 5), normal(4, 1)]),
    Case("shrink", lambda b, x: shrink(b, x, 1.5, 2), "Shrink", [WIDE],
         {"bias": 1.5, "lambd": 2.0}),
    Case("softmax", lambda b, x: softmax(b, x, (-1,)), "Softmax", [normal(3, 5) * 30]),
    Case("softmax_1", lambda b, x: softmax(b, x, (1,)), "Softmax", [normal(2, 3, 4)], {"axis": 1}),
    Case("log_softmax", lambda b, x: log_softmax(b, x, (1,)), "LogSoftmax", [normal(3, 9) * 30]),
    Case("logsumexp", lambda b, x: logsumexp(b, x, (1,), keep=True), "ReduceLogSumExp",
         [normal(3, 4) * 9], constants=[AXES_1]),
    Case("mean", lambda b, x: mean(b, x, (0, 2), keep=True), "ReduceMean", [normal(2, 3, 5)],
         constants=[AXES_02]),
    Case("l1", lambda b, x: l1_norm(b, x, (1,)), "ReduceL1", [normal(2, 3)], {"keepdims": 0},
         constants=[AXES_1]),
    Case("l2", lambda b, x: l2_norm(b, x, (1,)), "ReduceL2", [normal(2, 3)], {"keepdims": 0},
         constants=[AXES_1]),
    Case("sum_square", lambda b, x: sum_square(b, x, (1,), keep=True), "ReduceSumSquare",
         [normal(2, 3)], constants=[AXES_1]),
    Case("lp_normalize", lambda b, x: lp_normalize(b, x, 1, 2), "LpNormalization",
         [np.vstack([normal(2, 4), np.zeros((1, 4), np.float32)])], {"axis": 1, "p": 2}),
    Case("layer_norm", lambda b, x, s, t: layer_norm(b, x, s, t, (-1,), 1e-5), "LayerNormalization",
         [normal(2, 3, 8), normal(8), normal(8)], {"axis": -1}),
    Case("layer_norm_2", lambda b, x, s, t: layer_norm(b, x, s, t, (1, 2), 1e-2),
         "LayerNormalization", [normal(2, 3, 8), normal(3, 8), normal(3, 8)],
         {"axis": 1, "epsilon": 1e-2}),
    Case("batch_norm", lambda b, x, s, t, m, d: batch_norm(b, x, s, t, m, d, 1e-3),
         "BatchNormalization",
         [IMAGE, normal(6), normal(6), normal(6), np.abs(normal(6))], {"epsilon": 1e-3},
         image=True),
    Case("instance_norm", lambda b, x, s, t: instance_norm(b, x, s, t, 1e-3),
         "InstanceNormalization",
         [IMAGE, normal(6), normal(6)], {"epsilon": 1e-3}, image=True),
    Case("group_norm", lambda b, x, s, t: group_norm(b, x, s, t, 3, 1e-3),
         "GroupNormalization", [IMAGE, normal(6), normal(6)], {"epsilon": 1e-3, "num_groups": 3},
         image=True, static=True),
    Case("global_average_pool", global_average_pool, "GlobalAveragePool", [IMAGE], image=True),
    Case("global_max_pool", global_max_pool, "GlobalMaxPool", [IMAGE], image=True),
    Case("lp_pool", lambda b, x: lp_pool(b, x, 3, kernel=(2, 3), strides=(2, 1), dilations=(1, 1),
                                         low=(1, 0), high=(0, 1)),
         "LpPool", [IMAGE], {"p": 3, "kernel_shape": [2, 3], "strides": [2, 1],
                             "pads": [1, 0, 0, 1]}, image=True),
    Case("squeeze", lambda b, x: squeeze(b, x, (0, -1)), "Squeeze", [normal(1, 3, 1)],
         constants=[np.array([0, -1], np.int64)]),
    Case("unsqueeze", lambda b, x: unsqueeze(b, x, (0, -1)), "Unsqueeze", [normal(3, 2)],
         constants=[np.array([0, -1], np.int64)]),
    Case("flatten", lambda b, x: flatten(b, x, 2), "Flatten", [normal(2, 3, 4, 5)], {"axis": 2}),
    Case("flatten_0", lambda b, x: flatten(b, x, 0), "Flatten", [normal(2, 3)], {"axis": 0}),
    Case("tile", lambda b, x: tile(b, x, (2, 1, 3)), "Tile", [normal(2, 3, 2)],
         constants=[np.array([2, 1, 3], np.int64)]),
    Case("trilu", trilu, "Trilu", [normal(2, 4, 5)]),
    Case("trilu_lower", lambda b, x: trilu(b, x, -1, upper=False), "Trilu", [normal(4, 5)],
         {"upper": 0}, constants=[np.array(-1, np.int64)]),
    Case("trilu_k", lambda b, x, k: trilu(b, x, k), "Trilu", [normal(4, 5), np.array(2, np.int64)]),
    Case("quantize", quantize_linear, "QuantizeLinear",
         [WIDE, np.array(0.25, np.float32), np.array(-7, np.int8)]),
    Case("quantize_axis", lambda b, *v: quantize_linear(b, *v, axis=1), "QuantizeLinear",
         [normal(2, 3, 4) * 50, np.array([0.5, 1, 3], np.float32),
          np.array([0, 7, 255], np.uint8)]),
    Case("quantize_u16", quantize_linear, "QuantizeLinear",
         [normal(40) * 50, np.array(2e-3, np.float32), np.array(32768, np.uint16)]),
    Case("quantize_block", lambda b, *v: quantize_linear(b, *v, axis=1, block=2), "QuantizeLinear",
         [normal(2, 6), np.abs(normal(2, 3)) + 0.1, np.zeros((2, 3), np.int16)],
         {"axis": 1, "block_size": 2}, static=True),
    Case("dequantize", dequantize_linear, "DequantizeLinear",
         [np.arange(-128, 128, dtype=np.int8), np.array(0.1, np.float32), np.array(-7, np.int8)]),
    Case("dequantize_axis", lambda b, *v: dequantize_linear(b, *v, axis=0), "DequantizeLinear",
         [np.arange(12, dtype=np.uint8).reshape(3, 4), np.array([0.5, 1, 3], np.float32),
          np.array([0, 7, 255], np.uint8)], {"axis": 0}),
    Case("dequantize_block", lambda b, *v: dequantize_linear(b, *v, axis=0, block=2),
         "DequantizeLinear", [np.arange(12, dtype=np.int8).reshape(4, 3), np.abs(normal(2, 3)),
                              np.arange(6, dtype=np.int8).reshape(2, 3)],
         {"axis": 0, "block_size": 2}, static=True),
    Case("dequantize_i32", dequantize_linear, "DequantizeLinear",
         [np.array([2**30 + 1, -5], np.int32), np.array(0.1, np.float32)]),
    Case("dynamic_quantize", dynamic_quantize_linear, "DynamicQuantizeLinear", [normal(3, 4) * 9]),
    Case("dynamic_quantize_positive", dynamic_quantize_linear, "DynamicQuantizeLinear",
         [np.abs(normal(3, 4)) + 1]),
]  # fmt: skip


@pytest.mark.parametrize(
    "case, symbolic",
    [
        pytest.param(case, symbolic, id=f"{case.name}{'-symbolic' * symbolic}")
        for case in CASES
        for symbolic in ([False] if case.static else [False, True])
    ],
)
def test_a_composition_is_its_onnx_operator(case: Case, symbolic: bool) -> None:
    expected = by_onnx(case.operator, [*case.arrays, *case.constants], **case.attributes)
    arrays = list(case.arrays)
    if case.image:
        arrays[0], expected[0] = channels_last(arrays[0]), channels_last(expected[0])
    actual = run(case.build, arrays, symbolic=symbolic)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected):
        assert_same(one, other.astype(one.dtype, casting="same_kind"), case.tolerance)


@pytest.mark.parametrize(
    "left, right", [((3,), (3,)), ((3,), (3, 4)), ((2, 4, 3), (3,)), ((3,), (2, 3, 4)),
                    ((2, 1, 4, 3), (5, 3, 2))]
)  # fmt: skip
def test_matmul_is_that_of_numpy(
    left: tuple[int, ...], right: tuple[int, ...], rng: np.random.Generator
) -> None:
    arrays = [rng.standard_normal(left), rng.standard_normal(right)]
    assert_same(run(matmul, arrays)[0], np.asarray(np.matmul(*arrays)), 1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("build", [
    lambda b, x: softmax(b, x, (-1,)),
    lambda b, x: mean(b, x, (0,)),
    lambda b, x: variance(b, x, (1,)),
    lambda b, x: layer_norm(b, x, None, None, (-1,), 1e-5),
    lambda b, x: rms_norm(b, x, None, (-1,), 1e-5),
    lambda b, x: logsumexp(b, x, (0,)),
])  # fmt: skip
def test_statistics_of_small_floats_are_computed_in_larger_ones(
    build: Build, dtype: Any, rng: np.random.Generator
) -> None:
    """The result is that of float64, rounded: half a unit in the last place, and a little more."""
    x = (rng.standard_normal((40, 300)) * 3 + 5).astype(dtype)
    (exact,) = run(build, [x.astype(np.float64)])
    (actual,) = run(build, [x])
    assert actual.dtype == dtype
    epsilon = float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(actual.astype(np.float64), exact, rtol=0.6 * epsilon, atol=1e-6)


def test_variance_and_rms_norm(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 6))
    assert_same(run(lambda b, v: variance(b, v, (-1,)), [x])[0], x.var(-1), 1e-12)
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + 0.1) * x[0]
    assert_same(run(lambda b, v, s: rms_norm(b, v, s, (-1,), 0.1), [x, x[0]])[0], expected, 1e-12)


def test_standardize_gives_its_statistics(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 6))
    normal_x, center, inverse = run(lambda b, v: standardize(b, v, (1,), 0.5), [x])
    np.testing.assert_allclose(center[:, 0], x.mean(1))
    np.testing.assert_allclose(inverse[:, 0], 1 / np.sqrt(x.var(1) + 0.5))
    np.testing.assert_allclose(normal_x, (x - center) * inverse)


def test_the_mean_of_integers_is_cut_towards_zero() -> None:
    x = np.array([[1, 2, 5], [-1, -2, -5]], np.int32)
    np.testing.assert_array_equal(run(lambda b, v: mean(b, v, (1,)), [x])[0], [2, -2])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, 12])
def test_lrn(size: int, rng: np.random.Generator) -> None:
    """By ONNX's text: its evaluator (1.23) takes the batch's size for the number of channels."""
    x = rng.standard_normal((2, 5, 7, 6))
    expected = np.empty_like(x)
    for c in range(6):
        around = x[..., max(0, c - (size - 1) // 2) : c + size // 2 + 1]
        expected[..., c] = x[..., c] / (1.5 + 0.2 / size * (around**2).sum(-1)) ** 0.7
    (actual,) = run(lambda b, v: lrn(b, v, size, 0.2, 0.7, 1.5), [x])
    assert_same(actual, expected, 1e-12)


def test_logsumexp_of_infinities() -> None:
    x = np.array([[-np.inf, -np.inf], [np.inf, 1], [-np.inf, 2]], np.float32)
    (actual,) = run(lambda b, v: logsumexp(b, v, (1,)), [x])
    np.testing.assert_array_equal(actual, np.array([-np.inf, np.inf, 2], np.float32))


def test_dynamic_quantization_of_zeros() -> None:
    y, scale, zero_point = run(dynamic_quantize_linear, [np.zeros((2, 3), np.float32)])
    assert (scale.tolist(), zero_point.tolist()) == (1.0, 0)
    assert y.dtype == np.uint8 and not y.any()


def test_a_silu_with_a_slope() -> None:
    with np.errstate(over="ignore"):
        expected = WIDE / (1 + np.exp(-1.7 * WIDE.astype(np.float64)))
    (actual,) = run(lambda b, x: silu(b, x, 1.7), [WIDE])
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_lp_pool(p: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 4, 5))
    expected = (np.abs(x) ** p).sum((1, 2), keepdims=True) ** (1 / p)
    assert_same(run(lambda b, v: global_lp_pool(b, v, p), [x])[0], expected, 1e-12)
