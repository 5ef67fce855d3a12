"""What the lowering functions of all groups share.

A lowering function gets a group and the program's `Lowering`. It writes the body of a kernel, and
gives it to `Lowering.launch` as a `Computation`. The result is a launch of that kernel, or of an
equal one that the program already has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import Block
from bessemer.compiler.ir.program import Launch, Weight
from bessemer.compiler.ir.types import Array, TensorType
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.contraction.tiles import Tiling
from bessemer.compiler.schedule.grouping.destinations import Destination
from bessemer.compiler.schedule.grouping.fuse import Fusion
from bessemer.compiler.schedule.lowering.choices import Choices
from bessemer.compiler.schedule.lowering.kernel_table import KernelTable
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_layout import BlockReader, Split
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nest import Nest
from bessemer.compiler.schedule.nests.nests import flat, lower_nest
from bessemer.compiler.schedule.nests.transpose import lower_transpose
from bessemer.compiler.targets.machine import Target


@dataclass(frozen=True, eq=False)
class Computation:
    """What a kernel computes: its `body`, and the number of its scalar `operations`.

    `scratch` is its working memory, `members` the largest team that can run it
    (codegen/support/team.py). `arguments` gives values to symbols of the kernel that are not
    symbols of the program. A kernel without a `name` gets one that is made of its operators.
    """

    body: Block
    operations: Size
    name: str = ""
    scratch: Mapping[Value, Buffer] = field(default_factory=dict)
    members: int = 1
    arguments: Mapping[str, Size] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TiledProduct:
    """What a contraction in register tiles was lowered from. update_in_product.py makes a launch
    with a larger epilogue of it."""

    contraction: Contraction
    tiling: Tiling
    inputs: Mapping[Value, Buffer]
    nodes: Sequence[Node]
    arguments: Mapping[str, Size]


@dataclass(eq=False)
class PreparedOperands:
    """Operands that a launch has rearranged, for other launches of the same graph or region.

    `packs` are right operands packed in panels, `parts` values split into bfloat16 numbers for a
    matrix unit.
    """

    packs: dict[tuple[object, ...], Value] = field(default_factory=dict)
    parts: dict[tuple[Value, int], Value] = field(default_factory=dict)

    def copy(self) -> PreparedOperands:
        """A copy of the record. What is added to one is not in the other."""
        return PreparedOperands(dict(self.packs), dict(self.parts))


@dataclass(frozen=True, eq=False)
class PackedRows:
    """What a launch packs: whole rows of a matrix, from `first` on. `value` has the numbers of the
    matrix in the same order, and maybe another shape."""

    value: Value
    first: int


@dataclass(eq=False)
class LaunchOrigins:
    """What launches were made from, for later steps that merge launches.

    `pieces` are what element-by-element kernels store (merge_updates.py), and `products` the
    contractions that store a whole value (update_in_product.py), both by value. `splits` are the
    launches that split a value into parts, `block_readers` those that can read one by blocks of
    channels (write_parts.py), and `packs` those that do nothing but move rows to panels
    (write_panels.py).
    """

    pieces: dict[Value, Piece] = field(default_factory=dict)
    products: dict[Value, TiledProduct] = field(default_factory=dict)
    splits: list[Split] = field(default_factory=list)
    block_readers: dict[Launch, BlockReader] = field(default_factory=dict)
    packs: dict[Launch, PackedRows] = field(default_factory=dict)


@dataclass(eq=False)
class Lowering:
    """What all groups of a program share: the machine, the weights, and the kernels so far.

    `constants` are the weights as they are in the graph, `arranged` those that kernels read in
    another form (packed, transformed). `precision` is as in Options. `destinations` are the values
    that kernels write into a part of another value.
    """

    constants: dict[Value, Array]
    target: Target
    vectorize: bool = True
    precision: str = "float32"
    choices: Choices = field(default_factory=Choices)
    arranged: dict[Value, Weight] = field(default_factory=dict)
    destinations: dict[Value, Destination] = field(default_factory=dict)
    prepared: PreparedOperands = field(default_factory=PreparedOperands)
    origins: LaunchOrigins = field(default_factory=LaunchOrigins)
    kernels: KernelTable = field(default_factory=KernelTable)
    _packed: dict[tuple[object, ...], Value] = field(default_factory=dict)
    _nests: dict[tuple[object, ...], Nest] = field(default_factory=dict)

    def launch(
        self,
        nodes: Sequence[Node],
        inputs: Mapping[Value, Buffer],
        outputs: Mapping[Value, Buffer],
        made: Computation,
    ) -> Launch:
        """A launch of the kernel that computes `made`; equal kernels are the same object."""
        written = {**outputs, **made.scratch}
        buffers = (*inputs.values(), *written.values())
        kernel = self.kernels.kernel(
            made.name or _described(nodes),
            buffers,
            len(written),
            made.body,
            made.operations,
            made.members,
        )
        return Launch(
            kernel,
            (*inputs, *written),
            tuple(made.arguments.get(symbol, dims.symbol(symbol)) for symbol in kernel.symbols),
            sources_of(nodes),
            tuple(made.scratch),
            nodes=tuple(nodes),
        )

    def nest(self, piece: Piece) -> Nest:
        """The loops that compute every element of a piece. Equal pieces have the same object."""
        key = (piece.target, piece.offset, piece.value, piece.symbols)
        found = self._nests.get(key)
        if found is None:
            found = self._nests[key] = self._nest(piece)
            self.kernels.keep(found.body)
        return found

    def _nest(self, piece: Piece) -> Nest:
        lanes = self.target.lanes
        transposed = lower_transpose(piece, lanes) if self.vectorize else None
        return transposed or lower_nest(
            piece, lanes, self.vectorize, self.target.last_cache, self.target.l1_bytes
        )

    def nest_together(self, pieces: Sequence[Piece]) -> Nest | None:
        """One nest of loops for pieces over the same axis, each of which reads results of the
        pieces before it only at the element that it stores. None here; for GPUs see
        device/lowering.py."""
        return None

    def destination(self, root: Value, tail: tuple[Node, ...] = ()) -> Destination:
        """Where the kernel of a group writes. `tail` are the views that the group ends with."""
        return self.destinations.get(root, Destination(root, tail=tail))

    def arrange(
        self,
        source: Value,
        key: tuple[object, ...],
        type: TensorType,
        arrange: Callable[[Array], Array],
    ) -> Value:
        """A weight in the form that kernels read (packed, transformed), as a constant of the
        program, which is made once for each key. `type` is the type of what the function `arrange`
        returns."""
        found = self._packed.get((source, *key))
        if found is None:
            found = self._packed[source, *key] = Value(type, source.name)
            self.arranged[found] = Weight(self.constants[source], arrange)
        return found


def _described(nodes: Sequence[Node]) -> str:
    """Says what a kernel does, by its operators."""
    words: list[str] = []
    for node in nodes:
        if not node.operator.is_view and (not words or words[-1] != node.operator.name):
            words.append(node.operator.name)
    stem = re.sub(r"\W", "_", "_".join(words or ["copy"]))
    if "_" not in stem:
        # C's library has functions called exp, log, fmod: a kernel must not take their place.
        return f"{stem}_kernel"
    return stem if len(stem) <= 48 else f"{stem[:44]}_etc"


def sources_of(nodes: Sequence[Node]) -> tuple[str, ...]:
    """The names of the user's nodes behind these, in order and without duplicates."""
    return tuple(dict.fromkeys(source for node in nodes for source in node.sources))


def replaceable_inputs(
    inputs: Mapping[Value, Buffer], elsewhere: Collection[str], output: Buffer
) -> tuple[Value, ...]:
    """The inputs that a kernel's output may overwrite: they have its element type and size, and are
    not read `elsewhere` (names of buffers) than at the element that is stored."""
    return tuple(
        value
        for value, buffer in inputs.items()
        if buffer.name not in elsewhere
        and buffer.dtype == output.dtype
        and value.type.numel == dims.product(output.shape)
    )


def flat_buffers(fusion: Fusion) -> dict[Value, Buffer]:
    """The buffers that a fusion reads, as flat ones."""
    return {value: flat(buffer) for value, buffer in fusion.buffers.items()}
