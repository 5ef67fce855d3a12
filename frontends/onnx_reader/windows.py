"""Kernels, strides, pads: what convolutions and pools say alike in ONNX."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.frontends.onnx_reader.context import NodeContext


@dataclass(frozen=True)
class Window:
    """One entry a spatial axis each. `uncounted` is what ceil_mode has added to `high`."""

    kernel: tuple[Size, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    low: tuple[Size, ...]
    high: tuple[Size, ...]
    uncounted: tuple[Size, ...]

    @property
    def steps(self) -> dict[str, Any]:
        """The attributes of an operator whose kernel is the shape of its weights."""
        return {
            "strides": self.strides,
            "dilations": self.dilations,
            "low": self.low,
            "high": self.high,
        }

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of a pooling operator."""
        return {"kernel": self.kernel, **self.steps}

    @property
    def single(self) -> int:
        """How many axes in front have windows of one element, and no padding."""
        axes = zip(self.kernel, self.low, self.high, strict=True)
        return next((at for at, axis in enumerate(axes) if axis != (1, 0, 0)), len(self.kernel))

    def behind(self, count: int) -> Window:
        """The window over all axes but so many in front."""
        return Window(*(getattr(self, field.name)[count:] for field in fields(self)))


def read_window(
    context: NodeContext, spatial: tuple[Size, ...], kernel: tuple[Size, ...]
) -> Window:
    """The node's window over axes of the given sizes."""
    rank = len(spatial)
    strides = context.integers("strides", (1,) * rank)
    dilations = context.integers("dilations", (1,) * rank)
    pads: tuple[Size, ...] = context.integers("pads", (0,) * 2 * rank)
    entries = (kernel, strides, dilations)
    if any(len(entry) != rank for entry in entries) or len(pads) != 2 * rank:
        context.wrong(f"kernel, strides, dilations and pads do not all fit {rank} spatial axes")
    if any(step < 1 for step in (*strides, *dilations)):
        context.wrong(f"strides {list(strides)} and dilations {list(dilations)} must be positive")
    if any(isinstance(size, int) and size < 1 for size in kernel):
        context.wrong(f"the kernel {list(kernel)} must be positive")
    low, high = pads[:rank], pads[rank:]
    automatic = context.text("auto_pad", "NOTSET")
    match automatic:
        case "NOTSET" | "":
            pass
        case "VALID":
            low = high = (0,) * rank
        case "SAME_UPPER" | "SAME_LOWER":
            low, high = _same(spatial, kernel, strides, dilations, automatic == "SAME_LOWER")
        case _:
            context.wrong(f"auto_pad is {automatic!r}")
    extra: tuple[Size, ...] = (0,) * rank
    if context.attributes.get("ceil_mode", 0) and automatic in ("NOTSET", "", "VALID"):
        extra = tuple(
            _ceiling(size, k, s, d, a, b)
            for size, k, s, d, a, b in zip(spatial, kernel, strides, dilations, low, high)
        )
    high = tuple(after + more for after, more in zip(high, extra))
    return Window(kernel, strides, dilations, low, high, extra)


def _same(
    spatial: tuple[Size, ...],
    kernel: tuple[Size, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    lower: bool,
) -> tuple[tuple[Size, ...], tuple[Size, ...]]:
    """Pads that give ceil(size / stride) outputs; the odd one goes to the end, or the start."""
    low: list[Size] = []
    high: list[Size] = []
    for size, k, stride, dilation in zip(spatial, kernel, strides, dilations):
        reach = (k - 1) * dilation
        if stride == 1:
            total = reach
        else:
            total = (dims.ceildiv(size, stride) - 1) * stride + reach + 1 - size
            if not dims.is_nonnegative(total):
                total = dims.maximum(total, 0)
        half = dims.floordiv(total, 2)
        low.append(total - half if lower else half)
        high.append(half if lower else total - half)
    return tuple(low), tuple(high)


def _ceiling(size: Size, kernel: Size, stride: int, dilation: int, low: Size, high: Size) -> Size:
    """What has to be added at the end for the last, partial window.

    A window that would start in the pads at the end is not made.
    """
    room = size + low + high - (kernel - 1) * dilation - 1
    count = dims.ceildiv(room, stride) + 1
    # The last window starts at (count - 1) * stride - low, which must be inside the input.
    most = dims.floordiv(size + low - 1, stride) + 1
    count = dims.minimum(count, most)
    extra = (count - 1) * stride - room
    return extra if dims.is_nonnegative(extra) else dims.maximum(extra, 0)
