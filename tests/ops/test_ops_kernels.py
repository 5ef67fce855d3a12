"""Operators on shapes with symbols, on bad data, and what their examples do not show.

That every rule does on every example what the reference does is in test_ops.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Dim, Size, as_atom, symbol
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.expr import Buffer, Expression, Load
from bessemer.compiler.ir.interpreter.interpret_elements import run_element_rule
from bessemer.compiler.ir.interpreter.interpret_loops import OUT_OF_RANGE, KernelResult, run_kernel
from bessemer.compiler.ir.loops import For, Kernel
from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.types import Array, TensorType, dtype_of, f32, i64, type_of
from bessemer.compiler.ir.walk_loops import walk
from bessemer.compiler.ops.sorting.non_max_suppression import _capacity as nms_capacity
from tests.op_cases import assert_same

N, M = symbol("n"), symbol("m")


@dataclass(frozen=True)
class Case:
    """An operator on arrays whose types say symbols instead of some sizes."""

    operator: str
    arrays: tuple[Array, ...]
    shapes: tuple[tuple[Size, ...], ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def types(self) -> list[TensorType]:
        """The types that the operator sees."""
        return [TensorType(dtype_of(a), shape) for a, shape in zip(self.arrays, self.shapes)]

    @property
    def symbols(self) -> dict[str, int]:
        """The symbols' values, from the arrays."""
        found: dict[str, int] = {"kept": max(array.size for array in self.arrays)}
        for array, shape in zip(self.arrays, self.shapes, strict=True):
            for actual, size in zip(array.shape, shape, strict=True):
                leaf = as_atom(size)
                if leaf is not None:
                    assert found.setdefault(str(leaf), actual) == actual
        return found

    def expected(self) -> tuple[Array, ...]:
        """The reference's outputs."""

        def value(item: Any) -> Any:
            if isinstance(item, Dim):
                return evaluate_named(item, self.symbols)
            return tuple(map(value, item)) if isinstance(item, tuple) else item

        attributes = {name: value(item) for name, item in self.attributes.items()}
        return OPS[self.operator].compute(self.arrays, attributes)


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def integers(*shape: int, low: int = -3, high: int = 3) -> Array:
    return np.random.default_rng(sum(shape)).integers(low, high, shape)


def kernel_of(
    operator: str, types: Sequence[TensorType], attributes: Mapping[str, Any]
) -> tuple[Kernel, int]:
    """The kernel of an operator on inputs of these types, and how many outputs it has; scratch
    comes behind them."""
    record = OPS[operator]
    inputs = [Buffer(f"x{i}", type.dtype, type.shape) for i, type in enumerate(types)]
    results = record.infer_types(types, attributes)
    outputs = [Buffer(f"y{i}", type.dtype, type.shape) for i, type in enumerate(results)]
    builder = KernelBuilder()
    assert record.statements is not None
    record.statements(builder, inputs, outputs, **attributes)
    written = (*outputs, *builder.scratch_buffers)
    kernel = Kernel(operator, (*inputs, *written), len(written), (), builder.block())
    return kernel, len(outputs)


def run(case: Case) -> KernelResult:
    """A case under the interpreter, scratch left out of its outputs."""
    kernel, outputs = kernel_of(case.operator, case.types, case.attributes)
    result = run_kernel(kernel, case.arrays, case.symbols)
    return KernelResult(result.outputs[:outputs], result.symbols, result.failures)


def run_on(operator: str, *arrays: Array, **attributes: Any) -> KernelResult:
    """An operator's kernel on arrays of known shapes."""
    return run(Case(operator, arrays, tuple(a.shape for a in arrays), attributes))


# Symbols

LENGTHS = np.array([2, 5, 0], np.int32)
KERNELS = [
    Case(
        "scatter_elements",
        (normal(3, 4), integers(2, 4), normal(2, 4)),
        ((N, 4), (M, 4), (M, 4)),
        {"axis": 0, "reduction": "add"},
    ),
    Case("scatter_nd", (normal(3, 4), integers(2, 1), normal(2, 4)), ((N, 4), (M, 1), (M, 4))),
    Case("nonzero", (integers(3, 4, low=0, high=2),), ((N, M),), {"symbol": "kept"}),
    Case("top_k", (normal(3, 9),), ((N, M),), {"k": N, "axis": 1}),
    Case("top_k", (normal(9, 4),), ((N, 4),), {"k": N, "axis": 0, "largest": False}),
    Case("unique", (integers(9, 2),), ((N, M),), {"symbol": "kept"}),
    Case("cumulative", (normal(3, 4, 2),), ((N, M, 2),), {"axis": 1, "reverse": True}),
    Case("arg_max", (normal(3, 4),), ((N, M),), {"axis": 1, "last": False}),
    Case(
        "lstm",
        (normal(5, 3, 28), normal(7, 28), normal(3, 7), normal(3, 7)),
        ((N, M, 28), (7, 28), (M, 7), (M, 7)),
    ),
    Case(
        "gru",
        (normal(5, 3, 21), normal(7, 21), normal(3, 7), LENGTHS),
        ((N, M, 21), (7, 21), (M, 7), (M,)),
        {"has_lengths": True, "reverse": True},
    ),
    Case("rnn", (normal(5, 3, 7), normal(7, 7), normal(3, 7)), ((N, M, 7), (7, 7), (M, 7))),
    Case(
        "roi_align",
        (normal(2, 7, 5, 3), np.abs(normal(3, 4)) * 4, np.array([0, 1, 1])),
        ((2, N, M, 3), (3, 4), (3,)),
        {"shape": (2, 2), "half_pixel": False},
    ),
    Case(
        "non_max_suppression",
        (
            np.abs(normal(1, 9, 4)),
            normal(1, 2, 9),
            np.array(0.4, np.float32),
            np.array(0.0, np.float32),
        ),
        ((1, N, 4), (1, M, N), (), ()),
        {"limit": N, "symbol": "kept"},
    ),
]

ELEMENTS = [
    Case("gather", (normal(5, 3), integers(2, 4)), ((N, 3), (M, 4)), {"axis": 0}),
    Case("gather_elements", (normal(5, 3), integers(2, 3)), ((N, 3), (M, 3)), {"axis": 0}),
    Case("gather_nd", (normal(5, 3), integers(4, 1)), ((N, 3), (M, 1)), {"batch_dims": 0}),
    Case(
        "one_hot",
        (integers(4), np.array([0, 1], np.float32), normal(6)),
        ((M,), (2,), (N,)),
        {"depth": N, "axis": 1},
    ),
    Case("resize", (normal(3, 4),), ((N, M),), {"shape": (2 * N, 3 * M), "scales": (2.0, 3.0)}),
    Case("resize", (normal(3, 4),), ((N, M),), {"shape": (M, N), "mode": "linear"}),
    Case("resize", (normal(3, 4),), ((N, M),), {"shape": (2 * N, 5), "mode": "cubic"}),
    Case(
        "resize",
        (normal(5, 4),),
        ((N, M),),
        {"shape": (3, 7), "mode": "linear", "antialias": True},
    ),
    *(
        Case("resize", (normal(5, 4),), ((N, M),), {"shape": (M, 9), "coordinate": coordinate})
        for coordinate in ("align_corners", "pytorch_half_pixel", "asymmetric")
    ),
    Case(
        "resize",
        (normal(5, 4),),
        ((N, M),),
        {
            "shape": (N * 3 // 5, 2),
            "scales": (0.6, 0.5),
            "mode": "linear",
            "coordinate": "half_pixel_symmetric",
        },
    ),
    Case(
        "grid_sample",
        (normal(2, 4, 5, 3), normal(2, 3, 2)),
        ((2, N, M, 3), (2, 3, 2)),
        {"padding": "reflection"},
    ),
    Case("uniform", (np.array(3),), ((),), {"shape": (2, 3)}),
    Case(
        "col2im",
        (normal(2, 3, 2, 3),),
        ((2, N, 2, 3),),
        {"image": (2 * N,), "strides": (2,), "dilations": (1,), "low": (0,)},
    ),
]


@pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.operator)
def test_a_kernel_serves_all_sizes(case: Case) -> None:
    result = run(case)
    assert result.failures == ()
    for actual, expected in zip(result.outputs, case.expected(), strict=True):
        assert_same(actual, expected, 1e-5)


@pytest.mark.parametrize("case", ELEMENTS, ids=lambda case: case.operator)
def test_an_element_rule_serves_all_sizes(case: Case) -> None:
    operator = OPS[case.operator]
    if case.operator == "one_hot":  # the third array only gives n its value
        expected = operator.compute(case.arrays[:2], {"depth": 6, "axis": 1})[0]
        actual = run_element_rule(
            operator, case.arrays[:2], case.attributes, case.types[:2], case.symbols
        )
    else:
        (expected,) = case.expected()
        actual = run_element_rule(operator, case.arrays, case.attributes, case.types, case.symbols)
    assert_same(actual, expected, 1e-5)


# Data that does not fit


@pytest.mark.parametrize("wrong", [5, -6, 2**40])
def test_scatter_reports_an_index_out_of_range(wrong: int) -> None:
    arrays = normal(5), np.array([1, wrong]), normal(2)
    assert run_on("scatter_elements", *arrays, axis=0).failures == (OUT_OF_RANGE,)
    places = np.array([[1], [wrong]])
    assert run_on("scatter_nd", normal(5), places, normal(2)).failures == (OUT_OF_RANGE,)


@pytest.mark.parametrize("wrong", [5, -6])
def test_gather_refuses_an_index_out_of_range(wrong: int) -> None:
    with pytest.raises(IndexError):
        run_element_rule(OPS["gather"], [normal(5), np.array([wrong])], {"axis": 0})


@pytest.mark.parametrize("length", [-1, 6])
def test_a_sequence_must_be_as_long_as_it_can_be(length: int) -> None:
    arrays = normal(5, 1, 3), normal(3, 3), normal(1, 3), np.array([length])
    (failure,) = run_on("rnn", *arrays, has_lengths=True).failures
    assert "sequence" in failure


def test_top_k_reports_more_elements_than_there_are() -> None:
    case = Case("top_k", (normal(2, 3), normal(4)), ((2, M), (N,)), {"k": N, "axis": 1})
    kernel, _ = kernel_of("top_k", case.types[:1], case.attributes)
    result = run_kernel(kernel, case.arrays[:1], case.symbols)
    assert result.failures == ("top_k wants more elements than its axis has",)


def test_top_k_of_a_known_size_is_checked_when_it_is_built() -> None:
    with pytest.raises(CompileError, match="top_k wants k = 4 elements"):
        OPS["top_k"].infer_types([TensorType(f32, (2, 3))], {"k": 4, "axis": 1})


# What is promised besides


def test_an_upscaled_nearest_neighbour_is_a_view() -> None:
    x = Operand(TensorType(f32, (N, M)), _loader("x", (N, M)))
    i, j = (symbol(name, extent) for name, extent in (("i", 2 * N), ("j", 3 * M)))
    rule = OPS["resize"].element
    assert rule is not None
    for coordinate in ("half_pixel", "asymmetric"):
        rounding = {"half_pixel": "round_prefer_floor", "asymmetric": "floor"}[coordinate]
        element = rule(
            x, index=(i, j), shape=(2 * N, 3 * M), coordinate=coordinate, nearest=rounding
        )
        assert isinstance(element, Load)
        assert element.indices == (i // 2, j // 3)


def _loader(name: str, shape: tuple[Size, ...]) -> Any:
    def element(index: tuple[Size, ...]) -> Expression:
        return expr.load(Buffer(name, f32, shape), index)

    return element


@pytest.mark.parametrize(
    "case",
    [c for c in KERNELS if c.operator in ("top_k", "cumulative", "lstm", "gru", "roi_align")],
    ids=lambda case: case.operator,
)
def test_independent_rows_may_run_at_once(case: Case) -> None:
    kernel, _ = kernel_of(case.operator, case.types, case.attributes)
    assert isinstance(kernel.body[0], For)
    assert kernel.body[0].kind == "parallel"
    assert len(kernel.body) == 1
    assert sum(isinstance(s, For) and s.kind == "parallel" for s in walk(kernel.body)) == 1


@pytest.mark.parametrize("operator", ["nonzero", "unique", "non_max_suppression"])
def test_what_is_reserved_is_enough(operator: str) -> None:
    for example in OPS[operator].examples:
        arrays = [normal(*given) if isinstance(given, tuple) else given for given in example.inputs]
        capacity = OPS[operator].capacity
        assert capacity is not None
        results = OPS[operator].compute(arrays, example.attributes)
        sizes = capacity(*[type_of(array) for array in arrays], **example.attributes)
        for result, most in zip(results, sizes, strict=True):
            assert most is None or result.size <= most


def test_what_is_reserved_for_boxes_knows_the_limit() -> None:
    boxes, scores = TensorType(f32, (2, 50, 4)), TensorType(f32, (2, 3, 50))
    scalar = TensorType(f32, ())
    assert nms_capacity(boxes, scores, scalar, scalar, limit=10, symbol="n") == (3 * 2 * 3 * 10,)


def test_the_kernel_says_how_many_were_found() -> None:
    result = run_on("nonzero", np.array([0, 4, 0, 5]), symbol="kept")
    assert result.symbols["kept"] == 2
    assert OPS["nonzero"].infer_types([TensorType(f32, (4,))], {"symbol": "kept"}) == (
        TensorType(i64, (1, symbol("kept"))),
    )


@pytest.mark.parametrize(
    "operator,shapes,attributes,message",
    [
        ("gather_elements", ((3, 4), (3,)), {"axis": 0}, "wants indices with the axes"),
        ("lstm", ((5, 3, 28), (7, 27), (3, 7), (3, 7)), {}, "lstm wants gates"),
        ("gru", ((5, 3, 21), (7, 21), (3, 7)), {"activations": ("tanh",)}, "2 activations"),
        ("rnn", ((5, 3, 7), (7, 7), (3, 7)), {"activations": ("gelu",)}, "'gelu'; it knows"),
        ("resize", ((3, 4),), {"shape": (3, 4), "mode": "area"}, "no mode 'area'"),
        ("unique", ((3, 4, 5),), {"symbol": "n"}, "Reshape it"),
        ("grid_sample", ((2, 3, 4, 1), (2, 5, 3)), {}, "grid_sample wants an image"),
        ("cumulative", ((3,),), {"axis": 1}, "has axis 1"),
    ],
)
def test_an_error_says_what_is_wanted(
    operator: str,
    shapes: tuple[tuple[int, ...], ...],
    attributes: dict[str, Any],
    message: str,
) -> None:
    types = [TensorType(f32, shape) for shape in shapes]
    if operator == "gather_elements":
        types[1] = types[1].with_dtype(i64)
    with pytest.raises(CompileError, match=message):
        OPS[operator].infer_types(types, attributes)
