"""Writes barriers of a group of threads, and reductions over its threads by shuffles.

A reduction over a warp is a butterfly of five exchanges, each with the thread whose number differs
in one bit; then all threads have the result. The warps of a block leave their results in shared
memory, and each warp reduces those.
"""

from __future__ import annotations

from bessemer.compiler.codegen.arithmetic import binary, compare
from bessemer.compiler.codegen.kernels.control_flow import branch
from bessemer.compiler.codegen.kernels.conversions import from_memory, memory_kind, to_memory
from bessemer.compiler.codegen.ptx.device_state import DeviceState
from bessemer.compiler.codegen.values import Pointer, Value, literal, scalar_text
from bessemer.compiler.ir.device import WARP
from bessemer.compiler.ir.types import DType, boolean, i32, i64


def barrier(state: DeviceState) -> None:
    """Writes a barrier for the threads of a group. What they have stored before is visible after
    it."""
    w = state.writer
    for scope in w.scopes:
        scope.loaded.clear()
    if state.mapping.group == 1:
        return
    if state.mapping.group <= WARP:
        name, arguments = "llvm.nvvm.bar.warp.sync", "i32 -1"
    else:
        name, arguments = "llvm.nvvm.barrier.cta.sync.aligned.all", "i32 0"
    w.declarations.add(f"declare void @{name}(i32) convergent nounwind")
    w.line(f"call void @{name}({arguments}) convergent")


def reduced_by_group(
    state: DeviceState, values: dict[str, Value], names: dict[str, str]
) -> dict[str, Value]:
    """The values of all threads of the group, combined, by the keys of `values`; `names` are the
    reductions ("add", "max")."""
    group = state.mapping.group
    within = min(group, WARP)
    found = {key: _butterfly(state, names[key], value, within) for key, value in values.items()}
    if group <= WARP or not found:
        return found
    return _reduced_by_block(state, found, names)


def _reduced_by_block(
    state: DeviceState, values: dict[str, Value], names: dict[str, str]
) -> dict[str, Value]:
    w, warps = state.writer, state.mapping.group // WARP
    cells = {key: state.shared(8 * warps, 8) for key in values}
    thread = state.register("tid.x")
    warp = w.operate("lshr", i32, thread, literal(WARP.bit_length() - 1, i32))
    lane = w.operate("and", i32, thread, literal(WARP - 1, i32))
    if w.depth > 0:
        barrier(state)  # the cells may still be read by the last time around

    def leave() -> None:
        for key, value in values.items():
            _store_cell(state, cells[key], warp, value)

    branch(state, compare(w, "eq", lane, literal(0, i32)), (), ((leave, frozenset()),))
    barrier(state)
    which = w.operate("and", i32, lane, literal(warps - 1, i32))
    found: dict[str, Value] = {}
    for key, value in values.items():
        part = _load_cell(state, cells[key], which, value.kind)
        found[key] = _butterfly(state, names[key], part, warps)
    return found


def _cell(state: DeviceState, base: str, index: Value) -> str:
    w = state.writer
    wide = w.compute(f"zext nneg {index.typed} to i64", i64, 1, index.level)
    distance = w.operate("mul", i64, wide, literal(8, i64))
    return w.at(w.pointer(Pointer(base, 0), distance))


def _store_cell(state: DeviceState, base: str, index: Value, value: Value) -> None:
    raw = to_memory(state, value, value.kind)
    state.writer.line(f"store {raw.typed}, ptr {_cell(state, base, index)}, align 8")


def _load_cell(state: DeviceState, base: str, index: Value, kind: DType) -> Value:
    raw = memory_kind(kind)
    place = _cell(state, base, index)
    loaded = state.writer.here(f"load {scalar_text(raw)}, ptr {place}, align 8", raw)
    return from_memory(state, loaded, kind)


def _butterfly(state: DeviceState, name: str, value: Value, threads: int) -> Value:
    """A value combined over so many neighbouring threads, a power of two; all of them get the
    result."""
    distance = threads // 2
    while distance:
        value = binary(state.writer, name, value, exchanged(state, value, distance))
        distance //= 2
    return value


def exchanged(state: DeviceState, value: Value, distance: int) -> Value:
    """The value of the thread whose number in its warp differs by the one bit `distance`."""
    w, kind = state.writer, value.kind
    if kind is boolean or kind.bits < 32:
        wide = w.here(f"zext {value.typed} to i32", i32)
        narrow = scalar_text(kind)
        return w.here(f"trunc i32 {_shuffled(state, wide.text, distance)} to {narrow}", kind)
    if kind.bits == 32:
        bits = w.here(f"bitcast {value.typed} to i32", i32)
        return w.here(f"bitcast i32 {_shuffled(state, bits.text, distance)} to {value.type}", kind)
    halves = w.here(f"bitcast {value.typed} to <2 x i32>", i32, 2)
    for half in range(2):
        one = w.here(f"extractelement {halves.typed}, i64 {half}", i32)
        other = _shuffled(state, one.text, distance)
        halves = w.here(f"insertelement {halves.typed}, i32 {other}, i64 {half}", i32, 2)
    return w.here(f"bitcast {halves.typed} to {value.type}", kind)


def _shuffled(state: DeviceState, word: str, distance: int) -> str:
    w = state.writer
    name = "llvm.nvvm.shfl.sync.bfly.i32"
    w.declarations.add(f"declare i32 @{name}(i32, i32, i32, i32) convergent nounwind")
    call = f"call i32 @{name}(i32 -1, i32 {word}, i32 {distance}, i32 31) convergent"
    return w.here(call, i32).text
