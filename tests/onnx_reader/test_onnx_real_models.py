"""The smallest graphs of what models out of public packages have shown."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import bessemer
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, expected, floats, operators, parsed
from tests.planned import planned


def test_weights_that_a_loop_hands_on_stay_constants() -> None:
    """tf2onnx passes the weights of a recurrent layer from iteration to iteration."""
    model = parsed(
        """agraph (float[n, 4] x, int64 trips) => (float[n, 4] y, float[4, 4] same)
        <float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1}> {
            going = Constant<value = bool {1}>()
            y, same = Loop(trips, going, x, w) <
                body = step (int64 i, bool c, float[n, 4] s, float[4, 4] v)
                    => (bool d, float[n, 4] t, float[4, 4] u) {
                    d = Identity(c)
                    u = Identity(v)
                    p = MatMul(s, v)
                    t = Tanh(p)
                }
            >
        }"""
    )
    graph = read_onnx(model)
    (loop,) = [node for node in graph.nodes if node.operator.name == "loop"]
    assert [value.type.rank for value in loop.regions[0].inputs] == [0, 0, 2]
    for trips in (0, 2):
        agrees(model, {"x": floats(3, 4), "trips": np.array(trips)}, graph)


def test_a_product_with_a_tensor_full_of_one_number_on_its_left() -> None:
    model = parsed(
        """agraph (float[n, 2] x) => (float[n, 3] y) <float[2, 3] w = {1, 2, 3, 4, 5, 6}> {
            sizes = Shape(x)
            full = ConstantOfShape<value = float[1] {2.0}>(sizes)
            y = MatMul(full, w)
        }"""
    )
    compiled = bessemer.compile(model, threads=1, cache=False)
    inputs = {"x": floats(5, 2)}
    np.testing.assert_allclose(compiled.run(inputs)[0], expected(model, inputs)[0])


def test_a_dimension_may_have_the_name_of_a_python_word() -> None:
    model = parsed("agraph (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "None"
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    assert compiled.run([floats(2, 3)])[0].shape == (2, 3)


def test_a_slice_knows_its_axes_by_any_of_its_inputs() -> None:
    model = parsed(
        """agraph (float[6, 4] x, int64[3] bounds, int64[1] at) => (float[m, 4] y) {
            one = Constant<value_ints = [1]>()
            zero = Constant<value_ints = [0]>()
            next = Add(at, one)
            start = Slice(bounds, at, next)
            end = Add(start, one)
            y = Slice(x, start, end, zero)
        }"""
    )
    graph = read_onnx(model)
    for at in range(3):
        inputs = {"x": floats(6, 4), "bounds": np.array([4, 0, 3]), "at": np.array([at])}
        agrees(model, inputs, graph)


def test_boxes_and_scores_are_of_one_number() -> None:
    model = parsed(
        """agraph (float[1, b, 4] boxes, float[1, 1, s] scores) => (int64[k, 3] y) {
            most = Constant<value = int64 {2}>()
            y = NonMaxSuppression(boxes, scores, most)
        }"""
    )
    corners = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [2, 2, 3, 3]], np.float32)[None]
    inputs = {"boxes": corners, "scores": np.array([[[0.2, 0.9, 0.5]]], np.float32)}
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    np.testing.assert_array_equal(compiled.run(inputs)[0], expected(model, inputs)[0])


def test_fewer_boxes_than_none_are_none() -> None:
    model = parsed(
        """agraph (float[1, 3, 4] boxes, float[1, 1, 3] scores, int64[1] most) => (int64[k, 3] y) {
            y = NonMaxSuppression(boxes, scores, most)
        }"""
    )
    inputs = {"boxes": floats(1, 3, 4), "scores": floats(1, 1, 3), "most": np.array([-1])}
    agrees(model, inputs)


def test_a_loop_that_data_ends_may_collect_its_iterations() -> None:
    model = parsed(
        """agraph (float x) => (float y, int64[t] numbers) {
            yes = Constant<value = bool {1}>()
            y, numbers = Loop(, yes, x)<body = b (int64 i, bool c, float a)
                => (bool go, float next, int64 number) {
                one = Constant<value = float {1.0}>()
                most = Constant<value = float {4.0}>()
                next = Add(a, one)
                go = Less(next, most)
                number = Identity(i)
            }>
        }"""
    )
    inputs = {"x": np.array(0.5, np.float32)}
    compiled = bessemer.compile(model, threads=1, optimize=0, cache=False)
    for ours, theirs in zip(compiled.run(inputs), expected(model, inputs), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("sizes", [(8, 6), (7, 5), (2, 9)])
def test_resize_as_tensorflow_finds_the_nearest(sizes: tuple[int, int]) -> None:
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="tf_half_pixel_for_nn",
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, *sizes])],
        [helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 2, *sizes])],
    )
    opsets = [helper.make_opsetid("", 13)]
    agrees(helper.make_model(graph, opset_imports=opsets, ir_version=8), {"x": floats(1, 2, 4, 3)})


def test_a_reshape_behind_a_transpose_costs_no_divisions() -> None:
    model = parsed(
        """agraph (float[1, 3, 20, 24] x, float[40, 3, 3, 3] w) => (float[1, 15840] y) {
            c = Conv(x, w)
            y = Flatten(c)
        }"""
    )
    graph = read_onnx(model)
    assert "reshape" in operators(graph)
    steps = planned(graph, "x86_64-avx2").program.steps
    last = [step.kernel for step in steps if isinstance(step, Launch)][-1]
    assert "//" not in print_kernel(last)
    compiled = bessemer.compile(model, threads=1, cache=False)
    inputs = {"x": floats(1, 3, 20, 24), "w": floats(40, 3, 3, 3)}
    np.testing.assert_allclose(compiled.run(inputs)[0], expected(model, inputs)[0], atol=1e-5)
