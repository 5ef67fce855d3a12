"""Activations that become one function of vector math, and what must not."""

import math
from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest

import bessemer
from bessemer.compiler.codegen.kernels.activation_patterns import recognized_function
from bessemer.compiler.ir import expr
from bessemer.compiler.ir.expr import Binary, Expression, unary
from bessemer.compiler.ir.types import f32, f64
from bessemer.frontends import builder as nn
from bessemer.frontends.builder.network import Network

X = expr.read("x", f32)
Y = expr.read("y", f32)
SCALE = math.sqrt(2 / math.pi)


def erf_gate(x: Expression) -> Expression:
    return unary("erf", x / 1.4142135381698608) + 1.0


def cubic(x: Expression) -> Expression:
    return (x + ((x * x) * x) * 0.044715) * SCALE


def bell(x: Expression) -> Expression:
    scaled = x * math.sqrt(0.5)
    return unary("exp", -(scaled * scaled))


def slope(x: Expression, y: Expression) -> Expression:
    """y times GELU's derivative as differentiation gives it."""
    through = (y * (x * 0.5)) * (bell(x) * (2 / math.sqrt(math.pi)))
    return (y * erf_gate(x)) * 0.5 + through * math.sqrt(0.5)


def softplus(x: Expression) -> Expression:
    return expr.binary("max", x, 0.0) + unary("log1p", unary("exp", -unary("abs", x)))


SPELLINGS: dict[str, tuple[str, float, Expression]] = {
    "half first": ("gelu", 1, (X * 0.5) * erf_gate(X)),
    "half last": ("gelu", 1, (X * erf_gate(X)) * 0.5),
    "half of the gate": ("gelu", 1, X * (erf_gate(X) * 0.5)),
    "no half": ("gelu", 2, X * erf_gate(X)),
    "one first": ("gelu", 1, (X * 0.5) * (1.0 + unary("erf", X * math.sqrt(0.5)))),
    "cubic": ("gelu_by_tanh", 1, (X * 0.5) * (unary("tanh", cubic(X)) + 1.0)),
    "cubic, factored": (
        "gelu_by_tanh",
        1,
        (X * 0.5) * (unary("tanh", (X * SCALE) * ((X * X) * 0.044715 + 1.0)) + 1.0),
    ),
    "silu": ("silu", 1, X * unary("sigmoid", X)),
    "gate first": ("silu", 1, unary("sigmoid", X) * X),
    "silu of a product": ("silu", 1, (X * Y) * unary("sigmoid", X * Y)),
    "silu of a multiple": ("silu", 1, (X * 0.25) * unary("sigmoid", X * 0.25)),
    "mish": ("mish", 1, X * unary("tanh", softplus(X))),
    "softplus": ("softplus", 1, softplus(X)),
    "softplus, the rest first": (
        "softplus",
        1,
        unary("log1p", unary("exp", -unary("abs", X))) + expr.binary("max", X, 0.0),
    ),
    "one and erf": ("one_plus_erf", 1, unary("erf", X) + 1.0),
    "slope": ("gelu_slope", 1, slope(X, Y)),
    "slope of a multiple": ("gelu_slope", 1, slope(X * 0.25, Y * Y)),
    "slope alone": ("gelu_slope", 2, (bell(X) * X) * SCALE + erf_gate(X)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_is_one_function(spelling: str) -> None:
    function, factor, node = SPELLINGS[spelling]
    assert isinstance(node, Binary)
    found = recognized_function(node)
    assert found is not None
    assert found.function == function
    assert found.factor == pytest.approx(factor)


OTHERS = {
    "another argument": X * unary("sigmoid", Y),
    "a multiple inside": X * unary("sigmoid", X * 1.702),
    "another constant inside erf": (X * 0.5) * (unary("erf", X * 0.7) + 1.0),
    "another cubic": (X * 0.5) * (unary("tanh", (X + X * 0.044715) * SCALE) + 1.0),
    "two arguments": (X * 0.5) * (unary("erf", Y * math.sqrt(0.5)) + 1.0),
    "softplus of two": expr.binary("max", X, 0.0) + unary("log1p", unary("exp", -unary("abs", Y))),
    "softplus of another": X * unary("tanh", softplus(Y)),
    "a sum of two": unary("erf", X) + 2.0,
    "a power beyond all numbers": X * (unary("tanh", expr.binary("pow", X, 1000.0)) + 1.0),
    "squares of squares": X * (unary("tanh", reduce(lambda y, _: y * y, range(99), X)) + 1.0),
    "another bell": (Y * erf_gate(X)) * 0.5 + (X * bell(X * 1.1)) * (Y * (SCALE / 2)),
    "another size of the bell": erf_gate(X) + (X * bell(X)) * 0.7,
    "factors that differ": erf_gate(X) * Y + (X * bell(X)) * SCALE,
    "a bell without x": erf_gate(X) + bell(X) * SCALE,
    "float64": expr.read("z", f64) * unary("sigmoid", expr.read("z", f64)),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_looks_alike_stays_what_it_is(other: str) -> None:
    node = OTHERS[other]
    assert isinstance(node, Binary)
    assert recognized_function(node) is None


@pytest.mark.parametrize(
    ("network", "reference"),
    [
        (nn.gelu, lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2),
        (
            lambda x: nn.gelu(x, True),
            lambda x: x / (1 + np.exp(-2 * SCALE * (x + 0.044715 * x**3))),
        ),
        (nn.silu, lambda x: x / (1 + np.exp(-x))),
        (nn.softplus, lambda x: np.log1p(np.exp(x))),
        (lambda x: x * nn.tanh(nn.softplus(x)), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
        # The gate is read twice, and the product of both is not a SiLU.
        (lambda x: x * nn.sigmoid(x) + nn.sigmoid(x), lambda x: (x + 1) / (1 + np.exp(-x))),
        (lambda x: nn.sigmoid(x) + x * nn.sigmoid(x), lambda x: (x + 1) / (1 + np.exp(-x))),
    ],
)
@pytest.mark.parametrize("columns", [7, 96])
def test_compiled_activations(
    network: Callable[[nn.Tensor], nn.Tensor],
    reference: Callable[[np.ndarray], np.ndarray],
    columns: int,
    rng: np.random.Generator,
) -> None:
    x = (3 * rng.standard_normal((5, columns))).astype(np.float32)
    model = bessemer.compile(Network(network, nn.Input("x", (5, columns))), cache=False)
    (out,) = model.run([x])
    np.testing.assert_allclose(out, reference(x.astype(np.float64)), rtol=1e-5, atol=3e-7)
