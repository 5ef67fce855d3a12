"""Tree ensembles, read from ONNX and written again, against onnxruntime and the definition."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.types import TensorType, f32
from bessemer.compiler.ops.tree_masks import COMPARISONS
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_reader.onnx_runs import assert_near, run_written
from tests.onnxruntime_sessions import session_of
from tests.op_cases import Case, cases


def _lopsided_forest(rng: np.random.Generator, trees: int) -> dict[str, Any]:
    """Trees that are chains of one to nine questions: a walk may end early or late."""
    table: dict[str, Any] = {}

    def add(**entries: object) -> None:
        for key, entry in entries.items():
            table.setdefault(key, []).append(entry)

    for tree in range(trees):
        questions = 1 + tree % 9
        for node in range(2 * questions + 1):
            is_leaf = node % 2 == 1 or node == 2 * questions
            add(
                nodes_treeids=tree,
                nodes_nodeids=node,
                nodes_modes="LEAF" if is_leaf else "BRANCH_LEQ",
                nodes_featureids=int(rng.integers(6)),
                nodes_values=float(rng.standard_normal()),
                nodes_truenodeids=0 if is_leaf else node + 1,
                nodes_falsenodeids=0 if is_leaf else node + 2,
                nodes_missing_value_tracks_true=int(rng.integers(2)),
            )
            if is_leaf:
                weight = float(rng.standard_normal())
                add(target_treeids=tree, target_nodeids=node, target_ids=0, target_weights=weight)
    return table


@pytest.mark.parametrize("samples", [1, 7, 8, 19])
@pytest.mark.parametrize("has_unknown", [False, True])
def test_lopsided_trees(rng: np.random.Generator, samples: int, has_unknown: bool) -> None:
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1,
        **_lopsided_forest(rng, 27),
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    x = rng.standard_normal((samples, 6)).astype(np.float32)
    if has_unknown:
        x[rng.random(x.shape) < 0.2] = np.nan
    session = session_of(model)
    (expected,) = session.run(None, {"x": x})
    (found,) = bessemer.compile(model).run({"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("attribute", "numbers"),
    [
        ("target_ids", [0, 1, 0, 2]),
        ("target_ids", [0, -1, 0, 1]),
        ("target_ids", [0]),
        ("target_weights", [1.0]),
        ("nodes_featureids", [0]),
        ("nodes_values", [0.5]),
    ],
)
def test_lists_that_do_not_fit_each_other_are_refused(attribute: str, numbers: list[Any]) -> None:
    attributes: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0] * 4, "target_nodeids": [1, 1, 2, 2], "target_ids": [0, 1, 0, 1],
        "target_weights": [1.0, 2.0, 3.0, 4.0], "n_targets": 2,
    }  # fmt: skip
    attributes[attribute] = numbers
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **attributes
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])
    graph = helper.make_graph([node], "trees", [x], [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    with pytest.raises(CompileError, match=r"TreeEnsembleRegressor 'y': .*(length|of 2 in all)"):
        read_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=9))


@pytest.mark.parametrize(("targets", "aggregation"), [(1, "SUM"), (1, "MAX"), (2, "SUM")])
def test_leaves_with_several_weights(targets: int, aggregation: str) -> None:
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=targets,
        aggregate_function=aggregation, nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_featureids=[0, 0, 0],
        nodes_values=[0.0, 0.0, 0.0], nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0, 0, 0], target_nodeids=[2, 1, 1, 2], target_ids=[0, 0, 0, 0],
        target_weights=[3.0, 1.0, 2.0, 3.0],
    )  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", targets])
    graph = helper.make_graph([node], "trees", [x], [y])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    given = {"x": np.array([[-1.0], [1.0]], np.float32)}
    (expected,) = session_of(model).run(None, given)
    np.testing.assert_array_equal(bessemer.compile(model).run(given)[0], expected)


FORESTS = [
    case
    for case in cases()
    if case.operator.name == "tree_ensemble" and not case.attributes.get("parts")
]


@pytest.mark.parametrize("case", FORESTS, ids=lambda case: case.name)
def test_constant_tables_are_written(case: Case) -> None:
    x, *tables = case.arrays
    modes = case.attributes.get("has_modes")
    if modes and {"eq", "ne"} & {COMPARISONS[number] for number in tables[5]}:
        x = np.nan_to_num(x)  # onnxruntime asks these of a NaN in its own way
    b = GraphBuilder("trees")
    inputs = [b.input("x", TensorType(f32, x.shape)), *map(b.constant, tables)]
    graph = b.finish([b.apply("tree_ensemble", *inputs, **case.attributes)], ["y"])
    (expected,) = case.operator.compute([x, *tables], case.attributes)
    (found,) = run_written(graph, {"x": x})
    assert_near(found, expected, 1e-5)
