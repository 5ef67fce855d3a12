"""Random ONNX graphs compute what onnxruntime computes node by node, at all sizes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.ir.types import Array
from bessemer.runtime.artifact import Status
from bessemer.runtime.errors import ExecutionError
from tests.onnx_reader.random_onnx import write
from tests.onnx_reader.random_onnx_products import PRODUCTS
from tests.onnx_reader.random_onnx_steps import STEPS
from tests.onnxruntime_sessions import session_of

BOTH = (*STEPS, *PRODUCTS)
TARGETS = ("", "x86_64-avx2", "x86_64-sse4.2")
TOLERANCE = {2: 2e-2, 4: 5e-4, 8: 1e-8}


def _check(seed: int) -> None:
    author = write(seed, BOTH)
    model, feeds, expected = author.finished()
    compiled = bessemer.compile(
        model,
        threads=1 + seed % 2,
        target=TARGETS[seed % 3],
        precision="strict" if seed % 5 == 0 else "float32",
        optimize=seed % 7 % 3 if seed % 7 < 2 else 2,
        cache=False,
    )
    for feed, wanted in [*zip(feeds, expected), (feeds[0], expected[0])]:
        try:
            found = compiled.run(feed)
        except ExecutionError as error:
            # Sizes of 0 and 1, which broadcast and are cut as no others, may be refused.
            assert error.status == Status.SHAPE_MISMATCH
            continue
        for name, ours, theirs in zip(model.graph.output, found, wanted, strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, name.name
            if not _is_near(ours, theirs, 0):
                move = _moves(model, feed, wanted)[name.name]
                # What is float64 at the end may have been float32 before.
                more = 20 * move + 2e-6 * (theirs.dtype == np.float64)
                assert _is_near(ours, theirs, more), f"{name.name} of seed {seed}"


def _is_near(ours: Array, theirs: Array, more: float) -> bool:
    if theirs.dtype.kind != "f" or np.isinf(more):
        return more > 0 or np.array_equal(ours, theirs)
    allowed = TOLERANCE[theirs.dtype.itemsize]
    scale = 0.1 * min(float(np.max(np.abs(theirs), initial=0)), 30) + 0.1
    a, b = (array.astype(np.float64) for array in (ours, theirs))
    return np.allclose(a, b, rtol=allowed, atol=allowed * scale + more, equal_nan=True)


def _moves(model: onnx.ModelProto, feed: dict[str, Array], wanted: list[Array]) -> dict[str, float]:
    """How far the outputs move when the inputs do by a rounding or so: no two implementations need
    to agree better. Infinite where sizes do."""
    rng = np.random.default_rng(3)
    session = session_of(model, plain=True)
    found = dict.fromkeys([output.name for output in model.graph.output], 0.0)
    for _ in range(4):
        moved = {name: _shaken(array, rng) for name, array in feed.items()}
        for name, ours, theirs in zip(found, session.run(None, moved), wanted, strict=True):
            if np.shape(ours) != theirs.shape:
                found[name] = np.inf
                continue
            with np.errstate(invalid="ignore"):
                change = np.abs(np.subtract(ours, theirs, dtype=np.float64))
            change = np.where(np.equal(ours, theirs), 0, np.nan_to_num(change, nan=np.inf))
            found[name] = max(found[name], float(np.max(change, initial=0)))
    return found


def _shaken(array: Array, rng: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    noise: Array = 8 * np.finfo(array.dtype).eps * rng.standard_normal(array.shape)
    return np.asarray(array * (1 + noise), array.dtype)


@pytest.mark.parametrize("seed", range(8))
def test_graph(seed: int) -> None:
    _check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 500))
def test_many_graphs(seed: int) -> None:
    _check(seed)


def test_what_is_written_has_many_operators_in_many_pairs() -> None:
    operators: Counter[str] = Counter()
    pairs: set[tuple[str, str]] = set()
    named = 0
    for seed in range(60):
        author = write(seed, BOTH)
        makers = {name: node.op_type for node in author.nodes for name in node.output}
        operators.update(makers.values())
        pairs |= {
            (makers[n], node.op_type) for node in author.nodes for n in node.input if n in makers
        }
        named += any(isinstance(size, str) for _, sizes in author.inputs for size in sizes)
    assert len(operators) > 75 and len(pairs) > 250 and named > 30
