"""Every operator's gradient against differences in float64. No operator is named here."""

import numpy as np
import pytest

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.dims import symbol_names
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array, type_of
from bessemer.compiler.passes.differentiation.differentiate import gradients
from tests.op_cases import Case, each_case

LARGEST = 4000
"""Elements of inputs and outputs above which an example says nothing new."""


WITHOUT_MEANING = {"scatter_nd-1"}
"""Updates that replace each other."""


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _wide_inputs(case: Case, rng: np.random.Generator) -> list[Array] | None:
    """The inputs in float64, a little moved so that none is equal to another; None: too odd."""
    found = []
    for array in case.arrays:
        if not _is_float(array):
            found.append(array)
            continue
        wide = array.astype(np.float64)
        if not np.isfinite(wide).all() or np.abs(wide).max(initial=0) > 100:
            return None
        found.append(wide + 0.01 * rng.uniform(0.2, 1, wide.shape))
    return found if sum(array.size for array in found) < LARGEST else None


def _loss_graph(case: Case, inputs: list[Array], weights: list[Array | None]) -> Graph | None:
    """The sum of all float outputs times weights, and its gradients; None: nothing flows."""
    b = GraphBuilder("loss")
    values = [b.input(f"x{k}", type_of(array)) for k, array in enumerate(inputs)]
    outputs = b.apply_many(case.operator.name, *values, **case.attributes)
    total = None
    for output, weight in zip(outputs, weights, strict=True):
        if weight is None:
            continue
        part = b.apply("mul", output, b.constant(weight))
        part = b.apply("reduce_sum", part, axes=tuple(range(weight.ndim)))
        total = part if total is None else b.apply("add", total, part)
    if total is None:
        return None
    floats = [value for value in values if value.type.dtype.is_float]
    found = gradients(b, total, floats)
    return b.finish([total, *found], ["loss", *(f"d{k}" for k in range(len(found)))])


def _is_differentiable(case: Case) -> bool:
    """Whether there are floats to differentiate by, of an operator that is not a random one, has a
    meaning in float64 and an output of a known size that is finite around here."""
    if case.name in WITHOUT_MEANING or case.operator.is_random or "dtype" in case.attributes:
        return False
    inputs = _wide_inputs(case, np.random.default_rng(7))
    if inputs is None or not any(_is_float(array) for array in inputs):
        return False
    try:
        types = case.operator.infer_types([type_of(a) for a in inputs], case.attributes)
    except CompileError:
        return False
    if any(symbol_names(size) for type in types for size in type.shape):
        return False
    with np.errstate(all="ignore"):
        outputs = case.operator.compute(inputs, case.attributes)
    return all(np.isfinite(o).all() for o in outputs if _is_float(o))


@each_case(where=_is_differentiable)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_gradient_is_the_limit_of_differences(case: Case) -> None:
    rng = np.random.default_rng(7)
    inputs = _wide_inputs(case, rng)
    assert inputs is not None
    outputs = case.operator.compute(inputs, case.attributes)
    weights = [rng.standard_normal(o.shape) if _is_float(o) else None for o in outputs]
    if case.operator.gradient is None:
        with pytest.raises(UnsupportedError, match=case.operator.name):
            if _loss_graph(case, inputs, weights) is None:
                raise UnsupportedError(case.operator.name)
        return
    try:
        graph = _loss_graph(case, inputs, weights)
    except UnsupportedError:
        # What a recurrence keeps of its steps is for its own gradient: nobody else reads it.
        assert case.attributes.get("keeps_steps")
        return
    if graph is None:
        return
    feed = {f"x{k}": array for k, array in enumerate(inputs)}
    _, *found = run_graph(graph, feed)
    floats = [k for k, array in enumerate(inputs) if _is_float(array)]
    for k, gradient in zip(floats, found, strict=True):
        direction = rng.standard_normal(inputs[k].shape)
        wanted, coarse = (
            _difference(case, inputs, weights, k, direction, step) for step in (1e-6, 4e-6)
        )
        if coarse != pytest.approx(wanted, rel=1e-3, abs=1e-3):
            pytest.skip("there is a step around here")
        actual = float((gradient * direction).sum())
        assert actual == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def _difference(
    case: Case,
    inputs: list[Array],
    weights: list[Array | None],
    k: int,
    direction: Array,
    step: float,
) -> float:
    def loss(sign: int) -> float:
        moved = [a + sign * step * direction if j == k else a for j, a in enumerate(inputs)]
        outputs = case.operator.compute(moved, case.attributes)
        return sum(
            float((o * w).sum()) for o, w in zip(outputs, weights, strict=True) if w is not None
        )

    return (loss(1) - loss(-1)) / (2 * step)
