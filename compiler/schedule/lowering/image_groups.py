"""Lowers groups around convolutions that are computed by Winograd's method.

`ImageGroup` describes a convolution by the rows and columns of images. depthwise_group.py uses it
for depthwise convolutions, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from math import inf
from typing import TypeAlias

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size, atom, coefficient_of, product
from bessemer.compiler.ir.expr import Buffer, Expression, Index, Load
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import Store
from bessemer.compiler.ir.program import Launch
from bessemer.compiler.ir.ravel import broadcast_index
from bessemer.compiler.ir.types import Array, TensorType, bf16, f32
from bessemer.compiler.schedule.contraction.packing import pack, packed_shape
from bessemer.compiler.schedule.convolution import winograd_cost, winograd_tiles
from bessemer.compiler.schedule.convolution.depthwise_plan import Planes
from bessemer.compiler.schedule.convolution.winograd import (
    Stages,
    lower_winograd,
    winograd_tiling,
)
from bessemer.compiler.schedule.convolution.winograd_cost import is_profitable
from bessemer.compiler.schedule.convolution.winograd_taps import Taps
from bessemer.compiler.schedule.convolution.winograd_weights import (
    WeightTransform,
    lower_weight_transform,
    transform_weights,
)
from bessemer.compiler.schedule.convolution.winograd_work import Winograd
from bessemer.compiler.schedule.grouping.fuse import Fusion, index_symbols
from bessemer.compiler.schedule.grouping.groups import Group, Grouping, in_order
from bessemer.compiler.schedule.grouping.kinds import is_widening
from bessemer.compiler.schedule.grouping.views import has_neighbours_last
from bessemer.compiler.schedule.lowering.lower_statements import resolve_lanes
from bessemer.compiler.schedule.lowering.lowering import Computation, Lowering, flat_buffers
from bessemer.compiler.schedule.nests.nests import flat, flatten_loads
from bessemer.compiler.schedule.nests.streaming_stores import with_streaming_stores
from bessemer.compiler.targets.machine import Target

Pixel: TypeAlias = Callable[[Size, Size, Size, Size], Expression]
Epilogue: TypeAlias = Callable[[tuple[Size, Size, Size], Size, Expression], tuple[Store, ...]]


_SOON = 3
"""Transformed weights of at least 1/3 of the last-level cache are written by streaming stores,
although they are read next: 512 x 512 take 8.0 ms with their products instead of 11.2, but 256 x
256 4.4 instead of 4.3."""


class ImageGroup:
    """A group around a convolution: its input by pixels, and what is done with its sums.

    An input with one spatial axis counts as an image of one row, an input with three as a volume
    whose planes are images.
    """

    def __init__(self, group: Group, grouping: Grouping, lowering: Lowering) -> None:
        assert group.anchor is not None and group.root is not None
        self.anchor, self.root = group.anchor, group.root
        self.nodes = in_order(group)
        self.lowering = lowering
        self.fusion = Fusion.of(self.nodes, lowering.constants)
        self.left, self.right = self.anchor.inputs
        views = _widened_views(self.left, grouping)
        self._input = Fusion(views, lowering.constants, buffers=self.fusion.buffers)
        self.out = lowering.destination(self.root)
        self.is_line = self.left.type.rank == 3
        self.is_volume = self.left.type.rank == 5

    def copy(self) -> ImageGroup:
        """The same group with buffers of its own."""
        other = copy(self)
        other.fusion = self.fusion.copy()
        other._input = self._input.copy(other.fusion.buffers)
        return other

    def padded(self, attribute: str, line: int) -> tuple[int, int]:
        """A pair of integers of the node, for rows and columns, with `line` for the rows of a
        signal."""
        values = self.anchor.attributes[attribute]
        return (line, values[0]) if self.is_line else (values[-2], values[-1])

    @property
    def sizes(self) -> tuple[Size, Size, Size]:
        """The images, rows and columns of the result."""
        *images, rows, columns, _ = (1, *self.anchor.output.type.shape)
        if self.is_line:
            return rows, 1, columns
        return product(images), rows, columns

    @property
    def input_sizes(self) -> tuple[Size, Size]:
        """Rows and columns of the input."""
        *_, rows, columns, _ = self.left.type.shape
        return (1 if self.is_line else rows), columns

    @property
    def padded_inputs(self) -> tuple[Size | None, Size | None]:
        """The rows and columns of the input; None along axes where every window lies inside."""
        rows, columns = (
            None if low == 0 and high == 0 else size
            for low, high, size in zip(
                self.padded("low", 0), self.padded("high", 0), self.input_sizes
            )
        )
        return rows, columns

    def pixel(self) -> Pixel:
        """A function that gives an element of the input."""

        def element(n: Size, row: Size, column: Size, channel: Size) -> Expression:
            index = self._index((n, row, column), channel, self.left.type.shape)
            return flatten_loads(self._input.element(self.left, index))

        return element

    def _index(
        self, pixel: tuple[Size, Size, Size], channel: Size, shape: tuple[Size, ...]
    ) -> Index:
        image, row, column = pixel
        index: Index = (image, row, column, channel)
        if self.is_line:
            index = (image, column, channel)
        elif self.is_volume:
            planes = shape[1]
            index = (dims.floordiv(image, planes), dims.mod(image, planes), row, column, channel)
        # An axis of one element may still be padded: only its index inside is 0.
        return broadcast_index(index, shape)

    def epilogue(
        self, pixel: tuple[Size, Size, Size], channel: Size, total: Expression
    ) -> tuple[Store, ...]:
        """The stores of one element, given its sum."""
        index = self._index(pixel, channel, self.root.type.shape)
        value = total
        if self.root is not self.anchor.output:
            given = self.fusion.given({self.anchor.output: lambda _: total})
            value = flatten_loads(given.element(self.root, index))
        return (Store(self.out.buffer, (self.out.offset(index),), value),)


def _widened_views(value: Value, grouping: Grouping) -> dict[Value, Node]:
    """The views between a value and memory, including a conversion from 16-bit floats."""
    chain = grouping.views(value)
    base = value
    while base in chain:
        base = chain[base].inputs[0]
    node = grouping.producers.get(base)
    if node is None or base in grouping.roots or not is_widening(node):
        return chain
    return {**chain, base: node, **grouping.views(node.inputs[0])}


def planes_of(convolution: Node) -> Planes:
    """The parameters of a volume's convolution along the axis of planes."""
    x, w = convolution.inputs
    taps = w.type.shape[0]
    assert isinstance(taps, int)
    stride, dilation, low = (
        convolution.attributes[name][0] for name in ("strides", "dilations", "low")
    )
    outputs = convolution.output.type.shape[1]
    return Planes(taps, stride, dilation, low, x.type.shape[1], outputs)


def lower_winograd_group(
    group: Group, grouping: Grouping, lowering: Lowering, left: float
) -> list[Launch] | None:
    """The launches of a convolution by Winograd's method; None where direct sums are faster, which
    compute only the fraction `left` of the products."""
    found = _image_and_taps(group, grouping, lowering)
    if found is None:
        return None
    (image, taps), target = found, lowering.target
    anchor, (x, w) = image.anchor, image.anchor.inputs
    kernel, is_constant = w.type.shape, w in lowering.constants
    possible = _can_transform(image, taps, is_constant, target)
    wanted = _is_faster(image, kernel, taps, grouping, left)
    if not lowering.choices.winograd(anchor, image.sizes, wanted, possible):
        return None
    pixel = image.pixel()
    pixel(0, 0, 0, 0)  # the input is the first buffer
    draft = Winograd(
        x=pixel,
        outputs=image.sizes,
        channels=dims.number(kernel[-2]),
        columns=dims.number(kernel[-1]),
        u=Buffer("u", x.type.dtype, (1,)),
        epilogue=image.epilogue,
        taps=taps,
        dtype=x.type.dtype,
        planes=planes_of(anchor) if image.is_volume else None,
    )
    panel = winograd_tiling(draft, target).panel
    draft = replace(draft, on_tiles=is_constant and _is_on_tiles(anchor, draft, lowering))
    if is_constant:
        packed, before = _transformed(w, draft, panel, lowering), list[Launch]()
    else:
        nodes = in_order(grouping.packs.get(anchor))
        packed, launch = _transform_launch(anchor, nodes, draft, panel, lowering)
        before = [launch]
    u = flat(image.fusion.buffer(packed))
    return [*before, *_launches(image, lower_winograd(replace(draft, u=u), target))]


def share_in_segments(group: Group, grouping: Grouping, lowering: Lowering) -> float:
    """The time of a convolution by Winograd's method with segments of taps (winograd_taps.py), as a
    fraction of the direct sum's on the same unit; infinite where that is not used."""
    found = _image_and_taps(group, grouping, lowering)
    if found is None or _are_threes(found[1]):
        return inf
    image, taps = found
    if not _can_transform(image, taps, image.right in lowering.constants, lowering.target):
        return inf
    *_, channels, columns = image.right.type.shape
    is_across, planes = _is_across(image, grouping), _planes_seen(image)
    return winograd_cost.share_in_segments(image.sizes, channels, columns, taps, is_across, planes)


def _image_and_taps(
    group: Group, grouping: Grouping, lowering: Lowering
) -> tuple[ImageGroup, tuple[Taps, Taps]] | None:
    """A convolution for which there may be a transform; None where there is none."""
    anchor = group.anchor
    assert anchor is not None
    kernel = anchor.inputs[1].type.shape
    plain = anchor.attributes["groups"] == 1 and {*anchor.attributes["strides"][-2:]} == {1}
    if not plain or len(kernel) not in (3, 4, 5):
        return None
    image = ImageGroup(group, grouping, lowering)
    taps = _taps(image, kernel)
    return None if taps is None or 0 in image.sizes else (image, taps)


def _is_across(image: ImageGroup, grouping: Grouping) -> bool:
    """Whether neighbouring channels of the input are not neighbours in memory."""
    return not has_neighbours_last(image.anchor.inputs[0], grouping.producers)


def _planes_seen(image: ImageGroup) -> int:
    """The planes of a volume that a window sees; 1 of an image."""
    return dims.number(image.right.type.shape[0]) if image.is_volume else 1


def _taps(image: ImageGroup, kernel: tuple[Size, ...]) -> tuple[Taps, Taps] | None:
    """The taps along rows and columns; None where their number is not known."""
    counts = (1, kernel[0]) if image.is_line else (kernel[-4], kernel[-3])
    if not all(isinstance(count, int) and count > 0 for count in counts):
        return None
    rows, columns = map(Taps, map(dims.number, counts), image.padded("dilations", 1))
    return rows, columns


def _are_threes(taps: tuple[Taps, Taps]) -> bool:
    return {taps[0].count, taps[1].count} <= {1, 3}


def _is_faster(
    image: ImageGroup,
    kernel: tuple[Size, ...],
    taps: tuple[Taps, Taps],
    grouping: Grouping,
    left: float,
) -> bool:
    """Whether the cost model expects Winograd's method to be faster than direct sums, which compute
    only the fraction `left` of the products."""
    sizes, x = (image.sizes, kernel[-2], kernel[-1]), image.anchor.inputs[0]
    planes = _planes_seen(image)
    if not _are_threes(taps):
        is_across = _is_across(image, grouping)
        share = winograd_cost.share_in_segments(*sizes, taps, is_across, planes)
        return share < winograd_cost.MOST_OF_DIRECT * left
    is_constant = image.right in image.lowering.constants
    return is_profitable(*sizes, x.type.dtype, taps, is_constant, planes, left)


def _can_transform(
    image: ImageGroup, taps: tuple[Taps, Taps], is_constant: bool, target: Target
) -> bool:
    """Whether there is code for these taps, weights and element types."""
    if not any(axis.count > 1 for axis in taps) or (image.is_volume and not is_constant):
        return False
    if not all(isinstance(size, int) for size in image.right.type.shape[-2:]):
        return False
    if not _are_threes(taps):
        return image.left.type.dtype is f32 and is_constant
    if image.left.type.dtype is bf16:
        sums_are_wide = image.anchor.output.type.dtype is f32
        return sums_are_wide and is_constant and target.has_dot_bf16 and not target.has_tiles
    return image.left.type.dtype is f32


def _transform_launch(
    anchor: Node,
    nodes: Sequence[Node],
    work: Winograd,
    panel: int,
    lowering: Lowering,
) -> tuple[Value, Launch]:
    """The launch that transforms and packs weights when the model runs, together with the nodes
    that lead to them."""
    w = anchor.inputs[1]
    fusion = Fusion.of(nodes, lowering.constants)
    is_line = w.type.rank == 3

    def weight(y: int, x: int, channel: Size, column: Size) -> Expression:
        taps = (x,) if is_line else (y, x)
        return flatten_loads(fusion.element(w, (*taps, channel, column)))

    symbols = index_symbols(w.type.shape[-2:], "weight")
    element = weight(0, 0, *map(atom, symbols))
    step = coefficient_of(element.indices[0], symbols[0]) if isinstance(element, Load) else 0
    shape = packed_shape(work.points, work.channels, work.columns, panel)
    u = Buffer("out0", f32, shape)
    transform = WeightTransform(weight, work.taps, work.channels, work.columns, u)
    body = lower_weight_transform(transform, lowering.target.lanes(f32), along_channels=step == 1)
    body = with_streaming_stores(resolve_lanes(body, lowering), u, lowering.target, _SOON)
    packed = Value(TensorType(f32, shape))
    operations = 64 * panel
    launch = lowering.launch(
        [*nodes, anchor],
        flat_buffers(fusion),
        {packed: u},
        Computation(body, operations, name="winograd_weights"),
    )
    return packed, launch


def _is_on_tiles(anchor: Node, work: Winograd, lowering: Lowering) -> bool:
    """Whether a matrix unit does the multiplications, of numbers in three parts. It does not add up
    segments."""
    target = lowering.target
    if not target.has_tiles or lowering.precision == "strict" or work.dtype is not f32:
        return False
    if work.is_in_segments:
        return False
    if not isinstance(work.count, int) or not winograd_tiles.fits(work.channels, work.columns):
        return False
    sizes = (work.points, work.count, work.depth, work.columns)
    is_faster = winograd_tiles.is_faster(*sizes, target)
    options = [{"tiles": int(is_faster)}, {"tiles": int(not is_faster)}]
    signature = f"winograd's products {'x'.join(map(str, sizes))}"
    return bool(options[lowering.choices.one_of(anchor, signature, options)]["tiles"])


def _transformed(w: Value, work: Winograd, panel: int, lowering: Lowering) -> Value:
    """The transformed and packed weight as a constant of the program, which is made once."""
    sizes = work.matrices, work.depth, work.columns
    group = 1 if work.dtype is f32 else 2
    if work.on_tiles:
        type = TensorType(bf16, winograd_tiles.points_shape(*sizes))
    else:
        steps = dims.ceildiv(work.depth, group)
        type = TensorType(w.type.dtype, packed_shape(sizes[0], steps, sizes[2], panel, group))

    def arrange(array: Array) -> Array:
        points = transform_weights(array[None] if array.ndim == 3 else array)
        return winograd_tiles.pack_points(points) if work.on_tiles else pack(points, panel, group)

    return lowering.arrange(w, (panel, "winograd", work.on_tiles), type, arrange)


def _launches(image: ImageGroup, stages: Stages) -> list[Launch]:
    """The launches: of one kernel with working memory of its own, or of three that pass it on."""
    inputs = flat_buffers(image.fusion)
    v, m = (Value(TensorType(buffer.dtype, buffer.shape)) for buffer in (stages.v, stages.m))
    memory = {v: stages.v, m: stages.m}
    out = {image.out.value: image.out.buffer}
    launch = image.lowering.launch
    if len(stages.bodies) == 1:
        whole = Computation(stages.bodies[0], stages.operations[0], scratch=memory)
        return [launch(image.nodes, inputs, out, whole)]
    names = ("winograd_input", "winograd", "")
    first, second, third = map(Computation, stages.bodies, stages.operations, names)
    source, weights, *others = inputs.items()
    return [
        launch(image.nodes, dict([source]), {v: stages.v}, first),
        launch(image.nodes, {**dict([weights]), v: stages.v}, {m: stages.m}, second),
        launch(image.nodes, {**dict(others), m: stages.m}, out, third),
    ]
