"""Writes kernels of the loop language as LLVM IR for NVIDIA GPUs.

    parallel loop       the grid: an iteration for each thread, warp or block (see ir/device.py)
    vector loop         the threads of the iteration's group; vectors if a thread is alone
    local array         registers, shared memory, or a thread's own (local) memory
    everything else     is executed by all threads of the group; only one stores

Expressions, mathematics and index arithmetic are written as for processors.
"""

from __future__ import annotations

from collections.abc import Sequence

from bessemer.compiler.codegen.arithmetic import compare
from bessemer.compiler.codegen.kernels import cpu
from bessemer.compiler.codegen.kernels.control_flow import branch
from bessemer.compiler.codegen.kernels.conversions import rounded
from bessemer.compiler.codegen.kernels.effects import assigned_locals
from bessemer.compiler.codegen.kernels.expressions import evaluate, indices
from bessemer.compiler.codegen.kernels.state import number
from bessemer.compiler.codegen.lanes import splat
from bessemer.compiler.codegen.ptx.barriers import with_barriers
from bessemer.compiler.codegen.ptx.device_state import DeviceState
from bessemer.compiler.codegen.ptx.exchange import barrier
from bessemer.compiler.codegen.ptx.group_loops import emit_group_loop
from bessemer.compiler.codegen.ptx.kernel_code import DeviceCode, TensorMapPlan
from bessemer.compiler.codegen.ptx.local_arrays import kept_arrays
from bessemer.compiler.codegen.values import Pointer, Value, literal
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import loops, walk_loops
from bessemer.compiler.ir.device import ThreadMapping
from bessemer.compiler.ir.loops import Block, For, Kernel, Statement
from bessemer.compiler.ir.types import i32, i64
from bessemer.compiler.targets.nvptx import DeviceTarget

# Denormals are zero, as in artifacts for processors. f64 has no such mode.
_ATTRIBUTES = '"denormal-fp-math-f32"="preserve-sign,preserve-sign"'


def emit_device_kernel(kernel: Kernel, target: DeviceTarget, mapping: ThreadMapping) -> DeviceCode:
    """The code of a kernel of loops, loads and stores. Raises InternalError for statements that
    only processors have."""
    state = begin(kernel, target, mapping)
    match kernel.body:
        case (For(kind="parallel") as loop,):
            _grid(state, loop)
        case _:
            _group(state, kernel.body)
    return finish(state)


def begin(kernel: Kernel, target: DeviceTarget, mapping: ThreadMapping) -> DeviceState:
    """The state of a kernel whose code is to be written."""
    state = DeviceState(kernel, target, mapping=mapping)
    state.special = lambda statement: _special(state, statement)
    return state


def finish(
    state: DeviceState,
    attributes: str = "",
    shared_bytes: int = 0,
    tensor_maps: Sequence[TensorMapPlan] = (),
) -> DeviceCode:
    """The code of a kernel whose body has been written; see DeviceCode for its parameters."""
    kernel, mapping = state.kernel, state.mapping
    sets = {s.symbol for s in walk_loops.walk(kernel.body) if isinstance(s, loops.SetDim)}
    parameters = [
        f"ptr noalias {'' if b.name in state.written else 'readonly '}align 16 %b{position}"
        for position, b in enumerate(kernel.buffers)
    ]
    parameters += [f"i64 %d{position}" for position in range(len(kernel.symbols))]
    parameters += ["ptr align 8 %fault"] if state.messages else []
    parameters += ["ptr align 8 %dims"] if sets else []
    parameters += [
        f'ptr byval([128 x i8]) align 64 "nvvm.grid_constant" %map{position}'
        for position in range(len(tensor_maps))
    ]
    head = f"define ptx_kernel void @{kernel.name}({', '.join(parameters)})"
    threads = f'nounwind "nvvm.reqntid"="{mapping.threads}" {_ATTRIBUTES} {attributes}'.rstrip()
    text = f"{head} {threads} {{\nentry:\n{state.writer.text()}  ret void\n}}\n"
    functions = state.functions.values()
    declarations = state.writer.declarations.union(*(f.declarations for f in functions))
    return DeviceCode(
        name=kernel.name,
        text=text,
        declarations=frozenset(declarations),
        functions={function.symbol: function.text for function in functions},
        mapping=mapping,
        messages=tuple(state.messages),
        sets=tuple(sorted(sets)),
        shared_bytes=shared_bytes,
        tensor_maps=tuple(tensor_maps),
        globals=_shared_array(state),
    )


def _shared_array(state: DeviceState) -> tuple[str, ...]:
    if not state.shared_used:
        return ()
    kind = f"[{state.shared_used} x i8] undef, align 16"
    return (f"@{state.kernel.name}_shared = internal addrspace(3) global {kind}\n",)


# The grid


def _grid(state: DeviceState, loop: For) -> None:
    """Writes the parallel loop, of which each group of the grid executes one iteration."""
    w, mapping = state.writer, state.mapping
    extent = state.size(loop.extent)
    # 31 bits are enough: the runtime refuses a launch with more iterations.
    index = state.register("ctaid.x")
    if mapping.iterations > 1:
        place = state.register("tid.x")
        if mapping.group > 1:
            place = w.operate("lshr", i32, place, literal(mapping.group.bit_length() - 1, i32))
        first = w.operate("mul nuw nsw", i32, index, literal(mapping.iterations, i32))
        index = w.operate("add nuw nsw", i32, first, place)
    wide = w.compute(f"zext nneg {index.typed} to i64", i64, 1, index.level)

    def body() -> None:
        state.indices[loop.index] = wide
        _group(state, loop.body)
        del state.indices[loop.index]

    is_whole = isinstance(extent, int) and extent % mapping.iterations == 0
    if is_whole or mapping.iterations == 1:
        body()
        return
    inside = compare(w, "slt", wide, indices(state).scalar(extent))
    branch(state, inside, (), ((body, frozenset(state.written)),))


def _group(state: DeviceState, block: Block) -> None:
    """Writes what one group of threads executes."""
    if state.mapping.group > 1:
        state.kept = kept_arrays(block, state.mapping)
        block = with_barriers(block, frozenset(state.kept))
    cpu.emit_block(state, block)


# Statements


def _special(state: DeviceState, statement: Statement) -> bool:
    """Writes a statement that differs from a processor's; False if it does not differ."""
    alone = state.mapping.group == 1
    match statement:
        case loops.Prefetch():
            pass
        case loops.Barrier():
            barrier(state)
        case For(kind="vector") if not alone and state.vectors is None:
            _vector_loop(state, statement)
        case loops.Store(buffer) if buffer.name in state.kept:
            _keep(state, statement)
        case loops.Store() if not alone and state.vectors is None:
            _store_once(state, statement)
        case loops.Allocate(buffer) if buffer.name in state.kept:
            _allocate_registers(state, buffer.name)
        case loops.Allocate() if not alone and state.vectors is None:
            _allocate_shared(state, statement)
        case _:
            return False
    return True


def _vector_loop(state: DeviceState, loop: For) -> None:
    assigned = assigned_locals(loop.body)
    carried = [name for name in sorted(assigned) if name in state.locals]
    stored = {s.buffer.name for s in walk_loops.walk(loop.body) if isinstance(s, loops.Store)}
    registers = [
        state.kept_name(name, slot)
        for name in sorted(stored & state.kept.keys())
        for slot in range(state.kept[name].slots)
    ]
    emit_group_loop(state, loop, carried, registers, cpu.emit_block)


def _keep(state: DeviceState, store: loops.Store) -> None:
    array, value = state.kept[store.buffer.name], evaluate(state, store.value)
    dtype = array.buffer.dtype
    if dtype.is_float and dtype.bits == 16:
        value = rounded(state, value, dtype)
    state.locals[state.kept_name(store.buffer.name)] = splat(state.writer, value, array.lanes)


def _store_once(state: DeviceState, store: loops.Store) -> None:
    leader = compare(state.writer, "eq", state.rank, number(0))
    writes = frozenset((store.buffer.name,))
    branch(state, leader, (), (((lambda: cpu.emit_store(state, store)), writes),))


def _allocate_registers(state: DeviceState, name: str) -> None:
    array = state.kept[name]
    for slot in range(array.slots):
        zero: Value = literal(0, array.buffer.dtype, array.lanes)
        state.locals[state.kept_name(name, slot)] = zero


def _allocate_shared(state: DeviceState, statement: loops.Allocate) -> None:
    """Allocates an array in shared memory for each of the block's groups, one behind the other."""
    buffer, w = statement.buffer, state.writer
    count = 1
    for extent in buffer.shape:
        if not isinstance(extent, int):
            raise InternalError(f"the local array {buffer.name} has the shape {buffer.shape}")
        count *= extent
    size = -(-count * buffer.dtype.bytes // 16) * 16
    groups = state.mapping.iterations
    pointer = Pointer(state.shared(size * groups), 0)
    if groups > 1:
        shift = literal(state.mapping.group.bit_length() - 1, i32)
        group = w.operate("lshr", i32, state.register("tid.x"), shift)
        wide = w.compute(f"zext nneg {group.typed} to i64", i64, 1, 0)
        pointer = w.pointer(pointer, w.operate("mul", i64, wide, number(size)))
    state.arrays[buffer.name] = pointer
