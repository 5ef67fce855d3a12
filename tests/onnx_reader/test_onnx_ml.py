"""Support vector machines, encoders and what else scikit-learn's converters write, against
onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, expected

_FEATURES = 3


def _model(
    operator: str,
    outputs: dict[str, int],
    element: int = TensorProto.FLOAT,
    rank: int = 2,
    version: int = 3,
    **attributes: Any,
) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"], [*outputs], domain="ai.onnx.ml", **attributes)
    sizes: list[str | int | None] = ["n", _FEATURES]
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", element, sizes[:rank])],
        [helper.make_tensor_value_info(name, code, None) for name, code in outputs.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _samples(rng: np.random.Generator, count: int = 7) -> Array:
    return rng.standard_normal((count, _FEATURES)).astype(np.float32)


_KERNELS = {
    "LINEAR": [0.3, 0.2, 2.0],
    "POLY": [0.5, 1.0, 3.0],
    "RBF": [0.4, 0.0, 3.0],
    "SIGMOID": [0.2, 0.1, 3.0],
}


@pytest.mark.parametrize("kernel", _KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_support_vector_regression(kernel: str, one_class: int) -> None:
    rng = np.random.default_rng(len(kernel))
    model = _model(
        "SVMRegressor",
        {"y": TensorProto.FLOAT},
        kernel_type=kernel,
        kernel_params=_KERNELS[kernel],
        n_supports=5,
        support_vectors=rng.standard_normal(5 * _FEATURES),
        coefficients=rng.standard_normal(5),
        rho=[0.1],
        one_class=one_class,
    )
    agrees(model, {"x": _samples(rng)})


def test_support_vector_regression_without_vectors() -> None:
    rng = np.random.default_rng(0)
    coefficients = rng.standard_normal(_FEATURES)
    model = _model(
        "SVMRegressor",
        {"y": TensorProto.FLOAT},
        kernel_type="LINEAR",
        kernel_params=_KERNELS["LINEAR"],
        coefficients=coefficients,
        rho=[0.5],
        n_supports=0,
    )
    agrees(model, {"x": _samples(rng)})


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("has_probabilities", [False, True])
@pytest.mark.parametrize("kernel", ["LINEAR", "RBF"])
def test_support_vector_classification(classes: int, has_probabilities: bool, kernel: str) -> None:
    rng = np.random.default_rng(classes)
    sizes, pairs = [2 + k for k in range(classes)], classes * (classes - 1) // 2
    attributes: dict[str, Any] = {}
    if has_probabilities:
        attributes["prob_a"] = -1 - rng.random(pairs)
        attributes["prob_b"] = 0.1 * rng.standard_normal(pairs)
    model = _model(
        "SVMClassifier",
        {"label": TensorProto.INT64, "scores": TensorProto.FLOAT},
        kernel_type=kernel,
        kernel_params=_KERNELS[kernel],
        classlabels_ints=[10 * k for k in range(classes)],
        vectors_per_class=sizes,
        support_vectors=rng.standard_normal(sum(sizes) * _FEATURES),
        coefficients=rng.standard_normal((classes - 1) * sum(sizes)),
        rho=0.1 * rng.standard_normal(pairs),
        **attributes,
    )
    agrees(model, {"x": _samples(rng, 40)}, tolerance=1e-4)


def test_a_linear_machine_keeps_the_digits_that_its_large_coefficients_cancel() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, _FEATURES)).astype(np.float32)
    coefficients = (1e6 * np.tile([1, -1], 25)).astype(np.float32)
    vectors[1::2] = vectors[::2] + np.float32(1e-6)
    model = _model(
        "SVMRegressor",
        {"y": TensorProto.FLOAT},
        kernel_type="LINEAR",
        kernel_params=_KERNELS["LINEAR"],
        n_supports=50,
        support_vectors=vectors.ravel(),
        coefficients=coefficients,
        rho=[0.5],
    )
    x = _samples(rng).astype(np.float32)
    exact = x.astype(np.float64) @ vectors.astype(np.float64).T @ coefficients[:, None] + 0.5
    (result,) = bessemer.compile(model).run({"x": x})
    np.testing.assert_allclose(result, exact, rtol=1e-4, atol=1e-4)


def test_vectors_whose_weights_cancel_class_by_class_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    classes, size = 3, 500
    vectors = rng.standard_normal((classes * size, _FEATURES)).astype(np.float32)
    signs = np.repeat([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]], size, axis=0).T
    model = _model(
        "SVMClassifier",
        {"label": TensorProto.INT64, "scores": TensorProto.FLOAT},
        kernel_type="RBF",
        kernel_params=[0.1, 0.0, 0.0],
        classlabels_ints=[0, 1, 2],
        vectors_per_class=[size] * classes,
        support_vectors=vectors.ravel(),
        coefficients=signs.ravel(),
        rho=[0.0] * 3,
    )
    x = _samples(rng)
    away = np.square(x[:, None].astype(np.float64) - vectors).sum(2)
    near = np.exp(-np.float32(0.1) * away).reshape(-1, classes, size).sum(2)
    exact = np.stack([near[:, a] - near[:, b] for a, b in ((0, 1), (0, 2), (1, 2))], axis=1)
    scores = bessemer.compile(model).run({"x": x})[1]
    np.testing.assert_allclose(scores, exact, rtol=0, atol=5e-5)


def test_a_label_encoder_gives_its_default_where_no_key_fits() -> None:
    model = _model(
        "LabelEncoder",
        {"y": TensorProto.FLOAT},
        TensorProto.INT64,
        keys_int64s=[4, -2, 9],
        values_floats=[0.5, 1.5, 2.5],
        default_float=-7.0,
    )
    agrees(model, {"x": np.array([[4, 9, 5], [-2, 0, 4]])})


def test_a_label_encoder_finds_what_is_no_number() -> None:
    model = _model(
        "LabelEncoder",
        {"y": TensorProto.INT64},
        rank=1,
        version=4,
        keys_floats=[1.0, float("nan"), 3.0],
        values_int64s=[5, 6, 7],
        default_int64=-1,
    )
    agrees(model, {"x": np.array([3.0, np.nan, 2.0, 1.0], np.float32)})


@pytest.mark.parametrize("replaced", [float("nan"), -1.0])
def test_an_imputer_fills_what_is_missing(replaced: float) -> None:
    model = _model(
        "Imputer",
        {"y": TensorProto.FLOAT},
        imputed_value_floats=[1.0, 2.0, 3.0],
        replaced_value_float=replaced,
    )
    x = np.array([[0.5, np.nan, -1.0], [np.nan, -1.0, 4.0]], np.float32)
    agrees(model, {"x": x})


def test_a_map_of_classes_is_given_as_a_matrix() -> None:
    model = _model("ZipMap", {"y": TensorProto.FLOAT}, classlabels_int64s=[3, 1, 2])
    model.graph.output[0].CopyFrom(
        helper.make_value_info(
            "y",
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(
                    TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
                )
            ),
        )
    )
    x = _samples(np.random.default_rng(3), 2)
    graph = read_onnx(model)
    assert [value.type.rank for value in graph.outputs] == [2]
    (ours,) = run_graph(graph, {"x": x})
    theirs = expected(model, {"x": x})[0]
    np.testing.assert_array_equal(ours, [[row[label] for label in (3, 1, 2)] for row in theirs])


@pytest.mark.parametrize(
    ("below", "message"), [([0, 0], "circle"), ([1, 7], "does not exist"), ([1, -1], "not exist")]
)
def test_trees_that_are_none_are_refused(below: list[int], message: str) -> None:
    model = _model(
        "TreeEnsembleRegressor",
        {"y": TensorProto.FLOAT},
        nodes_treeids=[0, 0],
        nodes_nodeids=[0, 1],
        nodes_featureids=[0, 0],
        nodes_values=[0.5, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF"],
        nodes_truenodeids=[below[0], 0],
        nodes_falsenodeids=[below[1], 0],
        target_treeids=[0],
        target_nodeids=[1],
        target_ids=[0],
        target_weights=[1.0],
        n_targets=1,
    )
    with pytest.raises(CompileError, match=message):
        read_onnx(model)


def test_more_coefficients_than_the_declared_width_are_not_read() -> None:
    rng = np.random.default_rng(4)
    model = _model(
        "LinearClassifier",
        {"label": TensorProto.INT64, "scores": TensorProto.FLOAT},
        classlabels_ints=[0, 1, 2],
        coefficients=rng.standard_normal(3 * (_FEATURES + 1)),
        intercepts=rng.standard_normal(3),
        multi_class=0,
        post_transform="SOFTMAX",
    )
    agrees(model, {"x": _samples(rng)})


@pytest.mark.parametrize(
    ("shapes", "widths"),
    [
        ([(2, 1, 4), (2, 3)], [4, 3]),
        ([(2, 2, 2), (2, 1, 1)], [4, 1]),
        ([(2, 4), (2, 3)], [3, 5]),
        ([(4,), (1, 3)], [4, 3]),
    ],
)
def test_features_are_flattened_and_take_their_declared_width(
    shapes: list[tuple[int, ...]], widths: list[int]
) -> None:
    names = [f"x{position}" for position in range(len(shapes))]
    graph = helper.make_graph(
        [
            helper.make_node(
                "FeatureVectorizer", names, ["y"], domain="ai.onnx.ml", inputdimensions=widths
            )
        ],
        "graph",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(names, shapes)
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    rng = np.random.default_rng(5)
    agrees(
        model,
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in zip(names, shapes)},
    )
