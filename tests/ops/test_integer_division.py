"""Divisions of integers, one by one and in vectors, against Python's own of whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from bessemer.compiler.ir.expr import Expression, binary, constant
from bessemer.compiler.ir.types import INTEGERS, Array, DType, i64
from bessemer.compiler.targets import x86
from bessemer.compiler.targets.machine import Target
from tests.codegen.test_codegen_expressions import pointwise
from tests.compiled_kernels import HERE, CompiledKernel, assembly

NAMES = ("div", "mod", "trunc_div", "fmod")


def numbers(dtype: DType) -> tuple[Array, Array]:
    """Pairs of all sizes, exact multiples and their neighbours; pairs of the numbers at limits."""
    info, random = np.iinfo(dtype.numpy), np.random.default_rng(5)
    sizes = 2.0 ** random.uniform(0, dtype.bits - 1.01, (2, 600))
    x, y = (sizes * random.choice([-1, 1] if info.min else [1], (2, 600))).astype(dtype.numpy)
    y[200:400] = np.clip(y[200:400], -11, 11)
    x[200:400] = x[200:400] // np.where(y[200:400] == 0, 1, y[200:400]) * y[200:400]
    x[300:400] += random.integers(0, 2, 100).astype(dtype.numpy)
    edges = [info.min, info.min + 1, 0, 1, 2, 7, info.max // 2, info.max - 1, info.max]
    edges += [-1, -7] if info.min else []
    edges += [2**51 - 1, 2**51, 2**53 + 1] if dtype.bits == 64 else []
    left, right = np.meshgrid(np.array(edges, dtype.numpy), np.array(edges, dtype.numpy))
    return np.concatenate([x, left.ravel()]), np.concatenate([y, right.ravel()])


def reference(name: str, dtype: DType, x: int, y: int) -> int:
    """By whole numbers of any size, wrapped; 0 where the divisor is 0."""
    if y == 0:
        return 0
    down = name in ("div", "mod")
    quotient = x // y if down else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
    exact = quotient if name in ("div", "trunc_div") else x - quotient * y
    return int(np.array(exact & (2**dtype.bits - 1), np.uint64).astype(dtype.numpy))


@pytest.mark.parametrize("target", HERE, ids=lambda target: target.name)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_divisions_are_those_of_whole_numbers(dtype: DType, target: Target) -> None:
    x, y = numbers(dtype)
    fixed = 97
    results: dict[str, Callable[..., Expression]] = {}
    for name in NAMES:
        results[name] = partial(binary, name)
        results[f"{name}_fixed"] = lambda a, b, n=name: binary(n, a, constant(fixed, dtype))
    kernel = pointwise([dtype, dtype], results, max(8, target.lanes(dtype)))
    outputs = [np.zeros_like(x) for _ in results]
    found = CompiledKernel(kernel, target)([x, y, *outputs], {"n": len(x)}).arrays[2:]
    for name, actual in zip(results, found, strict=True):
        divisors = np.full_like(y, fixed) if name.endswith("_fixed") else y
        plain = name.removesuffix("_fixed")
        expected = [reference(plain, dtype, int(a), int(b)) for a, b in zip(x, divisors)]
        np.testing.assert_array_equal(actual, np.array(expected, dtype.numpy), err_msg=name)


@pytest.mark.parametrize(("divisor", "divides"), [(8, False), (-8, False), (7, True)])
def test_constants_divide_large_numbers_without_a_division(divisor: int, divides: bool) -> None:
    """In vectors of several registers, too; powers of two are shifts, also of small numbers."""
    results = {"quotient": lambda a: binary("trunc_div", a, constant(divisor, i64))}
    text = assembly(pointwise([i64], results, 16), x86.AVX512)
    assert "idiv" not in text
    assert ("vdivpd" in text) == divides
