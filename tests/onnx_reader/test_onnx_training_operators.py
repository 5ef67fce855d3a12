"""ONNX's preview of training, and operators that few models have, against onnx's evaluator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import Array
from bessemer.frontends import onnx_backend
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import agrees, floats, node_model, parsed

PREVIEW = "ai.onnx.preview.training"


def _model(node: onnx.NodeProto, inputs: dict[str, Array], opset: int = 1) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in node.output],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(node.domain, opset)]
    return helper.make_model(graph, opset_imports=opsets[node.domain == "" :])


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(
    ("name", "roles", "given"),
    [
        ("Adam", 4, {"norm_coefficient": 0.1, "norm_coefficient_post": 0.01, "alpha": 0.8}),
        ("Adagrad", 3, {"norm_coefficient": 0.1, "decay_factor": 0.2}),
        ("Momentum", 3, {"norm_coefficient": 0.1, "alpha": 0.8, "beta": 0.5, "mode": "standard"}),
        ("Momentum", 3, {"norm_coefficient": 0.1, "alpha": 0.8, "beta": 0.5, "mode": "nesterov"}),
    ],
)
def test_steps_of_two_tensors(name: str, roles: int, given: dict[str, Any], steps: int) -> None:
    inputs: dict[str, Array] = {"r": np.array(0.1, np.float32), "t": np.array(steps, np.int64)}
    for role in range(roles):
        for tensor, shape in enumerate(((2, 3), (4,))):
            inputs[f"x{role}{tensor}"] = np.abs(floats(*shape)) + role
    outputs = [f"y{k}" for k in range(2 * (roles - 1))]
    node = helper.make_node(name, list(inputs), outputs, domain=PREVIEW, **given)
    model = _model(node, inputs)
    ours = run_graph(read_onnx(model), inputs)
    theirs = ReferenceEvaluator(model).run(None, inputs)
    for actual, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5)


def test_a_gradient_is_that_of_the_formula() -> None:
    model = parsed(
        "agraph (float[3] a, float[3] b) => (float y, float[3] da, float[3] db) { "
        'da, db = ai.onnx.preview.training.Gradient<xs = ["a", "b"], y = "y">(a, b) '
        "c = Mul(a, a) d = Mul(c, b) y = ReduceSum<keepdims = 0>(d) }"
    )
    model.opset_import.append(helper.make_opsetid(PREVIEW, 1))
    a, b = floats(3), floats(6)[3:]
    y, da, db = run_graph(read_onnx(model), {"a": a, "b": b})
    np.testing.assert_allclose(y, (a * a * b).sum(), rtol=1e-5)
    np.testing.assert_allclose(da, 2 * a * b, rtol=1e-5)
    np.testing.assert_allclose(db, a * a, rtol=1e-5)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize(("shortest", "skips"), [(1, 0), (2, 3), (1, 1)])
def test_n_grams_are_counted(mode: str, shortest: int, skips: int) -> None:
    x = np.random.default_rng(4).integers(1, 5, (3, 11))
    node = helper.make_node(
        "TfIdfVectorizer", ["x"], ["y"], mode=mode, min_gram_length=shortest, max_gram_length=3,
        max_skip_count=skips, ngram_counts=[0, 2, 8], ngram_indexes=[6, 0, 2, 4, 1, 3, 5],
        pool_int64s=[2, 3, 1, 2, 3, 3, 4, 1, 1, 2, 3, 2, 4, 4],
        weights=[0.5, 2.0, 1.0, 3.0, 0.25, 4.0, 7.0],
    )  # fmt: skip
    agrees(node_model(node, [("x", x)], 9), {"x": x})


def test_scans_before_opset_9_have_a_batch() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "x"], ["t"]), helper.make_node("Identity", ["t"], ["z"])],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("s", "x")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("t", "z")],
    )
    node = helper.make_node(
        "Scan", ["", "s", "x"], ["y", "z"], num_scan_inputs=1, body=body, directions=[1]
    )
    inputs = {"s": floats(3, 2), "x": floats(3, 4, 2)}
    y, z = onnx_backend.run_node(node, inputs, opset_version=8)
    sums = inputs["s"][:, None] + np.cumsum(inputs["x"][:, ::-1], axis=1)
    np.testing.assert_allclose(z, sums, rtol=1e-5)
    np.testing.assert_allclose(y, sums[:, -1], rtol=1e-5)


def test_trees_ask_for_members_of_sets() -> None:
    """Two questions in one tree: {1, 3, 4} on the first feature, {2} and {} on the second."""
    tensor = helper.make_tensor
    node = helper.make_node(
        "TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, aggregate_function=1,
        post_transform=0, tree_roots=[0], nodes_featureids=[0, 1, 1],
        nodes_modes=tensor("m", TensorProto.UINT8, [3], [6, 6, 6]),
        nodes_splits=tensor("s", TensorProto.FLOAT, [3], [0.0, 0.0, 0.0]),
        membership_values=tensor(
            "v", TensorProto.FLOAT, [7], [1, 3, 4, math.nan, 2, math.nan, math.nan]
        ),
        nodes_truenodeids=[1, 0, 2], nodes_trueleafs=[0, 1, 1],
        nodes_falsenodeids=[2, 1, 3], nodes_falseleafs=[0, 1, 1],
        leaf_targetids=[0, 0, 0, 0],
        leaf_weights=tensor("w", TensorProto.FLOAT, [4], [10, 20, 30, 40]),
    )  # fmt: skip
    x = np.array([[1, 2], [3, 5], [4, 2], [2, 2], [math.nan, 2], [0, 0]], np.float32)
    (y,) = run_graph(read_onnx(_model(node, {"x": x}, 5)), {"x": x})
    np.testing.assert_array_equal(y.reshape(-1), [10, 20, 10, 40, 40, 40])


def test_dropout_in_training_keeps_the_mean() -> None:
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y", "mask"], seed=5)
    x = np.abs(floats(200, 200)) + 1
    inputs = {"x": x, "ratio": np.array(0.75, np.float32), "training": np.array(True)}
    graph = read_onnx(_model(node, inputs, 17))
    y, mask = run_graph(graph, inputs)
    assert abs(mask.mean() - 0.25) < 0.02
    np.testing.assert_allclose(y, np.where(mask, x * 4, 0), rtol=1e-6)
    y, mask = run_graph(graph, inputs | {"training": np.array(False)})
    assert mask.all()
    np.testing.assert_array_equal(y, x)
