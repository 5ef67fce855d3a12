"""The ONNX reader: what it makes of a model means what onnxruntime makes of it."""

from __future__ import annotations

import re
import warnings

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.errors import CompileError, UnsupportedError
from bessemer.compiler.ir.dims import symbol
from bessemer.compiler.ir.interpreter.interpret import run_graph
from bessemer.compiler.ir.types import i8
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.runtime.errors import InputError
from tests.onnx_check import agrees, floats, node_model, operators, parsed

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
        agrees(model, {"x": floats(*shape)}, graph)


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
    agrees(model, {"x": floats(3, 2), "y": floats(1, 4)}, graph)


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
        agrees(model, {"x": floats(1, 2, height, 5)}, graph)


def test_a_shape_that_comes_in_as_data_is_bound_when_the_model_runs() -> None:
    model = parsed("agraph (float[n] x, int64[3] s) => (float[a, b, c] y) { y = Reshape(x, s) }")
    graph = read_onnx(model)
    for target in ([2, 3, 4], [-1, 2, 6], [4, 1, -1]):
        agrees(model, {"x": floats(24), "s": np.array(target)}, graph)


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
            agrees(model, {"x": floats(5, 6), **bounds}, graph)


@pytest.mark.parametrize(
    "bounds", [(1, 2**63 - 1), (-1, 2**63 - 1), (0, -1), (1, -1), (-3, -1), (2, 4), (-2, 9)]
)
def test_slices_of_an_axis_of_unknown_size_clamp_as_onnx_says(bounds: tuple[int, int]) -> None:
    start, end = (np.array([bound]) for bound in bounds)
    node = onnx.helper.make_node("Slice", ["x", "s", "e"], ["y"])
    model = node_model(node, [("x", floats(1, 2))], 13, [("s", start), ("e", end)])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    graph = read_onnx(model)
    compiled = bessemer.compile(graph, cache=False, threads=1)
    for size in (1, 2, 3, 7, *(() if start == -1 else (0,))):
        x = floats(size, 2)
        agrees(model, {"x": x}, graph)
        np.testing.assert_array_equal(compiled.run([x])[0], x[slice(*bounds)])


def test_the_last_place_of_an_axis_without_places_is_refused() -> None:
    """As one element is what `x[-1:]` is everywhere else."""
    model = parsed(
        """agraph (float[n] x) => (float[a] y) {
            last = Constant<value_ints = [-1]>()
            end = Constant<value_ints = [9]>()
            y = Slice(x, last, end)
        }"""
    )
    compiled = bessemer.compile(model, cache=False)
    with pytest.raises(bessemer.ExecutionError, match="n-1 >= 0"):
        compiled.run([floats(0)])


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
    agrees(model, {"x": floats(6)})


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
        """agraph (float[n] x, complex128[n] names) => (float[n] y, float[n] z) {
            a = local.First(x)
            y = Add(a, x)
            b = com.microsoft.Second<k = 1>(a)
            z = Cast<to = 14>(x)
        }"""
    )
    model.graph.output.add().name = "b"
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(model)
    text = "\n".join(caught.value.items)
    for part in ("'names': is a COMPLEX128", "local::First", "com.microsoft::Second", "COMPLEX64"):
        assert part in text or part.replace("is a ", "") in text
    assert "(opset 17)" in text and len(caught.value.items) == 4


def test_unknown_dimensions_get_names_that_are_identifiers() -> None:
    model = parsed("agraph (float[n] x) => (float[n] y) { y = Relu(x) }")
    tensor = model.graph.input[0].type.tensor_type
    del tensor.shape.dim[:]
    for param in ("batch size", "batch-size", "1st", "", "", "?", "?", "None"):
        dim = tensor.shape.dim.add()
        if param:
            dim.dim_param = param
    tensor.shape.dim[4].dim_value = -1
    graph = read_onnx(model)
    unnamed = tuple(f"x_dim{axis}" for axis in range(3, 8))
    assert graph.symbols == ("batch_size", "batch_size_2", "d_1st", *unnamed)
    fixed = read_onnx(model, dims={"batch-size": 3, "x_dim4": 7})
    assert str(fixed.inputs[0].type) == "f32[batch_size,3,d_1st,x_dim3,7,x_dim5,x_dim6,x_dim7]"
    with pytest.raises(CompileError, match=r"no dimension is called 'seq'.*batch_size"):
        read_onnx(model, dims={"seq": 3})


def test_dimensions_that_meet_are_one() -> None:
    model = parsed(
        """agraph (float[n, 4] x, float[unk_1, 4] y, float[unk_2] z) => (float[a, b] r) {
            s = Concat<axis = 1>(x, y)
            c = Constant<value = int64[2] {-1, 1}>()
            t = Reshape(z, c)
            r = Concat<axis = 1>(s, t)
        }"""
    )
    graph = read_onnx(model)
    assert len(graph.symbols) == 1 and "bind" not in operators(graph)
    agrees(model, {"x": floats(3, 4), "y": floats(3, 4), "z": floats(3)}, graph)


def test_a_masks_length_is_that_of_what_is_kept_and_the_new() -> None:
    model = parsed(
        """kept (float[2, past] k, float[2, new] x, float[total] mask) => (float[2, all] y) {
            both = Concat <axis = 1> (k, x)
            y = Add (both, mask)
        }"""
    )
    compiled = bessemer.compile(model, cache=False)
    assert [info.shape for info in compiled.inputs] == [(2, "past"), (2, "new"), ("past+new",)]
    k, x, mask = floats(2, 3), floats(2, 4), floats(7)
    (y,) = compiled.run([k, x, mask])
    np.testing.assert_array_equal(y, np.concatenate([k, x], axis=1) + mask)
    with pytest.raises(InputError, match=r"'mask' has shape .*6.*not past\+new, which is 7"):
        compiled.run([k, x, mask[:6]])


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
    agrees(model, {"x": floats(1, 1, 6, 4)}, graph)
    needed = r"which needs h = 2\*\(h//2\), where h is axis 2 of 'x'"
    with pytest.raises(CompileError, match=rf"Add 'y' \({needed}\)"):
        run_graph(graph, {"x": floats(1, 1, 7, 4)})


def test_a_tensors_size_is_never_negative_whatever_its_formula() -> None:
    model = parsed(
        """agraph (float[2, 3, n] x, float[2, 1, 1] y) => (float[a, b, c] z)
        <int64[3] minus = {-1, -1, -1}, int64[3] ones = {1, 1, 1}> {
            short = MaxPool<kernel_shape = [3], strides = [2]>(x)
            shape = Shape(short)
            open = Equal(shape, minus)
            wanted = Where(open, ones, shape)
            wide = Expand(y, wanted)
            z = Add(short, wide)
        }"""
    )
    graph = read_onnx(model)
    assert "bind" not in operators(graph)
    agrees(model, {"x": floats(2, 3, 8), "y": floats(2, 1, 1)}, graph)


def test_a_size_in_a_branch_says_nothing_where_the_branch_does_not_run() -> None:
    model = parsed(
        """agraph (float[1, 1, n] x, bool c) => (float[a, b, d] y, float[e] z)
        <float[1, 1, 5] w = {1, 1, 1, 1, 1}, int64[1] four = {4}, int64[1] none = {0}, int64[1] two = {2}> {
            y = If (c) <
                then_branch = then () => (float[a, b, d] u) {
                    v = Conv(x, w)
                    s = Shape(v)
                    u = Reshape(v, s)
                },
                else_branch = otherwise () => (float[a, b, d] u) { u = Identity(x) }
            >
            shape = Shape<start = 2, end = 3>(x)
            less = Sub(shape, four)
            negative = Less(less, none)
            count = Where(negative, none, two)
            z = ConstantOfShape(count)
        }"""  # noqa: E501
    )
    graph = read_onnx(model)
    for n, taken in ((8, True), (8, False), (2, False)):
        agrees(model, {"x": floats(1, 1, n), "c": np.array(taken)}, graph)


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
    model.graph.initializer.append(onnx.numpy_helper.from_array(floats(2), "w"))
    assert [value.name for value in read_onnx(model).inputs] == ["x"]
    assert [value.name for value in read_onnx(model, values={"w": None}).inputs] == ["x", "w"]


def test_initializers_that_are_inputs_too_are_of_their_type() -> None:
    """Any size may stand for one that has a name, or that old exporters have written as 0."""

    def model(weight: str) -> onnx.ModelProto:
        made = parsed(f"agraph (float[n,4] x, {weight} w) => (float[n,p] y) {{ y = MatMul(x, w) }}")
        made.graph.initializer.append(onnx.numpy_helper.from_array(floats(4, 8), "w"))
        return made

    for given in ("float[40, 16]", "float[4]", "float[n, 16]", "double[4, 8]"):
        kind, shape = given.split("[")
        other = re.escape(f"the input of that name is {kind.upper()}[{shape}")
        with pytest.raises(CompileError, match=rf"initializer 'w' is FLOAT\[4, 8\], but {other}"):
            read_onnx(model(given))
    for given in ("float[n, 8]", "float[4, m]", "float[0, 8]", "float[]", "float[4, 8]"):
        assert [value.name for value in read_onnx(model(given)).inputs] == ["x"]


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
    agrees(model, {"x": floats(2, 3)}, graph)


def test_a_newer_operator_set_is_tried_with_a_warning() -> None:
    model = parsed("agraph (float[n] x) => (float[n] y) { y = Relu(x) }")
    model.opset_import[0].version = 99
    with pytest.warns(UserWarning, match="opset 99 is newer"):
        assert operators(read_onnx(model)) == ["relu"]


def test_reading_does_not_change_the_model_and_known_versions_do_not_warn() -> None:
    model = parsed(_RESHAPE)
    before = model.SerializeToString()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_onnx(model)
    assert model.SerializeToString() == before


def test_nodes_remember_the_users_node_through_definitions_and_transposes() -> None:
    node = onnx.helper.make_node("MaxPool", ["x"], ["y"], name="pool", kernel_shape=[2, 2])
    graph = read_onnx(node_model(node, [("x", floats(1, 1, 4, 4))], 12))
    assert {node.sources for node in graph.nodes} == {("MaxPool 'pool'",)}
