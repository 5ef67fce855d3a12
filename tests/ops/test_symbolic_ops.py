"""Operators with dimensions that are symbols: their types, and what their element rules index."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import bessemer.compiler.ops  # noqa: F401  (fills OPS)
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.dims import Dim, Size, Symbol, atom, floordiv, symbol
from bessemer.compiler.ir.element import Operand
from bessemer.compiler.ir.evaluate import evaluate_named
from bessemer.compiler.ir.expr import Buffer, Load
from bessemer.compiler.ir.interpreter.interpret_elements import run_element_rule
from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.types import TensorType, f32, i64
from tests.op_cases import assert_same

N, C, H, W = (symbol(name) for name in "nchw")
VALUES = {"n": 2, "c": 3, "h": 4, "w": 5}


def concrete(item: Any) -> Any:
    """An attribute or shape with its symbols replaced by VALUES."""
    if isinstance(item, tuple):
        return tuple(concrete(entry) for entry in item)
    return evaluate_named(item, VALUES) if isinstance(item, Dim) else item


def infer(name: str, *shapes: tuple[Size, ...], **attributes: Any) -> tuple[Size, ...]:
    """The shape of an operator's output for f32 inputs of these shapes."""
    types = [TensorType(f32, shape) for shape in shapes]
    return OPS[name].infer_types(types, attributes)[0].shape


WINDOW = {"strides": (2, 1), "dilations": (1, 2), "low": (1, 2), "high": (1, 2)}
CASES: list[tuple[str, Sequence[tuple[Size, ...]], Mapping[str, Any]]] = [
    ("reshape", [(N, C, H, W)], {"shape": (N, C, H * W)}),
    ("reshape", [(N, C * H)], {"shape": (N, C, H)}),
    ("reshape", [(N * H, C, W)], {"shape": (N, H, C * W)}),
    ("reshape", [(N, 6, H)], {"shape": (N, 2, 3 * H)}),
    ("reshape", [(N, H, W)], {"shape": (H, N * W)}),
    ("reshape", [(H, W)], {"shape": (floordiv(H, 2), 2, W)}),
    ("broadcast_to", [(1, H)], {"shape": (N, W, H)}),
    ("transpose", [(N, C, H)], {"permutation": (2, 0, 1)}),
    ("slice", [(N, H)], {"starts": (0, H - 1), "shape": (N, H), "steps": (1, -1)}),
    ("slice", [(N, H)], {"starts": (N - 1, 1), "shape": (1, H - 1), "steps": (1, 1)}),
    *(
        ("pad", [(H, W)], {"low": (1, N), "high": (C, 2), "mode": mode, "value": 7.0})
        for mode in ("constant", "reflect", "edge", "wrap")
    ),
    ("concat", [(N, H), (N, 3), (N, W)], {"axis": 1}),
    ("full", [], {"shape": (N, H), "value": 2.5, "dtype": f32}),
    ("iota", [], {"shape": (N, H), "axis": 1, "dtype": i64}),
    ("sizes", [], {"sizes": (N, H * W + 1, 3)}),
    ("reduce_sum", [(N, H, W)], {"axes": (0, 2)}),
    ("matmul", [(N, 1, H, W), (C, W, N)], {}),
    ("conv", [(N, H, W, 4), (3, 2, 2, 6)], {**WINDOW, "groups": 2}),
    ("conv", [(N, H, W, C), (3, 2, C, 6)], {**WINDOW, "groups": 1}),
    ("conv_transpose", [(N, H, W, 4), (3, 2, 3, 4)],
     {**WINDOW, "output_padding": (1, 0), "groups": 2}),
    ("max_pool", [(N, H, W, C)], {**WINDOW, "kernel": (2, 3)}),
    ("average_pool", [(N, H, W, C)], {**WINDOW, "kernel": (2, 3), "count_include_pad": True}),
    ("average_pool", [(N, H, W, C)], {**WINDOW, "kernel": (2, 3), "count_include_pad": False}),
]  # fmt: skip


@pytest.mark.parametrize("name, shapes, attributes", CASES, ids=lambda item: str(item)[:40])
def test_an_element_rule_works_in_symbols(
    name: str,
    shapes: Sequence[tuple[Size, ...]],
    attributes: Mapping[str, Any],
    rng: np.random.Generator,
) -> None:
    operator = OPS[name]
    arrays = [rng.standard_normal(concrete(shape)).astype(np.float32) for shape in shapes]
    types = [TensorType(f32, shape) for shape in shapes]
    known = {key: concrete(value) for key, value in attributes.items()}
    (expected,) = operator.compute(arrays, known)
    (result,) = operator.infer_types(types, attributes)
    assert concrete(result.shape) == expected.shape
    assert_same(run_element_rule(operator, arrays, attributes, types, VALUES), expected, 1e-5)


def reshaped_index(source: tuple[Size, ...], target: tuple[Size, ...]) -> list[str]:
    """Where a reshape reads, with i0, i1, ... for the output's indices."""
    x = Buffer("x", f32, source)
    operand = Operand(TensorType(f32, source), lambda index: expr.load(x, index))
    index = tuple(atom(Symbol(f"i{axis}", size)) for axis, size in enumerate(target))
    assert OPS["reshape"].element is not None
    load = OPS["reshape"].element(operand, index=index, shape=target)
    assert isinstance(load, Load)
    return [str(size) for size in load.indices]


@pytest.mark.parametrize("source, target, expected", [
    ((N, C, H, W), (N, C, H * W), ["i0", "i1", "(i2//w)", "(i2%w)"]),
    ((N, H * W), (N, H, W), ["i0", "i1*w+i2"]),
    ((2, 3, 4), (6, 4), ["(i0//3)", "(i0%3)", "i1"]),
    ((N, 1, C), (1, N, C, 1), ["i1", "0", "i2"]),
    ((N, 12, H), (N, 3, 4, H), ["i0", "i2+4*i1", "i3"]),
    ((H, W, C), (floordiv(H, 2), 2, W, C), ["i1+2*i0", "i2", "i3"]),
    ((H, W), (C, W), ["@", "i1"]),
])  # fmt: skip
def test_a_reshape_divides_only_inside_runs_of_equal_size(
    source: tuple[Size, ...], target: tuple[Size, ...], expected: list[str]
) -> None:
    found = reshaped_index(source, target)
    # A size that may not fit is read through a checked index, which prints as @...
    assert ["@" if place.startswith("@") else place for place in found] == expected


def test_shapes_in_symbols() -> None:
    window = {"strides": (1, 2), "dilations": (1, 1), "low": (1, 1), "high": (1, 1)}
    found = infer("conv", (N, H, W, 3), (3, 3, 3, 8), **window, groups=1)
    assert found == (N, H, floordiv(W - 1, 2) + 1, 8)
    assert infer("concat", (N, H), (N, 3), axis=1) == (N, H + 3)
    assert infer("pad", (N,), low=(1,), high=(H,), mode="edge", value=0) == (N + H + 1,)
    assert infer("matmul", (N, 1, H, W), (C, W, 5)) == (N, C, H, 5)


@pytest.mark.parametrize("name, shapes, attributes, words", [
    ("add", [(N,), (H,)], {}, r"equal shapes.*f32\[n\], f32\[h\]"),
    ("add", [(2, 3), (3,)], {}, "Broadcast them first"),
    ("reshape", [(2, 3)], {"shape": (7,)}, "6 elements do not fit into 7"),
    ("reshape", [(N, 3)], {"shape": (3 * N + 1,)}, "elements do not fit"),
    ("broadcast_to", [(3,)], {"shape": (4,)}, "3 is neither 1 nor 4"),
    ("transpose", [(2, 3)], {"permutation": (0, 0)}, "not an order of its axes 0 to 1"),
    ("slice", [(5,)], {"starts": (3,), "shape": (3,), "steps": (1,)}, "axis 0 .* leaves"),
    ("slice", [(N,)], {"starts": (0,), "shape": (N + 1,), "steps": (1,)}, "leaves"),
    ("slice", [(5,)], {"starts": (0,), "shape": (3,), "steps": (0,)}, "step of axis 0 is 0"),
    ("pad", [(2,)], {"low": (-2,), "high": (-1,), "mode": "edge", "value": 0}, "more than there"),
    ("pad", [(0,)], {"low": (2,), "high": (0,), "mode": "wrap", "value": 0}, "no elements"),
    ("pad", [(2,)], {"low": (0, 1), "high": (0,), "mode": "wrap", "value": 0}, "1 low pads"),
    ("concat", [(2, 3), (3, 3)], {"axis": 1}, "differ in that axis only"),
    ("reduce_sum", [(2, 3)], {"axes": (2,)}, "axis 2, but its input"),
    ("reduce_sum", [(2, 3)], {"axes": (1, 1)}, "axis twice"),
    ("reduce_any", [(2, 3)], {"axes": (1,)}, "works on bool"),
    ("arg_max", [(2, 0)], {"axis": 1, "last": False}, "no elements to choose from"),
    ("matmul", [(2, 3), (4, 5)], {}, "rows of 3 elements meet columns of 4"),
    ("matmul", [(3,), (3, 5)], {}, "wants matrices"),
    ("matmul", [(2, 2, 3), (3, 3, 5)], {}, "batches of 2 and 3"),
    ("not", [(2,)], {}, "not works on bool"),
    ("select", [(2,), (2,), (2,)], {}, "bool condition"),
    ("clip", [(2,)], {"minimum": float("nan"), "maximum": 1.0}, "not NaN"),
])  # fmt: skip
def test_a_misfit_is_said(
    name: str, shapes: Sequence[tuple[Size, ...]], attributes: Mapping[str, Any], words: str
) -> None:
    with pytest.raises(CompileError, match=words):
        infer(name, *shapes, **attributes)


@pytest.mark.parametrize("name, shapes, changes, words", [
    ("conv", [(1, 8, 8, 32), (3, 3, 64, 9)], {}, "wants 64 input channels.*has 32"),
    ("conv", [(1, 8, 8, 4), (3, 3, 2, 9)], {"groups": 2}, "share 9 output channels among 2"),
    ("conv", [(1, 2, 8, 4), (3, 3, 4, 9)], {}, "window of 3 does not fit into spatial axis 0"),
    ("conv", [(1, 8, 8, 4), (3, 4, 9)], {}, "as many axes"),
    ("conv", [(1, 8, 8, 4), (3, 3, 4, 9)], {"strides": (1,)}, "2 strides"),
    ("conv", [(1, 8, 8, 4), (3, 3, 4, 9)], {"strides": (0, 1)}, "positive strides"),
    ("conv_transpose", [(1, 8, 8, 4), (3, 3, 4, 9)], {"output_padding": (0, 0)}, "one number"),
])  # fmt: skip
def test_a_window_that_does_not_fit_is_said(
    name: str, shapes: Sequence[tuple[Size, ...]], changes: Mapping[str, Any], words: str
) -> None:
    plain = {"strides": (1, 1), "dilations": (1, 1), "low": (0, 0), "high": (0, 0), "groups": 1}
    with pytest.raises(CompileError, match=words):
        infer(name, *shapes, **{**plain, **changes})
