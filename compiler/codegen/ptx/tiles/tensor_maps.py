"""The tensor maps of a contraction's operands, and the copies of boxes by them (TMA)."""

from __future__ import annotations

from dataclasses import dataclass

from bessemer.compiler.codegen.ptx.device_state import DeviceState
from bessemer.compiler.codegen.ptx.emitter import Emitter, size_word
from bessemer.compiler.codegen.ptx.kernel_code import TensorMapPlan, WindowMap
from bessemer.compiler.codegen.ptx.words import Word, wide
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import Contract
from bessemer.compiler.ir.operands import Operand, Window
from bessemer.compiler.ir.tensor_boxes import BOX_BYTES, Boxes, Images, boxes_of, corners
from bessemer.compiler.ir.types import boolean

_COPY = "llvm.nvvm.cp.async.bulk.tensor.g2s"


@dataclass(frozen=True)
class Place:
    """The coordinates at which a tile's box begins: the row, or the image and corner of the first
    window; and the batch indices."""

    row: tuple[Word, ...]
    batch: tuple[Word, ...]


@dataclass(frozen=True)
class BoxCopy(Emitter):
    """The copies of one operand, whose tensor map is the kernel's parameter `%map{number}`."""

    state: DeviceState
    contract: Contract
    operand: Operand
    number: int
    rows: int
    boxes: Boxes

    @property
    def box(self) -> int:
        """Elements of a box along the depth."""
        return BOX_BYTES // self.operand.buffer.dtype.bytes

    @property
    def steps_inside(self) -> Size:
        """The number of boxes along the innermost axis of the depth."""
        return -(-self.operand.depth[-1].extent // self.box)

    def plan(self) -> TensorMapPlan:
        """The tensor map that the kernel needs."""
        dtype, boxes = self.operand.buffer.dtype, self.boxes
        buffers = [buffer.name for buffer in self.state.kernel.buffers]
        position = buffers.index(self.operand.buffer.name)
        if boxes.images is not None:
            images = boxes.images
            n, height, width, channels = images.shape
            strides = tuple(stride * dtype.bytes for stride in reversed(images.strides))
            windows = _window_map(self.operand, images, self.box, self.rows)
            return TensorMapPlan(
                buffer=position,
                dtype=dtype,
                offset=images.base,
                shape=(channels, width, height, n),
                strides=strides,
                box=(),
                swizzle=BOX_BYTES,
                windows=windows,
            )
        shape = tuple(axis.extent for axis in boxes.axes)
        strides = tuple(axis.stride * dtype.bytes for axis in boxes.axes[1:])
        box = [1] * len(shape)
        box[0], box[boxes.outer] = self.box, self.rows
        return TensorMapPlan(position, dtype, boxes.base, shape, strides, tuple(box), BOX_BYTES)

    def place(self, begin: Word, batch: tuple[Word, ...]) -> Place:
        """The coordinates of the tile that begins at this row."""
        words, images = self.words, self.boxes.images
        if images is None:
            return Place((words.resized(begin),), batch)
        row = words.resized(begin)
        _, high, across = self.operand.outer
        count_high, count_wide = self._number(high.extent), self._number(across.extent)
        rest, q = words.div(row, count_wide), words.rem(row, count_wide)
        n, p = words.div(rest, count_high), words.rem(rest, count_high)
        corner = [
            words.sub(words.mul(index, window.step), window.low)
            for index, window in zip((p, q), images.window, strict=True)
        ]
        return Place((n, *corner), batch)

    def copy(self, place: Place, step: Word, target: str, barrier: str, part: int = 0) -> None:
        """Starts the copy of the box at a step of the depth to shared memory; of one part, if
        elements have several.

        `target` and `barrier` are typed addresses in shared memory.
        """
        words = self.words
        inside = words.resized(_value(self.state, self.steps_inside))
        first = words.mul(words.rem(step, inside), self.box)
        outer = words.div(step, inside)
        extents = [self._number(axis.extent) for axis in self.operand.depth[:-1]]
        at: list[Word] = []
        for extent in reversed(extents[1:]):
            at.append(words.rem(outer, extent))
            outer = words.div(outer, extent)
        if extents:
            at.append(outer)
        if self.boxes.images is None:
            self._tile(place, [first, *at], target, barrier, part)
        else:
            images = self._number(self.operand.outer[0].extent)
            image = words.add(place.row[0], words.mul(images, part))
            moved = Place((image, *place.row[1:]), place.batch)
            self._windows(moved, first, at, target, barrier)

    def _tile(self, place: Place, depth: list[Word], target: str, barrier: str, part: int) -> None:
        coordinates: list[Word] = [*depth, *place.row]
        for index, position in zip(place.batch, self.boxes.batch, strict=True):
            if position is not None:
                coordinates.append(self.words.resized(index))
        if self.boxes.parts is not None:
            coordinates.append(part)
        texts = [self.words.value(number).typed for number in coordinates]
        self._call(f"tile.{len(texts)}d", texts, [], target, barrier)

    def _windows(
        self, place: Place, channel: Word, kernel: list[Word], target: str, barrier: str
    ) -> None:
        words, images = self.words, self.boxes.images
        assert images is not None
        n, high, across = place.row
        if place.batch:
            group = words.mul(
                words.resized(place.batch[0]), self._number(self.operand.batch[0].stride)
            )
            channel = words.add(channel, group)
        texts = [words.value(number).typed for number in (channel, across, high, n)]
        offsets = [
            self._short(words.mul(index, window.dilation))
            for index, window in zip(kernel, reversed(images.window), strict=True)
        ]
        self._call("im2col.4d", texts, offsets, target, barrier)

    def _short(self, number: Word) -> str:
        if isinstance(number, int):
            return f"i16 {number}"
        text = f"trunc {number.typed} to i16"
        return f"i16 {self.state.writer.compute(text, boolean, 1, number.level).text}"

    def _call(
        self, form: str, coordinates: list[str], offsets: list[str], target: str, barrier: str
    ) -> None:
        w, name = self.state.writer, f"{_COPY}.{form}"
        generic = w.here(f"addrspacecast {target} to ptr", boolean)
        cluster = w.here(f"addrspacecast ptr {generic.text} to ptr addrspace(7)", boolean)
        head = ["ptr addrspace(7)", "ptr addrspace(3)", "ptr"]
        tail = ["i16", "i64", "i1", "i1", "i32"]
        types = [*head, *["i32"] * len(coordinates), *["i16"] * len(offsets), *tail]
        w.declarations.add(f"declare void @{name}({', '.join(types)})")
        arguments = [
            f"ptr addrspace(7) {cluster.text}",
            barrier,
            f"ptr %map{self.number}",
            *coordinates,
            *offsets,
            *("i16 0", "i64 0", "i1 0", "i1 0", "i32 0"),
        ]
        w.line(f"call void @{name}({', '.join(arguments)})")

    def _number(self, size: Size) -> Word:
        return self.words.resized(_value(self.state, size))


def box_copies(state: DeviceState, contract: Contract) -> tuple[BoxCopy, BoxCopy]:
    """The copies of both operands. Raises InternalError if one of them is not a tensor that boxes
    can be cut from."""
    found = []
    sides = ((contract.left, contract.tile.rows), (contract.right, contract.tile.columns))
    for number, (operand, rows) in enumerate(sides):
        boxes = boxes_of(operand)
        if boxes is None:
            raise InternalError(f"{operand.buffer.name} is not a tensor that is copied by boxes")
        found.append(BoxCopy(state, contract, operand, number, rows, boxes))
    return found[0], found[1]


def _window_map(operand: Operand, images: Images, channels: int, pixels: int) -> WindowMap:
    ends = [
        corners(window, _known(operand.outer[window.outer].extent))
        for window in reversed(images.window)
    ]
    return WindowMap(
        tuple(lower for lower, _ in ends),
        tuple(upper for _, upper in ends),
        channels,
        pixels,
        tuple(_step(window) for window in reversed(images.window)),
    )


def _step(window: Window) -> int:
    return window.step


def _known(size: Size) -> int:
    if not isinstance(size, int):
        raise InternalError(f"windows whose number is {size}")
    return size


def _value(state: DeviceState, size: Size) -> Word:
    return wide(state.writer).resized(size_word(state, size))
