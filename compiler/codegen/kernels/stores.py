"""Writes stores: of one element, of neighbouring elements as a vector, or of a vector's lanes to
anywhere.

Elements that a guard or a mask excludes are not written.
"""

from __future__ import annotations

from bessemer.compiler.codegen.kernels import streaming
from bessemer.compiler.codegen.kernels.conversions import to_memory
from bessemer.compiler.codegen.kernels.indices import Indices
from bessemer.compiler.codegen.lanes import extract, first_of, splat
from bessemer.compiler.codegen.values import Pointer, Value, literal, suffix
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.ir.dims import Size
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.types import boolean


def store(
    indices: Indices, buffer: Buffer, offset: Size, value: Value, guard: Value | None
) -> None:
    """Stores to an offset. Lanes that the guard or the loop's mask excludes store nothing.

    A guard that is the same for all lanes is left to the caller. If several lanes store to the same
    place, they do so in order.
    """
    state, stride, alignment = indices.state, indices.stride(offset), buffer.dtype.bytes
    w = state.writer
    raw = to_memory(state, value, buffer.dtype)
    mask = state.mask
    if guard is not None:
        mask = guard if mask is None else w.operate("and", boolean, guard, mask)
    w.forget(buffer.name)
    if state.vectors is None or (stride == 0 and raw.lanes == 1 and guard is None):
        _store_at(w, indices.address(buffer, offset), raw, alignment)
        return
    raw = splat(w, raw, state.width)
    if stride == 1 and mask is not None:
        _store_under(w, indices.address(buffer, offset), raw, mask, alignment)
    elif stride == 1:
        if streaming.is_streamed(state, buffer, offset, raw.lanes):
            streaming.store(w, indices.address(buffer, offset), raw)
            return
        alignment = state.alignment(buffer, offset, raw.lanes)
        _store_at(w, indices.address(buffer, offset), raw, alignment)
    elif stride == 0 and mask is None:
        pointer = indices.address(buffer, offset)
        _store_at(w, pointer, extract(w, raw, state.width - 1), alignment)
    else:
        _scatter(w, indices.addresses(buffer, offset), raw, mask, alignment)


def _store_at(w: Writer, pointer: Pointer, raw: Value, alignment: int) -> None:
    w.line(f"store {raw.typed}, ptr {w.at(pointer)}, align {alignment}")


def _store_under(w: Writer, pointer: Pointer, raw: Value, mask: Value, alignment: int) -> None:
    """Stores the neighbours that the mask allows."""
    if mask == first_of(raw.lanes):
        # LLVM would store all four bytes of what was cut to one or two: for x86, its
        # reduceMaskedStoreToScalarStore does not know of masked stores that cut.
        _store_at(w, pointer, extract(w, raw, 0), alignment)
        return
    name = f"llvm.masked.store.{suffix(raw.kind, raw.lanes)}.p0"
    w.declarations.add(f"declare void @{name}({raw.type}, ptr, {mask.type})")
    w.line(f"call void @{name}({raw.typed}, ptr align {alignment} {w.at(pointer)}, {mask.typed})")


def _scatter(w: Writer, pointers: Value, raw: Value, mask: Value | None, alignment: int) -> None:
    chosen = mask if mask is not None else literal(True, boolean, raw.lanes)
    vector = f"<{raw.lanes} x ptr>"
    name = f"llvm.masked.scatter.{suffix(raw.kind, raw.lanes)}.v{raw.lanes}p0"
    w.declarations.add(f"declare void @{name}({raw.type}, {vector}, {chosen.type})")
    w.line(
        f"call void @{name}({raw.typed}, {vector} align {alignment} {pointers.text}, "
        f"{chosen.typed})"
    )
