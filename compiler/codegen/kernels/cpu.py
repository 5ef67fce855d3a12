"""Kernels of the loop language as LLVM IR functions for processors.

    void NAME(ptr buffers, ptr dims, i64 begin, i64 end)

`buffers` holds the address of each buffer, then, for a kernel that can fail, that of an i32 cell
which gets 1 + the position of the failure's message, then, for one with a team, the counters of its
barriers (in the second place behind the buffers in any case). `dims` holds an i64 for each symbol.
A kernel whose outermost statement is a parallel or team loop runs its iterations begin .. end-1;
any other kernel runs once, whatever these are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bessemer.compiler.codegen.arithmetic import binary, fused, number_extreme, select
from bessemer.compiler.codegen.kernels import (
    fragments,
    interleaved_stores,
    matrix_tiles,
    stores,
    streaming,
    vector_loops,
)
from bessemer.compiler.codegen.kernels.control_flow import (
    Range,
    branch,
    counted_loop,
    local_names,
    while_loop,
)
from bessemer.compiler.codegen.kernels.effects import (
    assigned_locals,
    changed_fragments,
    written_buffers,
)
from bessemer.compiler.codegen.kernels.expressions import evaluate, fault, indices
from bessemer.compiler.codegen.kernels.state import ZEROS, ZEROS_BYTES, KernelState, number
from bessemer.compiler.codegen.lanes import splat
from bessemer.compiler.codegen.math.math_terms import MathFunction
from bessemer.compiler.codegen.values import Pointer, Value
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import expr, loops, walk_loops
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.loops import Block, For, Kernel, Statement
from bessemer.compiler.ir.tile_statements import TileLoad, TileMac, TileSetup, TileStore, TileZero
from bessemer.compiler.ir.types import i64
from bessemer.compiler.targets.machine import Target

CONSTANTS = (
    f"@{ZEROS} = internal unnamed_addr constant [{ZEROS_BYTES} x i8] zeroinitializer, align 64\n"
    + streaming.METADATA
)
"""The definitions that a module needs once, however many kernels it has."""
PASSES = ("always-inline", "globaldce")
"""The LLVM passes that the code needs before code generation."""
_VECTOR_ALIGNMENT = 64


@dataclass(frozen=True)
class KernelCode:
    """A kernel as LLVM IR. A module consists of CONSTANTS and all kernels' declarations, functions
    and texts.

    `functions` are the math functions that it calls, by symbol; equal symbols are equal functions.
    `messages` are those of its failures: code k in the fault cell stands for messages[k - 1].
    """

    name: str
    text: str
    declarations: frozenset[str]
    functions: dict[str, str]
    messages: tuple[str, ...]


def emit_kernel(kernel: Kernel, target: Target) -> KernelCode:
    """The code of a kernel for a target.

    Raises InternalError for what no schedule may make: a branch that differs between the lanes of a
    vector loop, a fragment in one, an index outside of its loop.
    """
    streamed = streaming.streamed_buffers(kernel) if target.last_cache else []
    if streamed:
        names = streaming.form_names(kernel)
        states = [
            _written(KernelState(kernel, target, streamed=frozenset(buffers)))
            for buffers in (streamed, ())
        ]
        texts = [
            streaming.chooser(kernel, streamed, target.last_cache),
            *map(_function, states, names),
        ]
    else:
        states = [_written(KernelState(kernel, target))]
        texts = [_function(states[0], kernel.name)]
    functions: dict[str, MathFunction] = {}
    for state in states:
        functions |= state.functions
    declarations: frozenset[str] = frozenset()
    declarations = declarations.union(*(state.writer.declarations for state in states))
    declarations = declarations.union(*(f.declarations for f in functions.values()))
    return KernelCode(
        kernel.name,
        "".join(texts),
        declarations,
        {symbol: function.text for symbol, function in functions.items()},
        tuple(states[0].messages),
    )


def _written(state: KernelState) -> KernelState:
    """Writes the kernel's body."""
    body = state.kernel.body
    has_tiles = matrix_tiles.begin(state, body)
    match body:
        case (For(kind="parallel" | "team") as loop,):
            _loop(state, loop, Value("%begin", i64), Value("%end", i64))
        case _:
            emit_block(state, body)
    if has_tiles:
        matrix_tiles.end(state)
    if state.streamed:
        streaming.end(state)
    return state


def _function(state: KernelState, name: str) -> str:
    tune = state.target.tune
    tuned = f' "tune-cpu"="{tune}"' if tune else ""
    head = f"define internal void @{name}(ptr %buffers, ptr %dims, i64 %begin, i64 %end)"
    return f"{head} nounwind{tuned} {{\nentry:\n{state.writer.text()}  ret void\n}}\n"


def module_text(kernels: Iterable[KernelCode]) -> str:
    """A module of kernels, without data layout or entry points."""
    listed = list(kernels)
    declarations = sorted(frozenset().union(*(code.declarations for code in listed)))
    functions: dict[str, str] = {}
    for code in listed:
        functions |= code.functions
    parts = [CONSTANTS, "\n".join(declarations), *functions.values(), *(c.text for c in listed)]
    return "\n".join(parts) + "\n"


def emit_block(state: KernelState, block: Block) -> None:
    """The statements of a block; what they declare ends with it."""
    streaming_before = set(state.streaming)
    with local_names(state):
        place = 0
        while place < len(block):
            state.values.clear()
            done = interleaved_stores.emit(state, block, place)
            if not done:
                _statement(state, block[place])
            place += done or 1
    state.streaming = streaming_before


def _statement(state: KernelState, statement: Statement) -> None:
    if state.special is not None and state.special(statement):
        return
    match statement:
        case For():
            _for(state, statement)
        case loops.If():
            _if(state, statement)
        case loops.While():
            _while(state, statement)
        case loops.Define(local, value):
            _set_local(state, local, evaluate(state, value))
        case loops.Assign(local, value):
            _check_assignment(state, local)
            _set_local(state, local, evaluate(state, value))
        case loops.Accumulate():
            _accumulate(state, statement)
        case loops.Store():
            emit_store(state, statement)
        case loops.Allocate(buffer):
            _allocate(state, buffer)
        case loops.SetDim(symbol, value):
            _set_dimension(state, symbol, value)
        case loops.Fail(condition, message):
            fault(state, evaluate(state, condition), message)
        case loops.Prefetch(buffer, offset, level):
            _prefetch(state, buffer, offset, level)
        case loops.Stream(buffer):
            state.streaming |= {buffer.name} & state.streamed
        case loops.Barrier(member):
            _barrier(state, member)
        case loops.Fragment() | loops.FragmentFill() | loops.FragmentMac():
            fragments.emit(state, statement)
        case loops.FragmentStore():
            fragments.emit_store(state, statement, emit_store)
        case TileSetup():
            pass  # where the kernel begins
        case TileZero() | TileLoad() | TileStore() | TileMac():
            matrix_tiles.emit(state, statement)
        case _:
            raise InternalError(f"no code for {type(statement).__name__}")


# Locals and memory


def _set_local(state: KernelState, local: str, value: Value) -> None:
    if local in state.varying:
        value = splat(state.writer, value, state.width)
    state.locals[local] = value


def _check_assignment(state: KernelState, local: str) -> None:
    if state.vectors is not None and local in state.vectors.outer:
        raise InternalError(
            f"a vector loop of {state.kernel.name} assigns {local}, defined outside"
        )


def _accumulate(state: KernelState, statement: loops.Accumulate) -> None:
    w, local = state.writer, statement.local
    before = state.locals[local]
    value = statement.value
    after: Value | None = None
    if statement.name == "add" and value.dtype.is_float and state.target.has_fma:
        match state.expression(value):
            case expr.Binary(_, "mul", a, b) if a.dtype.bits > 16:
                after = fused(w, evaluate(state, a), evaluate(state, b), before)
    if after is None:
        # With the new value as first operand, its check for NaN does not wait for the sum.
        meet = number_extreme if statement.may_skip_nan else binary
        after = meet(w, statement.name, evaluate(state, value), before)
    if state.vectors is not None and local in state.vectors.outer and state.mask is not None:
        after = select(w, state.mask, after, before)
    state.locals[local] = after


def _set_dimension(state: KernelState, symbol: str, value: expr.Expression) -> None:
    w = state.writer
    place = f"getelementptr i8, ptr %dims, i64 {8 * state.kernel.symbols.index(symbol)}"
    pointer = w.here(place, i64)
    w.line(f"store {evaluate(state, value).typed}, ptr {pointer.text}, align 8")


def emit_store(state: KernelState, statement: loops.Store) -> None:
    """A store, under its guard."""
    buffer = statement.buffer
    offset = state.size(buffer.offset(statement.indices))
    guard = evaluate(state, statement.guard) if statement.guard is not None else None

    def write() -> None:
        lanes = guard if guard is not None and guard.lanes > 1 else None
        value = evaluate(state, statement.value)
        stores.store(indices(state), buffer, offset, value, lanes)

    if guard is None or guard.lanes > 1 or guard.number is True:
        write()
    elif guard.number is None:
        branch(state, guard, (), ((write, frozenset((buffer.name,))),))


def _allocate(state: KernelState, buffer: expr.Buffer) -> None:
    if state.vectors is not None:
        raise InternalError(f"{state.kernel.name} has a local array inside a vector loop")
    count = 1
    for extent in buffer.shape:
        if not isinstance(extent, int):
            raise InternalError(f"the local array {buffer.name} has the shape {buffer.shape}")
        count *= extent
    name = state.stack(max(1, count) * buffer.dtype.bytes, _VECTOR_ALIGNMENT)
    state.arrays[buffer.name] = Pointer(name, 0)


def _prefetch(state: KernelState, buffer: expr.Buffer, offset: Size, level: int) -> None:
    if buffer.name in state.streaming:
        return
    w = state.writer
    pointer = indices(state).address(buffer, state.size(offset))
    w.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    # LLVM's locality 3 is every cache, 2 the second level, 1 the third. Outputs are prefetched for
    # writing: a line that was prefetched for reading would have to be requested again before it is
    # written, if another core has a copy.
    locality = max(0, 4 - level)
    write = int(buffer in state.kernel.buffers[-state.kernel.outputs :])
    hint = f"i32 {write}, i32 {locality}, i32 1"
    w.line(f"call void @llvm.prefetch.p0(ptr {w.at(pointer)}, {hint})")


def _barrier(state: KernelState, member: Size) -> None:
    """Waits for the team. After that, values loaded from outputs are not reused, since others may
    have written them."""
    w = state.writer
    for buffer in state.kernel.buffers[-state.kernel.outputs :]:
        w.forget(buffer.name)
    w.declarations.add("declare void @bessemer_barrier(ptr, i64, i64)")
    own = indices(state).scalar(state.size(member))
    members = state.dimension(loops.TEAM)
    w.line(f"call void @bessemer_barrier(ptr {state.team_cells()}, {own.typed}, {members.typed})")


# Control flow


def _carried(state: KernelState, *blocks: Block) -> list[str]:
    """The locals and fragment registers that are defined outside of the blocks and changed in
    them."""
    names: dict[str, None] = {}
    for block in blocks:
        names |= dict.fromkeys(sorted(assigned_locals(block)))
        for fragment, rows in sorted(changed_fragments(block).items()):
            shape = state.fragments.get(fragment)
            if shape is None:
                continue
            for row in range(shape.rows) if rows is None else sorted(rows):
                names |= {shape.register(row, k): None for k in range(len(shape.pieces))}
    return [name for name in names if name in state.locals]


def _uniform(condition: Value) -> Value:
    if condition.lanes > 1:
        raise InternalError("a branch inside a vector loop depends on the lane")
    return condition


def _while(state: KernelState, loop: loops.While) -> None:
    while_loop(
        state,
        _carried(state, loop.body),
        written_buffers(loop.body),
        lambda: _uniform(evaluate(state, loop.condition)),
        lambda: emit_block(state, loop.body),
    )


def _if(state: KernelState, statement: loops.If) -> None:
    condition = _uniform(evaluate(state, statement.condition))
    blocks = [statement.then, statement.otherwise]
    if condition.number is not None:
        emit_block(state, blocks[not condition.number])
        return
    if not statement.otherwise:
        blocks.pop()
    bodies = tuple(
        ((lambda b=block: emit_block(state, b)), written_buffers(block)) for block in blocks
    )
    branch(state, condition, _carried(state, *blocks), bodies)


def _for(state: KernelState, loop: For) -> None:
    extent = state.size(loop.extent)
    if loop.kind == "unroll":
        _unroll(state, loop, extent)
        return
    if indices(state).is_varying(extent):
        raise InternalError("the extent of a loop inside a vector loop depends on the lane")
    end = indices(state).scalar(extent)
    if loop.kind == "vector" and loop.lanes != 1 and state.vectors is None:
        names = _carried(state, loop.body)
        vector_loops.emit(state, loop, extent, end, names, emit_block)
    else:
        _loop(state, loop, number(0), end)


def _loop(state: KernelState, loop: For, begin: Value, end: Value) -> None:
    def body(index: Value) -> None:
        state.indices[loop.index] = index.number if isinstance(index.number, int) else index
        emit_block(state, loop.body)
        del state.indices[loop.index]

    carried, writes = _carried(state, loop.body), written_buffers(loop.body)
    over = Range(begin, end, opaque=not _is_of_tiles(loop.body))
    counted_loop(state, over, carried, writes, body)


def _is_of_tiles(body: Block) -> bool:
    """Whether only a matrix unit multiplies in a loop. Its instructions have addresses of a
    register and a stride each, which are best incremented in each iteration."""
    found = list(walk_loops.walk(body))
    multiplies = any(isinstance(inner, loops.FragmentMac) for inner in found)
    return not multiplies and any(isinstance(inner, TileMac) for inner in found)


def _unroll(state: KernelState, loop: For, extent: Size) -> None:
    if not isinstance(extent, int):
        raise InternalError(f"a loop of {extent} iterations cannot be unrolled")
    for position in range(extent):
        state.constants[loop.index] = position
        emit_block(state, loop.body)
    state.constants.pop(loop.index, None)
