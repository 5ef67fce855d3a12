"""The ONNX reader: what it makes of a model means what onnxruntime makes of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.graph import Graph
from bessemer.compiler.ir.interpret import run_graph
from bessemer.compiler.ir.types import Array, i8
from bessemer.frontends.onnx_reader.read import read_onnx

onnxruntime.set_default_logger_severity(4)


def parsed(text: str, opset: int = 17, more: str = "") -> onnx.ModelProto:
    """A model from its text form, checked."""
    imports = f'"" : {opset}, "com.microsoft" : 1, "local" : 1'
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> {text} {more}")
    return model


def expected(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(array) for array in session.run(None, dict(inputs))]


def agrees(
    model: onnx.ModelProto, inputs: Mapping[str, Array], graph: Graph | None = None
) -> list[Array]:
    """Asserts that the graph computes what onnxruntime does; the outputs."""
    outputs = run_graph(graph or read_onnx(model), inputs)
    for ours, theirs in zip(outputs, expected(model, inputs), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
    return outputs


def operators(graph: Graph) -> list[str]:
    return [node.operator.name for node in graph.walk()]


def node_model(
    node: onnx.NodeProto,
    inputs: Sequence[tuple[str, Array]],
    opset: int,
    constants: Sequence[tuple[str, Array]] = (),
) -> onnx.ModelProto:
    """A model of one node."""
    graph = onnx.helper.make_graph(
        [node],
        "one_node",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
            )
            for name, a in inputs
        ],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [onnx.numpy_helper.from_array(a, name) for name, a in constants],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


def _floats(*shape: int) -> Array:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


_VERSIONS: list[tuple[str, int, Sequence[Array], Sequence[Array], dict[str, Any]]] = [
    ("Upsample", 7, [_floats(1, 2, 3, 4)], [], {"scales": [1.0, 1.0, 2.0, 3.0]}),
    ("Upsample", 9, [_floats(1, 2, 3, 4)], [np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}),
    ("Resize", 10, [_floats(1, 2, 3, 4)], [np.array([1, 1, 2, 2], np.float32)], {}),
    ("Resize", 10, [_floats(1, 2, 6, 4)], [np.array([1, 1, 0.5, 0.5], np.float32)], {"mode": "linear"}),
    ("Pad", 7, [_floats(2, 3)], [], {"pads": [0, 1, 1, 2], "value": 2.5}),
    ("Pad", 11, [_floats(2, 3)], [np.array([0, 1, 1, 2])], {"mode": "reflect"}),
    ("Pad", 13, [_floats(4, 5)], [np.array([0, -1, 1, 2])], {"mode": "edge"}),
    ("Slice", 9, [_floats(4, 5)], [], {"starts": [1, -3], "ends": [9, -1], "axes": [0, 1]}),
    ("Clip", 7, [_floats(4, 5)], [], {"min": -0.5, "max": 0.25}),
    ("Clip", 11, [_floats(4, 5)], [np.array(-0.5, np.float32)], {}),
    ("Softmax", 9, [_floats(2, 3, 4)], [], {"axis": 1}),
    ("LogSoftmax", 11, [_floats(2, 3, 4)], [], {}),
    ("Softmax", 13, [_floats(2, 3, 4)], [], {"axis": 1}),
    ("Hardmax", 11, [_floats(2, 3, 4)], [], {"axis": 1}),
    ("Dropout", 7, [_floats(2, 3)], [], {"ratio": 0.5}),
    ("TopK", 9, [_floats(3, 7)], [], {"k": 3}),
    ("TopK", 11, [_floats(3, 7)], [np.array([2])], {"axis": 0, "largest": 0}),
    ("Squeeze", 11, [_floats(1, 3, 1)], [], {"axes": [0]}),
    ("Squeeze", 13, [_floats(1, 3, 1)], [np.array([-1])], {}),
    ("Unsqueeze", 11, [_floats(3)], [], {"axes": [0, 2]}),
    ("ReduceSum", 11, [_floats(2, 3, 4)], [], {"axes": [1], "keepdims": 0}),
    ("ReduceSum", 13, [_floats(2, 3, 4)], [np.array([0, -1])], {}),
    ("ReduceMean", 18, [_floats(2, 3, 4)], [np.array([1])], {}),
    ("ReduceMax", 17, [_floats(2, 3, 4)], [], {"axes": [-1]}),
    ("Split", 11, [_floats(7, 2)], [], {"split": [3, 4]}),
    ("Split", 18, [_floats(7, 2)], [], {"num_outputs": 2}),
    ("Flatten", 9, [_floats(2, 3, 4)], [], {"axis": 2}),
    ("Gemm", 9, [_floats(3, 2), _floats(4, 3), _floats(1, 4)], [], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("BatchNormalization", 9, [_floats(2, 3, 4)], [_floats(3), _floats(3), _floats(3), _floats(3) ** 2 + 1], {}),
    ("LayerNormalization", 17, [_floats(2, 3, 4)], [_floats(3, 4), _floats(3, 4)], {"axis": 1}),
    ("InstanceNormalization", 9, [_floats(2, 3, 5)], [_floats(3), _floats(3)], {}),
    ("LRN", 13, [_floats(2, 5, 3, 3)], [], {"size": 3}),
    ("MaxPool", 12, [_floats(1, 2, 8, 9)], [], {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1}),
    ("MaxPool", 12, [_floats(1, 2, 8, 9)], [], {"kernel_shape": [3, 3], "dilations": [2, 1], "pads": [1, 1, 0, 1]}),
    ("MaxPool", 8, [_floats(1, 2, 8, 9)], [], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("AveragePool", 10, [_floats(1, 2, 8, 9)], [], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("AveragePool", 11, [_floats(1, 2, 7, 7)], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1, "ceil_mode": 1}),
    ("LpPool", 11, [_floats(1, 2, 8, 9)], [], {"kernel_shape": [2, 2], "p": 2}),
    ("Conv", 11, [_floats(1, 4, 7, 8)], [_floats(6, 2, 3, 3), _floats(6)], {"group": 2, "strides": [2, 1], "auto_pad": "SAME_UPPER"}),
    ("Conv", 11, [_floats(1, 4, 9)], [_floats(6, 4, 3)], {"dilations": [2], "pads": [1, 2]}),
    ("ConvTranspose", 11, [_floats(1, 4, 5, 5)], [_floats(4, 3, 3, 3)], {"strides": [2, 2], "pads": [1, 1, 0, 1], "output_padding": [1, 1]}),
    ("ConvTranspose", 11, [_floats(1, 4, 5, 5)], [_floats(4, 3, 3, 3)], {"strides": [2, 2], "output_shape": [10, 10]}),
    ("Tile", 13, [_floats(2, 3)], [np.array([2, 3])], {}),
    ("Einsum", 12, [_floats(2, 3, 4), _floats(2, 4, 5)], [], {"equation": "bij,bjk->bik"}),
    ("DepthToSpace", 11, [_floats(1, 8, 2, 3)], [], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", 9, [_floats(1, 2, 4, 6)], [], {"blocksize": 2}),
    ("OneHot", 11, [np.array([0, -1, 2])], [np.array([4]), np.array([2, 5], np.float32)], {"axis": 0}),
    ("GatherND", 12, [_floats(2, 3, 4)], [np.array([[[1]], [[2]]])], {"batch_dims": 1}),
    ("ScatterElements", 16, [_floats(3, 3)], [np.array([[0, 2]]), _floats(1, 2)], {"axis": 1, "reduction": "add"}),
    ("CumSum", 14, [_floats(2, 5)], [np.array(1)], {"exclusive": 1, "reverse": 1}),
    ("ReverseSequence", 10, [_floats(4, 3, 2)], [np.array([4, 2, 1])], {}),
    ("Mod", 13, [np.array([-7, 7, -5]), np.array([3, -3, 5])], [], {}),
    ("Div", 13, [np.array([-7, 7, -9]), np.array([2, -2, 5])], [], {}),
    ("Pow", 13, [_floats(2, 3)], [np.array(2)], {}),
    ("Pow", 13, [np.array([1, 2, 3], np.int32)], [np.array([2.5], np.float32)], {}),
    ("Trilu", 14, [_floats(4, 5)], [np.array(-1)], {"upper": 0}),
    ("QuantizeLinear", 13, [_floats(3, 4)], [np.array([0.1, 0.2, 0.3, 0.4], np.float32), np.array([1, 2, 3, 4], np.uint8)], {"axis": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "opset", "inputs", "constants", "attributes"),
    _VERSIONS,
    ids=[f"{operator}-{opset}-{at}" for at, (operator, opset, *_) in enumerate(_VERSIONS)],
)
def test_an_operator_of_an_older_or_newer_version_means_what_onnxruntime_says(
    operator: str,
    opset: int,
    inputs: Sequence[Array],
    constants: Sequence[Array],
    attributes: dict[str, Any],
) -> None:
    count = 2 if operator in ("TopK", "Split") else 1
    fed = [(f"x{at}", array) for at, array in enumerate(inputs)]
    kept = [(f"c{at}", array) for at, array in enumerate(constants)]
    names = [name for name, _ in (*fed, *kept)]
    outputs = [f"y{at}" for at in range(count)]
    node = onnx.helper.make_node(operator, names, outputs, **attributes)
    agrees(node_model(node, fed, opset, kept), dict(fed))


def test_before_opset_7_an_attribute_says_where_the_second_operand_lies() -> None:
    node = onnx.helper.make_node("Add", ["x", "y"], ["z"], broadcast=1, axis=1)
    x, y = _floats(2, 3, 4), _floats(3)
    (z,) = run_graph(read_onnx(node_model(node, [("x", x), ("y", y)], 6)), {"x": x, "y": y})
    np.testing.assert_array_equal(z, x + y[:, None])


_RESHAPE = """
agraph (float[batch, seq, 12] x) => (float[a, b, c, d] y) {
    s = Shape(x)
    zero = Constant<value = int64 {0}>()
    one = Constant<value = int64 {1}>()
    n = Gather(s, zero)
    t = Gather(s, one)
    axes = Constant<value = int64[1] {0}>()
    n1 = Unsqueeze(n, axes)
    t1 = Unsqueeze(t, axes)
    rest = Constant<value = int64[2] {3, -1}>()
    shape = Concat<axis = 0>(n1, t1, rest)
    y = Reshape(x, shape)
}
"""


def test_shape_arithmetic_becomes_one_symbolic_reshape() -> None:
    model = parsed(_RESHAPE)
    graph = read_onnx(model)
    assert graph.outputs[0].type.shape == (symbol("batch"), symbol("seq"), 3, 4)
    assert "bind" not in operators(graph)
    for shape in ((2, 5, 12), (3, 1, 12)):
        agrees(model, {"x": _floats(*shape)}, graph)


def test_the_exporters_expand_trick_folds() -> None:
    model = parsed(
        """agraph (float[batch, seq] x, float[1, 4] y) => (float[a, b] z) {
            s = Shape(x)
            zero = Constant<value = int64[1] {0}>()
            n = Gather(s, zero)
            minus = Constant<value = int64[1] {-1}>()
            wanted = Concat<axis = 0>(n, minus)
            rank = Shape(wanted)
            ones = ConstantOfShape<value = int64[1] {1}>(rank)
            negative = Mul(ones, minus)
            unknown = Equal(wanted, negative)
            target = Where(unknown, ones, wanted)
            z = Expand(y, target)
        }"""
    )
    graph = read_onnx(model)
    assert graph.outputs[0].type.shape == (symbol("batch"), 4)
    assert "bind" not in operators(graph)
    agrees(model, {"x": _floats(3, 2), "y": _floats(1, 4)}, graph)


def test_sizes_that_went_through_floats_are_followed() -> None:
    model = parsed(
        """agraph (float[1, 2, h, w] x) => (float[a, b, c, d] y) {
            s = Shape<start = 2>(x)
            f = Cast<to = 1>(s)
            two = Constant<value = float {2.5}>()
            scaled = Mul(f, two)
            floored = Floor(scaled)
            sizes = Cast<to = 7>(floored)
            front = Constant<value = int64[2] {1, 2}>()
            all = Concat<axis = 0>(front, sizes)
            y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
                       nearest_mode = "floor">(x, , , all)
        }"""
    )
    graph = read_onnx(model)
    assert "bind" not in operators(graph)
    for height in (3, 4):
        agrees(model, {"x": _floats(1, 2, height, 5)}, graph)


def test_a_shape_that_comes_in_as_data_is_bound_when_the_model_runs() -> None:
    model = parsed("agraph (float[n] x, int64[3] s) => (float[a, b, c] y) { y = Reshape(x, s) }")
    graph = read_onnx(model)
    for target in ([2, 3, 4], [-1, 2, 6], [4, 1, -1]):
        agrees(model, {"x": _floats(24), "s": np.array(target)}, graph)


def test_slices_with_bounds_known_only_at_run_time_clamp_as_onnx_says(
    rng: np.random.Generator,
) -> None:
    forward = parsed(
        """agraph (float[n, 6] x, int64[1] s, int64[1] e) => (float[a, b] y) {
            axes = Constant<value = int64[1] {0}>()
            y = Slice(x, s, e, axes)
        }"""
    )
    strided = parsed(
        """agraph (float[n, 6] x, int64[1] s, int64[1] e) => (float[a, b] y) {
            axes = Constant<value = int64[1] {-1}>()
            steps = Constant<value = int64[1] {-2}>()
            y = Slice(x, s, e, axes, steps)
        }"""
    )
    for model in (forward, strided):
        graph = read_onnx(model)
        for _ in range(30):
            bounds = {name: rng.integers(-9, 10, 1) for name in "se"}
            agrees(model, {"x": _floats(5, 6), **bounds}, graph)


@pytest.mark.parametrize("bounds", [(1, 2**63 - 1), (-1, 2**63 - 1), (0, -1), (-3, -1), (2, 4), (-2, 9)])
def test_slices_of_an_axis_of_unknown_size_clamp_as_onnx_says(bounds: tuple[int, int]) -> None:
    start, end = (np.array([bound]) for bound in bounds)
    node = onnx.helper.make_node("Slice", ["x", "s", "e"], ["y"])
    model = node_model(node, [("x", _floats(1, 2))], 13, [("s", start), ("e", end)])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    graph = read_onnx(model)
    for size in (1, 2, 3, 7):
        agrees(model, {"x": _floats(size, 2)}, graph)


def test_an_if_with_a_constant_condition_is_only_the_branch_it_takes() -> None:
    model = parsed(
        """agraph (float[n] x) => (float[n] y) {
            c = Constant<value = bool {1}>()
            y = If(c) <
                then_branch = one () => (float[n] a) { a = Relu(x) },
                else_branch = two () => (float[n] b) { b = local.Unheard(x) }
            >
        }"""
    )
    assert operators(read_onnx(model)) == ["relu"]


_IF = """
agraph (float[n] x, bool c) => (float[m] y) {
    k = Constant<value = float {3.0}>()
    y = If(c) <
        then_branch = one () => (float[n] a) { a = Mul(x, k) },
        else_branch = two () => (float[m] b) { b = Concat<axis = 0>(x, x) }
    >
}
"""


def test_an_if_is_decided_when_the_model_runs() -> None:
    model = parsed(_IF)
    graph = read_onnx(model)
    for truth in (True, False):
        agrees(model, {"x": _floats(5), "c": np.array(truth)}, graph)


def test_an_if_whose_branches_differ_in_rank_is_settled_by_what_follows() -> None:
    """Exporters write squeeze(0) so: the branch that is not taken would not fit what comes after."""
    text = """agraph (float[n, 3] x, float[3] w) => (float y) {{
        s = Shape<start = 0, end = 1>(x)
        one = Constant<value = int64[1] {{1}}>()
        eq = Equal(s, one)
        z = If(eq) <
            then_branch = squeezed () => (float[3] a) {{ {then} }},
            else_branch = kept () => (float[n, 3] b) {{ b = Identity(x) }}
        >
        y = MatMul(z, w)
    }}"""
    model = parsed(text.format(then="zero = Constant<value = int64[1] {0}>() a = Squeeze(x, zero)"))
    graph = read_onnx(model)
    agrees(model, {"x": _floats(1, 3), "w": _floats(3)}, graph)
    with pytest.raises(CompileError, match="dimension"):
        run_graph(graph, {"x": _floats(2, 3), "w": _floats(3)})


_LOOP = """
agraph (float[n] x, int64 trips, bool go) => (float[n] last, float[k, n] all) {
    half = Constant<value = float {0.5}>()
    limit = Constant<value = float {0.1}>()
    last, all = Loop(trips, go, x) <
        body = step (int64 i, bool c, float[n] v) => (bool more, float[n] w, float[n] seen) {
            w = Mul(v, half)
            f = Cast<to = 1>(i)
            seen = Add(w, f)
            total = ReduceSum<keepdims = 0>(w)
            size = Abs(total)
            more = Greater(size, limit)
        }
    >
}
"""


def test_a_loop_stops_by_count_or_by_condition() -> None:
    model = parsed(_LOOP)
    graph = read_onnx(model)
    for trips, go in ((3, True), (50, True), (0, True), (4, False)):
        inputs = {"x": _floats(4), "trips": np.array(trips), "go": np.array(go)}
        agrees(model, inputs, graph)


def test_a_loop_that_changes_a_carried_shape_is_unrolled() -> None:
    model = parsed(
        """agraph (float[2] x) => (float[8] y) {
            n = Constant<value = int64 {2}>()
            t = Constant<value = bool {1}>()
            y = Loop(n, t, x) <
                body = step (int64 i, bool c, float[k] v) => (bool more, float[j] w) {
                    more = Identity(c)
                    w = Concat<axis = 0>(v, v)
                }
            >
        }"""
    )
    (y,) = agrees(model, {"x": _floats(2)})
    assert y.shape == (8,)


def test_a_scan_runs_over_any_axis_in_either_direction() -> None:
    model = parsed(
        """agraph (float[b, t] x, float[b] start) => (float[b] end, float[b, t] sums) {
            end, sums = Scan(start, x) <
                num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
                scan_output_axes = [1], scan_output_directions = [1],
                body = step (float[b] s, float[b] v) => (float[b] r, float[b] o) {
                    r = Add(s, v)
                    o = Identity(r)
                }
            >
        }"""
    )
    graph = read_onnx(model)
    for shape in ((2, 3), (1, 5)):
        agrees(model, {"x": _floats(*shape), "start": _floats(shape[0])}, graph)


def test_sequences_that_are_settled_while_reading_leave_no_trace() -> None:
    model = parsed(
        """agraph (float[4, 3] x) => (float[3, 2] y) {
            parts = SplitToSequence<axis = 0, keepdims = 0>(x)
            last = Constant<value = int64 {-1}>()
            first = Constant<value = int64 {0}>()
            a = SequenceAt(parts, first)
            b = SequenceAt(parts, last)
            pair = SequenceConstruct(a, b)
            y = ConcatFromSequence<axis = 1, new_axis = 1>(pair)
        }"""
    )
    agrees(model, {"x": _floats(4, 3)})


def test_a_local_function_is_read_in_place_with_its_attributes() -> None:
    model = parsed(
        "agraph (float[n] x) => (float[n] y) { y = local.scaled<by = 3.0>(x) }",
        more="""<domain: "local", opset_import: ["" : 17]>
        scaled <by: float, shift: float = 1.5> (v) => (w) {
            factor = Constant<value_float: float = @by>()
            offset = Constant<value_float: float = @shift>()
            product = Mul(v, factor)
            w = Add(product, offset)
        }""",
    )
    agrees(model, {"x": _floats(6)})


def test_a_function_that_calls_itself_is_refused() -> None:
    model = parsed(
        "agraph (float[n] x) => (float[n] y) { y = local.endless(x) }",
        more="""<domain: "local", opset_import: ["" : 17, "local" : 1]>
        endless (v) => (w) { w = local.endless(v) }""",
    )
    with pytest.raises(CompileError, match=r"local::endless.*calls itself"):
        read_onnx(model)


def test_an_operator_without_a_rule_is_read_by_its_definition() -> None:
    node = onnx.helper.make_node("HannWindow", ["n"], ["y"])
    model = node_model(node, [], 17, [("n", np.array(8))])
    agrees(model, {})


def test_all_that_is_not_supported_is_listed_at_once() -> None:
    model = parsed(
        """agraph (float[n] x, string[n] names) => (float[n] y, float[n] z) {
            a = local.First(x)
            y = Add(a, x)
            b = com.microsoft.Second<k = 1>(a)
            z = Cast<to = 17>(x)
        }"""
    )
    model.graph.output.add().name = "b"
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(model)
    text = "\n".join(caught.value.items)
    for part in ("'names': is a STRING", "local::First", "com.microsoft::Second", "FLOAT8E4M3FN"):
        assert part in text or part.replace("is a ", "") in text
    assert "(opset 17)" in text and len(caught.value.items) == 4


def test_unknown_dimensions_get_names_that_are_identifiers() -> None:
    model = parsed("agraph (float[n] x) => (float[n] y) { y = Relu(x) }")
    tensor = model.graph.input[0].type.tensor_type
    del tensor.shape.dim[:]
    for param in ("batch size", "batch-size", "1st", "", ""):
        dim = tensor.shape.dim.add()
        if param:
            dim.dim_param = param
    tensor.shape.dim[4].dim_value = -1
    graph = read_onnx(model)
    assert graph.symbols == ("batch_size", "batch_size_2", "d_1st", "x_dim3", "x_dim4")
    fixed = read_onnx(model, dims={"batch-size": 3, "x_dim4": 7})
    assert str(fixed.inputs[0].type) == "f32[batch_size,3,d_1st,x_dim3,7]"
    with pytest.raises(CompileError, match="no dimension is called 'seq'.*batch_size"):
        read_onnx(model, dims={"seq": 3})


def test_dimensions_that_meet_are_one() -> None:
    model = parsed(
        """agraph (float[n, 4] x, float[unk_1, 4] y, float[unk_2] z) => (float[a, b] r) {
            s = Add(x, y)
            c = Constant<value = int64[2] {-1, 1}>()
            t = Reshape(z, c)
            r = Concat<axis = 1>(s, t)
        }"""
    )
    graph = read_onnx(model)
    assert len(graph.symbols) == 1 and "bind" not in operators(graph)
    agrees(model, {"x": _floats(3, 4), "y": _floats(3, 4), "z": _floats(3)}, graph)


def test_sizes_that_meet_and_need_not_be_equal_are_checked_at_run_time() -> None:
    model = parsed(
        """agraph (float[1, 1, h, 4] x) => (float[a, b, c, d] y) {
            small = MaxPool<kernel_shape = [2, 1], strides = [2, 1]>(x)
            scales = Constant<value = float[4] {1.0, 1.0, 2.0, 1.0}>()
            big = Resize<mode = "nearest">(small, , scales)
            y = Add(x, big)
        }"""
    )
    graph = read_onnx(model)
    agrees(model, {"x": _floats(1, 1, 6, 4)}, graph)
    with pytest.raises(CompileError, match="dimension"):
        run_graph(graph, {"x": _floats(1, 1, 7, 4)})


def test_values_make_constants_of_inputs() -> None:
    model = parsed("agraph (float[n] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }")
    graph = read_onnx(model, values={"s": np.array([3, -1])}, dims={"n": 6})
    assert [value.name for value in graph.inputs] == ["x"]
    assert str(graph.outputs[0].type) == "f32[3,2]"
    with pytest.raises(CompileError, match="input 's' is f32"):
        read_onnx(model, values={"s": np.zeros(2, np.float32)})
    with pytest.raises(CompileError, match="no input is called 't'"):
        read_onnx(model, values={"t": np.zeros(2)})


def test_initializers_that_are_inputs_too_are_constants() -> None:
    model = parsed("agraph (float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }")
    model.graph.initializer.append(onnx.numpy_helper.from_array(_floats(2), "w"))
    graph = read_onnx(model)
    assert [value.name for value in graph.inputs] == ["x"]


def test_int8_weights_stay_int8() -> None:
    weight = np.arange(12, dtype=np.int8).reshape(3, 4)
    model = parsed(
        """agraph (float[n, 3] x, int8[3, 4] w) => (float[n, 4] y) {
            scale = Constant<value = float {0.1}>()
            real = DequantizeLinear(w, scale)
            y = MatMul(x, real)
        }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    graph = read_onnx(model)
    stored = {value.type.dtype for value, a in graph.constants.items() if a.shape == (3, 4)}
    assert stored == {i8}
    agrees(model, {"x": _floats(2, 3)}, graph)


def test_a_newer_operator_set_is_tried_with_a_warning() -> None:
    model = parsed("agraph (float[n] x) => (float[n] y) { y = Relu(x) }")
    model.opset_import[0].version = 99
    with pytest.warns(UserWarning, match="opset 99 is newer"):
        assert operators(read_onnx(model)) == ["relu"]


def test_reading_does_not_change_the_model_and_known_versions_do_not_warn() -> None:
    model = parsed(_LOOP)
    before = model.SerializeToString()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_onnx(model)
    assert model.SerializeToString() == before


def test_nodes_remember_the_users_node_through_definitions_and_transposes() -> None:
    node = onnx.helper.make_node("MaxPool", ["x"], ["y"], name="pool", kernel_shape=[2, 2])
    graph = read_onnx(node_model(node, [("x", _floats(1, 1, 4, 4))], 12))
    assert {node.sources for node in graph.nodes} == {("MaxPool 'pool'",)}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_with_lengths_and_states(operator: str, direction: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    ways = 2 if direction == "bidirectional" else 1
    constants = [
        ("w", _floats(ways, gates * 5, 3) / 2),
        ("r", _floats(ways, gates * 5, 5) / 2),
        ("b", _floats(ways, 2 * gates * 5)),
    ]
    lengths = np.array([4, 2], np.int32)
    inputs = [("x", _floats(4, 2, 3)), ("lengths", lengths), ("h", _floats(ways, 2, 5))]
    names = ["x", "w", "r", "b", "lengths", "h"]
    outputs = ["y", "y_h"]
    more: dict[str, Any] = {"linear_before_reset": 1} if operator == "GRU" else {}
    if operator == "LSTM":
        inputs.append(("c", _floats(ways, 2, 5)))
        constants.append(("p", _floats(ways, 15)))
        names += ["c", "p"]
        outputs.append("y_c")
    node = onnx.helper.make_node(
        operator, names, outputs, hidden_size=5, direction=direction, **more
    )
    agrees(node_model(node, inputs, 14, constants), dict(inputs))
