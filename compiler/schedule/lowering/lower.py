"""Lowers a group of nodes to launches of kernels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims, loops, walk_loops
from bessemer.compiler.ir.build_loops import KernelBuilder
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Expression, Index
from bessemer.compiler.ir.graph import Node, Value
from bessemer.compiler.ir.loops import Block, Kernel
from bessemer.compiler.ir.program import Launch, Weight, working_memory
from bessemer.compiler.ir.types import Array, DType, TensorType
from bessemer.compiler.ir.walk_expr import loads_of
from bessemer.compiler.ir.walk_loops import structure
from bessemer.compiler.schedule.contraction.contraction import Contraction
from bessemer.compiler.schedule.contraction.tiles import Tiling
from bessemer.compiler.schedule.grouping.destinations import Destination, is_fold, parts_of
from bessemer.compiler.schedule.grouping.fuse import Fusion, as_index, index_symbols
from bessemer.compiler.schedule.grouping.groups import Group
from bessemer.compiler.schedule.lowering.borders import border_elements, lower_border
from bessemer.compiler.schedule.lowering.choices import Choices
from bessemer.compiler.schedule.matrix_tiles.matrix_tiles_layout import Split
from bessemer.compiler.schedule.nests.merge_axes import Piece
from bessemer.compiler.schedule.nests.nests import Nest, flat, flatten_loads, lower_nest
from bessemer.compiler.schedule.nests.transpose import lower_transpose
from bessemer.compiler.schedule.symbols import kernel_symbols
from bessemer.compiler.targets.machine import Target


@dataclass(frozen=True, eq=False)
class TiledProduct:
    """A contraction in register tiles whose launch stores what its epilogue gives for each sum:
    what a launch with more in its epilogue is made of."""

    contraction: Contraction
    tiling: Tiling
    inputs: Mapping[Value, Buffer]
    nodes: Sequence[Node]
    arguments: Mapping[str, Size]


@dataclass(eq=False)
class Lowering:
    """What all groups of a program share: the machine, the weights, and the kernels so far.

    `arranged` are constants of the program made from weights (packed, transformed), `packs` right
    operands packed at run time, and `parts` values split into bfloat16 parts for a matrix unit,
    both in the graph or region at hand. `splits` are the launches that split them, which
    write_parts.py may move into the kernels before. `pieces` are, by value, what element-by-element
    kernels store, and `products` the contractions that store a whole value.
    """

    constants: dict[Value, Array]
    target: Target
    vectorize: bool = True
    precision: str = "float32"
    choices: Choices = field(default_factory=Choices)
    arranged: dict[Value, Weight] = field(default_factory=dict)
    parts: dict[tuple[Value, int], Value] = field(default_factory=dict)
    packs: dict[tuple[object, ...], Value] = field(default_factory=dict)
    splits: list[Split] = field(default_factory=list)
    pieces: dict[Value, Piece] = field(default_factory=dict)
    products: dict[Value, TiledProduct] = field(default_factory=dict)
    destinations: dict[Value, Destination] = field(default_factory=dict)
    bodies: dict[tuple[object, ...], Block] = field(default_factory=dict)
    _packed: dict[tuple[object, ...], Value] = field(default_factory=dict)
    _nests: dict[tuple[object, ...], Nest] = field(default_factory=dict)
    _same: dict[int, dict[tuple[object, ...], Kernel]] = field(default_factory=dict)
    _kernels: dict[tuple[object, ...], Kernel] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)

    def launch(
        self,
        nodes: Sequence[Node],
        inputs: Mapping[Value, Buffer],
        outputs: Mapping[Value, Buffer],
        body: Block,
        operations: Size,
        scratch: Mapping[Value, Buffer] | None = None,
        name: str = "",
        arguments: Mapping[str, Size] | None = None,
        members: int = 1,
    ) -> Launch:
        """A launch of the kernel with this body; equal kernels are the same object.

        `arguments` gives values to symbols of the kernel that are not the program's; `members` is
        the most that a team can use.
        """
        written = {**outputs, **(scratch or {})}
        buffers = (*inputs.values(), *written.values())
        kernels = self._same.get(id(body), {})
        around = (buffers, len(written), operations, members)
        kernel = kernels.get(around)
        if kernel is None:
            kernel = self._kernel(nodes, buffers, len(written), body, operations, members, name)
            kernels[around] = kernel
        return Launch(
            kernel,
            (*inputs, *written),
            tuple((arguments or {}).get(symbol, dims.symbol(symbol)) for symbol in kernel.symbols),
            sources_of(nodes),
            tuple(scratch or ()),
            nodes=tuple(nodes),
        )

    def _kernel(
        self,
        nodes: Sequence[Node],
        buffers: tuple[Buffer, ...],
        outputs: int,
        body: Block,
        operations: Size,
        members: int,
        name: str,
    ) -> Kernel:
        symbols = kernel_symbols(body, buffers, operations)
        key = (buffers, outputs, symbols, structure(body), operations, members)
        kernel = self._kernels.get(key)
        if kernel is None:
            stem = self._unique(name or _described(nodes))
            kernel = Kernel(stem, buffers, outputs, symbols, body, operations, members)
            self._kernels[key] = kernel
        return kernel

    def keep(self, key: tuple[object, ...], body: Block) -> None:
        """Keeps a kernel's body for others of the same key: networks repeat their layers."""
        self.bodies[key] = body
        self._same[id(body)] = {}

    def nest(self, piece: Piece) -> Nest:
        """The loops that compute every element of a piece; the same object for equal pieces."""
        key = (piece.target, piece.offset, piece.value, piece.symbols)
        found = self._nests.get(key)
        if found is None:
            found = self._nests[key] = self._nest(piece)
            self._same[id(found.body)] = {}
        return found

    def _nest(self, piece: Piece) -> Nest:
        lanes = self.target.lanes
        transposed = lower_transpose(piece, lanes) if self.vectorize else None
        return transposed or lower_nest(piece, lanes, self.vectorize, self.target.last_cache)

    def nest_together(self, pieces: Sequence[Piece]) -> Nest | None:
        """The loops of pieces over one axis, of which each reads of the ones before it only what
        lies where it stores; None where the machine has no form of its own for that."""
        return None

    def destination(self, root: Value, tail: tuple[Node, ...] = ()) -> Destination:
        """Where the kernel of a group writes; `tail` are the views that the group ends with."""
        return self.destinations.get(root, Destination(root, tail=tail))

    def arrange(
        self,
        source: Value,
        key: tuple[object, ...],
        type: TensorType,
        arrange: Callable[[Array], Array],
    ) -> Value:
        """A weight as kernels read it (packed, transformed), as a constant of the program; made
        once for each key. `type` is that of what `arrange` gives."""
        found = self._packed.get((source, *key))
        if found is None:
            found = self._packed[source, *key] = Value(type, source.name)
            self.arranged[found] = Weight(self.constants[source], arrange)
        return found

    def _unique(self, stem: str) -> str:
        count = self._names.get(stem, 0) + 1
        name = stem if count == 1 else f"{stem}_{count}"
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names[stem] = count
        self._names.setdefault(name, 1)
        return name


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
    """The user's nodes behind these, in order, each once."""
    return tuple(dict.fromkeys(source for node in nodes for source in node.sources))


def in_order(group: Group | None) -> list[Node]:
    """The nodes of a group, if there is one, in the order of computation."""
    return [] if group is None else list(dict.fromkeys(reversed(group.nodes)))


def lower_elements(group: Group, lowering: Lowering) -> list[Launch]:
    """The launches of a group of operators with element rules."""
    nodes = in_order(group)
    assert group.root is not None
    inlined = {node.output: node for node in nodes}
    root = inlined[group.root]
    if root.operator.name == "concat":
        return _lower_concat(group.root, root, inlined, lowering)
    if root.operator.name == "pad" and root.inputs[0] in lowering.destinations:
        return _lower_pad(root, lowering)
    return [lower_value(nodes, inlined, group.root, lowering)]


def lower_value(
    nodes: Sequence[Node], inlined: Mapping[Value, Node], root: Value, lowering: Lowering
) -> Launch:
    """One kernel that computes every element of `root`."""
    fusion = Fusion(inlined, lowering.constants)
    tail = () if root in lowering.destinations else _last_reshapes(root, inlined)
    core = tail[0].inputs[0] if tail else root
    symbols = index_symbols(core.type.shape)
    index = as_index(symbols, core.type.shape)
    value = flatten_loads(fusion.element(core, index))
    return _store_elements(
        nodes, fusion, lowering.destination(root, tail), index, value, symbols, lowering
    )


def _last_reshapes(root: Value, inlined: Mapping[Value, Node]) -> tuple[Node, ...]:
    """The first of the reshapes that a group ends with: elements keep their order through all, and
    loops over the axes that were there before need no divisions to find them."""
    first: tuple[Node, ...] = ()
    while (node := inlined.get(root)) is not None and node.operator.name == "reshape":
        if node.inputs[0] not in inlined:
            break
        first, root = (node,), node.inputs[0]
    return first


def _store_elements(
    nodes: Sequence[Node],
    fusion: Fusion,
    out: Destination,
    index: Index,
    value: Expression,
    symbols: tuple[Symbol, ...],
    lowering: Lowering,
) -> Launch:
    piece = Piece(out.buffer, out.offset(index), value, symbols)
    nest = lowering.nest(piece)
    launch = lowering.launch(
        nodes, flat_buffers(fusion), {out.value: out.buffer}, nest.body, nest.operations
    )
    if not out.starts:
        lowering.pieces[out.value] = piece
    return replace(launch, replaceable=_replaceable(fusion, piece, nest.body))


def _replaceable(fusion: Fusion, piece: Piece, body: Block) -> tuple[Value, ...]:
    """The inputs of which every load is of the element that is stored in its place."""
    elsewhere: set[str] = set()
    for node in loads_of(piece.value):
        if node.indices != (piece.offset,):
            elsewhere.add(node.buffer.name)
    for statement in walk_loops.walk(body):
        for expression in walk_loops.expressions(statement):
            for node in loads_of(expression):
                if node.buffer.name == piece.target.name:
                    return ()  # it keeps something there before it stores the element
    return tuple(
        value
        for value, buffer in fusion.buffers.items()
        if buffer.name not in elsewhere
        and buffer.dtype == piece.target.dtype
        and value.type.numel == dims.product(piece.target.shape)
    )


def _lower_pad(pad: Node, lowering: Lowering) -> list[Launch]:
    """The kernel of a pad's border; the kernel of its input has written the inside."""
    out = lowering.destination(pad.output)
    body = resolve_lanes(lower_border(pad, out), lowering)
    if not body:
        return []
    size = border_elements(pad)
    return [lowering.launch([pad], {}, {out.value: out.buffer}, body, size, name="border")]


def _lower_concat(
    root: Value, node: Node, inlined: Mapping[Value, Node], lowering: Lowering
) -> list[Launch]:
    """One kernel for each part that is not written to its slice of the whole right away."""
    launches: list[Launch] = []
    places = {member: place for place, member in enumerate(inlined.values())}
    for part, starts in parts_of(node):
        shape = part.type.shape
        if not _is_written(part, root, inlined, lowering):
            fusion = Fusion(inlined, lowering.constants)
            symbols = index_symbols(shape)
            index = as_index(symbols, shape)
            value = flatten_loads(fusion.element(part, index))
            nodes = sorted(_behind(part, inlined), key=places.__getitem__)
            out = lowering.destination(root).part(starts)
            launches.append(
                _store_elements([*nodes, node], fusion, out, index, value, symbols, lowering)
            )
    return launches


def _is_written(
    part: Value, root: Value, inlined: Mapping[Value, Node], lowering: Lowering
) -> bool:
    """Whether the kernel of a part, or of what it is another shape of, writes it to its place."""
    fold = inlined.get(part)
    if fold is not None and is_fold(fold):
        found = lowering.destinations.get(fold.inputs[0])
        return found is not None and found.value is lowering.destination(root).value
    return part in lowering.destinations


def _behind(value: Value, inlined: Mapping[Value, Node]) -> set[Node]:
    """The nodes of the group that a value is made by."""
    found: set[Node] = set()
    waiting = [value]
    while waiting:
        producer = inlined.get(waiting.pop())
        if producer is not None and producer not in found:
            found.add(producer)
            waiting += producer.inputs
    return found


def flat_buffers(fusion: Fusion) -> dict[Value, Buffer]:
    """The buffers that a fusion reads, flat."""
    return {value: flat(buffer) for value, buffer in fusion.buffers.items()}


def lower_statements(
    node: Node, lowering: Lowering, operations: Size = 1 << 16, over: bool = False
) -> Launch:
    """The launch of an operator that writes its own kernel, by `over` or by `statements`."""
    rule = node.operator.over if over else node.operator.statements
    if rule is None:
        raise InternalError(f"{node.operator} has no statements rule")
    given = node.inputs[1:] if over else node.inputs
    inputs: dict[Value, Buffer] = {}
    for value in given:
        name = f"in{len(inputs)}"
        inputs.setdefault(value, Buffer(name, value.type.dtype, value.type.shape))
    outputs = {
        value: Buffer(f"out{position}", value.type.dtype, value.type.shape)
        for position, value in enumerate(node.outputs)
    }
    builder = KernelBuilder()
    rule(builder, [inputs[v] for v in given], list(outputs.values()), **node.attributes)
    scratch = working_memory(builder.scratch_buffers)
    body = resolve_lanes(builder.block(), lowering)
    return lowering.launch([node], inputs, outputs, body, operations, scratch)


def resolve_lanes(block: Block, lowering: Lowering) -> Block:
    """Gives vector loops that leave their width to the target that of their memory accesses."""
    return tuple(_resolved(statement, lowering) for statement in block)


def _resolved(statement: loops.Statement, lowering: Lowering) -> loops.Statement:
    match statement:
        case loops.For():
            body = resolve_lanes(statement.body, lowering)
            if statement.kind != "vector" or statement.lanes:
                return replace(statement, body=body)
            lanes = min((lowering.target.lanes(t) for t in _memory_types(body)), default=1)
            kind: loops.LoopKind = "vector" if lanes > 1 and lowering.vectorize else "serial"
            return replace(statement, body=body, kind=kind, lanes=lanes if kind == "vector" else 1)
        case loops.If():
            return replace(
                statement,
                then=resolve_lanes(statement.then, lowering),
                otherwise=resolve_lanes(statement.otherwise, lowering),
            )
        case loops.While():
            return replace(statement, body=resolve_lanes(statement.body, lowering))
        case _:
            return statement


def _memory_types(block: Block) -> set[DType]:
    types: set[DType] = set()
    for statement in walk_loops.walk(block):
        if isinstance(statement, loops.Store):
            types.add(statement.buffer.dtype)
        for expression in walk_loops.expressions(statement):
            types |= {n.buffer.dtype for n in loads_of(expression)}
    return types
