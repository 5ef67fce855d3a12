"""Writes arithmetic: operators on a `Term` append lines of LLVM IR text.

    y = fma(x * x, x, 1.0)     becomes     %t1 = fmul <16 x float> %x, %x
                                           %t2 = call <16 x float> @llvm.fma.v16f32(...)

The same expression gives scalar code (one lane) or vector code. Equal lines are written once, so
the text needs no elimination of common subexpressions. No fast-math flags are used: the error-free
transformations of `math_words` rely on every rounding.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

_LLVM = {
    "f16": "half",
    "f32": "float",
    "f64": "double",
    "i1": "i1",
    "i16": "i16",
    "i32": "i32",
    "i64": "i64",
}
_BITS = {"f16": "i16", "f32": "i32", "f64": "i64"}
_FLOATS = {"i16": "f16", "i32": "f32", "i64": "f64"}


@dataclass(frozen=True)
class MathFunction:
    """One function as LLVM IR: its symbol (without @), its text, and the `declare` lines that it
    needs."""

    symbol: str
    text: str
    declarations: frozenset[str]


def any_lane(mask: str, lanes: int) -> tuple[str, frozenset[str]]:
    """The operation that tests whether any lane of a mask is true, and the declarations that it
    needs."""
    if lanes == 1:
        return f"or i1 {mask}, false", frozenset()
    reduction = f"i1 @llvm.vector.reduce.or.v{lanes}i1"
    vector = f"<{lanes} x i1>"
    return f"call {reduction}({vector} {mask})", frozenset({f"declare {reduction}({vector})"})


def llvm_type(kind: str, lanes: int) -> str:
    """`float` for one lane of "f32", `<16 x float>` for sixteen."""
    return _LLVM[kind] if lanes == 1 else f"<{lanes} x {_LLVM[kind]}>"


@dataclass
class Writer:
    """The body of one IR function while it is being written."""

    lanes: int
    has_fma: bool
    has_lookup: bool = False
    lines: list[str] = field(default_factory=list)
    declarations: set[str] = field(default_factory=set)
    _known: dict[str, Term] = field(default_factory=dict)

    def emit(self, kind: str, operation: str) -> Term:
        """The value of `operation`, the text of an instruction. An equal instruction is not written
        again."""
        if operation not in self._known:
            name = f"%t{len(self.lines)}"
            self.lines.append(f"  {name} = {operation}")
            self._known[operation] = Term(self, kind, name)
        return self._known[operation]

    def call(self, intrinsic: str, *arguments: Term) -> Term:
        """The result of `llvm.INTRINSIC`, which has the type of its arguments."""
        kind = arguments[0].kind
        suffix = kind if self.lanes == 1 else f"v{self.lanes}{kind}"
        symbol, type_text = f"@llvm.{intrinsic}.{suffix}", llvm_type(kind, self.lanes)
        self.declarations.add(
            f"declare {type_text} {symbol}({', '.join([type_text] * len(arguments))})"
        )
        operands = ", ".join(argument.typed for argument in arguments)
        return self.emit(kind, f"call {type_text} {symbol}({operands})")


@dataclass(frozen=True, eq=False)
class Term:
    """A value of the function being written, or a constant repeated in all lanes.

    `kind` is f16, f32, f64, i1, i16, i32 or i64. Comparisons give i1 and are false for NaN.
    `>>` is the logical shift; integers compare as signed numbers. Python numbers stand for
    constants of the other operand's kind.
    """

    writer: Writer
    kind: str
    text: str

    @property
    def typed(self) -> str:
        return f"{llvm_type(self.kind, self.writer.lanes)} {self.text}"

    def constant(self, value: float) -> Term:
        """The number in this term's type; an integer wraps around."""
        return constant(self.writer, self.kind, value)

    def _binary(self, operation: str, other: Term | float) -> Term:
        right = self.constant(other) if isinstance(other, int | float) else other
        prefix = "f" if self.kind in _BITS and operation in ("add", "sub", "mul", "div") else ""
        return self.writer.emit(self.kind, f"{prefix}{operation} {self.typed}, {right.text}")

    def __add__(self, other: Term | float) -> Term:
        return self._binary("add", other)

    def __radd__(self, other: float) -> Term:
        return self._binary("add", other)

    def __sub__(self, other: Term | float) -> Term:
        return self._binary("sub", other)

    def __rsub__(self, other: float) -> Term:
        return self.constant(other) - self

    def __mul__(self, other: Term | float) -> Term:
        return self._binary("mul", other)

    def __rmul__(self, other: float) -> Term:
        return self._binary("mul", other)

    def __truediv__(self, other: Term | float) -> Term:
        return self._binary("div", other)

    def __rtruediv__(self, other: float) -> Term:
        return self.constant(other) / self

    def __and__(self, other: Term | int) -> Term:
        return self._binary("and", other)

    def __or__(self, other: Term | int) -> Term:
        return self._binary("or", other)

    def __xor__(self, other: Term | int) -> Term:
        return self._binary("xor", other)

    def __lshift__(self, count: int) -> Term:
        return self._binary("shl", count)

    def __rshift__(self, count: int) -> Term:
        return self._binary("lshr", count)

    def __neg__(self) -> Term:
        return self.writer.emit(self.kind, f"fneg {self.typed}")

    def __abs__(self) -> Term:
        return self.writer.call("fabs", self)

    def _compare(self, predicate: str, other: Term | float) -> Term:
        right = self.constant(other) if isinstance(other, int | float) else other
        if self.kind in _BITS:
            instruction = f"fcmp o{predicate}"
        else:
            signed = "" if predicate in ("eq", "ne") else "s"
            instruction = f"icmp {signed}{predicate}"
        return self.writer.emit("i1", f"{instruction} {self.typed}, {right.text}")

    def __lt__(self, other: Term | float) -> Term:
        return self._compare("lt", other)

    def __le__(self, other: Term | float) -> Term:
        return self._compare("le", other)

    def __gt__(self, other: Term | float) -> Term:
        return self._compare("gt", other)

    def __ge__(self, other: Term | float) -> Term:
        return self._compare("ge", other)

    def equals(self, other: Term | float) -> Term:
        return self._compare("eq", other)

    def differs(self, other: Term | float) -> Term:
        """Whether the two differ, and neither is NaN: for NaN both this and `equals` are false."""
        return self._compare("ne", other)

    def bits(self) -> Term:
        """The same bits as an integer."""
        return self._cast("bitcast", _BITS[self.kind])

    def as_float(self) -> Term:
        """The same bits as a floating-point number."""
        return self._cast("bitcast", _FLOATS[self.kind])

    def widened(self, kind: str) -> Term:
        """The number in a wider type: a float exactly, an integer extended with zeros."""
        return self._cast("fpext" if self.kind in _BITS else "zext", kind)

    def narrowed(self, kind: str) -> Term:
        """The number in a narrower type: a float rounded to nearest even, an integer truncated to
        its low bits."""
        return self._cast("fptrunc" if self.kind in _BITS else "trunc", kind)

    def _cast(self, instruction: str, kind: str) -> Term:
        target = llvm_type(kind, self.writer.lanes)
        return self.writer.emit(kind, f"{instruction} {self.typed} to {target}")


def constant(writer: Writer, kind: str, value: float) -> Term:
    """The number in all lanes."""
    text = constant_text(kind, value)
    return Term(writer, kind, text if writer.lanes == 1 else f"splat ({_LLVM[kind]} {text})")


def constant_text(kind: str, value: float) -> str:
    """A number in LLVM's syntax: floats as the bits of a double, f32 already rounded."""
    if kind in _BITS:
        rounded = struct.unpack("<f", struct.pack("<f", value))[0] if kind == "f32" else value
        return "0x" + struct.pack(">d", rounded).hex().upper()
    width = int(kind[1:])
    wrapped = int(value) & ((1 << width) - 1)
    return str(wrapped - (1 << width) if wrapped >> (width - 1) else wrapped)


def bits_of(value: float) -> int:
    """The bits of a number rounded to f32, as an integer."""
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    return int(bits)


def float_of(bits: int) -> float:
    """The f32 with these bits."""
    (value,) = struct.unpack("<f", struct.pack("<i", bits))
    return float(value)


def fma(left: Term, right: Term | float, addend: Term | float) -> Term:
    """left * right + addend, rounded once where the target has the instruction.

    Without it LLVM would call libm's fma, so the two roundings are written out.
    """
    if not left.writer.has_fma:
        return left * right + addend
    factors = [left.constant(t) if isinstance(t, int | float) else t for t in (right, addend)]
    return left.writer.call("fma", left, *factors)


def select(mask: Term, yes: Term | float, no: Term | float) -> Term:
    """In each lane `yes` if `mask` is true, else `no`. One of the two must be a Term."""
    kind = yes if isinstance(yes, Term) else no
    assert isinstance(kind, Term)
    chosen = yes if isinstance(yes, Term) else kind.constant(yes)
    other = no if isinstance(no, Term) else kind.constant(no)
    return kind.writer.emit(kind.kind, f"select {mask.typed}, {chosen.typed}, {other.typed}")


def at_most(x: Term, limit: float) -> Term:
    """min(x, limit), or NaN if x is NaN: the exact meaning of x86's minps with x last."""
    return select(x > limit, limit, x)


def at_least(x: Term, limit: float) -> Term:
    """max(x, limit), or NaN if x is NaN."""
    return select(x < limit, limit, x)


def square_root(x: Term) -> Term:
    return x.writer.call("sqrt", x)


def floor(x: Term) -> Term:
    return x.writer.call("floor", x)


def with_sign_of(magnitude: Term, sign: Term) -> Term:
    return magnitude.writer.call("copysign", magnitude, sign)


def polynomial(x: Term, coefficients: Sequence[float]) -> Term:
    """c0 + c1 x + c2 x^2 + ...

    Long polynomials are split into even and odd powers: two chains of half the latency, for one
    more multiplication.
    """
    if len(coefficients) <= 6:
        return horner(x, coefficients)
    square = x * x
    return fma(x, polynomial(square, coefficients[1::2]), polynomial(square, coefficients[::2]))


def horner(x: Term, coefficients: Sequence[float]) -> Term:
    """The same polynomial in one chain: more accurate if |x| is near 1 and the signs alternate."""
    total: Term | float = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = fma(x, total, coefficient)
    assert isinstance(total, Term)
    return total
