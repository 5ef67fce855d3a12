"""Writes the products that are added to fragments: fused multiply-adds, or instructions for dot
products.

A step of the depth loads the vectors of b once. For each row it splats one element of a, or a group
of neighbours as one 32-bit word:

    b0, b1 = b[k, 0:16], b[k, 16:32]
    for each row r:   x = splat(a[r, k]);   c[r, 0] += x * b0;   c[r, 1] += x * b1

An instruction for dot products multiplies the numbers in each 32-bit lane (two bf16, two 16-bit or
four 8-bit integers) and adds the products to that lane of c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bessemer.compiler.codegen.arithmetic import binary, fused
from bessemer.compiler.codegen.kernels.conversions import cast, from_memory, memory_kind, resized
from bessemer.compiler.codegen.kernels.expressions import indices
from bessemer.compiler.codegen.kernels.state import FragmentShape, KernelState
from bessemer.compiler.codegen.lanes import extract, shuffle, splat
from bessemer.compiler.codegen.values import Pointer, Value, literal, type_text
from bessemer.compiler.ir import loops
from bessemer.compiler.ir.expr import Buffer
from bessemer.compiler.ir.types import DType, bf16, f32, i8, i16, i32, u8, u16

_WORD = 4  # bytes in a lane
_REGISTER = 128  # bits in the narrowest vector register


@dataclass(frozen=True)
class _Dot:
    """An instruction: the dot product in every lane, added to c if it `adds`.

    `element` is the LLVM type of its operands, `names` its intrinsics by lanes; `a_first` says
    whether a's numbers are its first operand.
    """

    element: str
    names: Mapping[int, str]
    a_first: bool = True
    adds: bool = True

    def operand(self, lanes: int) -> str:
        """The LLVM type of an operand with this many words."""
        count = lanes * _WORD // (1 if self.element == "i8" else 2)
        return f"<{count} x {self.element}>"


_BF16 = _Dot(
    "bfloat",
    {lanes: f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}" for lanes in (4, 8, 16)},
)
# The first operand is unsigned, the second signed.
_INT8 = _Dot("i8", {lanes: f"llvm.x86.avx512.vpdpbusd.{32 * lanes}" for lanes in (4, 8, 16)})
_INT8_SWAPPED = _Dot("i8", _INT8.names, a_first=False)
_INT16 = _Dot(
    "i16",
    {
        4: "llvm.x86.sse2.pmadd.wd",
        8: "llvm.x86.avx2.pmadd.wd",
        16: "llvm.x86.avx512.pmaddw.d.512",
    },
    adds=False,
)


def multiply(state: KernelState, mac: loops.FragmentMac) -> None:
    """One step of the depth: a column of a (or a few) times the rows of b that belong to it."""
    shape = state.fragments[mac.fragment]
    _end_step_before(state, mac, shape)
    # Where windows overlap, the step before has loaded some of these elements of a, too. Loading
    # them again costs nothing, as an operand of the multiplication; keeping them takes registers.
    state.writer.forget(mac.a.name)
    b_base = indices(state).address(mac.b, state.size(mac.b_offset))
    steps = [_step(state, mac, shape, b_base, piece) for piece in shape.pieces]
    first = mac.a_offsets[0]
    a_base = indices(state).address(mac.a, state.size(first))
    for row, offset in zip(mac.rows, mac.a_offsets, strict=True):
        distance = state.size(offset - first)
        if isinstance(distance, int):
            pointer = a_base.moved(distance * mac.a.dtype.bytes)
        else:
            pointer = indices(state).address(mac.a, state.size(offset))
        for piece, step in enumerate(steps):
            name = shape.register(row, piece)
            state.locals[name] = step(pointer, state.locals[name])


def _end_step_before(state: KernelState, mac: loops.FragmentMac, shape: FragmentShape) -> None:
    """Writes a scheduling barrier: no instruction, but LLVM moves no loads across it. Loads of this
    step that were moved into the one before would take too many registers.

    Where each row has a pointer of its own, AVX-512's multiply-adds would move to later steps
    instead, and elements of a be spilled meanwhile: there the barrier reads the sums. (512^3 of
    free sizes 1457 -> 1243 us; AVX2, where nothing moved, 2407 -> 2538.)
    """
    first, sums = mac.a_offsets[0], []
    if any(not isinstance(state.size(offset - first), int) for offset in mac.a_offsets):
        pieces = range(len(shape.pieces))
        held = [state.locals[shape.register(row, piece)] for row in mac.rows for piece in pieces]
        letter = state.target.vector_letter
        sums = [sum_ for sum_ in held if letter and sum_.number is None and _fills_register(sum_)]
    letters = ",".join(state.target.vector_letter for _ in sums)
    operands = ", ".join(sum_.typed for sum_ in sums)
    state.writer.line(f'call void asm sideeffect "", "{letters}"({operands})')


def _fills_register(value: Value) -> bool:
    return value.lanes * value.kind.bits >= _REGISTER


_Step = Callable[[Pointer, Value], Value]


def _step(
    state: KernelState,
    mac: loops.FragmentMac,
    shape: FragmentShape,
    b_base: Pointer,
    piece: tuple[int, int],
) -> _Step:
    """A function that adds the products of an element of a, which is at a pointer, to a piece of
    its row's sums."""
    start, lanes = piece
    pointer = b_base.moved(start * mac.group * mac.b.dtype.bytes)
    dot = _instruction(state, mac, shape.dtype)
    if dot is not None and lanes in dot.names:
        vector = _words(state, mac.b, pointer, lanes, dot)
        return lambda a, before: _add_dot(state, dot, _group(state, mac, a, dot), vector, before)
    if mac.group == 1:
        only = _load(state, mac.b, pointer, lanes, shape.dtype)
        vectors = [only]
    else:
        vectors = _split(state, mac, pointer, lanes, shape.dtype)

    def plain(a: Pointer, before: Value) -> Value:
        for j, b in enumerate(vectors):
            place = a.moved(j * mac.a.dtype.bytes)
            element = _load(state, mac.a, place, 1, shape.dtype)
            before = _multiply_add(state, element, b, before)
        return before

    return plain


# One product at a time


def _load(state: KernelState, buffer: Buffer, pointer: Pointer, lanes: int, dtype: DType) -> Value:
    kind = memory_kind(buffer.dtype)
    operation = f"load {Value('', kind, lanes).type}, ptr {{}}, align {buffer.dtype.bytes}"
    raw = state.writer.load(operation, buffer.name, kind, lanes, pointer)
    return cast(state, from_memory(state, raw, buffer.dtype), buffer.dtype, dtype)


def _split(
    state: KernelState, mac: loops.FragmentMac, pointer: Pointer, lanes: int, dtype: DType
) -> list[Value]:
    """The numbers of b by their place in the groups: first the first one of every column, then the
    second..."""
    w = state.writer
    whole = _load(state, mac.b, pointer, lanes * mac.group, dtype)
    if lanes == 1:
        return [extract(w, whole, j) for j in range(mac.products)]
    places = range(mac.products)
    return [shuffle(w, whole, None, range(j, lanes * mac.group, mac.group)) for j in places]


def _multiply_add(state: KernelState, a: Value, b: Value, addend: Value) -> Value:
    w = state.writer
    if addend.kind.is_float and state.target.has_fma:
        return fused(w, a, b, addend)
    return binary(w, "add", addend, binary(w, "mul", a, b))


# Dot products


def _instruction(state: KernelState, mac: loops.FragmentMac, dtype: DType) -> _Dot | None:
    """The instruction for these operand types, if the machine has one; else None."""
    target, pair = state.target, (mac.a.dtype, mac.b.dtype)
    if mac.group == 2 and pair == (bf16, bf16) and dtype is f32 and target.has_dot_bf16:
        return _BF16
    if dtype is not i32:
        return None
    if mac.group == 4 and target.has_dot_int8:
        return {(u8, i8): _INT8, (i8, u8): _INT8_SWAPPED}.get(pair)
    if mac.group == 2 and target.has_dot_int16 and all(one in (u8, i8, i16) for one in pair):
        return _INT16
    return None


def _add_dot(state: KernelState, dot: _Dot, a: Value, b: Value, addend: Value) -> Value:
    w, lanes = state.writer, addend.lanes
    kind = dot.operand(lanes)
    word = splat(w, a, lanes)
    spread = w.compute(f"bitcast {word.typed} to {kind}", i32, lanes, word.level).text
    operands = (spread, b.text) if dot.a_first else (b.text, spread)
    listed = [f"{kind} {operand}" for operand in operands]
    types = [kind, kind]
    if dot.adds:
        listed.insert(0, addend.typed)
        types.insert(0, addend.type)
    name = dot.names[lanes]
    w.declarations.add(f"declare {addend.type} @{name}({', '.join(types)})")
    level = max(word.level, b.level, addend.level if dot.adds else 0)
    call = f"call {addend.type} @{name}({', '.join(listed)})"
    sum_ = w.compute(call, addend.kind, lanes, level)
    return sum_ if dot.adds else binary(w, "add", addend, sum_)


def _words(state: KernelState, b: Buffer, pointer: Pointer, lanes: int, dot: _Dot) -> Value:
    """The groups of b for this many columns, in the LLVM type that the instruction wants."""
    if dot is _INT16:
        return _sixteen_bits(state, b, pointer, 2 * lanes)
    operation = f"load {dot.operand(lanes)}, ptr {{}}, align {b.dtype.bytes}"
    return state.writer.load(operation, b.name, i32, lanes, pointer)


def _group(state: KernelState, mac: loops.FragmentMac, pointer: Pointer, dot: _Dot) -> Value:
    """A group of a as a word. Numbers beyond the last one are 0."""
    w, a, terms = state.writer, mac.a, mac.products
    if dot is _INT16 and a.dtype is not i16:
        return _joined(state, a, pointer, terms)
    if terms == mac.group:
        return _integer(state, a, pointer, _WORD)
    size = terms * a.dtype.bytes
    if size != 3:
        return _integer(state, a, pointer, size)
    low, high = _integer(state, a, pointer, 2), _integer(state, a, pointer.moved(2), 1)
    return w.operate("or", i32, low, w.operate("shl", i32, high, literal(16, i32)))


def _integer(state: KernelState, buffer: Buffer, pointer: Pointer, size: int) -> Value:
    """One, two or four bytes, with zeros above."""
    w = state.writer
    kind = {1: u8, 2: u16, 4: i32}[size]
    operation = f"load {type_text(kind, 1)}, ptr {{}}, align {buffer.dtype.bytes}"
    value = w.load(operation, buffer.name, kind, 1, pointer)
    return value if size == _WORD else resized(w, value, i32)


def _sixteen_bits(state: KernelState, buffer: Buffer, pointer: Pointer, count: int) -> Value:
    """8-bit numbers, widened by their sign, or 16-bit ones."""
    operation = f"load {type_text(buffer.dtype, count)}, ptr {{}}, align {buffer.dtype.bytes}"
    value = state.writer.load(operation, buffer.name, buffer.dtype, count, pointer)
    return value if buffer.dtype is i16 else resized(state.writer, value, i16)


def _joined(state: KernelState, buffer: Buffer, pointer: Pointer, terms: int) -> Value:
    """One or two 8-bit numbers as 16-bit ones in a word."""
    w = state.writer
    pair = _sixteen_bits(state, buffer, pointer, terms)
    if terms == 2:
        return w.compute(f"bitcast {pair.typed} to i32", i32, 1, pair.level)
    unsigned = Value(pair.text, u16, 1, pair.level)
    return resized(w, unsigned, i32)
