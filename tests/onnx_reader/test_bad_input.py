"""Bad input of every kind gives a clear error that names the culprit; none gives a crash."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import bessemer
from bessemer.compiler.errors import CompileError
from bessemer.frontends.onnx_reader.read import read_onnx
from bessemer.runtime.errors import InputError, RunError
from bessemer.runtime.model import CompiledModel
from tests.onnx_check import expected, floats, parsed

NET = """
agraph (float[batch, 1, 8, 8] x) => (float[batch, 3] y) {
    c = Conv<pads = [1, 1, 1, 1], kernel_shape = [3, 3]>(x, w, b)
    r = Relu(c)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    s = Shape(p)
    zero = Constant<value = int64 {0}>()
    n = Gather(s, zero)
    axes = Constant<value = int64[1] {0}>()
    n1 = Unsqueeze(n, axes)
    rest = Constant<value = int64[1] {-1}>()
    shape = Concat<axis = 0>(n1, rest)
    f = Reshape(p, shape)
    y = Gemm<transB = 1>(f, v)
}
"""


def net() -> onnx.ModelProto:
    """A small network with everything in it that a loader reads."""
    model = parsed(NET)
    weights = (("w", floats(2, 1, 3, 3)), ("b", floats(2)), ("v", floats(3, 32)))
    for name, array in weights:
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def refused(source: str | Path | bytes | onnx.ModelProto, message: str) -> None:
    """Asserts that reading raises CompileError with the message."""
    with pytest.raises(CompileError, match=message):
        read_onnx(source)


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = net()
    change(model)
    return model


def test_the_network_itself_is_fine() -> None:
    assert str(read_onnx(net()).outputs[0].type) == "f32[batch,3]"


# Files


def test_files_that_are_no_models(tmp_path: Path) -> None:
    refused(tmp_path / "missing.onnx", r"missing\.onnx: cannot be read: No such file")
    refused(tmp_path, r"cannot be read|not a regular file")
    (tmp_path / "empty.onnx").touch()
    refused(tmp_path / "empty.onnx", r"empty\.onnx: empty")
    (tmp_path / "text.onnx").write_text("This is not a model.\n")
    refused(tmp_path / "text.onnx", r"text\.onnx: not an ONNX model")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", r"not a regular file")
    refused("no\0name", r"NUL")


def test_a_truncated_file_at_every_length(tmp_path: Path) -> None:
    """A cut between two fields may leave a shorter model; everywhere else it is an error."""
    data = net().SerializeToString()
    outcomes = set()
    for length in range(0, len(data), 3):
        try:
            read_onnx(data[:length])
            outcomes.add("read")
        except CompileError as error:
            outcomes.add("refused")
            assert str(error)
    assert "refused" in outcomes
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: len(data) // 2])
    refused(path, r"cut\.onnx: not an ONNX model, or a damaged one")


@pytest.mark.filterwarnings("ignore:.*newer than")
def test_flipped_bits_give_an_error_or_a_model(rng: np.random.Generator) -> None:
    data = net().SerializeToString()
    structure = [at for at in range(len(data)) if not _is_weight(data, at)]
    refusals = 0
    for _ in range(3000):
        damaged = bytearray(data)
        for at in rng.choice(structure, size=rng.integers(1, 4)):
            damaged[at] ^= 1 << rng.integers(8)
        try:
            read_onnx(bytes(damaged))
        except CompileError:
            refusals += 1
    assert refusals > 1500


def _is_weight(data: bytes, at: int) -> bool:
    """Most bytes are numbers: flipping those leaves a valid model."""
    raw = floats(3, 32).tobytes()
    start = data.index(raw)
    return start <= at < start + len(raw)


# Graphs


def test_graphs_that_do_not_hang_together() -> None:
    def cycle(model: onnx.ModelProto) -> None:
        model.graph.node[1].input[0] = "p"

    def unknown_input(model: onnx.ModelProto) -> None:
        model.graph.node[1].input[0] = "nowhere"

    def twice(model: onnx.ModelProto) -> None:
        model.graph.node[1].output[0] = "c"

    def no_output(model: onnx.ModelProto) -> None:
        model.graph.output[0].name = "z"

    def two_inputs(model: onnx.ModelProto) -> None:
        model.graph.input.append(model.graph.input[0])

    def two_weights(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(model.graph.initializer[0])

    refused(changed(cycle), r"wait for each other: .*Relu 'r'.*MaxPool 'p'|MaxPool 'p'.*Relu 'r'")
    refused(changed(unknown_input), r"Relu 'r' reads 'nowhere'")
    refused(changed(twice), r"Relu 'c' defines 'c' a second time")
    refused(changed(no_output), r"nothing computes the output 'z'")
    refused(changed(two_inputs), r"input 'x' occurs twice")
    refused(changed(two_weights), r"initializer 'w' occurs twice")


def test_models_without_a_graph_or_an_operator_set() -> None:
    refused(changed(lambda model: model.ClearField("graph")), r"has no graph")
    refused(changed(lambda model: model.ClearField("opset_import")), r"names no operator set")


def test_names_with_control_characters_or_of_absurd_length() -> None:
    def rename(name: str) -> onnx.ModelProto:
        model = net()
        model.graph.node[0].name = name
        return model

    refused(rename("a\0b"), r"control characters in its name: 'a\\x00b'")
    refused(rename("\x1b[2J"), r"control characters")
    refused(rename("a" * 5000), r"a name of 5000 characters")


def test_nodes_out_of_order_are_sorted() -> None:
    model = net()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert len(read_onnx(model).nodes) == len(read_onnx(net()).nodes)


def test_subgraphs_nested_too_deep() -> None:
    model = parsed("agraph (float[n] x, bool c) => (float[n] y) { y = Relu(x) }")
    model.graph.node.extend(_chain_of_ifs(28).node)
    refused(model, r"nested more than 24 deep")


def _chain_of_ifs(depth: int) -> onnx.GraphProto:
    """Each If holds the next in one branch only, so that the model stays small."""
    graph = onnx.GraphProto(name="end")
    graph.output.add().name = "x"
    for level in range(depth):
        outer = onnx.GraphProto(name=f"level{level}")
        node = outer.node.add(op_type="If", input=["c"], output=[f"y{level}"])
        node.attribute.append(onnx.helper.make_attribute("then_branch", graph))
        end = onnx.GraphProto(name="end")
        end.output.add().name = "x"
        node.attribute.append(onnx.helper.make_attribute("else_branch", end))
        outer.output.add().name = f"y{level}"
        graph = outer
    return graph


# Shapes, weights, attributes


def test_contradictory_shapes_name_the_node() -> None:
    def channels(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5

    def columns(model: onnx.ModelProto) -> None:
        weight = onnx.numpy_helper.from_array(floats(3, 31), "v")
        model.graph.initializer[2].CopyFrom(weight)

    refused(changed(channels), r"Conv 'c': axis 1 of .* must be 1, .* it is 5")
    refused(changed(columns), r"Gemm 'y': axis 1 of .* must be 31, .* it is 32")


@pytest.mark.parametrize("size", [-2, -(2**63), 2**62])
def test_absurd_dimensions_of_inputs(size: int) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = size

    refused(changed(change), r"input 'x': .*(not a size|TiB)")


@pytest.mark.parametrize("dims", [[-1], [2**62, 2**62], [2**40, 0], [3], [1] * 70])
def test_absurd_dimensions_of_weights(dims: list[int]) -> None:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.initializer[1].dims[:]
        model.graph.initializer[1].dims.extend(dims)

    refused(changed(change), r"initializer 'b': (has|is) ")


def test_an_input_without_a_shape_is_refused_with_advice() -> None:
    model = changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"))
    refused(model, r"input 'x': has no shape.*write its shape into the model")


def test_weights_of_the_wrong_length_or_stored_twice() -> None:
    def longer(model: onnx.ModelProto) -> None:
        model.graph.initializer[1].raw_data += b"0000"

    def twice(model: onnx.ModelProto) -> None:
        model.graph.initializer[1].float_data.extend([1.0, 2.0])

    def unlike(model: onnx.ModelProto) -> None:
        model.graph.initializer[1].ClearField("raw_data")
        model.graph.initializer[1].int64_data.extend([1, 2])

    def typeless(model: onnx.ModelProto) -> None:
        model.graph.initializer[1].data_type = 0

    def unheard(model: onnx.ModelProto) -> None:
        model.graph.initializer[1].data_type = 99

    refused(changed(longer), r"'b': has 12 bytes of raw_data, its type and shape need 8")
    refused(changed(twice), r"'b': has its elements twice")
    refused(changed(unlike), r"'b': has its elements in int64_data, for its type float_data")
    refused(changed(typeless), r"'b': has no element type")
    refused(changed(unheard), r"'b': has the element type 99, which does not exist")


def test_attributes_that_are_unknown_missing_or_of_another_type() -> None:
    def unknown(model: onnx.ModelProto) -> None:
        model.graph.node[0].attribute.append(onnx.helper.make_attribute("pad", 1))

    def missing(model: onnx.ModelProto) -> None:
        del model.graph.node[2].attribute[:]

    def another_type(model: onnx.ModelProto) -> None:
        model.graph.node[2].attribute[0].CopyFrom(onnx.helper.make_attribute("kernel_shape", 2))

    def zero_strides(model: onnx.ModelProto) -> None:
        model.graph.node[2].attribute[1].CopyFrom(onnx.helper.make_attribute("strides", [0, 1]))

    def huge_group(model: onnx.ModelProto) -> None:
        model.graph.node[0].attribute.append(onnx.helper.make_attribute("group", -3))

    refused(changed(unknown), r"Conv 'c': Conv has no attribute called 'pad'")
    refused(changed(missing), r"MaxPool 'p': the attribute 'kernel_shape' is missing")
    refused(
        changed(another_type), r"MaxPool 'p': the attribute 'kernel_shape' has to be of type INTS"
    )
    refused(changed(zero_strides), r"MaxPool 'p': strides \[0, 1\]")
    refused(changed(huge_group), r"Conv 'c': group is -3")


def test_the_wrong_number_of_inputs() -> None:
    def too_many(model: onnx.ModelProto) -> None:
        model.graph.node[1].input.append("x")

    def too_few(model: onnx.ModelProto) -> None:
        del model.graph.node[0].input[1:]

    def left_out(model: onnx.ModelProto) -> None:
        model.graph.node[0].input[1] = ""

    refused(changed(too_many), r"Relu 'r': has 2 inputs, Relu takes 1")
    refused(changed(too_few), r"Conv 'c': has 1 inputs, Conv takes 2 to 3")
    refused(changed(left_out), r"Conv 'c': the input W is missing")


def test_an_operator_that_nobody_knows() -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[1].op_type = "Relux"

    refused(changed(change), r"Relux 'r' \(opset 17\): the operator Relux is not supported")


def test_layouts_of_onnxruntime_are_refused_with_advice() -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import.add(domain="com.microsoft.nchwc", version=1)
        model.graph.node[0].domain = "com.microsoft.nchwc"

    refused(changed(change), "is not supported; onnxruntime made it .* ORT_ENABLE_EXTENDED")


# Running


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return bessemer.compile(net())


def test_inputs_of_the_wrong_name_type_rank_or_size(compiled: CompiledModel) -> None:
    good = floats(2, 1, 8, 8)
    (y,) = compiled.run({"x": good})
    assert y.shape == (2, 3)
    for inputs, message in (
        ({"z": good}, "z"),
        ({}, "x"),
        ({"x": good.astype(np.float64)}, "x.*float64, expected float32"),
        ({"x": good[0]}, "x"),
        ({"x": floats(2, 1, 8, 9)}, "x.*9"),
    ):
        with pytest.raises(InputError, match=message):
            compiled.run(inputs)


WINDOWS = """
agraph (float[1, 1, length] x) => (float y) {
    w = Constant<value = float[1, 1, 3] {1, 2, 1}>()
    first = Conv<kernel_shape = [3], strides = [2]>(x, w)
    second = Conv<kernel_shape = [3]>(first, w)
    y = ReduceSum<keepdims = 0>(second)
}
"""


@pytest.mark.parametrize(("length", "culprit"), [(0, "first"), (2, "second"), (4, "second")])
def test_an_input_too_small_for_a_window_names_the_node(length: int, culprit: str) -> None:
    """Such a size was once negative, and what counted down from it read anywhere."""
    model = bessemer.compile(parsed(WINDOWS), cache=False)
    assert model.run({"x": np.ones((1, 1, 7), np.float32)})[0] == 16
    with pytest.raises(RunError, match=rf"{culprit}.*axis 2 of 'x'\).*too small"):
        model.run({"x": np.ones((1, 1, length), np.float32)})


def test_a_place_from_the_end_of_an_axis_that_is_too_short() -> None:
    text = (
        "g (float[n, 3] x) => (float[3] y) <int64 last = {-2}> { y = Gather <axis = 0> (x, last) }"
    )
    model = bessemer.compile(parsed(text), threads=1, cache=False)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(model.run({"x": x})[0], x[0])
    for short in (x[:1], x[:0]):
        with pytest.raises(RunError, match="Gather"):
            model.run({"x": short})


EMPTY = {
    "Resize": """g (float[1, 1, n] x) => (float[1, 1, 4] y) <int64[3] sizes = {1, 1, 4}> {
        y = Resize <mode = "linear"> (x, , , sizes)
    }""",
    "Pad": """g (float[1, 1, n] x) => (float[1, 1, m] y) <int64[6] pads = {0, 0, 2, 0, 0, 2}> {
        y = Pad <mode = "edge"> (x, pads)
    }""",
    "GridSample": """g (float[1, 1, n, 2] x, float[1, 2, 2, 2] grid) => (float[1, 1, 2, 2] y) {
        y = GridSample <padding_mode = "border"> (x, grid)
    }""",
}


@pytest.mark.parametrize("name", EMPTY)
def test_of_an_empty_axis_nothing_is_repeated(name: str) -> None:
    onnx_model = parsed(EMPTY[name], 18)
    model = bessemer.compile(onnx_model, threads=1, cache=False)
    shape = [size.dim_value for size in onnx_model.graph.input[0].type.tensor_type.shape.dim]
    feed = {"grid": np.zeros((1, 2, 2, 2), np.float32)} if name == "GridSample" else {}
    for count in (3, 1):
        x = np.ones([count if size == 0 else size for size in shape], np.float32)
        for made, wanted in zip(
            model.run({"x": x, **feed}), expected(onnx_model, {"x": x, **feed})
        ):
            np.testing.assert_allclose(made, wanted, rtol=1e-6)
    with pytest.raises(RunError, match=f"{name}.*not empty"):
        model.run({"x": np.ones(shape, np.float32), **feed})
