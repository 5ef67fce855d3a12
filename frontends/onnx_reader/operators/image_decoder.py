"""ImageDecoder: the pixels of an encoded picture, which the runtime decodes before a run."""

from __future__ import annotations

from bessemer.compiler.ir.types import u8
from bessemer.frontends.onnx_reader.context import NodeContext
from bessemer.frontends.onnx_reader.items import Item
from bessemer.frontends.onnx_reader.registry import rule
from bessemer.frontends.onnx_reader.strings import made_before
from bessemer.runtime.images import PIXEL_FORMATS


@rule("ImageDecoder")
def read_image_decoder(context: NodeContext) -> list[Item]:
    pixel_format = context.text("pixel_format", "RGB")
    if pixel_format not in PIXEL_FORMATS:
        context.wrong(f"pixel_format is {pixel_format!r}, not one of {', '.join(PIXEL_FORMATS)}")
    channels = 1 if pixel_format == "Grayscale" else 3
    return made_before(
        context, "decode_image", [(u8, (None, None, channels))], pixel_format=pixel_format
    )
