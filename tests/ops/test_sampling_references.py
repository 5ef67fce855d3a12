"""resize, grid_sample and what else reads between elements mean what ONNX means; random numbers
are those of the generator that is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bessemer.compiler.ir.op import OPS
from bessemer.compiler.ir.types import Array
from bessemer.compiler.ops.image.resize_position import COORDINATES, ROUNDINGS
from bessemer.compiler.ops.random import philox_reference
from tests.onnx_nodes import run_node

SMALL = np.random.default_rng(3).standard_normal((1, 2, 4, 5)).astype(np.float32)
CROP = "tf_crop_and_resize"
STANDARD = [name for name in COORDINATES if name != "tf_half_pixel_for_nn"]
"""The evaluator has no such; against onnxruntime it is in test_onnx_real_models."""
ROI = (0.0, 0.0, 0.375, 0.625, 1.0, 1.0, 0.625, 1.25)


def resized(theirs: Array, attributes: dict[str, Any], **has: Any) -> None:
    """Ours against the `onnx` package's evaluator, whose resize follows the standard's text."""
    known = "scales" in has
    scales = np.array(has.pop("scales", []), np.float32)
    sizes = None if known else np.array(has.pop("sizes"))
    roi = np.array(ROI, np.float32) if has.get("coordinate_transformation_mode") == CROP else None
    inputs = [theirs, roi, scales if known else None, sizes]
    (expected,) = run_node("Resize", inputs, evaluator=True, **has)
    if known:
        attributes["scales"] = tuple(scales.tolist())
    (ours,) = OPS["resize"].compute([theirs], {"shape": expected.shape, **attributes})
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("coordinate", STANDARD)
@pytest.mark.parametrize("nearest", ROUNDINGS)
@pytest.mark.parametrize("sizes", [(1, 2, 8, 15), (1, 2, 7, 3)])
def test_resize_to_the_nearest(coordinate: str, nearest: str, sizes: tuple[int, ...]) -> None:
    attributes = {"coordinate": coordinate, "nearest": nearest, "extrapolation": 9.0}
    if coordinate == CROP:
        attributes["roi"] = ROI
    resized(
        SMALL,
        attributes,
        sizes=sizes,
        mode="nearest",
        coordinate_transformation_mode=coordinate,
        nearest_mode=nearest,
        extrapolation_value=9.0,
    )


def test_of_no_images_none_are_resized() -> None:
    none = np.zeros((0, 4), np.float32)
    (found,) = OPS["resize"].compute([none], {"shape": (0, 8), "scales": (1.0, 2.0)})
    assert found.shape == (0, 8) and found.dtype == np.float32


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinate", STANDARD)
@pytest.mark.parametrize("exclude_outside", [False, True])
@pytest.mark.parametrize(
    "given", [{"sizes": (1, 2, 7, 3)}, {"scales": (1, 1, 0.6, 1.7)}, {"scales": (1, 1, 2, 1)}]
)
def test_resize_between_elements(
    mode: str, coordinate: str, exclude_outside: bool, given: dict[str, Any]
) -> None:
    attributes = {
        "mode": mode,
        "coordinate": coordinate,
        "exclude_outside": exclude_outside,
        "extrapolation": 9.0,
    }
    if coordinate == CROP:
        attributes["roi"] = ROI
    resized(
        SMALL,
        attributes,
        mode=mode,
        coordinate_transformation_mode=coordinate,
        exclude_outside=int(exclude_outside),
        extrapolation_value=9.0,
        **given,
    )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude_outside", [False, True])
@pytest.mark.parametrize("given", [{"sizes": (1, 2, 3, 2)}, {"scales": (1, 1, 0.6, 0.3)}])
def test_resize_without_aliasing(mode: str, exclude_outside: bool, given: dict[str, Any]) -> None:
    attributes = {
        "mode": mode, "antialias": True, "exclude_outside": exclude_outside, "cubic_a": -0.5,
    }  # fmt: skip
    resized(
        SMALL,
        attributes,
        mode=mode,
        antialias=1,
        exclude_outside=int(exclude_outside),
        cubic_coeff_a=-0.5,
        **given,
    )


def last_to_second(x: Array) -> Array:
    return np.moveaxis(x, -1, 1)


@pytest.mark.parametrize(
    "mode,rank",
    # ONNX Runtime has cubic in two dimensions only.
    [("nearest", 2), ("linear", 2), ("cubic", 2), ("nearest", 3), ("linear", 3)],
)
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [False, True])
def test_grid_sample(
    rng: np.random.Generator, mode: str, padding: str, align: bool, rank: int
) -> None:
    x = rng.standard_normal((2, *(5, 4, 3)[:rank], 2)).astype(np.float32)
    grid = rng.uniform(-1.6, 1.6, (2, *(6, 3, 2)[:rank], rank)).astype(np.float32)
    (ours,) = OPS["grid_sample"].compute(
        [x, grid], {"mode": mode, "padding": padding, "align_corners": align}
    )
    (theirs,) = run_node(
        "GridSample",
        [last_to_second(x), grid],
        mode=mode,
        padding_mode=padding,
        align_corners=int(align),
    )
    np.testing.assert_allclose(last_to_second(ours), theirs, rtol=1e-4, atol=1e-4)


BOXES = np.array([[0.5, 1, 4.2, 5.9], [-3, -2, 2, 9], [1.1, 0.3, 3.4, 1.2]], np.float32)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("half_pixel", [False, True])
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align(rng: np.random.Generator, mode: str, half_pixel: bool, samples: int) -> None:
    x = rng.standard_normal((2, 7, 5, 3)).astype(np.float32)
    images = np.array([1, 0, 1])
    (ours,) = OPS["roi_align"].compute(
        [x, BOXES, images],
        {
            "shape": (3, 2),
            "samples": samples,
            "scale": 0.75,
            "mode": mode,
            "half_pixel": half_pixel,
        },
    )
    (theirs,) = run_node(
        "RoiAlign",
        [last_to_second(x), BOXES, images],
        output_height=3,
        output_width=2,
        sampling_ratio=samples,
        spatial_scale=0.75,
        mode=mode,
        coordinate_transformation_mode="half_pixel" if half_pixel else "output_half_pixel",
    )
    np.testing.assert_allclose(last_to_second(ours), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_max_roi_pool(rng: np.random.Generator, scale: float) -> None:
    x = rng.standard_normal((2, 7, 5, 3)).astype(np.float32)
    boxes = np.array([[1, 0, 0, 4, 6], [0, 1.5, 2.5, 3, 3], [0, 3, 2, 9, 9]], np.float32)
    (ours,) = OPS["max_roi_pool"].compute([x, boxes], {"shape": (3, 2), "scale": scale})
    (theirs,) = run_node(
        "MaxRoiPool", [last_to_second(x), boxes], pooled_shape=[3, 2], spatial_scale=scale
    )
    np.testing.assert_allclose(last_to_second(ours), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_deform_conv(rng: np.random.Generator, masked: bool) -> None:
    x = rng.standard_normal((2, 6, 5, 4)).astype(np.float32)
    w = rng.standard_normal((3, 2, 2, 6)).astype(np.float32)
    offsets = rng.standard_normal((2, 3, 3, 2 * 6 * 2)).astype(np.float32)
    mask = rng.random((2, 3, 3, 2 * 6)).astype(np.float32)
    attributes = {
        "strides": (2, 2),
        "dilations": (1, 1),
        "low": (1, 1),
        "high": (0, 0),
        "groups": 2,
        "offset_groups": 2,
    }
    (ours,) = OPS["deform_conv"].compute([x, w, offsets, *[mask] * masked], attributes)
    (theirs,) = run_node(
        "DeformConv",
        [
            last_to_second(x),
            w.transpose(3, 2, 0, 1),
            last_to_second(offsets),
            None,
            last_to_second(mask) if masked else None,
        ],
        evaluator=True,
        strides=[2, 2],
        pads=[1, 1, 0, 0],
        group=2,
        offset_group=2,
        kernel_shape=[3, 2],
    )
    np.testing.assert_allclose(last_to_second(ours), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride,dilation,pad", [(1, 1, 0), (2, 1, 0), (1, 2, 1), (2, 1, 1)])
def test_col2im(rng: np.random.Generator, stride: int, dilation: int, pad: int) -> None:
    image, kernel = np.array([6, 7]), np.array([2, 3])
    blocks = (image + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
    columns = rng.standard_normal((2, 3 * 6, int(np.prod(blocks)))).astype(np.float32)
    unfolded = columns.reshape(2, 3, *kernel, *blocks).transpose(0, 4, 5, 2, 3, 1)
    attributes = {
        "image": (6, 7), "strides": (stride,) * 2, "dilations": (dilation,) * 2, "low": (pad,) * 2,
    }  # fmt: skip
    (ours,) = OPS["col2im"].compute([np.ascontiguousarray(unfolded)], attributes)
    (theirs,) = run_node(
        "Col2Im",
        [columns, image, kernel],
        strides=[stride] * 2,
        dilations=[dilation] * 2,
        pads=[pad] * 4,
    )
    np.testing.assert_allclose(last_to_second(ours), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "counter,seed,expected",
    [
        ("00000000 00000000 00000000 00000000", 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", -1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_words_that_its_authors_give(
    counter: str, seed: int, expected: str
) -> None:
    words = np.array([int(word, 16) for word in counter.split()], np.uint64)
    assert philox_reference(words, seed).tolist() == [int(word, 16) for word in expected.split()]


def test_uniform_numbers_are_uniform() -> None:
    (x,) = OPS["uniform"].compute([], {"shape": (100_000,), "seed": 5})
    assert x.min() >= 0 and x.max() < 1
    counts, _ = np.histogram(x, 16, (0, 1))
    assert np.abs(counts / 6250 - 1).max() < 0.05  # four standard deviations


def test_normal_numbers_are_normal() -> None:
    (x,) = OPS["normal"].compute([], {"shape": (100_000,), "seed": 5, "mean": 2.0, "scale": 3.0})
    standard = (x.astype(np.float64) - 2) / 3
    moments = [np.mean(standard**power) for power in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.06)


def test_seeds_steps_and_places_give_other_numbers() -> None:
    def draw(seed: int, step: int) -> Array:
        (x,) = OPS["uniform"].compute([np.array(step)], {"shape": (50,), "seed": seed})
        return x

    numbers = np.stack([draw(0, 0), draw(1, 0), draw(0, 1), draw(2**32, 0), draw(0, 2**32)])
    assert len(np.unique(numbers)) == numbers.size
