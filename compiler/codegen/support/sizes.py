"""Writes index arithmetic as straight LLVM IR: a Size becomes an i64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bessemer.compiler.errors import InternalError
from bessemer.compiler.ir.dims import Atom, FloorDiv, Max, Min, Mod, Size, Symbol

OVERFLOW = "the memory for these sizes is larger than the address space"
DECLARATIONS = """
declare { i64, i1 } @llvm.sadd.with.overflow.i64(i64, i64)
declare { i64, i1 } @llvm.smul.with.overflow.i64(i64, i64)
declare i64 @llvm.sadd.sat.i64(i64, i64)
"""


class SizeWriter:
    """Writes the computation of Sizes. `let` adds an instruction and returns its register; `leaf`
    returns the register of a dimension symbol, by name.

    If `overflows` is given, a register is appended to it for every sum and product, which is true
    if the result does not fit in 64 bits; this needs DECLARATIONS.
    """

    def __init__(
        self,
        let: Callable[[str], str],
        leaf: Callable[[str], str],
        overflows: list[str] | None = None,
    ) -> None:
        self._let = let
        self._leaf = leaf
        self._overflows = overflows

    def value(self, size: Size) -> str:
        """The register, or number, that holds the size."""
        if isinstance(size, int):
            return str(size)
        total = ""
        for monomial, coefficient in size.terms.items():
            term = ""
            for factor, power in monomial:
                register = self._atom(factor)
                for _ in range(power):
                    term = self._join("mul", term, register) if term else register
            if not term:
                term = str(coefficient)
            elif coefficient != 1:
                term = self._join("mul", term, str(coefficient))
            total = self._join("add", total, term) if total else term
        return total

    def _join(self, operation: str, a: str, b: str) -> str:
        if self._overflows is None:
            return self._let(f"{operation} i64 {a}, {b}")
        name = f"@llvm.s{operation}.with.overflow.i64"
        both = self._let(f"call {{ i64, i1 }} {name}(i64 {a}, i64 {b})")
        self._overflows.append(self._let(f"extractvalue {{ i64, i1 }} {both}, 1"))
        return self._let(f"extractvalue {{ i64, i1 }} {both}, 0")

    def _atom(self, factor: Atom) -> str:
        match factor:
            case Symbol(name, _):
                return self._leaf(name)
            case FloorDiv(a, b):
                return self._divide(self.value(a), self.value(b))
            case Mod(a, b):
                numerator, denominator = self.value(a), self.value(b)
                quotient = self._divide(numerator, denominator)
                whole = self._let(f"mul i64 {quotient}, {denominator}")
                return self._let(f"sub i64 {numerator}, {whole}")
            case Min(a, b):
                return self._pick("slt", self.value(a), self.value(b))
            case Max(a, b):
                return self._pick("sgt", self.value(a), self.value(b))
            case _:
                raise InternalError(f"the run body cannot compute {factor}")

    def _divide(self, numerator: str, denominator: str) -> str:
        """The quotient rounded down. If the denominator is zero (an empty tensor), that for a
        denominator of one."""
        if not denominator.isdigit():
            zero = self._let(f"icmp eq i64 {denominator}, 0")
            denominator = self._let(f"select i1 {zero}, i64 1, i64 {denominator}")
        quotient = self._let(f"sdiv i64 {numerator}, {denominator}")
        back = self._let(f"mul i64 {quotient}, {denominator}")
        above = self._let(f"icmp sgt i64 {back}, {numerator}")
        return self._let(f"sub i64 {quotient}, {self._let(f'zext i1 {above} to i64')}")

    def _pick(self, order: str, a: str, b: str) -> str:
        first = self._let(f"icmp {order} i64 {a}, {b}")
        return self._let(f"select i1 {first}, i64 {a}, i64 {b}")


def any_of(let: Callable[[str], str], flags: Iterable[str]) -> str:
    """A register that is true if any of these registers is."""
    found = "false"
    for flag in dict.fromkeys(flags):
        found = flag if found == "false" else let(f"or i1 {found}, {flag}")
    return found


class StraightCode:
    """Instructions without branches, each computation once. `names` are registers of sizes by name;
    other names are places of %dims. With `checks`, `overflows` are filled."""

    def __init__(self, symbols: Sequence[str], checks: bool = True) -> None:
        self.names: dict[str, str] = {}
        self.overflows: list[str] = []
        self.sizes = SizeWriter(self.let, self._name, self.overflows if checks else None)
        self._symbols = symbols
        self._lines: list[str] = []
        self._known: dict[str, str] = {}

    def let(self, text: str) -> str:
        """The register of a computation."""
        if text not in self._known:
            self._known[text] = f"%w{len(self._known)}"
            self.put(f"{self._known[text]} = {text}")
        return self._known[text]

    def overflown(self) -> str:
        """A register that is true if any size so far does not fit in 64 bits."""
        return any_of(self.let, self.overflows)

    def put(self, text: str) -> None:
        """An instruction without a value."""
        self._lines.append(f"  {text}")

    def function(self, head: str, end: str, linkage: str = "internal") -> str:
        """The definition of a function of this code."""
        text = "\n".join([*self._lines, f"  {end}"])
        return f"define {linkage} {head} nounwind {{\n{text}\n}}\n"

    def _name(self, name: str) -> str:
        if name in self.names:
            return self.names[name]
        place = self.let(f"getelementptr i64, ptr %dims, i64 {self._symbols.index(name)}")
        return self.let(f"load i64, ptr {place}")
