"""Gathers and scatters whose index is repeated along a row: equal numbers, and by rows."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.types import TensorType, f32, i64
from bessemer.compiler.passes.gathers.take_whole_rows import take_whole_rows

SIZES = {"m": 9, "n": 23, "k": 100}


def _model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 18]>\n' + text)


def _scatter(row: str, reduction: str) -> onnx.ModelProto:
    ones = "1, " * row.count(",")
    return _model(
        f"""agraph (float[m, {row}] x, int64[n] i, float[n, {row}] u) => (float[m, {row}] y) {{
            shape = Constant<value = int64[{row.count(",") + 2}] {{-1, {ones}1}}>()
            column = Reshape(i, shape)
            sizes = Shape(u)
            places = Expand(column, sizes)
            y = ScatterElements<axis = 0, reduction = "{reduction}">(x, places, u)
        }}"""
    )


def _inputs(model: onnx.ModelProto, rng: np.random.Generator) -> dict[str, np.ndarray]:
    found = {}
    for value in model.graph.input:
        shape = [d.dim_value or SIZES[d.dim_param] for d in value.type.tensor_type.shape.dim]
        is_place = value.name == "i"
        found[value.name] = (
            rng.integers(-9, 9, shape) if is_place else rng.standard_normal(shape, np.float32)
        )
    return found


@pytest.mark.parametrize(
    ("row", "reduction"),
    [(row, "add") for row in ("5", "128", "k", "40, 5")]
    + [("300", reduction) for reduction in ("none", "mul", "max", "min")],
)
def test_scatters_of_rows(row: str, reduction: str, rng: np.random.Generator) -> None:
    model = _scatter(row, reduction)
    inputs = _inputs(model, rng)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, inputs)
    (found,) = bessemer.compile(model, threads=3).run(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_gathers_of_rows(rng: np.random.Generator) -> None:
    model = _model(
        """agraph (float[4, m, 7] x, int64[n] i) => (float[4, n, 7] y) {
            shape = Constant<value = int64[3] {1, -1, 1}>()
            column = Reshape(i, shape)
            sizes = Constant<value = int64[3] {4, 1, 7}>()
            places = Expand(column, sizes)
            y = GatherElements<axis = 1>(x, places)
        }"""
    )
    inputs = _inputs(model, rng)
    (found,) = bessemer.compile(model).run(inputs)
    np.testing.assert_array_equal(found, inputs["x"][:, inputs["i"]])


def _graph(index: tuple[int, ...], shape: tuple[int, ...], axis: int) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (8, 6)))
    i = b.apply("broadcast_to", b.input("i", TensorType(i64, index)), shape=shape)
    return b.finish([b.apply("gather_elements", x, i, axis=axis)])


@pytest.mark.parametrize(
    ("index", "shape", "axis", "name"),
    [
        ((3, 1), (3, 6), 0, "gather"),
        ((5,), (8, 5), 1, "gather"),
        ((1, 6), (3, 6), 0, "gather_elements"),  # every column has a place of its own
        ((3, 1), (3, 5), 0, "gather_elements"),  # not the whole row
        ((1, 1), (3, 6), 0, "gather_elements"),  # repeated along the axis itself
    ],
)
def test_only_whole_rows(
    index: tuple[int, ...], shape: tuple[int, ...], axis: int, name: str
) -> None:
    nodes = take_whole_rows(_graph(index, shape, axis)).nodes
    assert nodes[-1].operator.name == name
