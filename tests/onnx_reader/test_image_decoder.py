"""ImageDecoder on files that are written by hand, whose pixels are known without a decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import bessemer

_PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
_FILE = np.frombuffer(b"P6 3 2 255\n" + _PIXELS.tobytes(), np.uint8)
"""A portable pixmap: its size, and the pixels as they are."""


def _model(**attributes: Any) -> onnx.ModelProto:
    nodes = [
        helper.make_node("ImageDecoder", ["file"], ["pixels"], "decoder", **attributes),
        helper.make_node("Cast", ["pixels"], ["y"], to=TensorProto.FLOAT),
    ]
    file = helper.make_tensor_value_info("file", TensorProto.UINT8, ["bytes"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "decoding", [file], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, _PIXELS),
        ({"pixel_format": "BGR"}, _PIXELS[:, :, ::-1]),
        # ITU-R 601's luma, rounded.
        ({"pixel_format": "Grayscale"}, np.round(_PIXELS @ [0.299, 0.587, 0.114])[:, :, None]),
    ],
)
def test_pictures_are_decoded(attributes: dict[str, str], expected: np.ndarray[Any, Any]) -> None:
    (found,) = bessemer.compile(_model(**attributes)).run({"file": _FILE})
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_grey_pictures_become_coloured() -> None:
    file = np.frombuffer(b"P5 3 2 255\n" + bytes(range(6)), np.uint8)
    (found,) = bessemer.compile(_model()).run({"file": file})
    np.testing.assert_array_equal(found, np.arange(6.0).reshape(2, 3, 1).repeat(3, 2))


def test_bytes_that_are_no_picture_are_an_error_that_names_the_node() -> None:
    model = bessemer.compile(_model())
    with pytest.raises(bessemer.InputError, match=r"decoder.*no picture that Pillow can read"):
        model.run({"file": np.zeros(10, np.uint8)})


def test_formats_that_do_not_exist_are_refused() -> None:
    with pytest.raises(bessemer.CompileError, match="pixel_format is 'CMYK'"):
        bessemer.compile(_model(pixel_format="CMYK"))
