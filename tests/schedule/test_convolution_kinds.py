"""Convolutions of less common kinds from ONNX to machine code, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest
from onnx import helper, numpy_helper

import bessemer
from bessemer.compiler.ir.build import GraphBuilder
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.text.text_loops import print_kernel
from bessemer.compiler.ir.types import TensorType, f32, u8
from bessemer.compiler.passes.convolution.decompose_conv_transpose import decompose_conv_transpose
from bessemer.frontends.onnx_reader.read import read_onnx
from tests.onnx_check import expected, floats, node_model, operators
from tests.planned import planned

KINDS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("ConvTranspose", (1, 6, 5, 4), (6, 4, 4, 4), {"strides": [2, 2], "pads": [1] * 4, "group": 2}),
    (
        "ConvTranspose",
        (2, 9, 7),
        (9, 2, 3),
        {"strides": [2], "pads": [1, 1], "output_padding": [1], "group": 3},
    ),
    ("ConvTranspose", (1, 8, 4, 5), (8, 1, 4, 4), {"strides": [2, 2], "pads": [1] * 4, "group": 8}),
    ("ConvTranspose", (1, 4, 1, 1), (4, 3, 2, 3), {"strides": [2, 3], "group": 2}),
    ("ConvTranspose", (2, 4, 9, 7), (4, 5, 3, 2), {"dilations": [2, 3], "pads": [1, 0, 2, 4]}),
    ("ConvTranspose", (1, 4, 6, 5), (4, 5, 3, 2), {"dilations": [2, 1], "strides": [1, 2]}),
    ("ConvTranspose", (1, 4, 6, 5), (4, 5, 3, 4), {"dilations": [2, 3], "strides": [3, 2]}),
    (
        "ConvTranspose",
        (2, 6, 5, 7),
        (6, 2, 5, 3),
        {"dilations": [2, 4], "strides": [4, 2], "group": 2, "pads": [1, 2, 0, 3]},
    ),
    (
        "ConvTranspose",
        (1, 4, 1, 1),
        (4, 5, 3, 2),
        {"dilations": [2, 3], "strides": [3, 2], "output_padding": [1, 1]},
    ),
    ("Conv", (1, 17, 4, 5, 6), (17, 1, 3, 3, 3), {"pads": [1] * 6, "group": 17}),
    (
        "Conv",
        (2, 5, 7, 6, 5),
        (5, 1, 3, 1, 2),
        {"strides": [2, 1, 2], "dilations": [2, 1, 1], "pads": [3, 0, 1, 2, 0, 0], "group": 5},
    ),
    ("Conv", (2, 16, 15, 14), (5, 16, 3, 3), {"pads": [6] * 4, "dilations": [6, 6]}),
    ("Conv", (2, 16, 7, 8), (20, 16, 3, 3), {"pads": [6] * 4, "dilations": [6, 6]}),
    ("Conv", (1, 8, 9, 30), (40, 8, 3, 3), {"pads": [1, 12, 1, 12], "dilations": [1, 12]}),
    ("Conv", (1, 8, 9, 12), (16, 8, 3, 3), {"pads": [12] * 4, "dilations": [9, 12]}),
    ("Conv", (1, 8, 9, 12), (16, 8, 3, 3), {"pads": [20] * 4, "dilations": [9, 12]}),
    # One row of the image is nearer than one tap along the row.
    (
        "Conv",
        (1, 16, 9, 9),
        (16, 16, 3, 2),
        {"pads": [0, 10, 0, 10], "dilations": [1, 10], "strides": [1, 2]},
    ),
    ("Conv", (1, 17, 12), (5, 17, 4), {"pads": [5, 6], "dilations": [3], "strides": [2]}),
    ("Conv", (1, 32, 9, 18), (32, 4, 3, 3), {"pads": [1] * 4, "group": 8}),
    ("Conv", (2, 48, 9, 8), (48, 2, 3, 2), {"strides": [2, 2], "pads": [1, 0, 0, 1], "group": 24}),
    ("Conv", (1, 16, 23), (16, 8, 5), {"dilations": [2], "pads": [4, 4], "group": 2}),
    ("Conv", (1, 40, 4, 9, 8), (20, 8, 3, 2, 3), {"pads": [1, 0, 1, 1, 1, 1], "group": 5}),
    ("Conv", (2, 36, 30), (24, 12, 4), {"strides": [2], "pads": [1, 2], "group": 3}),
    ("Conv", (2, 16, 7, 9, 8), (24, 16, 3, 3, 3), {"strides": [2, 1, 1], "pads": [1] * 6}),
    ("Conv", (1, 16, 4, 9, 8), (16, 16, 1, 3, 3), {"pads": [0, 1, 1, 0, 1, 1]}),
    (
        "Conv",
        (1, 9, 6, 4, 5),
        (24, 9, 3, 3, 2),
        {"strides": [2, 1, 1], "dilations": [2, 3, 1], "pads": [7, 3, 1, 3, 2, 1]},
    ),
    ("Conv", (1, 17, 9, 18), (1, 17, 3, 3), {"strides": [2, 1]}),
    ("Conv", (1, 20, 9, 18), (20, 1, 7, 7), {"pads": [3] * 4, "group": 20}),
    ("Conv", (2, 9, 7, 10), (18, 1, 3, 3), {"pads": [1] * 4, "strides": [2, 1], "group": 9}),
    ("Conv", (1, 5, 30), (20, 1, 7), {"pads": [3, 3], "group": 5}),
    ("Conv", (1, 6, 4, 6, 5), (18, 1, 3, 3, 3), {"pads": [1] * 6, "group": 6}),
    ("Conv", (1, 6, 8, 30), (6, 1, 1, 21), {"pads": [0, 10, 0, 10], "group": 6}),
    # Whole planes of padding are far from the image in memory.
    ("Conv", (1, 2, 3, 130, 128), (4, 2, 3, 3, 3), {"strides": [1, 8, 8], "pads": [1] * 6}),
]


@pytest.mark.parametrize(("name", "shape", "kernel", "attributes"), KINDS)
def test_kinds(
    name: str, shape: tuple[int, ...], kernel: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    x, w = floats(*shape), floats(*kernel)
    node = helper.make_node(name, ["x", "w"], ["y"], **attributes)
    model = node_model(node, [("x", x)], 17, [("w", w)])
    compiled = bessemer.compile(model)
    (theirs,) = expected(model, {"x": x})
    tolerance = 1e-6 * float(np.abs(theirs).max())
    np.testing.assert_allclose(compiled.run([x])[0], theirs, rtol=1e-5, atol=tolerance)


def test_groups_of_a_transposed_convolution_are_those_of_its_phases() -> None:
    _, shape, kernel, attributes = KINDS[0]
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    model = node_model(node, [("x", floats(*shape))], 17, [("w", floats(*kernel))])
    graph = decompose_conv_transpose(read_onnx(model))
    assert operators(graph).count("conv") == 4 and "conv_transpose" not in operators(graph)


@pytest.mark.parametrize(("strides", "phases"), [([1, 1], 1), ([2, 3], 6), ([2, 2], 4)])
def test_a_transposed_convolution_whose_taps_are_apart_has_phases(
    strides: list[int], phases: int
) -> None:
    x, w = floats(2, 4, 9, 7), floats(4, 6, 3, 4)
    attributes: dict[str, Any] = {"dilations": [1, 2], "strides": strides, "group": 2}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    graph = decompose_conv_transpose(read_onnx(node_model(node, [("x", x)], 17, [("w", w)])))
    without_taps = 2 if strides == [2, 2] else 0  # taps two apart never meet odd columns
    assert operators(graph).count("conv") == phases - without_taps
    assert "conv_transpose" not in operators(graph)


@pytest.mark.parametrize(("size", "low", "wanted"), [(0, 0, 2), (2, 4, 0), (3, 4, 2)])
def test_transposed_convolutions_may_have_no_pixels(size: int, low: int, wanted: int) -> None:
    """Of none, outputs are zeros; and so many may be taken away that none is left."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(f32, (1, size, 3)))
    w = b.constant(np.ones((4, 16, 3), np.float32))
    attributes = {"strides": (2,), "dilations": (1,), "low": (low,), "high": (2 if low else 0,)}
    y = b.apply("conv_transpose", x, w, output_padding=(0,), groups=1, **attributes)
    (found,) = bessemer.compile(b.finish([y])).run({"x": np.ones((1, size, 3), np.float32)})
    assert found.shape == (1, wanted, 16)
    np.testing.assert_array_equal(found, 6 if size else 0)


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 3, 3), (2, 5, 4)])
def test_volumes_go_by_winograds_method_plane_by_plane(kernel: tuple[int, ...]) -> None:
    x, w = floats(2, 16, 5, 8, 9), floats(16, 16, *kernel)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[0, 1, 2] * 2)
    model = node_model(node, [("x", x)], 17, [("w", w)])
    decisions = planned(read_onnx(model)).program.decisions
    assert any(one.signature.startswith("winograd") and one.choice["winograd"] for one in decisions)
    (found,) = bessemer.compile(model, threads=2).run({"x": x})
    np.testing.assert_allclose(found, expected(model, {"x": x})[0], atol=1e-4)


@pytest.mark.parametrize("groups", [1, 16])
def test_a_volume_may_have_any_sizes(groups: int) -> None:
    w = floats(16, 16 // groups, 2, 3, 3)
    attributes: dict[str, Any] = {"pads": [1] * 6, "dilations": [2, 1, 1], "group": groups}
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    model = node_model(node, [("x", floats(1, 16, 3, 6, 6))], 17, [("w", w)])
    for axis, name in enumerate(("n", "", "d", "h", "w")):
        if name:
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    compiled = bessemer.compile(model)
    for shape in ((1, 16, 3, 6, 6), (2, 16, 4, 9, 8)):
        x = floats(*shape)
        (theirs,) = expected(model, {"x": x})
        np.testing.assert_allclose(compiled.run([x])[0], theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("channels", "is_known"), [(16, True), (32, True), (16, False)])
def test_taps_that_see_padding_only_are_left_out_tile_by_tile(
    channels: int, is_known: bool
) -> None:
    """Too few outputs for regions; a tile's rows are of one row of the volume. Of 32 channels, each
    tap along the first axis is summed up apart."""
    x, w = floats(1, channels, 4, 4, 12), floats(8, channels, 5, 5, 5)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[2, 2, 2] * 2)
    model = node_model(node, [("x", x)], 17, [("w", w)])
    if not is_known:
        for axis, name in ((0, "n"), (2, "d"), (3, "h"), (4, "w")):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    steps = planned(read_onnx(model)).program.steps
    (launch,) = [
        step for step in steps if isinstance(step, Launch) and step.kernel.name.startswith("conv")
    ]
    text = print_kernel(launch.kernel)
    assert " in 0..n" in text if channels == 16 else "        if (index(" in text


def test_weights_are_prefetched_also_in_loops_around_short_runs() -> None:
    """The image is in planes, so that the taps of a row are the innermost run."""
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = node_model(node, [("x", floats(1, 64, 2, 16))], 17, [("w", floats(64, 64, 2, 2))])
    program = planned(read_onnx(model)).program
    kernels = [step.kernel for step in program.steps if isinstance(step, Launch)]
    (text,) = [print_kernel(kernel) for kernel in kernels if kernel.name.startswith("conv")]
    assert "prefetch in1" in text


def test_products_with_padding_are_left_out() -> None:
    """Three parts along each axis, of which each sees two or three taps; the image is read where it
    lies, without the padding that nobody sees."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[6] * 4, dilations=[6, 6])
    model = node_model(node, [("x", floats(1, 16, 15, 15))], 17, [("w", floats(8, 16, 3, 3))])
    program = planned(read_onnx(model)).program
    kernels = [step.kernel for step in program.steps if isinstance(step, Launch)]
    regions = [kernel for kernel in kernels if kernel.name.startswith("conv")]
    assert len(regions) == 9
    assert {kernel.buffers[0].shape for kernel in regions} == {(16 * 15 * 15,)}


def test_an_image_that_lies_in_its_padded_copy_only_is_read_there() -> None:
    """As where the gradient of the weights reads the copy, into which the image was computed."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[2,16,24] x, float[8,16,2] w, float[8,16,2] v)
            => (float[2,8,24] y, float[2,8,3] z)
        <int64[6] pads = {0, 0, 12, 0, 0, 0}> {
            r = Relu(x)
            p = Pad(r, pads)
            y = Conv<dilations = [12]>(p, w)
            z = Conv<strides = [12]>(p, v)
        }""")
    given = {"x": floats(2, 16, 24), "w": floats(8, 16, 2), "v": floats(8, 16, 2)}
    for ours, theirs in zip(bessemer.compile(model).run(given), expected(model, given)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_products_with_padding_are_left_out_of_images_of_any_sizes() -> None:
    """Four parts along each axis, some of which are empty, and kernels by the numbers of taps."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 16, h, w] x, float[n, 16, h, w] z) => (float[n, 16, h, w] y) {
            c = Conv<dilations = [12, 9], pads = [12, 9, 12, 9]>(x, k)
            s = Add(c, z)
            y = Relu(s)
        }"""
    model = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "k"))
    steps = planned(read_onnx(model)).program.steps
    kernels = [step.kernel for step in steps if isinstance(step, Launch)]
    regions = [kernel.name for kernel in kernels if kernel.name.startswith("conv")]
    assert len(regions) == 16 and len(set(regions)) == 9
    compiled = bessemer.compile(model, threads=2)
    for n, h, w in ((2, 12, 16), (1, 1, 1), (1, 40, 50), (2, 13, 9), (1, 24, 18), (3, 25, 8)):
        x, z = floats(n, 16, h, w), floats(n, 16, h, w)
        (theirs,) = expected(model, {"x": x, "z": z})
        np.testing.assert_allclose(compiled.run([x, z])[0], theirs, rtol=1e-5, atol=2e-5)
    assert compiled.run([np.zeros((0, 16, 9, 9), np.float32)] * 2)[0].shape == (0, 16, 9, 9)


@pytest.mark.parametrize("is_known", [True, False])
def test_products_with_zero_points_in_the_padding_are_left_out(is_known: bool) -> None:
    """What they add up to is known for each region and channel."""
    n, h, w = (1, 15, 21) if is_known else ("n", "h", "w")
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (uint8[{n}, 16, {h}, {w}] x) => (int32[{n}, 5, {h}, {w}] y) <uint8 zero = {{131}}> {{
            y = ConvInteger<dilations = [12, 9], pads = [12, 9, 12, 9]>(x, k, zero)
        }}"""
    model, r = onnx.parser.parse_model(text), np.random.default_rng(0)
    weights = r.integers(-128, 128, (5, 16, 3, 3)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(weights, "k"))
    steps = planned(read_onnx(model)).program.steps
    kernels = [step.kernel for step in steps if isinstance(step, Launch)]
    regions = [kernel.name for kernel in kernels if kernel.name.startswith("conv")]
    assert (len(regions), len(set(regions))) == ((9, 9) if is_known else (16, 9))
    compiled = bessemer.compile(model, threads=2)
    for n, h, w in [(1, 15, 21)] if is_known else [(2, 12, 16), (1, 1, 1), (1, 40, 50), (2, 13, 9)]:
        x = r.integers(0, 256, (n, 16, h, w)).astype(np.uint8)
        (theirs,) = expected(model, {"x": x})
        np.testing.assert_array_equal(compiled.run([x])[0], theirs)


@pytest.mark.parametrize(("channels", "spread"), [(1, 0), (2, 0), (10, 0), (8, 255)])
def test_products_of_bytes_with_padding_are_left_out(channels: int, spread: int) -> None:
    """Neighbouring taps of few channels are multiplied by groups, so that a group has numbers of
    several taps; what needs more than bytes is not multiplied in tiles."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (uint8[1, 24, 5, {channels}] x) => (int32[1, 16, 24, 3] y) <uint8 zero = {{7}}> {{
            t = Transpose<perm = [0, 3, 1, 2]>(x)
            y = ConvInteger<dilations = [9, 1], pads = [9, 0, 9, 0]>(t, k, zero, none)
        }}"""
    model, r = onnx.parser.parse_model(text), np.random.default_rng(0)
    weights = r.integers(0, 256, (16, channels, 3, 3)).astype(np.uint8)
    none = np.array([0, spread] * 8, np.uint8)
    model.graph.initializer.append(numpy_helper.from_array(weights, "k"))
    model.graph.initializer.append(numpy_helper.from_array(none, "none"))
    x = r.integers(0, 256, (1, 24, 5, channels)).astype(np.uint8)
    moved = np.pad(x.astype(np.int64) - 7, [(0, 0), (9, 9), (0, 0), (0, 0)])
    wanted = np.zeros((1, 24, 3, 16), np.int64)
    for i, j in np.ndindex(3, 3):
        seen = moved[:, 9 * i : 9 * i + 24, j : j + 3]
        wanted += seen @ (weights[:, :, i, j].astype(np.int64) - none[:, None]).T
    (found,) = bessemer.compile(model).run([x])
    np.testing.assert_array_equal(found, wanted.transpose(0, 3, 1, 2))


def test_regions_may_see_one_tap_of_the_innermost_axis() -> None:
    """Of one channel, that tap is no axis: the taps along the other axis are apart all the same."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (uint8[1, 1, 15, 15] x) => (int32[1, 3, 15, 15] y) {
            y = ConvInteger<dilations = [12, 12], pads = [12, 12, 12, 12]>(x, k)
        }"""
    model, r = onnx.parser.parse_model(text), np.random.default_rng(0)
    weights = r.integers(-128, 128, (3, 1, 3, 3)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(weights, "k"))
    x = r.integers(0, 256, (1, 1, 15, 15)).astype(np.uint8)
    (theirs,) = expected(model, {"x": x})
    np.testing.assert_array_equal(bessemer.compile(model).run([x])[0], theirs)


@pytest.mark.parametrize("groups", [1, 16])
def test_sums_return_to_planes_as_bytes(groups: int) -> None:
    """A convolution's kernel stores bytes, which another one moves."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (uint8[1, 16, 12, 12] x) => (uint8[1, 16, 10, 10] y)
        <float s = {{0.5}}, uint8 zero = {{131}}, int8 none = {{0}}> {{
            y = QLinearConv<group = {groups}>(x, s, zero, k, s, none, s, zero)
        }}"""
    model, r = onnx.parser.parse_model(text), np.random.default_rng(0)
    weights = r.integers(-128, 128, (16, 16 // groups, 3, 3)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(weights, "k"))
    steps = planned(read_onnx(model)).program.steps
    (kernel,) = [
        step.kernel
        for step in steps
        if isinstance(step, Launch) and step.kernel.name.startswith("conv")
    ]
    assert kernel.buffers[-1].dtype is u8


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [
        ((1, 16, 5, 6), (32, 1, 3, 3)),
        ((1, 64, 4, 5, 6), (64, 4, 3, 3, 3)),
        ((1, 80, 5, 6), (64, 5, 3, 3)),
    ],
)
def test_groups_of_few_outputs_are_computed_as_depthwise_ones(
    shape: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=16)
    model = node_model(node, [("x", floats(*shape))], 17, [("w", floats(*kernel))])
    decisions = planned(read_onnx(model)).program.decisions
    assert any(one.signature.startswith("depthwise") for one in decisions)


@pytest.mark.parametrize(("channels", "is_ordered"), [(16, True), (8, False)])
def test_channels_that_one_output_adds_up_are_put_in_order(channels: int, is_ordered: bool) -> None:
    x, w = floats(1, channels, 9, 9), floats(1, channels, 3, 3)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])
    program = planned(read_onnx(node_model(node, [("x", x)], 17, [("w", w)]))).program
    (launch,) = [
        step
        for step in program.steps
        if isinstance(step, Launch) and step.kernel.name.startswith("conv")
    ]
    assert (launch.values[0] not in program.inputs) == is_ordered


def test_an_image_is_padded_as_bytes_where_dividing_it_costs() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 16, 7, 7] x) => (float[1, 8, 7, 7] y)
        <float s = {0.3}, uint8 zero = {131}, int8 none = {0}> {
            b = QuantizeLinear(x, s, zero)
            q = QLinearConv<pads = [1, 1, 1, 1]>(b, s, zero, k, s, none, s, zero)
            y = DequantizeLinear(q, s, zero)
        }"""
    model, r = onnx.parser.parse_model(text), np.random.default_rng(0)
    weights = r.integers(-128, 128, (8, 16, 3, 3)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(weights, "k"))
    steps = planned(read_onnx(model)).program.steps
    first = next(step.kernel for step in steps if isinstance(step, Launch))
    assert first.buffers[-1].dtype is u8


def test_vectors_of_a_depthwise_convolution_are_neighbours_in_memory() -> None:
    """Channels in planes are transposed by a kernel of their own, not gathered by every tap."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4, group=32)
    x, w = floats(1, 32, 12, 12), floats(32, 1, 3, 3)
    model = node_model(node, [("x", x)], 17, [("w", w)])
    program = planned(read_onnx(model)).program
    (launch,) = [
        step
        for step in program.steps
        if isinstance(step, Launch) and step.kernel.name.startswith("conv")
    ]
    assert launch.values[0] not in program.inputs
