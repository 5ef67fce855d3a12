"""Operators that move, compare and look up strings, as numbers, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends.code_arrays import run_on_arrays
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees
from tests.onnx_reader.string_models import WORDS, one_node, string_model

_ROW = np.array([1, 0], np.int64)
_MOVES: dict[str, tuple[list[Array], dict[str, Any]]] = {
    "Concat": ([np.array([["new", "red", "x"]], object)], {"axis": 0}),
    "Expand": ([np.array([2, 2, 3], np.int64)], {}),
    "Flatten": ([], {"axis": 2}),
    "Gather": ([_ROW], {"axis": 0}),
    "GatherElements": ([np.array([[2, 1, 0]], np.int64)], {"axis": 1}),
    "Identity": ([], {}),
    "Reshape": ([np.array([-1, 2], np.int64)], {}),
    "ScatterND": ([np.array([[1]], np.int64), np.array([["a", "b", "c"]], object)], {}),
    "Slice": ([np.array([0, 1], np.int64), np.array([2, 3], np.int64)], {}),
    "Tile": ([np.array([2, 1], np.int64)], {}),
    "Transpose": ([], {"perm": [1, 0]}),
    "Unsqueeze": ([np.array([0], np.int64)], {}),
}
_BY_DEFINITION = {
    "Gather": WORDS[[1, 0]],
    "ScatterND": np.array([WORDS[0], ["a", "b", "c"]], object),
}
"""What onnxruntime has not for strings, or (1.31, rows of several) gets wrong."""


@pytest.mark.parametrize("operator", _MOVES)
def test_strings_are_moved_as_numbers(operator: str) -> None:
    others, attributes = _MOVES[operator]
    names = [f"c{place}" for place in range(len(others))]
    node = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    model = string_model(
        [node], {"x": WORDS}, {"y": TensorProto.STRING}, dict(zip(names, others)), named=False
    )
    if operator not in _BY_DEFINITION:
        agrees(model, {"x": WORDS})
        return
    (found,) = run_on_arrays(read_onnx(model), {"x": WORDS}, run_graph)
    np.testing.assert_array_equal(found, _BY_DEFINITION[operator])


def test_strings_are_compared_chosen_and_counted() -> None:
    y = np.array([["red"], ["nothing"]], object)
    nodes = [
        helper.make_node("Equal", ["x", "y"], ["same"]),
        helper.make_node("Where", ["same", "x", "otherwise"], ["chosen"]),
        helper.make_node("Shape", ["x"], ["shape"]),
    ]
    outputs = {"same": TensorProto.BOOL, "chosen": TensorProto.STRING, "shape": TensorProto.INT64}
    constants = {"otherwise": np.array("other", object)}
    model = string_model(nodes, {"x": WORDS, "y": y}, outputs, constants, opset=19, named=False)
    agrees(model, {"x": WORDS, "y": y})


def test_strings_that_nobody_knows_are_equal_where_they_are() -> None:
    model = string_model(
        [helper.make_node("Equal", ["x", "y"], ["same"])],
        {"x": WORDS[0], "y": WORDS[0]},
        {"same": TensorProto.BOOL},
        opset=19,
    )
    inputs = {"x": np.array(["p", "q", "p"], object), "y": np.array(["q", "q", "p"], object)}
    agrees(model, inputs)


_ENCODERS: dict[str, tuple[Array, int, dict[str, Any]]] = {
    "to integers": (
        WORDS,
        TensorProto.INT64,
        {"keys_strings": ["blue", "red", "blue"], "values_int64s": [5, 7, 9], "default_int64": -3},
    ),
    "to floats": (
        WORDS,
        TensorProto.FLOAT,
        {"keys_strings": ["blue", "red"], "values_floats": [0.5, 1.5], "default_float": 9.0},
    ),
    "to strings": (
        WORDS,
        TensorProto.STRING,
        {"keys_strings": ["blue", ""], "values_strings": ["bleu", "vide"], "default_string": "?"},
    ),
    "from integers": (
        np.array([[3, 4], [5, 3]], np.int64),
        TensorProto.STRING,
        {"keys_int64s": [3, 5], "values_strings": ["three", "five"]},
    ),
    "from floats": (
        np.array([3.5, 4.0], np.float32),
        TensorProto.STRING,
        {"keys_floats": [3.5], "values_strings": ["three"], "default_string": "none"},
    ),
}


@pytest.mark.parametrize("case", _ENCODERS)
def test_a_label_encoder_of_strings(case: str) -> None:
    x, kind, attributes = _ENCODERS[case]
    agrees(one_node("LabelEncoder", x, kind, "ai.onnx.ml", **attributes), {"x": x})


def test_a_label_encoder_of_tensors() -> None:
    keys = onnx.numpy_helper.from_array(np.array(["red", "grün"], object), "keys")
    values = onnx.numpy_helper.from_array(np.array([4, 6], np.int16), "values")
    default = onnx.numpy_helper.from_array(np.array([-1], np.int16), "default")
    model = one_node(
        "LabelEncoder", WORDS, TensorProto.INT16, "ai.onnx.ml", ml=4,
        keys_tensor=keys, values_tensor=values, default_tensor=default,
    )  # fmt: skip
    (found,) = run_on_arrays(read_onnx(model), {"x": WORDS}, run_graph)
    np.testing.assert_array_equal(found, np.array([[4, -1, 4], [-1, 6, -1]], np.int16))


@pytest.mark.parametrize("operator", ["LabelEncoder", "CategoryMapper"])
@pytest.mark.parametrize("to_strings", [False, True])
def test_encoders_of_both_ways(operator: str, to_strings: bool) -> None:
    x: Array = np.array([[1, 0, 7]], np.int64) if to_strings else WORDS
    classes = ["blue", "red"]
    attributes: dict[str, Any] = (
        {"classes_strings": classes}
        if operator == "LabelEncoder"
        else {"cats_strings": classes, "cats_int64s": [7, 1]}
    )
    kind = TensorProto.STRING if to_strings else TensorProto.INT64
    model = one_node(operator, x, kind, "ai.onnx.ml", ml=1, **attributes)
    agrees(model, {"x": x})


def test_an_encoder_wants_keys_of_its_inputs_type() -> None:
    attributes: dict[str, Any] = {"keys_int64s": [1], "values_int64s": [2]}
    with pytest.raises(CompileError, match=r"LabelEncoder 'y'.*another type than the input"):
        read_onnx(one_node("LabelEncoder", WORDS, TensorProto.INT64, "ai.onnx.ml", **attributes))


def test_categories_become_columns() -> None:
    cats = ["red", "blue", "never"]
    model = one_node(
        "OneHotEncoder", WORDS, TensorProto.FLOAT, "ai.onnx.ml", cats_strings=cats, zeros=1
    )
    agrees(model, {"x": WORDS})


_CLASSIFIERS: dict[str, dict[str, Any]] = {
    "LinearClassifier": {"coefficients": [1.0, -1.0, 0.5, 0.25, 1, 0], "intercepts": [0.1, 0, 0]},
    "SVMClassifier": {
        "coefficients": [0.5, -0.5, 1.0, 0.25, 1.0, -1.0],
        "kernel_params": [0.5, 0.0, 3.0],
        "kernel_type": "RBF",
        "rho": [0.1, -0.1, 0.0],
        "support_vectors": [0.0, 1.0, 1.0, 0.0, -1.0, -1.0],
        "vectors_per_class": [1, 1, 1],
    },
    "TreeEnsembleClassifier": {
        "class_ids": [0, 1, 2],
        "class_nodeids": [2, 3, 4],
        "class_treeids": [0, 0, 0],
        "class_weights": [1.0, 1.0, 1.0],
        "nodes_falsenodeids": [4, 3, 0, 0, 0],
        "nodes_featureids": [0, 1, 0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
        "nodes_nodeids": [0, 1, 2, 3, 4],
        "nodes_treeids": [0] * 5,
        "nodes_truenodeids": [1, 2, 0, 0, 0],
        "nodes_values": [0.2, -0.1, 0.0, 0.0, 0.0],
    },
}


@pytest.mark.parametrize("operator", _CLASSIFIERS)
def test_classes_have_names(operator: str) -> None:
    x = np.random.default_rng(3).standard_normal((20, 2)).astype(np.float32)
    node = helper.make_node(
        operator, ["x"], ["label", "scores"], domain="ai.onnx.ml",
        classlabels_strings=["setosa", "versicolor", "virginica"], **_CLASSIFIERS[operator],
    )  # fmt: skip
    outputs = {"label": TensorProto.STRING, "scores": TensorProto.FLOAT}
    labels = agrees(string_model([node], {"x": x}, outputs, named=False), {"x": x})[0]
    assert len(set(labels.tolist())) > 1


def test_strings_go_through_functions_and_subgraphs() -> None:
    """A local function, and a branch that only looks at strings from outside."""
    inner = helper.make_graph(
        [helper.make_node("Equal", ["z", "z"], ["t"])],
        "inner",
        [],
        [helper.make_tensor_value_info("t", TensorProto.BOOL, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Equal", ["z", "red"], ["f"])],
        "other",
        [],
        [helper.make_tensor_value_info("f", TensorProto.BOOL, None)],
    )
    nodes = [
        helper.make_node("Turned", ["x"], ["z"], domain="local"),
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other),
    ]
    inputs = {"x": WORDS, "c": np.array(False)}
    model = string_model(
        nodes, inputs, {"y": TensorProto.BOOL, "z": TensorProto.STRING},
        {"red": np.array("red", object)}, opset=19, named=False,
    )  # fmt: skip
    turned = helper.make_function(
        "local", "Turned", ["a"], ["b"],
        [helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0])],
        [helper.make_opsetid("", 19)],
    )  # fmt: skip
    model.functions.append(turned)
    model.opset_import.append(helper.make_opsetid("local", 1))
    agrees(model, inputs)


def test_a_branch_that_gives_strings_is_refused() -> None:
    branches = [
        helper.make_graph(
            [helper.make_node("Identity", ["x"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.STRING, None)],
        )
        for name in ("p", "q")
    ]
    node = helper.make_node(
        "If", ["c"], ["y"], "if", then_branch=branches[0], else_branch=branches[1]
    )
    inputs = {"x": WORDS, "c": np.array(False)}
    model = string_model([node], inputs, {"y": TensorProto.STRING}, opset=19)
    with pytest.raises(UnsupportedError, match=r"If 'if'.*strings or optionals that are chosen"):
        read_onnx(model)


def test_a_string_fills_no_tensor_of_numbers() -> None:
    value = onnx.numpy_helper.from_array(np.array(["a"], object))
    node = helper.make_node("ConstantOfShape", ["x"], ["y"], "fill", value=value)
    model = string_model([node], {"x": np.array([2], np.int64)}, {"y": TensorProto.FLOAT})
    with pytest.raises(CompileError, match=r"ConstantOfShape 'fill'.*a number is wanted"):
        read_onnx(model)
