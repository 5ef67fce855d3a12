"""A function of a number is the same wherever the number stands, however many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import bessemer
from bessemer.compiler.ir.types import Array
from tests.compiled_math import RUNNABLE
from tests.onnx_check import parsed

FUNCTIONS = (
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp",
    "Gelu", 'Gelu<approximate="tanh">', "HardSwish", "Log", "Mish", "Selu", "Sigmoid", "Sin",
    "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh",
)  # fmt: skip
KINDS = {"float32": ("float", 1), "as float64": ("double", 11)}
"""What the results are stored as: a loop has as many lanes as its widest numbers have."""


def functions_of(x: str, kind: str) -> str:
    """A graph with an output for each function of a number, and some of combinations."""
    name, code = KINDS[kind]
    steps, outputs = [f"gate = Sigmoid({x})", f"silu = Mul({x}, gate)", "low = Log(gate)"], []
    found = [f"{function}({x})" for function in FUNCTIONS]
    found += ["Neg(silu)", "Neg(low)", f"Pow(gate, {x})"]
    for k, function in enumerate(found):
        steps += [f"t{k} = {function}", f"y{k} = Cast<to={code}>(t{k})"]
        outputs.append(f"{name}[n] y{k}")
    return f"g (float[n] x) => ({', '.join(outputs)}) {{\n" + "\n".join(steps) + "\n}"


def assert_same(found: Sequence[Array], wanted: Sequence[Array], part: slice) -> None:
    for k, (part_alone, whole) in enumerate(zip(found, wanted, strict=True)):
        name = FUNCTIONS[k] if k < len(FUNCTIONS) else "a combination"
        np.testing.assert_array_equal(part_alone, whole[part], f"{name} of {part}", strict=True)


@pytest.mark.parametrize("target", [name for name in RUNNABLE if name.startswith("avx")])
@pytest.mark.parametrize("kind", KINDS)
def test_every_length_gives_the_same_results(
    kind: str, target: str, rng: np.random.Generator
) -> None:
    graph = parsed(functions_of("x", kind), 20)
    model = bessemer.compile(graph, target=f"x86_64-{target}", threads=1, cache=False)
    x = np.concatenate([rng.uniform(-1, 1, 100), rng.uniform(-8, 8, 100)]).astype(np.float32)
    rng.shuffle(x)
    whole = model.run([x])
    for length in range(1, 41):
        part = slice(length % 17, length % 17 + length)
        assert_same(model.run([x[part].copy()]), whole, part)


@pytest.mark.skipif("avx512" not in RUNNABLE, reason="only where there are lookups")
def test_a_number_alone_is_rounded_as_in_an_array(rng: np.random.Generator) -> None:
    """Arrays of known sizes: numbers alone, short ones, columns that a row reads."""
    x = rng.uniform(-4, 4, 21).astype(np.float32)

    def run(shape: str, values: Array) -> list[Array]:
        text = functions_of("x", "float32").replace("[n]", f"[{shape}]")
        return bessemer.compile(parsed(text, 20), threads=1, cache=False).run([values])

    whole = run("21", x)
    for k in (0, 7):
        assert_same([y.ravel() for y in run("1", x[k : k + 1])], whole, slice(k, k + 1))
    assert_same([y.ravel() for y in run("7, 3", x.reshape(7, 3))], whole, slice(0, 21))
    assert_same([y.ravel() for y in run("5", x[:5])], whole, slice(0, 5))
