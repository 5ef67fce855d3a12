"""ImageDecoder: encoded pictures become pixels before a run, by Pillow (the extra `images`)."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bessemer.runtime.arrays import Array
from bessemer.runtime.errors import InputError

_MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}
"""Pillow's names of the pixel formats of ONNX."""
PIXEL_FORMATS = tuple(_MODES)


def decode_image(inputs: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
    """u8 of height x width x channels, out of the bytes of a file in a format that Pillow reads.

    Raises ValueError for bytes that are no picture, and InputError where Pillow is missing.
    """
    try:
        pillow: Any = importlib.import_module("PIL.Image")
    except ImportError:
        raise InputError("Pictures are read by Pillow: pip install 'bessemer[images]'.") from None
    try:
        with pillow.open(io.BytesIO(inputs[0].tobytes())) as picture:
            pixels = np.asarray(picture.convert(_MODES[attributes["pixel_format"]]))
    except (OSError, SyntaxError) as error:  # what Pillow raises for files that are cut or broken
        raise ValueError(f"the bytes are no picture that Pillow can read ({error})") from None
    if attributes["pixel_format"] == "BGR":
        pixels = pixels[:, :, ::-1]
    return [np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1))]
