"""Instructions of AVX-512 that shorten functions of f32, on 16 lanes or a multiple of that.

They may be used only if `Writer.has_lookup` says that the target has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bessemer.compiler.codegen.math.math_terms import Term, Writer, constant_text, llvm_type

_VECTOR = "<16 x float>"


def table_lookup(table: Sequence[float], index: Term) -> Term:
    """For every lane an entry of a table of 32 numbers, selected by the low five bits of an i32; or
    of a table of 16, by the low four bits."""
    halves = [
        ", ".join(f"float {constant_text('f32', value)}" for value in table[start : start + 16])
        for start in range(0, len(table), 16)
    ]
    if len(halves) == 1:
        name = "@llvm.x86.avx512.permvar.sf.512"
        index.writer.declarations.add(f"declare {_VECTOR} {name}({_VECTOR}, <16 x i32>)")
        return _by_sixteen(
            index.writer, lambda part: f"{name}({_VECTOR} <{halves[0]}>, {part})", index
        )
    name = "@llvm.x86.avx512.vpermi2var.ps.512"
    index.writer.declarations.add(f"declare {_VECTOR} {name}({_VECTOR}, <16 x i32>, {_VECTOR})")
    low, high = (f"{_VECTOR} <{half}>" for half in halves)
    return _by_sixteen(index.writer, lambda part: f"{name}({low}, {part}, {high})", index)


def scaled(x: Term, power: Term) -> Term:
    """x * 2^floor(power), also if the power is outside of the normal numbers."""
    name = "@llvm.x86.avx512.mask.scalef.ps.512"
    x.writer.declarations.add(
        f"declare {_VECTOR} {name}({_VECTOR}, {_VECTOR}, {_VECTOR}, i16, i32)"
    )
    return _by_sixteen(x.writer, lambda a, n: f"{name}({a}, {n}, {a}, i16 -1, i32 4)", x, power)


def exponent_of(x: Term) -> Term:
    """floor(log2 |x|) as a float; -inf for 0, inf for infinity."""
    name = "@llvm.x86.avx512.mask.getexp.ps.512"
    x.writer.declarations.add(f"declare {_VECTOR} {name}({_VECTOR}, {_VECTOR}, i16, i32)")
    return _by_sixteen(x.writer, lambda a: f"{name}({a}, {a}, i16 -1, i32 4)", x)


def significand_of(x: Term) -> Term:
    """x / 2^exponent_of(x), in [1, 2); 1 for 0 and infinity, NaN below 0."""
    name = "@llvm.x86.avx512.mask.getmant.ps.512"
    x.writer.declarations.add(f"declare {_VECTOR} {name}({_VECTOR}, i32, {_VECTOR}, i16, i32)")
    return _by_sixteen(x.writer, lambda a: f"{name}({a}, i32 8, {a}, i16 -1, i32 4)", x)


def limited(x: Term, limit: float, keeps_sign: bool) -> Term:
    """x| or x (with `keeps_sign`), clamped to the limit in size; NaN becomes the limit."""
    # The smaller one in size, with the sign of the first, or none.
    return _range(x, limit, 2 if keeps_sign else 10)


def size_below(x: Term, limit: float) -> Term:
    """x|, or the limit where |x| is above it or NaN."""
    return _range(x, limit, 8)


def _range(x: Term, limit: float, how: int) -> Term:
    name = "@llvm.x86.avx512.mask.range.ps.512"
    x.writer.declarations.add(
        f"declare {_VECTOR} {name}({_VECTOR}, {_VECTOR}, i32, {_VECTOR}, i16, i32)"
    )
    return _by_sixteen(
        x.writer,
        lambda a, b: f"{name}({a}, {b}, i32 {how}, {_VECTOR} zeroinitializer, i16 -1, i32 4)",
        x,
        x.constant(limit),
    )


def _by_sixteen(writer: Writer, call: Callable[..., str], *operands: Term) -> Term:
    """Applies an instruction that returns f32 to sixteen lanes at a time; `call` returns its
    text."""
    if writer.lanes == 16:
        return writer.emit("f32", f"call {_VECTOR} {call(*(o.typed for o in operands))}")
    parts = []
    for start in range(0, writer.lanes, 16):
        lanes = ", ".join(f"i32 {lane}" for lane in range(start, start + 16))
        pieces = []
        for operand in operands:
            vector = llvm_type(operand.kind, writer.lanes)
            piece = writer.emit(
                operand.kind,
                f"shufflevector {operand.typed}, {vector} poison, <16 x i32> <{lanes}>",
            )
            pieces.append(f"{llvm_type(operand.kind, 16)} {piece.text}")
        parts.append(writer.emit("f32", f"call {_VECTOR} {call(*pieces)}").text)
    size = 16
    while len(parts) > 1:
        vector, size = llvm_type("f32", size), 2 * size
        lanes = ", ".join(f"i32 {lane}" for lane in range(size))
        parts = [
            writer.emit(
                "f32", f"shufflevector {vector} {a}, {vector} {b}, <{size} x i32> <{lanes}>"
            ).text
            for a, b in zip(parts[::2], parts[1::2])
        ]
    return Term(writer, "f32", parts[0])
