"""Writes fragments: rows x columns of sums in vector registers.

Each row is cut into vectors of the target's width, with narrower ones at the end. The registers are
locals like any other (see state.py): they become phis of loops and never go to memory.
fragment_products.py writes the products that are added to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bessemer.compiler.codegen.arithmetic import compare, select
from bessemer.compiler.codegen.kernels.control_flow import Range, branch, counted_loop
from bessemer.compiler.codegen.kernels.conversions import cast
from bessemer.compiler.codegen.kernels.expressions import evaluate, first_lanes, indices
from bessemer.compiler.codegen.kernels.fragment_products import multiply
from bessemer.compiler.codegen.kernels.state import FragmentShape, KernelState, Vectors, number
from bessemer.compiler.codegen.lanes import splat
from bessemer.compiler.codegen.values import Pointer, Value, literal, register_type, scalar_text
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import loops, walk_loops
from bessemer.compiler.ir.dims import Size, Symbol
from bessemer.compiler.ir.expr import Buffer, FragmentElement
from bessemer.compiler.ir.types import DType, i64
from bessemer.compiler.ir.walk_expr import all_nodes, loads_of

EmitStore = Callable[[KernelState, loops.Store], None]


def emit(
    state: KernelState, statement: loops.Fragment | loops.FragmentFill | loops.FragmentMac
) -> None:
    """Declares, fills or multiplies a fragment."""
    _check_place(state)
    match statement:
        case loops.Fragment(name, rows, columns, dtype):
            _declare(state, name, rows, columns, dtype)
        case loops.FragmentFill():
            _fill(state, statement)
        case loops.FragmentMac():
            multiply(state, statement)


def _check_place(state: KernelState) -> None:
    if state.vectors is not None:
        raise InternalError(f"{state.kernel.name} has a fragment inside a vector loop")


def _can_mask(state: KernelState, shape: FragmentShape) -> bool:
    """Whether a limit that is not known can be a mask. A vector of one element has no mask."""
    return state.target.has_masks and all(lanes > 1 for _, lanes in shape.pieces)


def _declare(state: KernelState, name: str, rows: int, columns: int, dtype: DType) -> None:
    kind = register_type(dtype)
    pieces: list[tuple[int, int]] = []
    start, lanes = 0, state.target.lanes(kind)
    while start < columns:
        while lanes > columns - start:
            lanes //= 2
        pieces.append((start, lanes))
        start += lanes
    shape = state.fragments[name] = FragmentShape(name, rows, tuple(pieces), dtype)
    for row in range(rows):
        for piece, (_, width) in enumerate(pieces):
            state.locals[shape.register(row, piece)] = literal(0, kind, width)


# Filling


def _fill(state: KernelState, fill: loops.FragmentFill) -> None:
    shape = state.fragments[fill.fragment]
    limit = state.size(fill.limit)
    if not isinstance(limit, int) and not _can_mask(state, shape):
        _fill_through_memory(state, fill, shape, limit)
        return
    for piece, (start, lanes) in enumerate(shape.pieces):
        value = literal(0, register_type(shape.dtype), lanes)
        if not isinstance(limit, int) or start < limit:
            with _columns(state, fill.column, start, lanes, limit):
                filled = cast(state, evaluate(state, fill.value), fill.value.dtype, shape.dtype)
                filled = splat(state.writer, filled, lanes)
                mask = state.mask
                value = filled if mask is None else select(state.writer, mask, filled, value)
        for row in range(shape.rows):
            state.locals[shape.register(row, piece)] = value


@contextmanager
def _columns(
    state: KernelState, column: Symbol, start: int, lanes: int, limit: Size
) -> Iterator[None]:
    """A piece of the columns as the lanes of a vector loop. Lanes from `limit` on are masked."""
    if lanes == 1:
        with state.vector_context(None, None):
            state.indices[column] = start
            yield
            del state.indices[column]
        return
    with state.vector_context(Vectors(column, lanes), start):
        if not isinstance(limit, int) or limit < start + lanes:
            left = indices(state).scalar(limit - start)
            state.vectors = Vectors(column, lanes, first_lanes(state, left))
        yield


def _fill_through_memory(
    state: KernelState, fill: loops.FragmentFill, shape: FragmentShape, limit: Size
) -> None:
    """Fills without masks: values are written one at a time into a row of memory, with zeros after
    them."""
    w = state.writer
    row = _memory(state, shape)
    size = register_type(shape.dtype).bytes
    for start, lanes in shape.pieces:
        zeros = literal(0, register_type(shape.dtype), lanes)
        w.line(f"store {zeros.typed}, ptr {w.at(row.moved(start * size))}, align {size}")

    def body(index: Value) -> None:
        state.indices[fill.column] = index
        value = cast(state, evaluate(state, fill.value), fill.value.dtype, shape.dtype)
        place = w.pointer(row, w.operate("mul", i64, index, number(size)))
        w.line(f"store {value.typed}, ptr {place.text}, align {size}")
        del state.indices[fill.column]

    end = indices(state).scalar(limit)
    counted_loop(state, Range(number(0), end), (), frozenset(), body)
    for piece, (start, lanes) in enumerate(shape.pieces):
        kind = Value("", register_type(shape.dtype), lanes)
        place = w.at(row.moved(start * size))
        value = w.here(f"load {kind.type}, ptr {place}, align {size}", kind.kind, lanes)
        for r in range(shape.rows):
            state.locals[shape.register(r, piece)] = value


# Storing


def emit_store(state: KernelState, store: loops.FragmentStore, emit_one: EmitStore) -> None:
    """Runs a fragment's stores, row by row."""
    _check_place(state)
    shape = state.fragments[store.fragment]
    limit = state.size(store.limit)
    columns = sum(lanes for _, lanes in shape.pieces)
    if isinstance(limit, int) or _can_mask(state, shape):
        _store_vectors(state, store, shape, limit, emit_one)
        return
    writes = frozenset(s.buffer.name for row in store.stores for s in row)
    full = compare(state.writer, "sge", indices(state).scalar(limit), number(columns))

    def whole() -> None:
        _store_vectors(state, store, shape, columns, emit_one)

    def partly() -> None:
        _store_through_memory(state, store, limit, emit_one)

    branch(state, full, (), ((whole, writes), (partly, writes)))


def _store_vectors(
    state: KernelState,
    store: loops.FragmentStore,
    shape: FragmentShape,
    limit: Size,
    emit_one: EmitStore,
) -> None:
    for stores in store.stores:
        for piece, (start, lanes) in enumerate(shape.pieces):
            if isinstance(limit, int) and start >= limit:
                break

            def register(fragment: str, row: int, piece: int = piece) -> Value:
                return state.locals[state.fragments[fragment].register(row, piece)]

            with _columns(state, store.column, start, lanes, limit):
                state.writer.loads_stay = True
                _emit_stores(state, stores, register, emit_one)
                state.writer.loads_stay = False


def _emit_stores(
    state: KernelState,
    stores: Sequence[loops.Store],
    element: Callable[[str, int], Value],
    emit_one: EmitStore,
) -> None:
    state.element = element
    state.values.clear()
    for place, one in enumerate(stores):
        emit_one(state, one)
        # Forgets values that only a guard's branch has computed, and loads of what is stored.
        if one.guard is not None or _is_read(one.buffer, stores[place + 1 :]):
            state.values.clear()
    state.values.clear()
    state.element = None


def _is_read(buffer: Buffer, stores: Sequence[loops.Store]) -> bool:
    """Whether the stores compute anything from the buffer."""
    roots = [e for store in stores for e in walk_loops.expressions(store)]
    return any(n.buffer.name == buffer.name for n in loads_of(*roots))


def _store_through_memory(
    state: KernelState, store: loops.FragmentStore, limit: Size, emit_one: EmitStore
) -> None:
    """Stores fewer columns than the fragment has without masks: one value at a time."""
    rows = {pair: _memory(state, state.fragments[pair[0]]) for pair in _elements(store)}
    for (fragment, row), memory in rows.items():
        _spill(state, state.fragments[fragment], row, memory)

    def body(index: Value) -> None:
        def element(fragment: str, row: int) -> Value:
            return _spilled(state, state.fragments[fragment].dtype, rows[fragment, row], index)

        state.indices[store.column] = index
        for stores in store.stores:
            _emit_stores(state, stores, element, emit_one)
        del state.indices[store.column]

    writes = frozenset(s.buffer.name for row in store.stores for s in row)
    counted_loop(state, Range(number(0), indices(state).scalar(limit)), (), writes, body)


def _elements(store: loops.FragmentStore) -> list[tuple[str, int]]:
    """The fragments' rows that the stores read."""
    nodes = all_nodes(*walk_loops.expressions(store))
    return sorted({(n.fragment, n.row) for n in nodes if isinstance(n, FragmentElement)})


def _memory(state: KernelState, shape: FragmentShape) -> Pointer:
    """Memory for one row."""
    columns = sum(lanes for _, lanes in shape.pieces)
    return Pointer(state.stack(columns * register_type(shape.dtype).bytes, 64), 0)


def _spill(state: KernelState, shape: FragmentShape, row: int, memory: Pointer) -> None:
    w = state.writer
    for piece, (start, _) in enumerate(shape.pieces):
        value = state.locals[shape.register(row, piece)]
        place = w.at(memory.moved(start * value.kind.bytes))
        w.line(f"store {value.typed}, ptr {place}, align {value.kind.bytes}")


def _spilled(state: KernelState, dtype: DType, row: Pointer, index: Value) -> Value:
    w, kind = state.writer, register_type(dtype)
    place = w.pointer(row, w.operate("mul", i64, index, number(kind.bytes)))
    operation = f"load {scalar_text(kind)}, ptr {{}}, align {kind.bytes}"
    return w.load(operation, row.text, kind, 1, place)
