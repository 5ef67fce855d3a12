"""Writes index arithmetic: polynomials over indices and dimensions become i64 values and addresses.

The terms of a polynomial are grouped by the level (see writer.py) of their newest factor, and
summed from the outermost level inwards, so that an inner loop adds only the terms with its own
index. Constants are added last; in an address they become the displacement of the load or store.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from bessemer.compiler.codegen.arithmetic import compare, intrinsic, like, select
from bessemer.compiler.codegen.kernels.state import KernelState, Vectors, number
from bessemer.compiler.codegen.lanes import same_lanes, splat, steps
from bessemer.compiler.codegen.values import Pointer, Value, type_text
from bessemer.compiler.codegen.writer import Writer
from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir import dims
from bessemer.compiler.ir.dims import Atom, Dim, FloorDiv, Max, Min, Mod, Size, Symbol
from bessemer.compiler.ir.expr import Buffer, Expression
from bessemer.compiler.ir.polynomials import Monomial
from bessemer.compiler.ir.types import boolean, f64, i32, i64
from bessemer.compiler.ir.walk_expr import index_expressions

Evaluate: TypeAlias = Callable[[Expression], Value]
"""The value of an expression that index arithmetic contains."""
Terms: TypeAlias = dict[tuple[Value, ...], int]
"""A polynomial over registers: coefficients of products."""


@dataclass(frozen=True)
class Indices:
    """Computes index arithmetic in a kernel's state."""

    state: KernelState
    evaluate: Evaluate

    @property
    def writer(self) -> Writer:
        return self.state.writer

    def is_varying(self, size: Size) -> bool:
        """Whether the lanes of the vector loop have different values."""
        vectors = self.state.vectors
        if vectors is None:
            return False
        # Evaluation writes code, so it must be in an order that is the same in every process.
        if any(self.evaluate(leaf).lanes > 1 for leaf in index_expressions(size)):
            return True
        return vectors.symbol in dims.atoms(size) and not self._is_shared(size, vectors)

    def _is_shared(self, size: Size, vectors: Vectors) -> bool:
        """Whether all lanes have the same value, because the index is divided by a multiple of the
        vector's width and every vector begins at a multiple of the width."""
        for factor in _factors(size):
            match factor:
                case Symbol():
                    shared = factor != vectors.symbol
                case FloorDiv(a, int(n)) if n % vectors.width == 0:
                    shared = self._is_shared(a, vectors) or self._is_aligned(a, vectors)
                case FloorDiv(a, b) | Mod(a, b) | Min(a, b) | Max(a, b):
                    shared = self._is_shared(a, vectors) and self._is_shared(b, vectors)
                case _:
                    shared = True  # an expression, which is_varying has looked at
            if not shared:
                return False
        return True

    def _is_aligned(self, size: Size, vectors: Vectors) -> bool:
        """Whether a size grows by one from lane to lane, and is a multiple of the width in the
        first lane."""
        if dims.coefficient_of(size, vectors.symbol) != 1:
            return False
        rest = size - dims.atom(vectors.symbol)
        return dims.mod(rest, vectors.width) == 0 and self._is_shared(rest, vectors)

    def varying(self, size: Size) -> Size:
        """The sum of the terms that differ from lane to lane."""
        return _select(size, self.is_varying)

    def stride(self, size: Size) -> Size | None:
        """By how much `size` grows from lane to lane; None if it is not linear."""
        vectors = self.state.vectors
        if vectors is None or vectors.width == 1:
            return 0
        stride = dims.coefficient_of(size, vectors.symbol)
        if stride is None:
            size = self.varying(size)
            stride = dims.coefficient_of(size, vectors.symbol)
        if stride is None or self.is_varying(stride):
            return None
        rest = size - stride * dims.atom(vectors.symbol)
        return None if self.is_varying(rest) else stride

    def distances(self, size: Size) -> list[int] | None:
        """The differences between the lanes' values and the first lane's, if they are known, as in
        a vector loop that begins at a known place; else None."""
        vectors = self.state.vectors
        if vectors is None or isinstance(size, int):
            return None
        varying = _select(size, self.is_varying)
        leaves = dims.atoms(varying)
        numbers = {leaf: self.state.index(leaf) for leaf in leaves if isinstance(leaf, Symbol)}
        known: dict[Atom, Size] = {k: n for k, n in numbers.items() if isinstance(n, int)}
        begin = known.get(vectors.symbol)
        if not isinstance(begin, int) or len(known) < len(leaves):
            return None
        found = [
            dims.substitute(varying, {**known, vectors.symbol: begin + lane})
            for lane in range(vectors.width)
        ]
        values = [value for value in found if isinstance(value, int)]
        return [v - values[0] for v in values] if len(values) == len(found) else None

    def pattern(self, size: Size) -> FloorDiv | Mod | None:
        """The only term that differs from lane to lane, if it is i % n or i // n with the vector
        loop's index i, and a vector holds whole periods, which begin at multiples of n; else
        None."""
        vectors = self.state.vectors
        if vectors is None or isinstance(size, int):
            return None
        varying = _select(size, self.is_varying)
        match dims.as_atom(varying):
            case (FloorDiv(a, int(n)) | Mod(a, int(n))) as found:
                is_index = dims.as_atom(a) == vectors.symbol
                return found if is_index and vectors.width % n == 0 else None
            case _:
                return None

    def steps_of_groups(self, size: Size) -> tuple[int, int] | None:
        """(n, step), if what differs from lane to lane is i // n * step, the same for n neighbours,
        all of which are in the vector; else None."""
        vectors = self.state.vectors
        if vectors is None or isinstance(size, int):
            return None
        varying = _select(size, self.is_varying)
        if isinstance(varying, int):
            return None
        match list(varying.terms.items()):
            case [(((FloorDiv(a, int(n)), 1),), int(step))] if step > 0:
                is_index = dims.as_atom(a) == vectors.symbol
                return (n, step) if is_index and vectors.width % n == 0 else None
            case _:
                return None

    def scalar(self, size: Size) -> Value:
        """The value, in the first lane of a vector loop."""
        return self._value(size, None)

    def vector(self, size: Size) -> Value:
        """The value in each lane; a scalar if all are equal."""
        return self._value(size, self.state.vectors)

    def address(self, buffer: Buffer, offset: Size) -> Pointer:
        """The address of an element (in a vector loop, of that of the first lane)."""
        bytes_, (start, distance) = buffer.dtype.bytes, _split_constant(offset)
        base, registers = self.state.arrays.get(buffer.name), self._registers(start)
        key = None if registers is None or base is None else (base, bytes_, start, registers)
        found: Pointer | None = None if key is None else self.writer.remembered(key)
        if found is None:
            found = self._address(buffer, start)
            if key is not None:
                self.writer.remember(key, found.level, found)
        return found.moved(distance * bytes_)

    def _address(self, buffer: Buffer, offset: Size) -> Pointer:
        terms = self._terms(offset * buffer.dtype.bytes, None)
        constant = terms.pop((), 0)
        pointer = self.state.base(buffer)
        for group in self._groups(terms, _flags(offset)):
            pointer = self.writer.pointer(pointer, group)
        return pointer.moved(constant)

    def addresses(self, buffer: Buffer, offset: Size) -> Value:
        """The addresses of the lanes' elements, as a vector of pointers; its `kind` has no
        meaning."""
        w, size = self.writer, buffer.dtype.bytes
        stride = self.stride(offset)
        if stride is not None:
            pointer = self.address(buffer, offset)
            lanes = steps(i64, self.state.width)
            step = splat(w, self.scalar(stride * size), lanes.lanes)
            distances = w.operate("mul", i64, lanes, step)
        else:
            varying = _select(offset, self.is_varying)
            pointer = self.address(buffer, offset - varying)
            distances = splat(w, self.vector(varying * size), self.state.width)
        level = max(pointer.level, distances.level)
        operation = f"getelementptr i8, ptr {w.at(pointer, level)}, {distances.typed}"
        return w.compute(operation, boolean, distances.lanes, level)

    # Polynomials: in every lane of `vectors`, or in the first lane (None)

    def _terms(self, size: Size, vectors: Vectors | None) -> Terms:
        result: Terms = {}
        for monomial, coefficient in _monomials(size).items():
            factors: list[Value] = []
            for atom, power in monomial:
                value = self._atom(atom, vectors)
                if isinstance(value, int):
                    coefficient *= value**power
                else:
                    factors += [value] * power
            key = tuple(sorted(factors, key=lambda value: (value.level, value.text)))
            result[key] = result.get(key, 0) + coefficient
        return {key: coefficient for key, coefficient in result.items() if coefficient}

    def _sum(self, terms: Terms, flags: str) -> Value:
        constant = terms.pop((), 0)
        total: Value | None = None
        for group in self._groups(terms, flags):
            total = group if total is None else self._operate("add", total, group, flags)
        if total is None:
            return number(constant)
        return total if constant == 0 else self._operate("add", total, number(constant), flags)

    def _groups(self, terms: Terms, flags: str) -> list[Value]:
        """The terms summed level by level, outermost first."""
        levels: dict[int, dict[tuple[Value, ...], Terms]] = {}
        for factors, coefficient in terms.items():
            newest = factors[-1].level
            old = tuple(value for value in factors if value.level < newest)
            new = factors[len(old) :]
            levels.setdefault(newest, {}).setdefault(new, {})[old] = coefficient
        return [self._group(levels[level], flags) for level in sorted(levels)]

    def _group(self, products: Mapping[tuple[Value, ...], Terms], flags: str) -> Value:
        total: Value | None = None
        for new, old in products.items():
            term = new[0]
            for factor in new[1:]:
                term = self._operate("mul", term, factor, flags)
            scale = self._sum(dict(old), flags)
            if scale.number != 1:
                term = self._operate("mul", term, scale, flags)
            total = term if total is None else self._operate("add", total, term, flags)
        assert total is not None
        return total

    def _operate(self, name: str, left: Value, right: Value, flags: str) -> Value:
        return self.writer.operate(name + flags, i64, *same_lanes(self.writer, left, right))

    # Atoms

    def _atom(self, atom: Atom, vectors: Vectors | None) -> Value | int:
        match atom:
            case Symbol():
                return self._symbol(atom, vectors)
            case FloorDiv(a, b):
                return self._divide(a, b, vectors)[0]
            case Mod(a, b):
                return self._divide(a, b, vectors)[1]
            case Min(a, b):
                return self._extreme("smin", a, b, vectors)
            case Max(a, b):
                return self._extreme("smax", a, b, vectors)
            case Expression():
                return self.evaluate(atom)
            case _:
                raise InternalError(f"no value for {atom} in index arithmetic")

    def _symbol(self, symbol: Symbol, vectors: Vectors | None) -> Value | int:
        index = self.state.index(symbol)
        if vectors is None or symbol != vectors.symbol:
            return index
        lanes = steps(i64, vectors.width)
        if isinstance(index, int):
            return steps(i64, vectors.width, 1, index)
        return self._operate("add", index, lanes, " nsw")

    def _value(self, size: Size, vectors: Vectors | None) -> Value:
        return self._sum(self._terms(size, vectors), _flags(size))

    def _extreme(self, name: str, left: Size, right: Size, vectors: Vectors | None) -> Value:
        a, b = self._value(left, vectors), self._value(right, vectors)
        return intrinsic(self.writer, name, *same_lanes(self.writer, a, b))

    def _divide(self, left: Size, right: Size, vectors: Vectors | None) -> tuple[Value, Value]:
        """The quotient towards minus infinity, and the remainder; the divisor is positive."""
        registers = self._registers(left, right)
        lanes = None if vectors is None else (vectors.symbol, vectors.width)
        key = None if registers is None else (left, right, registers, lanes)
        found: tuple[Value, Value] | None = None if key is None else self.writer.remembered(key)
        if found is None:
            found = self._divided(left, right, vectors)
            if key is not None:
                self.writer.remember(key, max(value.level for value in found), found)
        return found

    def _registers(self, *sizes: Size) -> Hashable:
        """The registers of the indices on which sizes depend; None if they depend on data."""
        indices = self.state.indices  # a dimension has one register for all of the kernel
        registers = []
        for size in sizes:
            for leaf in dims.atoms(size):
                if not isinstance(leaf, Symbol):
                    return None
                index = indices.get(leaf)
                if index is not None:
                    registers.append((leaf, index if isinstance(index, int) else index.text))
        return frozenset(registers)

    def _divided(self, left: Size, right: Size, vectors: Vectors | None) -> tuple[Value, Value]:
        w = self.writer
        a = self._value(left, vectors)
        if isinstance(right, int):
            b = like(a, right)
            if right & (right - 1) == 0:
                shift, mask = like(a, right.bit_length() - 1), like(a, right - 1)
                return w.operate("ashr", i64, a, shift), w.operate("and", i64, a, mask)
        else:
            # A dimension may be 0 where the code never runs, but the division may have moved out.
            b = intrinsic(w, "umax", self._value(right, vectors), number(1))
            a, b = same_lanes(w, a, b)
        if dims.is_nonnegative(left):
            if a.lanes > 1 and b.number is None and not _reads_data(left, right):
                return _by_floats(w, a, b)
            return self._divide_small(left, a, b) or _unsigned(w, a, b)
        below = w.operate("sub", i64, a, w.operate("sub", i64, b, like(b, 1)))
        start = select(w, compare(w, "slt", a, like(a, 0)), below, a)
        quotient = w.operate("sdiv", i64, start, b)
        return quotient, w.operate("sub", i64, a, w.operate("mul", i64, quotient, b))

    def _divide_small(self, left: Size, a: Value, b: Value) -> tuple[Value, Value] | None:
        """The quotient and remainder in 32 bits, if these are enough; else None. (Vector units have
        no instruction for the high half of a 64-bit product.)"""
        highest = dims.upper_bound(left)
        if a.lanes == 1 or not isinstance(highest, int) or highest >= 1 << 31 or b.number is None:
            return None
        w = self.writer
        narrow = w.compute(f"trunc {a.typed} to <{a.lanes} x i32>", i32, a.lanes, a.level)
        divisor = like(narrow, b.number)
        results = _unsigned(w, narrow, divisor)
        wide = [w.compute(f"zext {r.typed} to {a.type}", i64, a.lanes, r.level) for r in results]
        return wide[0], wide[1]


def _unsigned(w: Writer, a: Value, b: Value) -> tuple[Value, Value]:
    quotient = w.operate("udiv", a.kind, a, b)
    product = w.operate("mul", a.kind, quotient, b)
    return quotient, w.operate("sub", a.kind, a, product)


def _by_floats(w: Writer, a: Value, b: Value) -> tuple[Value, Value]:
    """Quotients of indices, which are far below 2^50: (a + 1/2) / b is at least 1 / 2b from whole
    numbers, which is more than a rounded inverse and a rounded product are off."""
    x, y = (
        w.compute(f"uitofp {v.typed} to {type_text(f64, v.lanes)}", f64, v.lanes, v.level)
        for v in (a, b)
    )
    inverse = w.operate("fdiv", f64, like(y, 1.0), y)
    ratio = w.operate("fmul", f64, w.operate("fadd", f64, x, like(x, 0.5)), inverse)
    quotient = w.compute(f"fptosi {ratio.typed} to {a.type}", i64, a.lanes, ratio.level)
    return quotient, w.operate("sub", i64, a, w.operate("mul", i64, quotient, b))


def _reads_data(*sizes: Size) -> bool:
    return any(isinstance(leaf, Expression) for size in sizes for leaf in dims.atoms(size))


def _flags(size: Size) -> str:
    """The nsw flag: indices and dimensions never overflow, but data may where a guard is false."""
    return "" if _reads_data(size) else " nsw"


def _monomials(size: Size) -> Mapping[Monomial, int]:
    return {(): size} if isinstance(size, int) else size.terms


def _split_constant(size: Size) -> tuple[Size, int]:
    """The terms with factors, and the constant that is added to them."""
    constant = _monomials(size).get((), 0)
    return size - constant, constant


def _factors(size: Size) -> set[Atom]:
    return {factor for monomial in _monomials(size) for factor, _ in monomial}


def _select(size: Size, wanted: Callable[[Size], bool]) -> Size:
    """The sum of the terms for which `wanted` is true."""
    terms = [Dim({monomial: c}) for monomial, c in _monomials(size).items() if monomial]
    return dims.total(term for term in terms if wanted(term))
