"""Tensor maps: 128 bytes that describe a tensor to the copy engine (TMA), made once per shape."""

from __future__ import annotations

from collections.abc import Mapping

from bessemer.runtime.cuda.artifact import TensorMap
from bessemer.runtime.cuda.driver import Driver, Element, Im2colMap, Swizzle, TiledMap
from bessemer.runtime.shapes import evaluate, evaluate_shape

ELEMENTS = {
    "float32": Element.F32,
    "float16": Element.F16,
    "bfloat16": Element.BF16,
    "float64": Element.F64,
    "uint8": Element.U8,
    "int8": Element.U8,
    "int32": Element.S32,
}
SWIZZLES = {
    0: Swizzle.NONE,
    32: Swizzle.BYTES_32,
    64: Swizzle.BYTES_64,
    128: Swizzle.BYTES_128,
}


def encode(driver: Driver, plan: TensorMap, buffer: int, symbols: Mapping[str, int]) -> bytes:
    """The tensor map of a buffer that begins at this address, for these values of the symbols."""
    address = buffer + evaluate(plan.offset, symbols)
    sizes = evaluate_shape(plan.shape, symbols)
    strides = evaluate_shape(plan.strides, symbols)
    element, swizzle = ELEMENTS[plan.dtype], SWIZZLES[plan.swizzle]
    walk = plan.windows
    if walk is None:
        steps = (1,) * len(sizes)
        return driver.encode_tiled(
            TiledMap(address, element, sizes, strides, plan.box, steps, swizzle)
        )
    steps = (1, *walk.steps, 1)
    return driver.encode_im2col(
        Im2colMap(
            address,
            element,
            sizes,
            strides,
            walk.lower,
            walk.upper,
            walk.channels,
            walk.pixels,
            steps,
            swizzle,
        )
    )
